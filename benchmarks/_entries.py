"""Entries of a region cache in any number, of the size of real ones."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import torch

from cutswap_transforms import SaliencySwap
from cutswap_transforms.cache.entry import pack


def entry_bytes() -> int:
    """The size of the entries of `SaliencySwap()`."""
    (entry,) = pack(SaliencySwap(cache=None)._finder(torch.zeros(3, 64, 64, dtype=torch.uint8)))
    return len(entry)


def key(number: int) -> bytes:
    """24 bytes like the transform's: a prefix for the settings, then pseudorandom bytes."""
    return b"settings" + hashlib.md5(b"%d" % number, usedforsecurity=False).digest()


def entries(numbers: Iterable[int], size: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys, and entries of `size` bytes that share no memory."""
    return ((key(number), bytes(size)) for number in numbers)
