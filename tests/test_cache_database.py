"""Files that fail or are not ours, full disks, folders of others or gone in mid-run: training goes on, with one warning."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import shutil
import signal
import socket
import sqlite3
import warnings
from pathlib import Path

import numpy as np
import pytest
from helpers.caches import Counting, Scenes, entry_of, filled, keys, one_warning, trains_on
from helpers.processes import in_child

from cutswap_transforms import RegionCache, SaliencySwap
from cutswap_transforms.cache import database


@pytest.mark.parametrize("content", [b"not a database at all, but somebody's notes " * 200, b"SQLite format 3\0" + bytes(3000)])
def test_a_foreign_file_is_left_alone(tmp_path, content):
    path = tmp_path / "regions.sqlite"
    path.write_bytes(content)
    with one_warning("Move that file away or use another folder, or pass cache=None"):
        trains_on(tmp_path)
    assert path.read_bytes() == content


def test_another_programs_database_is_left_alone(tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "regions.sqlite")) as other, other:
        other.execute("CREATE TABLE regions (key, entry)")
    with one_warning("it is not a region cache of this version"):
        trains_on(tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / "regions.sqlite")) as other:
        assert other.execute("SELECT count(*) FROM regions").fetchone() == (0,)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.99])
def test_a_truncated_file_gives_nothing_wrong(tmp_path, share):
    path = filled(tmp_path / "c")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    cache = RegionCache(tmp_path / "c")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = [cache._get(entry_of(i)[0]) for i in range(40)]
        cache._put([entry_of(50)])
    assert all(f in (None, entry_of(i)[1]) for i, f in enumerate(found)) and None in found
    assert len(caught) <= 1
    again = RegionCache(tmp_path / "c", read_only=True)
    assert caught or again._get(entry_of(50)[0]) == entry_of(50)[1], "neither said nor mended"


def test_flipped_bits_are_never_served(tmp_path):
    path = filled(tmp_path / "c")
    good = path.read_bytes()
    rng, lost = np.random.default_rng(0), 0
    for _ in range(150):
        data = bytearray(good)
        data[rng.integers(0, len(data))] ^= 1 << rng.integers(0, 8)
        path.write_bytes(bytes(data))
        cache = RegionCache(tmp_path / "c")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = [cache._get(entry_of(i)[0]) for i in range(40)]
        assert all(f in (None, entry_of(i)[1]) for i, f in enumerate(found))
        lost += None in found
        cache.close()
    assert lost > 50, "the flips did no harm: this test tests nothing"


def test_a_folder_that_cannot_be_written_is_read(tmp_path):
    swap = trains_on(tmp_path / "c", times=1)
    swap.cache.close()
    for path, mode in ((tmp_path / "c" / "regions.sqlite", 0o444), (tmp_path / "c", 0o555)):
        path.chmod(mode)
    if os.getuid() == 0:  # root may write anywhere, so another user reads, who has to get there
        for folder in (tmp_path, *tmp_path.parents):
            if "pytest" in str(folder):
                folder.chmod(0o755)

    def work():
        with one_warning("cannot be written"):
            swap = trains_on(tmp_path / "c")
        assert (swap.cache.hits, swap.cache.misses) == (1, 2)
        quiet = RegionCache(tmp_path / "c", read_only=True)
        assert len(quiet) == 1

    in_child(work, uid=65534)
    (tmp_path / "c").chmod(0o700)


def test_what_a_killed_writer_left_in_the_log_is_read_where_nothing_can_be_written(tmp_path):
    def work():
        cache = RegionCache(tmp_path / "c")
        cache._put(entry_of(i) for i in range(5))
        os.kill(os.getpid(), signal.SIGKILL)

    pid = os.fork()
    if pid == 0:
        work()
    os.waitpid(pid, 0)
    assert (tmp_path / "c" / "regions.sqlite-wal").stat().st_size
    for path in (tmp_path / "c").iterdir():
        path.chmod(0o444)
    (tmp_path / "c").chmod(0o555)
    if os.getuid() == 0:
        for folder in (tmp_path, *tmp_path.parents):
            if "pytest" in str(folder):
                folder.chmod(0o755)

    def read():
        cache = RegionCache(tmp_path / "c", read_only=True)
        assert len(cache) == 5 and cache._get(entry_of(4)[0]) == entry_of(4)[1]

    in_child(read, uid=65534)
    (tmp_path / "c").chmod(0o700)


def test_a_full_disk(tmp_path):
    def work():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
        cache = RegionCache(tmp_path / "c")
        with one_warning("cannot be written"):
            for i in range(2000):
                cache._put([entry_of(i)])
        cache = RegionCache(tmp_path / "c", read_only=True)
        kept = [i for i in range(2000) if cache._get(entry_of(i)[0]) is not None]
        assert len(kept) > 20 and all(cache._get(entry_of(i)[0]) == entry_of(i)[1] for i in kept)

    in_child(work)


def test_a_folder_that_may_not_be_entered(tmp_path):
    """The folder of another user, as the first of these tests finds it: closed."""
    (tmp_path / "closed").mkdir(mode=0o700)

    def work():
        with one_warning("cannot be used"):
            trains_on(tmp_path / "closed" / "c")

    if os.getuid() != 0:
        (tmp_path / "closed").chmod(0)
    in_child(work, uid=65534)
    (tmp_path / "closed").chmod(0o700)


@pytest.mark.parametrize("read_only", [False, True])
def test_an_unreachable_folder(tmp_path, read_only):
    (tmp_path / "file").write_text("in the way")
    with one_warning("cannot be used"):
        swap = trains_on(RegionCache(tmp_path / "file" / "c", read_only=read_only))
    assert len(swap.cache) == 0 and swap.cache.hits == 0


def test_a_folder_removed_in_mid_run_is_noticed_at_the_next_write(tmp_path):
    for name in ("c", "d"):
        cache = RegionCache(tmp_path / name)
        cache._put([entry_of(0)])
        shutil.rmtree(tmp_path / name)
        if name == "d":
            in_child(lambda: None)  # a fork closes the file
        with one_warning(
            "cannot be used (it was removed while it was in use); regions are computed and kept in memory by this process"
        ):
            for i in range(1, 4):
                cache._put([entry_of(i)])
        assert [cache._get(key) for key in keys(4)] == [entry_of(i)[1] for i in range(4)] and len(cache) == 0
        assert not list(tmp_path.iterdir()) and not cache.writable
    reader = filled(tmp_path / "c") and RegionCache(tmp_path / "c", read_only=True)
    assert len(reader) == 40
    shutil.rmtree(tmp_path / "c")
    with one_warning("cannot be used (it was removed while it was in use)"):
        assert reader._get(entry_of(0)[0]) is None and reader._get(entry_of(1)[0]) is None


def test_a_file_that_was_replaced_is_written(tmp_path):
    cache = RegionCache(tmp_path / "c")
    cache._put([entry_of(0)])
    shutil.rmtree(tmp_path / "c")
    filled(tmp_path / "c", 5)
    cache._put([entry_of(7)])
    assert len(RegionCache(tmp_path / "c")) == 6 and cache.writable


def test_a_closed_cache_makes_its_folder_again(tmp_path):
    cache = RegionCache(tmp_path / "c")
    cache._put([entry_of(0)])
    cache.close()
    shutil.rmtree(tmp_path / "c")
    cache._put([entry_of(1)])
    assert len(cache) == 1


def limit_file_size(size):
    """What a full disk does: a write beyond fails."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_precompute_stops_where_the_disk_is_full(tmp_path):
    def work():
        limit_file_size(100_000)
        swap = SaliencySwap(Counting(), cache=tmp_path / "c")
        with (
            one_warning("cannot be written"),
            pytest.raises(
                RuntimeError, match=r"`cache` must be a folder that can be written, got RegionCache\(.*\), which "
            ) as e,
        ):
            swap.precompute(Scenes(900, height=8), batch_size=4)
        kept = len(RegionCache(tmp_path / "c", read_only=True))
        assert f"which failed after {kept} images" in str(e.value)
        assert 0 < kept < 400 and swap.saliency.seen == kept + 4

    in_child(work)


