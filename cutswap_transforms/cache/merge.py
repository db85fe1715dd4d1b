"""Add the entries of other cache folders to a `RegionCache`, in batches: each is checked, and stored in one transaction."""

from __future__ import annotations

import functools
import os
import sqlite3
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .database import FAULTS, File, verified

if TYPE_CHECKING:
    from .store import RegionCache

_BATCH = 1000  # entries

Row = tuple[bytes, Any]


def merge(cache: RegionCache, folders: Iterable[str | os.PathLike[str]]) -> int:
    """See `RegionCache.merge`."""
    if cache.read_only:
        raise ValueError(f"`cache` must be writable to be filled, got {cache!r}; open it without read_only")
    if isinstance(folders, (str, os.PathLike)):
        raise TypeError(f"`folders` must be a list of folders, got {folders!r}; put it in a list")
    added = 0
    for folder in [Path(folder).expanduser().absolute() for folder in folders]:
        damaged = 0
        try:
            for rows in _batches(File(folder, writable=False)):
                valid = {key: entry for key, stored in rows if (entry := verified(key, stored)) is not None}
                damaged += len(rows) - len(valid)
                lacking = cache.missing(list(valid))
                cache._put((key, valid[key]) for key in lacking)
                cache._check_stored(added)
                added += len(lacking)
        except FAULTS as error:
            _warn(folder, f"could not be read to its end ({error})")
        if damaged:
            _warn(folder, f"has {damaged} damaged entries")
    return added


def _batches(file: File) -> Iterator[list[Row]]:
    """The rows in the order of their keys."""
    last = b""
    try:
        while rows := file.run(functools.partial(_after, last=last)):
            yield rows
            if rows[-1][0] <= last:  # would never end
                raise ValueError("its index is damaged")
            last = rows[-1][0]
    finally:
        file.close()


def _after(connection: sqlite3.Connection, last: bytes) -> list[Row]:
    query = "SELECT key, entry FROM regions WHERE key > ? ORDER BY key LIMIT ?"
    return connection.execute(query, (last, _BATCH)).fetchall()


def _warn(folder: Path, problem: str) -> None:
    warnings.warn(
        f"`folders` must be cache folders that can be read, {str(folder)!r} {problem}; all that could be read was merged, and "
        "what is missing will be computed when it is needed",
        RuntimeWarning,
        stacklevel=4,
    )
