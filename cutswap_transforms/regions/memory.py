"""Entries kept in memory: for the life of the transforms that share them, or in front of a file."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence

LIMIT = 16 * 2**20  # bytes


class Memory:
    """Entries up to `limit` bytes. When full it keeps what it has: under a shuffled epoch longer than the memory,
    throwing old entries out would give fewer hits, not more."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit, self.size, self.entries = limit, 0, dict[bytes, bytes]()

    def get(self, key: bytes) -> bytes | None:
        return self.entries.get(key)

    def missing(self, keys: Sequence[bytes]) -> list[bytes]:
        return [key for key in keys if key not in self.entries]

    def put(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        for key, entry in items:
            cost = len(key) + len(entry) + 200  # two bytes objects and a slot of the dictionary
            if key in self.entries:
                self.entries[key] = entry
            elif self.size + cost <= self.limit:
                self.entries[key] = entry
                self.size += cost


_by_settings: weakref.WeakValueDictionary[bytes, Memory] = weakref.WeakValueDictionary()


def shared_memory(settings: bytes) -> Memory:
    """The memory of all transforms of this process with these settings. It goes with the last of them."""
    memory = _by_settings.get(settings)
    if memory is None:
        memory = _by_settings[settings] = Memory()
    return memory
