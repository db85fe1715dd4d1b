"""Seeds: the one of each negative, and draws that leave every generator unchanged."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .arguments import checked_int


def negative_seed(seed: int, key: str, number: int = 0) -> int:
    """The seed of an image's negative, as `export` uses it: it depends on nothing but the arguments.

    So a negative stays the same whatever the worker, the process or the machine that makes it, and whatever the order and
    number of the other images.

    Args:
        seed: of the whole data set.
        key: names the image, the same wherever it is read: `export` takes the path below the folder, such as `good/3.png`.
        number: of the negative among those of the image, from 0.

    Returns:
        An integer in [0, 2**63), for `torch.manual_seed`: the first 63 bits of a BLAKE2b digest.

    Raises:
        TypeError: `seed` or `number` is not an int, or `key` not a string.
        ValueError: `number` is negative.

    >>> negative_seed(0, "good/3.png"), negative_seed(0, "good/3.png", 1)
    (5309764599309055850, 962210485576490785)
    """
    seed, number = checked_int("seed", seed), checked_int("number", number, 0)
    if not isinstance(key, str):
        raise TypeError(f"`key` must be a string, such as the path of the image in its folder, got {type(key).__name__}")
    text = f"{seed} {number} {key}".encode("utf-8", "surrogatepass")  # names of files may have bytes that are not text
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


@contextmanager
def own_seed(seed: int) -> Iterator[None]:
    """Inside the block, torch's CPU generator starts from `seed`; its state is restored afterwards.

    No other generator is touched: `torch.manual_seed` also reseeds every accelerator, even within
    `torch.random.fork_rng(devices=[])`, and takes a hundred times as long.

    >>> with own_seed(0):
    ...     first = torch.rand(2)
    >>> with own_seed(0):
    ...     bool((torch.rand(2) == first).all())
    True
    """
    generator = torch.default_generator
    state = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(state)
