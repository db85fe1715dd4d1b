"""Salient regions kept by image content: packed bits in memory, or in one SQLite file that workers and runs share.

Requirements:

- an entry is data, never pickle: grid sizes and packed bits, with a checksum that is bound to its key;
- many processes read and write at once, and one may be killed at any moment: SQLite's write-ahead log gives that;
- no connection crosses a fork: it is closed before and opened anew on both sides;
- whatever is wrong with the folder, training goes on: one warning says what to do, and regions are computed instead.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import struct
import threading
import warnings
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ._sampling import Region

PREFIX = 8  # bytes of a key that tell the settings; the rest tells the image
_APPLICATION = 0x43555453  # "CUTS", in the header of the file: another program's database is left alone
_SCHEMA = 1
_PATIENCE = 100  # misses in a row on a filled folder before the one warning


# ---- entries ------------------------------------------------------------------------------------------------------


def pack(regions: Sequence[npt.NDArray[np.bool_]]) -> list[bytes]:
    """One entry per image from L arrays bool [N, h_l, w_l]: the number of levels, the grids, the bits."""
    head = struct.pack(f"<B{2 * len(regions)}H", len(regions), *(side for r in regions for side in r.shape[1:]))
    bits = [np.packbits(r.reshape(len(r), -1), axis=1) for r in regions]
    return [head + b"".join(level[i].tobytes() for level in bits) for i in range(len(regions[0]))]


def unpack(entry: bytes, level: int) -> Region:
    """The salient cells of one level of an entry."""
    grids = struct.unpack_from(f"<{2 * entry[0]}H", entry, 1)
    start = 1 + 4 * entry[0] + sum((grids[i] * grids[i + 1] + 7) // 8 for i in range(0, 2 * level, 2))
    h, w = grids[2 * level], grids[2 * level + 1]
    bits = np.unpackbits(np.frombuffer(entry, np.uint8, (h * w + 7) // 8, start), count=h * w)
    return Region(np.flatnonzero(bits), h, w)


def count_levels(entry: bytes) -> int:
    return entry[0]


def content_key(settings: bytes, pixels: Tensor | npt.NDArray[Any]) -> bytes:
    """24 bytes from a digest of the settings and the values of one image on the CPU.

    A PIL image's array [H, W, C] and the tensor [C, H, W] made from it share a key: values are taken in the order of
    PIL's memory, so that the usual images cost no copy.
    """
    kind = str(pixels.dtype).removeprefix("torch.")
    array = pixels if isinstance(pixels, np.ndarray) else _in_pil_order(pixels)
    digest = hashlib.sha256(settings + f"{kind}{array.shape}".encode())
    for part in _condensed(array):
        digest.update(part)
    return settings[:PREFIX] + digest.digest()[:16]


def _in_pil_order(pixels: Tensor) -> npt.NDArray[Any]:
    pixels = pixels.detach()
    planes = (pixels.view(torch.int16) if pixels.dtype == torch.bfloat16 else pixels).numpy()  # numpy has no bfloat16
    array = planes.transpose(1, 2, 0)
    # Plane by plane is four times as fast as ascontiguousarray.
    return array if array.flags.c_contiguous else np.stack(list(planes), -1)


# Random odd 64-bit multipliers, made so that they are the same everywhere and for ever.
_MULTIPLIERS = np.frombuffer(hashlib.shake_128(b"cutswap_transforms").digest(2 * 8 * 8192), "<u8").reshape(2, -1) | np.uint64(1)


def _condensed(array: npt.NDArray[Any]) -> list[bytes]:
    """16 bytes for every 64 kB of an array, and the rest of less than 8 bytes: a third of the time of SHA-256.

    Multilinear hashing modulo 2**64: sums of 64-bit words times random multipliers. Differences in the high bytes of
    words alone reach the high bytes of such a sum alone, so the second sum takes the words with their bytes reversed;
    two images meet in both with a chance of 2**-56 at the very worst. It is no defence against forged images.
    """
    flat, block = array.reshape(-1).view(np.uint8), _MULTIPLIERS.shape[1]
    count = flat.size // 8
    words, whole = flat[: 8 * count].view("<u8"), count // block * block
    sums = [flat[8 * count :].tobytes()]
    for lanes, multipliers in ((words, _MULTIPLIERS[0]), (words.byteswap(), _MULTIPLIERS[1])):
        sums.append(np.dot(lanes[:whole].reshape(-1, block), multipliers).tobytes())
        sums.append(np.dot(lanes[whole:], multipliers[: count - whole]).tobytes())
    return sums


# ---- in memory ----------------------------------------------------------------------------------------------------


class MemoryCache:
    """Entries of this process, up to `limit` bytes. When full it keeps what it has: under a shuffled epoch longer than
    the memory, throwing old entries out would leave fewer hits, not more."""

    def __init__(self, limit: int) -> None:
        self.limit, self.size, self.entries = limit, 0, dict[bytes, bytes]()

    def get(self, key: bytes) -> bytes | None:
        return self.entries.get(key)

    def missing(self, keys: Sequence[bytes]) -> list[bytes]:
        return [key for key in keys if key not in self.entries]

    def put(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        for key, entry in items:
            cost = len(key) + len(entry) + 200  # two bytes objects and a slot of the dictionary
            if self.size + cost <= self.limit and key not in self.entries:
                self.entries[key] = entry
                self.size += cost

    def __repr__(self) -> str:
        return "'memory'"

    def __reduce__(self) -> str:
        return "MEMORY"  # there is one per process: a pickled or copied transform finds that of its process


MEMORY = MemoryCache(16 * 2**20)


# ---- on disk ------------------------------------------------------------------------------------------------------


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

    Memory per process is bounded: SQLite keeps at most 2 MB of pages. If the folder cannot be read or written, one
    RuntimeWarning says what to do, and regions are computed instead.

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
        self._connection: sqlite3.Connection | None = None
        self._readable, self._writable = True, not self.read_only
        self._lock = threading.RLock()
        self._missed_in_a_row: int | None = 0
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
        with self._lock:
            row = self._execute("SELECT entry FROM regions WHERE key = ?", (key,))
        entry = _verified(key, row[0]) if row else None
        if entry is None:
            self.misses += 1
            self._notice_misses(key)
        else:
            self.hits += 1
            self._missed_in_a_row = self._missed_in_a_row and 0
        return entry

    def missing(self, keys: Sequence[bytes]) -> list[bytes]:
        """The keys without a good entry; counts neither as hits nor as misses."""
        with self._lock:
            rows = [(key, self._execute("SELECT entry FROM regions WHERE key = ?", (key,))) for key in keys]
        return [key for key, row in rows if row is None or _verified(key, row[0]) is None]

    def put(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Store entries in one transaction: all or none of them survive a kill."""
        rows = [(key, _checksum(key, entry) + entry) for key, entry in items]
        with self._lock:
            connection = self._connect() if self._writable and rows else None
            if connection is None or not self._writable:
                return
            try:
                with connection:
                    connection.executemany("INSERT OR REPLACE INTO regions VALUES (?, ?)", rows)
            except (sqlite3.Error, OSError) as error:
                self._give_up(error, reading=_is_damage(error))

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
                self._connection = _open(self.folder, self.path, self._writable)
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
        done = "regions are computed for every image" if reading else "regions that it lacks are computed and not kept"
        warnings.warn(
            f"`cache` {str(self.path)!r} cannot be {'used' if reading else 'written'} ({error}); {done}. "
            f"{_way_out(error)}, or pass cache=None",
            RuntimeWarning,
            stacklevel=2,
        )

    def _notice_misses(self, key: bytes) -> None:
        if self._missed_in_a_row is None:
            return
        self._missed_in_a_row += 1
        if self._missed_in_a_row < _PATIENCE:
            return
        self._missed_in_a_row = None
        prefix, count = key[:PREFIX], self.misses
        with self._lock:
            row = self._execute(
                "SELECT count(*) FROM (SELECT 1 FROM regions WHERE key >= ? AND key < ? LIMIT ?)",
                (prefix, prefix + b"\xff" * 17, count + _PATIENCE),
            )
        if row and row[0] >= count + _PATIENCE:
            warnings.warn(
                f"`cache` {str(self.folder)!r} holds regions for these settings, but {_PATIENCE} images in a row were "
                "not among them: put deterministic steps such as Resize before SaliencySwap and random ones after it",
                RuntimeWarning,
                stacklevel=2,
            )


