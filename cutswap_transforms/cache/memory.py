"""Entries in memory: for the life of the transforms that share them, or in front of a file."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterable, Sequence

LIMIT = 16 * 2**20  # bytes


class Memory:
    """Entries up to `limit` bytes. When full it keeps what it has: in a shuffled epoch longer than the memory,
    evicting old entries would give fewer hits, not more."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit, self.size, self.entries = limit, 0, dict[bytes, bytes]()

    def get(self, key: bytes) -> bytes | None:
        return self.entries.get(key)

    def missing(self, keys: Sequence[bytes]) -> list[bytes]:
        return [key for key in keys if key not in self.entries]

    def put(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        for key, entry in items:
            cost = len(key) + len(entry) + 200  # two bytes objects and a dict slot
            if key in self.entries:
                self.entries[key] = entry
            elif self.size + cost <= self.limit:
                self.entries[key] = entry
                self.size += cost


class MemoryCache:
    """The cache of `cache="memory"`: regions in this process, shared by transforms with equal settings. `len` counts them.

    Attributes:
        hits, misses: look-ups of one transform in this process.

    >>> import torch, cutswap_transforms
    >>> swap, image = cutswap_transforms.SaliencySwap(grid=99), torch.zeros(3, 8, 8, dtype=torch.uint8)
    >>> _ = swap(image), swap(image)
    >>> len(swap.cache), swap.cache.hits, swap.cache.misses
    (1, 1, 1)
    """

    def __init__(self) -> None:
        self.hits = self.misses = 0
        self.memory = Memory()

    def __repr__(self) -> str:
        return "'memory'"  # as in the argument `cache`

    def __len__(self) -> int:
        return len(self.memory.entries)

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, str):
            return self is other
        warnings.warn(
            '`swap.cache == "memory"` is deprecated and will be False: the memory cache is an object with `hits` and `misses` '
            "now; None and RegionCache are the other kinds",
            DeprecationWarning,
            stacklevel=2,
        )
        return other == "memory"

    __hash__ = object.__hash__

    def __reduce__(self) -> tuple[type[MemoryCache], tuple[()]]:
        return MemoryCache, ()  # entries stay in their process; a copied transform finds them by the settings

    def _get(self, key: bytes) -> bytes | None:
        entry = self.memory.get(key)
        if entry is None:
            self.misses += 1
        else:
            self.hits += 1
        return entry

    def _put(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        self.memory.put(items)


_by_settings: weakref.WeakValueDictionary[bytes, Memory] = weakref.WeakValueDictionary()


def shared_memory(settings: bytes) -> Memory:
    """The memory of all transforms of this process with these settings, freed with the last of them."""
    memory = _by_settings.get(settings)
    if memory is None:
        memory = _by_settings[settings] = Memory()
    return memory
