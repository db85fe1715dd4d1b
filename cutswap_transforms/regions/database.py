"""The SQLite file under a `RegionCache`: how it is opened, whose it is, and what a fault means."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from pathlib import Path
from typing import Any

APPLICATION = 0x43555453  # "CUTS", in the header of the file: another program's database is left alone
SCHEMA = 1
_TIMEOUT = 10  # seconds to wait for the lock of another process


def connect(folder: Path, path: Path, writable: bool) -> sqlite3.Connection:
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
    connection = sqlite3.connect(f"{path.as_uri()}?{mode}", uri=True, timeout=_TIMEOUT, check_same_thread=False)
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
    with connection:
        connection.execute("BEGIN")  # one snapshot for all that is read
        ours = _is_ours(connection)
    if not ours:
        if not writable:
            raise ValueError("it is not a region cache of this version")
        with connection:
            connection.execute("BEGIN IMMEDIATE")  # of several processes one makes the table, the others find it
            if not _is_ours(connection):
                connection.execute("CREATE TABLE regions (key BLOB PRIMARY KEY, entry BLOB NOT NULL) WITHOUT ROWID")
                connection.execute(f"PRAGMA application_id = {APPLICATION}")
                connection.execute(f"PRAGMA user_version = {SCHEMA}")
    if writable:
        _switch_to_log(connection)
    # In the log's mode a killed process loses nothing with NORMAL; a power cut may lose the last entries, no more.
    connection.execute("PRAGMA synchronous = NORMAL")


def _switch_to_log(connection: sqlite3.Connection) -> None:
    """Set the write-ahead log. SQLite's timeout does not cover this statement while other processes open the file."""
    end = time.monotonic() + _TIMEOUT
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > end:
                raise
        time.sleep(0.005)


def _is_ours(connection: sqlite3.Connection) -> bool:
    """False for an empty file. Raises ValueError for another program's database or another version of ours. Its
    statements see one state of the file only within a transaction."""
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if (application, version) == (APPLICATION, SCHEMA):
        return True
    if application or version or connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise ValueError("it is not a region cache of this version")
    return False


def seal(key: bytes, entry: bytes) -> bytes:
    return hashlib.blake2b(key + entry, digest_size=8).digest()


def verified(key: bytes, stored: Any) -> bytes | None:
    if not isinstance(stored, bytes) or len(stored) < 8 or seal(key, stored[8:]) != stored[:8]:
        return None
    return stored[8:]


def is_damage(error: Exception) -> bool:
    return getattr(error, "sqlite_errorname", "").split("_")[:2] in (["SQLITE", "CORRUPT"], ["SQLITE", "NOTADB"])


def way_out(error: Exception) -> str:
    if is_damage(error) or isinstance(error, ValueError):
        return "Move that file away or name another folder"
    return "Give it a local folder with room and permission to write (a filled one can be opened with read_only=True)"
