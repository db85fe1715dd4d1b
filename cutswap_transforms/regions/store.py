"""RegionCache: salient regions on disk that workers and runs share, with a memory in front of the file.

Requirements:

- an entry is data, never pickle: packed bits, with a checksum that is bound to its key;
- many processes read and write at once, and one may be killed at any moment: SQLite's write-ahead log gives that;
- no connection crosses a fork: it is closed before and opened again on both sides;
- whatever is wrong with the folder, training goes on: one warning says what to do, and regions are computed instead;
- what this process has read once costs as little as the memory cache.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import warnings
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .database import connect, is_damage, seal, verified, way_out
from .entry import PREFIX
from .memory import Memory

_PATIENCE = 100  # misses in a row on a filled folder before the one warning


class RegionCache:
    """Salient regions on disk, shared by loader workers, processes and runs.

    The first epoch fills it, or `SaliencySwap.precompute`; later ones only look up. Entries are found by the values of
    the image and by every setting that the regions depend on, so one folder serves many settings, and a changed
    setting never reads old regions. Put deterministic steps such as Resize before SaliencySwap and random ones after:
    an image that is never the same twice is never found.

    Args:
        folder: made with mode 0700 if absent; holds one SQLite file (and its log), nothing else is written. It must
            lie on a local disk: SQLite's log does not work over network file systems.
        read_only: look up, never write.

    Attributes:
        hits, misses: look-ups of this process.

    Memory per process is bounded: at most 16 MB of entries that were read or written, and 2 MB of SQLite's pages. If the
    folder cannot be read or written, one RuntimeWarning says what to do, and regions are kept in this process alone.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cache = RegionCache(folder)
    ...     cache.put([(b"settings" + b"image", b"regions")])
    ...     cache.get(b"settings" + b"image"), len(cache), cache.hits, cache.misses
    (b'regions', 1, 1, 0)
    """

    def __init__(self, folder: str | os.PathLike[str], *, read_only: bool = False) -> None:
        if not isinstance(folder, (str, os.PathLike)):
            raise TypeError(f"`folder` must be a path, got {type(folder).__name__}")
        self.folder, self.read_only = Path(folder).expanduser().absolute(), bool(read_only)
        self._reset()

    def _reset(self) -> None:
        self.hits = self.misses = 0
        self._memory = Memory()  # what this process has read or written
        self._connection: sqlite3.Connection | None = None
        self._readable, self._writable = True, not self.read_only
        self._lock = threading.RLock()
        self._missed_in_a_row: int | None = 0
        self._known = 0  # entries of these settings at the first of the misses
        _open_caches.add(self)

    @property
    def path(self) -> Path:
        return self.folder / "regions.sqlite"

    def __repr__(self) -> str:
        return f"RegionCache({str(self.folder)!r}{', read_only=True' if self.read_only else ''})"

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "read_only": self.read_only}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def __len__(self) -> int:
        with self._lock:
            row = self._execute("SELECT count(*) FROM regions")
        return int(row[0]) if row else 0

    def get(self, key: bytes) -> bytes | None:
        """The entry of a key, or None where there is none or a damaged one."""
        entry = self._memory.get(key)
        if entry is None:
            entry = self._read(key)
            if entry is None:
                self.misses += 1
                self._notice_misses(key)
                return None
            self._memory.put([(key, entry)])
        self.hits += 1
        self._missed_in_a_row = self._missed_in_a_row and 0
        return entry

    def missing(self, keys: Sequence[bytes]) -> list[bytes]:
        """The keys without a good entry; counts neither as hits nor as misses."""
        return [key for key in keys if self._read(key) is None]

    def put(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Store entries in one transaction: all or none of them survive a kill."""
        items = list(items)
        self._memory.put(items)
        rows = [(key, seal(key, entry) + entry) for key, entry in items]
        with self._lock:
            connection = self._connect() if self._writable and rows else None
            if connection is None or not self._writable:
                return
            try:
                with connection:
                    connection.executemany("INSERT OR REPLACE INTO regions VALUES (?, ?)", rows)
            except (sqlite3.Error, OSError) as error:
                self._give_up(error, reading=is_damage(error))

    def _read(self, key: bytes) -> bytes | None:
        with self._lock:
            row = self._execute("SELECT entry FROM regions WHERE key = ?", (key,))
        return verified(key, row[0]) if row else None

    def close(self) -> None:
        """Close the file; the next look-up opens it again."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    def _execute(self, statement: str, values: tuple[Any, ...] = ()) -> tuple[Any, ...] | None:
        connection = self._connect() if self._readable else None
        if connection is None:
            return None
        try:
            row: tuple[Any, ...] | None = connection.execute(statement, values).fetchone()
            return row
        except (sqlite3.Error, OSError) as error:
            self._give_up(error, reading=True)
            return None

    def _connect(self) -> sqlite3.Connection | None:
        if self._connection is None and self._readable:
            try:
                self._connection = connect(self.folder, self.path, self._writable)
            except PermissionError as error:
                self._give_up(error, reading=not os.path.exists(self.path))
                if self._readable:
                    return self._connect()
            except (sqlite3.Error, OSError, ValueError) as error:
                self._give_up(error, reading=True)
        return self._connection

    def _give_up(self, error: Exception, reading: bool) -> None:
        """Stop writing, or using the file at all, and say so once."""
        self.close()
        self._writable = False
        self._readable = self._readable and not reading
        done = "regions are" if reading else "regions that it lacks are"
        warnings.warn(
            f"`cache` {str(self.path)!r} cannot be {'used' if reading else 'written'} ({error}); {done} "
            f"computed and kept in this process alone. {way_out(error)}, or pass cache=None",
            RuntimeWarning,
            stacklevel=2,
        )

    def _notice_misses(self, key: bytes) -> None:
        """Warn once if images are never the same twice: many misses in a row on a folder that held as many entries of
        these settings at the first of them. What siblings add later, in a first epoch, is no sign of that."""
        if self._missed_in_a_row is None:
            return
        if self._missed_in_a_row == 0:
            self._known = self._count_of(key[:PREFIX])
        self._missed_in_a_row += 1
        if self._missed_in_a_row < _PATIENCE:
            return
        self._missed_in_a_row = None
        if self._known >= _PATIENCE:
            warnings.warn(
                f"`cache` {str(self.folder)!r} holds regions for these settings, but {_PATIENCE} images in a row were "
                "not among them: put deterministic steps such as Resize before SaliencySwap and random ones after it",
                RuntimeWarning,
                stacklevel=2,
            )

    def _count_of(self, prefix: bytes) -> int:
        """Entries with the prefix of some settings, counted up to the patience."""
        query = "SELECT count(*) FROM (SELECT 1 FROM regions WHERE key >= ? AND key < ? LIMIT ?)"
        with self._lock:
            row = self._execute(query, (prefix, prefix + b"\xff" * 17, _PATIENCE))
        return int(row[0]) if row else 0


_open_caches: weakref.WeakSet[RegionCache] = weakref.WeakSet()
_held: list[RegionCache] = []
_fork_lock = threading.Lock()  # two threads may fork at once


def _before_fork() -> None:
    _fork_lock.acquire()
    _held[:] = list(_open_caches)
    for cache in _held:
        cache._lock.acquire()
        cache.close()


def _after_fork() -> None:
    for cache in _held:
        cache._lock.release()
    _held.clear()
    _fork_lock.release()


def _after_fork_in_child() -> None:
    global _fork_lock
    for cache in _held:
        cache._lock = threading.RLock()
    _held.clear()
    _fork_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
