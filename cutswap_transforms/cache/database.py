"""The SQLite file of a `RegionCache`: how it is opened, how its format is checked, and what errors mean.

Every call of SQLite in this process holds one lock, and so does a fork: SQLite has its own locks, and a child that is
forked while another thread holds one of them would wait forever.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import stat
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from .journal import made_with_log, on_network, set_journal

APPLICATION = 0x43555453  # "CUTS", in the file header: databases of other programs are not touched
SCHEMA = 1
FAULTS = (sqlite3.Error, OSError, ValueError)  # all that `File.run` raises
_TIMEOUT = 10  # seconds to wait for the lock of another process
_TRIES = 8  # of a reader, while the file is changing
_LOG = "mode=ro&readonly_shm=1"
_SETTLED = "mode=ro&immutable=1"
_LOCKED = "mode=ro"

T = TypeVar("T")


class File:
    """The SQLite file of a folder: opened when it is needed, and closed before a fork.

    A reader creates no file and changes none. SQLite has three modes for that:

    - If the log and its index exist, a process is writing or was killed. `readonly_shm` reads both as they are.
    - If they are missing, SQLite would create them, owned by the reader's user, and a writer of another user could not
      open them. `immutable` creates nothing, but assumes that the file never changes. So before each look-up the reader
      checks that the file is unchanged and that there is no log, and opens it again if not.
    - A file written in a network folder has a rollback journal instead: it is read under the locks of the file system.

    A log without its index is not read: entries that a killed writer left in it are missing until the next write.
    """

    def __init__(self, folder: Path, writable: bool) -> None:
        self.folder, self.path, self.writable = folder, folder / "regions.sqlite", writable
        self._connection: sqlite3.Connection | None = None
        self._mode = ""
        self._seen: tuple[Any, ...] | None = None  # its state when it was last opened

    def run(self, work: Callable[[sqlite3.Connection], T], writing: bool = False) -> T:
        """The result of `work` on the open file; if `writing`, in one transaction.

        Raises:
            sqlite3.Error, OSError, ValueError: the file cannot be opened, or the work cannot be done.
        """
        with _lock:
            tries = 0
            while True:
                forks = _forks
                try:
                    return self._attempt(work, writing)
                except sqlite3.Error as error:
                    # A signal handler may fork meanwhile, which closes the file. For a reader, the file or its log may change
                    # meanwhile.
                    in_motion = not self.writable and tries < _TRIES and "locked" not in str(error)
                    if forks == _forks and not in_motion:
                        raise
                self.disconnect()
                time.sleep(0.001 * tries)
                tries += 1

    def close(self) -> None:
        """Close the file and forget it: the next use creates it again if it was removed."""
        with _lock:
            self.disconnect()
            self._seen = None

    def disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            if connection.in_transaction:  # a fork meanwhile: a cursor would keep the file open after the close
                connection.rollback()
            connection.close()

    def _attempt(self, work: Callable[[sqlite3.Connection], T], writing: bool) -> T:
        if self._connection is not None and (writing or self._mode == _SETTLED) and self._changed():
            self.disconnect()
        connection = self._connection or self._connect()
        with connection:
            return work(connection)

    def _connect(self) -> sqlite3.Connection:
        if self._seen is not None and not os.path.exists(self.path):
            raise FileNotFoundError("it was removed while it was in use")
        self._check_files()
        self._mode = "mode=rwc" if self.writable else self._reading_mode()
        self._seen = self._state()
        if self.writable:
            self._disconnect_readers()
        uri = f"{file_uri(self.path)}?{self._mode}"
        connection = sqlite3.connect(uri, uri=True, timeout=_TIMEOUT, check_same_thread=False)
        self._connection = connection
        _files.add(self)
        try:
            _prepare(connection, self.folder if self.writable else None)
        except BaseException:
            self.disconnect()
            raise
        self._seen = self._seen or self._state()
        return connection

    def _check_files(self) -> None:
        if self.writable:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not os.access(self.folder, os.W_OK) or (os.path.exists(self.path) and not os.access(self.path, os.W_OK)):
                raise PermissionError(f"no permission to write in {self.folder}")
        elif not os.path.exists(self.path):  # unlike Path.exists, also False without permission
            raise FileNotFoundError(f"no such file: {self.path}")
        for path in (f"{self.path}{end}" for end in ("", "-wal", "-shm", "-journal")):
            if not is_regular(path):  # a pipe would block SQLite, and our lock, forever
                raise ValueError(f"{path} is not a regular file")

    def _disconnect_readers(self) -> None:
        """SQLite opens the index of a log once per process: a writer would share that of a reader, and could not write."""
        for other in list(_files):
            if not other.writable:
                other.disconnect()

    def _reading_mode(self) -> str:
        if self._has_log():
            return _LOG
        return _LOCKED if on_network(self.folder) and not made_with_log(self.path) else _SETTLED

    def _has_log(self) -> bool:
        return os.path.exists(f"{self.path}-wal") and os.path.exists(f"{self.path}-shm")

    def _changed(self) -> bool:
        return self._state() != self._seen

    def _state(self) -> tuple[Any, ...] | None:
        """Differs if the file was removed, replaced or, if opened as immutable, changed. None: no file."""
        try:
            status = os.stat(self.path)
        except OSError:
            return None
        if self._mode != _SETTLED:
            return status.st_dev, status.st_ino
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, self._has_log()


def is_regular(path: str | os.PathLike[str]) -> bool:
    """False for a pipe, a folder and the like. One look: another process may make or remove the file at any time."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return True  # missing


