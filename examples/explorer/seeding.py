"""Draws from a seed: all threads share one random generator, so only one of them draws at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from cutswap_transforms.seeds import own_seed

generator = threading.Lock()  # held by whoever draws


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, torch draws as after torch.manual_seed, for images on the CPU."""
    with generator, own_seed(seed):
        yield
