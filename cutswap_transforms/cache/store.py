"""RegionCache: salient regions on disk, shared by workers and runs, with a memory in front of the file.

Requirements:

- an entry is data, never pickle: packed bits, with a checksum that is bound to its key;
- many processes read and write at once, and one may be killed at any time: SQLite's write-ahead log allows that;
- no connection crosses a fork: it is closed before and opened again on both sides; none outlives its cache;
- training continues despite any problem with the folder: one warning names the remedy, and regions are computed;
- an entry that this process has read once costs as little as in the memory cache.
"""

from __future__ import annotations

import os
import sqlite3
import warnings
import weakref
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..arguments import checked_bool
from .database import FAULTS, File, is_damage, remedy, seal, verified
from .entry import PREFIX
from .memory import Memory
from .merge import merge

T = TypeVar("T")
_PATIENCE = 100  # misses in a row on a filled folder before the one warning


class RegionCache:
    """Salient regions on disk, shared by loader workers, processes and runs.

    The first epoch or `SaliencySwap.precompute` fills it; later epochs only look up. The key of an entry has the pixel
    values and every setting that the regions depend on, so one folder serves many settings, and a changed setting
    never reads old regions. Put deterministic steps such as Resize before SaliencySwap and random ones after: an image
    that is never the same twice always misses.

    Args:
        folder: created with mode 0700 if absent; contains one SQLite file (and its log), nothing else is written. On a local
            disk it is fastest. On a network file system, known by its mount on Linux, the file is written without a log, which
            several machines could not share.
        read_only: look up only, and write nothing. Entries that others write meanwhile are seen.

    Attributes:
        hits, misses: look-ups of this process.
        writable: False if `read_only`, and once a write to the folder has failed.

    Memory per process is bounded: at most 16 MB of entries read or written, and 2 MB of SQLite pages. If the folder cannot
    be read or written, one RuntimeWarning names the remedy, and regions are kept in memory by this process only.

    >>> import tempfile, torch, cutswap_transforms
    >>> image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cache = RegionCache(folder)
    ...     swap = cutswap_transforms.SaliencySwap(cache=cache)
    ...     _ = swap(image), swap(image)
    ...     len(cache), cache.hits, cache.misses
    (1, 1, 1)
    """

    def __init__(self, folder: str | os.PathLike[str], *, read_only: bool = False) -> None:
        if not isinstance(folder, (str, os.PathLike)):
            raise TypeError(f"`folder` must be a path, got {type(folder).__name__}")
        self.folder, self.read_only = Path(folder).expanduser().absolute(), checked_bool("read_only", read_only)
        self._reset()

    def _reset(self) -> None:
        self.hits = self.misses = 0
        self._memory = Memory()  # entries that this process has read or written
        self._file = File(self.folder, not self.read_only)
        self._readable, self._warned = True, False
        self._missed_in_a_row: int | None = 0
        self._known = 0  # entries with these settings at the first miss
        weakref.finalize(self, self._file.close)

    @property
    def path(self) -> Path:
        return self._file.path

    @property
    def writable(self) -> bool:
        return self._file.writable

    def __repr__(self) -> str:
        return f"RegionCache({str(self.folder)!r}{', read_only=True' if self.read_only else ''})"

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "read_only": self.read_only}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def __len__(self) -> int:
        return self._count("SELECT count(*) FROM regions", ())

    def _get(self, key: bytes) -> bytes | None:
        """The entry of a key, or None if it is missing or damaged."""
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
        """The keys without a valid entry; counts no hits or misses."""
        return [key for key in keys if self._read(key) is None]

    def _put(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Store entries in one transaction: all or none of them survive a kill."""
        items = list(items)
        self._memory.put(items)
        rows = [(key, seal(key, entry) + entry) for key, entry in items]
        if rows and self.writable:
            self._run(lambda file: file.executemany("INSERT OR REPLACE INTO regions VALUES (?, ?)", rows), writing=True)

    def get(self, key: bytes) -> bytes | None:
        """Deprecated."""
        _warn_of_entries("get")
        return self._get(key)

    def put(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Deprecated."""
        _warn_of_entries("put")
        self._put(items)

    def merge(self, folders: Iterable[str | os.PathLike[str]]) -> int:
        """Add the entries of other cache folders, such as one per machine, which stay as they are.

        An interrupted merge may be repeated: entries that are here already are skipped. Damaged entries and folders that
        cannot be read are named in a RuntimeWarning and left out.

        Returns:
            The number of entries added.

        Raises:
            ValueError: this cache is read-only.
            TypeError: `folders` is one folder, not a list.
            RuntimeError: this folder cannot be written (any more); the message has the number of entries added.

        >>> import tempfile, torch, cutswap_transforms
        >>> image = torch.zeros(3, 8, 8, dtype=torch.uint8)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = cutswap_transforms.SaliencySwap(cache=folder + "/0")(image)
        ...     cache = RegionCache(folder + "/all")
        ...     cache.merge([folder + "/0"]), cache.merge([folder + "/0"]), len(cache)
        (1, 0, 1)
        """
        return merge(self, folders)

    def _check_stored(self, done: int) -> None:
        if not self.writable:
            raise RuntimeError(
                f"`cache` must be a folder that can be written, got {self!r}, which failed after {done} images; these are "
                "stored. Free some space or use another folder, and start again: stored images are skipped"
            )

    def close(self) -> None:
        """Close the file; the next look-up opens it again."""
        self._file.close()

    def _read(self, key: bytes) -> bytes | None:
        row = self._run(lambda file: file.execute("SELECT entry FROM regions WHERE key = ?", (key,)).fetchone())
        return verified(key, row[0]) if row else None

    def _count(self, query: str, values: tuple[Any, ...]) -> int:
        row = self._run(lambda file: file.execute(query, values).fetchone())
        return int(row[0]) if row else 0

    def _run(self, work: Callable[[sqlite3.Connection], T], writing: bool = False) -> T | None:
        """The result of `work` on the file; None if the file cannot be used."""
        if not self._readable:
            return None
        try:
            return self._file.run(work, writing)
        except FAULTS as error:
            result = self._reading_alone(error, (lambda file: None) if writing else work)
            self._warn(error)
            return result

    def _reading_alone(self, fault: Exception, work: Callable[[sqlite3.Connection], T | None]) -> T | None:
        """The result of `work` on the file opened read-only, if that may avoid the fault."""
        self._file.disconnect()
        self._readable, self._file.writable = self._file.writable and not is_damage(fault), False
        try:
            return self._file.run(work) if self._readable else None
        except FAULTS:
            self._readable = False
            return None

    def _warn(self, fault: Exception) -> None:
        """Warn once. A later failure, such as reading after writing has failed, has the same remedy."""
        if self._warned:
            return
        self._warned = True
        done = "regions that it lacks are" if self._readable else "regions are"
        warnings.warn(
            f"`cache` {str(self.path)!r} cannot be {'written' if self._readable else 'used'} ({fault}); {done} "
            f"computed and kept in memory by this process only. {remedy(fault)}, or pass cache=None",
            RuntimeWarning,
            stacklevel=2,
        )

    def _notice_misses(self, key: bytes) -> None:
        """Warn once if images are never the same twice: many misses in a row on a folder that had as many entries with
        these settings at the first miss. Entries that other workers add later, in a first epoch, do not count."""
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
        """The number of entries with the prefix of some settings, up to `_PATIENCE`."""
        query = "SELECT count(*) FROM (SELECT 1 FROM regions WHERE key >= ? AND key < ? LIMIT ?)"
        return self._count(query, (prefix, prefix + b"\xff" * 17, _PATIENCE))


def _warn_of_entries(name: str) -> None:
    warnings.warn(
        f"`RegionCache.{name}` is deprecated and will be removed: SaliencySwap(cache=...) reads and writes the entries, "
        "SaliencySwap.precompute fills a cache ahead, `hits`, `misses` and len(cache) count",
        DeprecationWarning,
        stacklevel=3,
    )