def test_damage_is_told_from_a_refusal_by_the_kind_of_the_error(tmp_path):
    def error_of(path, statement, pages=None):
        with contextlib.closing(sqlite3.connect(path)) as file, pytest.raises(sqlite3.Error) as caught:
            file.execute(f"PRAGMA max_page_count = {pages or 1000}")
            file.executescript(statement)
        return caught.value

    (tmp_path / "notes").write_bytes(b"somebody's notes " * 500)
    with contextlib.closing(sqlite3.connect(tmp_path / "torn")) as file:
        file.executescript("CREATE TABLE t (a); INSERT INTO t VALUES (zeroblob(50000))")
    data = (tmp_path / "torn").read_bytes()
    (tmp_path / "torn").write_bytes(data[:4096] + b"\xff" * 4096 + data[8192:])
    damage = [error_of(tmp_path / "notes", "SELECT * FROM t"), error_of(tmp_path / "torn", "SELECT count(*) FROM t")]
    refusals = [
        error_of(tmp_path / "new", "CREATE TABLE t (a); INSERT INTO t VALUES (zeroblob(50000))", 2),
        PermissionError("no"),
        sqlite3.OperationalError("database is locked"),
    ]
    assert [database.is_damage(error) for error in damage + refusals] == [True, True, False, False, False]
    assert database.is_damage(sqlite3.DatabaseError("file is not a database")), "as Python 3.10 raises it, without a name"