def file_uri(path: str | os.PathLike[str]) -> str:
    """An absolute path, of POSIX or Windows, as the `file:` address that SQLite opens.

    SQLite refuses an authority, so the server of a network path stays part of the path, unlike in `Path.as_uri`. A path
    that begins with `\\\\?\\`, which Windows takes literally, keeps its backslashes.

    >>> file_uri("/a b/c#1"), file_uri("C:\\\\data"), file_uri("\\\\\\\\server\\\\share")
    ('file:///a%20b/c%231', 'file:///C:/data', 'file:////server/share')
    """
    name = os.fspath(path)
    if not name.startswith(("/", "\\\\?\\")):
        name = name.replace("\\", "/")
    # File names on Linux may have bytes that are not text; surrogates become these bytes again.
    return f"file://{'' if name.startswith('/') else '/'}{quote(name.encode('utf-8', 'surrogateescape'), safe='/:')}"


_lock = threading.RLock()  # re-entrant: meanwhile a signal handler may fork and a collected cache may be closed
_forks = 0
_files: weakref.WeakSet[File] = weakref.WeakSet()  # all files that may be open


def _before_fork() -> None:
    global _forks
    _lock.acquire()
    _forks += 1
    for file in list(_files):
        file.disconnect()


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=lambda: _lock.release(), after_in_child=_after_fork_in_child)


def _prepare(connection: sqlite3.Connection, written: Path | None) -> None:
    """Check the format. For a writer, `written` is the folder: create the table if it is missing, and set the journal."""
    connection.text_factory = bytes  # a damaged row may declare invalid bytes as text
    connection.execute("PRAGMA cache_size = -2000")
    with connection:
        connection.execute("BEGIN")  # one snapshot for all reads
        ours = _is_ours(connection)
    if not ours:
        if written is None:
            raise ValueError("it is not a region cache of this version")
        with connection:
            connection.execute("BEGIN IMMEDIATE")  # one of several processes creates the table
            if not _is_ours(connection):
                connection.execute("CREATE TABLE regions (key BLOB PRIMARY KEY, entry BLOB NOT NULL) WITHOUT ROWID")
                connection.execute(f"PRAGMA application_id = {APPLICATION}")
                connection.execute(f"PRAGMA user_version = {SCHEMA}")
    if written is not None:
        set_journal(connection, written, _TIMEOUT)
    # With NORMAL a killed process loses nothing, a power cut at most the last entries of a log.
    connection.execute("PRAGMA synchronous = NORMAL")


def _is_ours(connection: sqlite3.Connection) -> bool:
    """False for an empty file. Raises ValueError for another program's database or another version of ours. Call it
    within a transaction, so that all statements see one state of the file."""
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if (application, version) == (APPLICATION, SCHEMA):
        return True
    if application or version or connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise ValueError("it is not a region cache of this version")
    return False


def seal(key: bytes, entry: bytes) -> bytes:
    return hashlib.blake2b(key + entry, digest_size=8).digest()


def verified(key: bytes, stored: object) -> bytes | None:
    if not isinstance(stored, bytes) or len(stored) < 8 or seal(key, stored[8:]) != stored[:8]:
        return None
    return stored[8:]


def is_damage(error: Exception) -> bool:
    """True if the contents of the file are damaged. Errors of the disk, permissions or locks are OperationalErrors. (The
    name of SQLite's error needs Python 3.11.)"""
    return isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError)


def remedy(error: Exception) -> str:
    if "readonly database" in str(error):  # only a writer can undo what another left half-written
        return "Open the folder once without read_only"
    if is_damage(error) or isinstance(error, ValueError):
        return "Move that file away or use another folder"
    return "Use a local folder with free space and write permission (a filled one can be opened with read_only=True)"
