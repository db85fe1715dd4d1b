"""SQLite's journal: the write-ahead log or, on a network file system, the rollback journal.

The log's index is memory that processes share, which those of two machines cannot. The rollback journal needs only the locks
of the file system; it is slower, because readers wait for a writer.
"""

from __future__ import annotations

import os
import re
import sqlite3
import time
from pathlib import Path

MOUNTS = Path("/proc/self/mounts")  # of Linux; elsewhere every folder is taken for a local one
_NFS, _SMB = {"nfs", "nfs4"}, {"cifs", "ncpfs", "smb3", "smbfs"}
_CLUSTER = {"afs", "beegfs", "ceph", "coda", "fhgfs", "glusterfs", "gpfs", "lustre", "orangefs", "panfs", "pvfs2", "wekafs"}
_OTHER = {"9p", "blobfuse2", "ceph-fuse", "davfs", "gcsfuse", "juicefs", "mfs", "rclone", "s3fs", "sshfs", "virtiofs"}
NETWORK = _NFS | _SMB | _CLUSTER | _OTHER


def on_network(folder: Path) -> bool:
    """Whether the folder is on a file system that other machines write as well, by the type of its mount."""
    path, longest, kind = os.path.realpath(folder), "", ""
    try:
        lines = MOUNTS.read_bytes().splitlines()
    except OSError:
        return False
    for line in lines:
        _, mount, its_kind = [*map(_unescaped, line.split(b" ")), "", "", ""][:3]
        below = path == mount or path.startswith(mount.rstrip("/") + "/")
        if mount and below and len(mount) >= len(longest):  # of two mounts of one folder, the later one is seen
            longest, kind = mount, its_kind
    return kind.removeprefix("fuse.") in NETWORK


def _unescaped(name: bytes) -> str:
    """Spaces and the like are written as octal numbers there."""
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), name))


def set_journal(connection: sqlite3.Connection, folder: Path, patience: float) -> None:
    """Set the journal that suits the folder. SQLite's timeout does not cover this statement while other processes open the
    file.

    Raises:
        sqlite3.OperationalError: the file stays locked for `patience` seconds.
    """
    mode, end = "DELETE" if on_network(folder) else "WAL", time.monotonic() + patience
    while True:
        try:
            connection.execute(f"PRAGMA journal_mode = {mode}")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > end:
                raise
        time.sleep(0.005)


def made_with_log(path: Path) -> bool:
    """Whether the file, by its header, was last written with a log; True for none.

    Not for local files: closing them here would drop the locks of this process, which a log needs between its transactions.
    """
    try:
        with open(path, "rb") as file:
            return file.read(19)[18:] != b"\x01"
    except OSError:
        return True
