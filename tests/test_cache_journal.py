"""Cache folders on network file systems: known by their mount, written without a log, by several processes and after kills."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3

import pytest
from helpers.caches import entry_of, filled, keys, leaves_no_doubt, one_warning
from helpers.processes import CONTEXT

from cutswap_transforms import RegionCache
from cutswap_transforms.cache import journal

MOUNTS = """/dev/sda1 / ext4 rw 0 0
server:/x /data nfs4 rw,vers=4.2 0 0
/dev/sdb /data/local xfs rw 0 0
//server/y /a\\040b cifs rw 0 0
tape /mnt/tape fuse.sshfs rw 0 0
tape /mnt/tape2 fuse.mergerfs rw 0 0
auto /home autofs rw 0 0
server:/u /home/u nfs rw 0 0
/dev/sdc /both ext4 rw 0 0
x /both 9p rw 0 0

broken
10.0.0.1@tcp:/s /scratch lustre rw 0 0
"""


@pytest.fixture
def share(tmp_path, monkeypatch):
    """A folder that the file of mounts calls a network's."""
    folder = tmp_path / "a share"
    mount = str(folder).replace(" ", "\\040")
    (tmp_path / "mounts").write_text(f"/dev/sda1 / ext4 rw 0 0\nserver:/x {mount} nfs4 rw,vers=4.2 0 0\n")
    monkeypatch.setattr(journal, "MOUNTS", tmp_path / "mounts")
    return folder


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("/", False),
        ("/data", True),
        ("/data/c/d", True),
        ("/database", False),
        ("/data/local/c", False),
        ("/data/local", False),
        ("/a b/c", True),
        ("/mnt/tape", True),
        ("/mnt/tape2", False),
        ("/home/u/c", True),
        ("/both/c", True),
        ("/scratch/c", True),
    ],
)
def test_the_longest_mount_decides(tmp_path, monkeypatch, folder, expected):
    (tmp_path / "mounts").write_text(MOUNTS)
    monkeypatch.setattr(journal, "MOUNTS", tmp_path / "mounts")
    assert journal.on_network(folder) is expected


def test_a_link_to_a_share_is_a_share_and_no_file_of_mounts_is_none(share, tmp_path, monkeypatch):
    share.mkdir()
    (tmp_path / "link").symlink_to(share)
    assert journal.on_network(tmp_path / "link" / "c") and not journal.on_network(tmp_path / "c")
    monkeypatch.setattr(journal, "MOUNTS", tmp_path / "none")
    assert not journal.on_network(share)


def made_with_log(folder):
    """From the header, which is changed by the first write that follows."""
    return (folder / "regions.sqlite").read_bytes()[18:20] == b"\x02\x02"


def test_a_share_is_written_without_a_log(share, tmp_path):
    for folder, names in ((share, set()), (tmp_path / "local", {"regions.sqlite-wal", "regions.sqlite-shm"})):
        cache = RegionCache(folder)
        leaves_no_doubt(cache, 0)
        assert {path.name for path in folder.iterdir()} == {"regions.sqlite"} | names
        cache.close()
        assert made_with_log(folder) is bool(names)


def test_a_folder_that_moves_to_a_share_and_back_changes_its_journal(share, tmp_path):
    filled(tmp_path / "c", 5)
    for folder in (share / "c", tmp_path / "back"):
        shutil.copytree(tmp_path / "c" if folder.parent == share else share / "c", folder)
        reader = RegionCache(folder, read_only=True)
        assert [reader._get(key) is not None for key in keys(6)] == [True] * 5 + [folder.parent != share]
        assert [path.name for path in folder.iterdir()] == ["regions.sqlite"], "a reader leaves nothing"
        with contextlib.closing(RegionCache(folder)) as cache:
            leaves_no_doubt(cache, 5)
            assert reader._read(entry_of(5)[0]) == entry_of(5)[1]
        assert made_with_log(folder) is (folder.parent != share)


def fill(folder, start, count):
    cache = RegionCache(folder)
    for i in range(start, start + count):
        leaves_no_doubt(cache, i)


def test_processes_fill_a_share_at_once_beside_a_reader(share):
    processes = [CONTEXT.Process(target=fill, args=(share, 15 * k, 30)) for k in range(4)]
    filled(share, 1)
    reader = RegionCache(share, read_only=True)
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes):
        for i in range(75):
            assert reader._read(entry_of(i)[0]) in (None, entry_of(i)[1])
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert len(reader) == len(RegionCache(share)) == 75
    assert [path.name for path in share.iterdir()] == ["regions.sqlite"]


def test_a_write_that_was_killed_is_undone_by_the_next_writer(share):
    filled(share, 5)

    def half(connection):  # more than SQLite holds in memory, so a part is in the file
        connection.executemany("INSERT OR REPLACE INTO regions VALUES (?, ?)", (entry_of(i) for i in range(20_000)))
        os.kill(os.getpid(), signal.SIGKILL)

    process = CONTEXT.Process(target=lambda: RegionCache(share)._file.run(half, writing=True))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL and (share / "regions.sqlite-journal").stat().st_size
    with one_warning("Open the folder once without read_only"):
        assert RegionCache(share, read_only=True)._get(entry_of(0)[0]) is None
    assert len(RegionCache(share)) == 5 == len(RegionCache(share, read_only=True))


def test_a_file_that_stays_locked_is_waited_for_and_not_for_ever(share):
    path = filled(share, 1)
    with contextlib.closing(sqlite3.connect(path, timeout=0)) as other, contextlib.closing(sqlite3.connect(path)) as mine:
        other.execute("PRAGMA journal_mode = WAL")
        other.execute("BEGIN IMMEDIATE")
        mine.execute("PRAGMA busy_timeout = 0")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            journal.set_journal(mine, share, 0.05)
        other.rollback()