def _open(folder: Path, path: Path, writable: bool) -> sqlite3.Connection:
    if writable:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK) or (os.path.exists(path) and not os.access(path, os.W_OK)):
            raise PermissionError(f"no permission to write in {folder}")
    elif not os.path.exists(path):  # unlike Path.exists, it is also False where we may not look
        raise FileNotFoundError(f"no such file: {path}")
    # Where we may not write, `immutable` reads without the log's shared memory, which would be a new file. It would not
    # see what a killed writer left in the log.
    settled = not os.access(folder, os.W_OK) and not _log_size(path)
    mode = "mode=rwc" if writable else "mode=ro&immutable=1" if settled else "mode=ro"
    connection = sqlite3.connect(f"{path.as_uri()}?{mode}", uri=True, timeout=10, check_same_thread=False)
    try:
        _prepare(connection, writable)
    except BaseException:
        connection.close()
        raise
    return connection


def _log_size(path: Path) -> int:
    try:
        return os.path.getsize(f"{path}-wal")
    except OSError:
        return 0


def _prepare(connection: sqlite3.Connection, writable: bool) -> None:
    connection.execute("PRAGMA cache_size = -2000")
    if not _is_ours(connection):
        if not writable:
            raise ValueError("it is not a region cache of this version")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN IMMEDIATE")  # of several processes one makes the table, the others find it
        with connection:
            if not _is_ours(connection):
                connection.execute("CREATE TABLE regions (key BLOB PRIMARY KEY, entry BLOB NOT NULL) WITHOUT ROWID")
                connection.execute(f"PRAGMA application_id = {_APPLICATION}")
                connection.execute(f"PRAGMA user_version = {_SCHEMA}")
    # In the log's mode a killed process loses nothing with NORMAL; a power cut may lose the last entries, no more.
    connection.execute("PRAGMA synchronous = NORMAL")


def _is_ours(connection: sqlite3.Connection) -> bool:
    """False for an empty file. Raises ValueError for another program's database or another version of ours."""
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if (application, version) == (_APPLICATION, _SCHEMA):
        return True
    if application or version or connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise ValueError("it is not a region cache of this version")
    return False


def _checksum(key: bytes, entry: bytes) -> bytes:
    return hashlib.blake2b(key + entry, digest_size=8).digest()


def _verified(key: bytes, stored: Any) -> bytes | None:
    if not isinstance(stored, bytes) or len(stored) < 8 or _checksum(key, stored[8:]) != stored[:8]:
        return None
    return stored[8:]


def _is_damage(error: Exception) -> bool:
    return getattr(error, "sqlite_errorname", "").split("_")[:2] in (["SQLITE", "CORRUPT"], ["SQLITE", "NOTADB"])


def _way_out(error: Exception) -> str:
    if _is_damage(error) or isinstance(error, ValueError):
        return "Move that file away or name another folder"
    return "Give it a local folder with room and permission to write (a filled one can be opened with read_only=True)"


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