def test_a_collected_cache_closes_its_file(tmp_path, monkeypatch):
    opened, connect = [], sqlite3.connect

    def spy(*args, **kwargs):
        opened.append(connect(*args, **kwargs))
        return opened[-1]

    monkeypatch.setattr(database.sqlite3, "connect", spy)
    for read_only in (False, True):
        cache = RegionCache(tmp_path / "c", read_only=read_only)
        cache._put([entry_of(0)])
        assert len(cache) == 1
        in_child(lambda cache=cache: len(cache))
        assert len(cache) == 1
        del cache
        gc.collect()
    assert len(opened) == 4
    for connection in opened:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            connection.execute("SELECT 1")
    assert [p.name for p in (tmp_path / "c").iterdir()] == ["regions.sqlite"], "the log was left behind"


def reachable(folder):
    """Let another user come to a folder below pytest's private one."""
    for parent in (folder, *folder.parents):
        if "pytest" in str(parent):
            parent.chmod(0o755)


def test_a_private_file_in_an_open_folder_is_one_warning(tmp_path):
    filled(tmp_path / "c").chmod(0o600)
    reachable(tmp_path / "c")
    if os.getuid() != 0:
        (tmp_path / "c" / "regions.sqlite").chmod(0)

    def work():
        with one_warning("cannot be used (no permission to write"):
            trains_on(tmp_path / "c")
        with one_warning("cannot be used"):
            trains_on(RegionCache(tmp_path / "c", read_only=True))

    in_child(work, uid=65534)


@pytest.mark.parametrize(
    ("path", "uri"),
    [
        ("/data/c/regions.sqlite", "file:///data/c/regions.sqlite"),
        ("/a b/50%/c#1/d?mode=ro&e=f;g", "file:///a%20b/50%25/c%231/d%3Fmode%3Dro%26e%3Df%3Bg"),
        ("/b\\c/d:e", "file:///b%5Cc/d:e"),  # a backslash is a letter there
        ("/\udcff/gr\u00fcn", "file:///%FF/gr%C3%BCn"),
        ("//data/c", "file:////data/c"),
        (r"C:\data\a b#1", "file:///C:/data/a%20b%231"),
        (r"\\server\share\a b\c", "file:////server/share/a%20b/c"),  # never an authority, which SQLite refuses
        (r"\\?\C:\data\c", "file:///%5C%5C%3F%5CC:%5Cdata%5Cc"),  # Windows takes these letter by letter
        (r"\\?\UNC\server\share\c", "file:///%5C%5C%3F%5CUNC%5Cserver%5Cshare%5Cc"),
    ],
)
def test_a_path_becomes_an_address_that_sqlite_reads(path, uri):
    assert database.file_uri(path) == uri


@pytest.mark.parametrize("name", ["a b", "c#1", "d?mode=ro", "50%25", "e&f=g", "b\\c", "C:", "\udcff", "gr\u00fcn", "+"])
@pytest.mark.parametrize("start", ["/", "//"])
def test_a_folder_of_any_name_keeps_what_is_put_there(tmp_path, name, start):
    folder = Path(start + str(tmp_path / name)[1:])
    filled(folder, 3)
    assert sorted(os.listdir(tmp_path / name)) == ["regions.sqlite"] and len(RegionCache(folder, read_only=True)) == 3


def test_a_journal_that_comes_and_goes_is_no_foreign_file(tmp_path, monkeypatch):
    """Each look finds another state, as when other processes write all the time."""
    journal, there, look, looks = tmp_path / "journal", filled(tmp_path / "c", 3), os.stat, []

    def changing(path, *args, **options):
        if os.fspath(path) != str(journal):
            return look(path, *args, **options)
        looks.append(path)
        return look(there if len(looks) % 2 else tmp_path / "missing")

    monkeypatch.setattr(database.os, "stat", changing)
    for _ in range(2):
        assert database.is_regular(journal)
    assert not database.is_regular(tmp_path)


@pytest.mark.parametrize("name", ["regions.sqlite", "regions.sqlite-wal", "regions.sqlite-shm", "regions.sqlite-journal"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "socket"])
def test_what_is_no_regular_file_is_not_opened(tmp_path, monkeypatch, name, kind):
    """To open a pipe would wait for ever, with the lock of the module in hand."""
    folder = tmp_path / "c"
    filled(folder, 3)
    (folder / name).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(folder / name)
    elif kind == "device":
        (folder / name).symlink_to("/dev/zero")
    elif kind == "folder":
        (folder / name).mkdir()
    else:
        monkeypatch.chdir(folder)  # the address of a socket is short
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as one:
            one.bind(name)

    def work():
        for read_only in (False, True):
            with one_warning(
                f"cannot be used ({folder / name} is not a regular file); regions are computed and kept in memory"
            ):
                trains_on(RegionCache(folder, read_only=read_only))

    in_child(work)  # which ends after a minute
