"""The cache folder under stress: forks at a bad moment, crowds of writers, readers that must leave no trace, damage."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import shutil
import signal
import socket
import sqlite3
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.caches import Counting, Darkness, Scenes, entry_of, filled, leaves_no_doubt, one_warning, outputs, trains_on
from helpers.images import scene
from helpers.processes import CONTEXT, in_child
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from cutswap_transforms import RegionCache, SaliencySwap
from cutswap_transforms.cache import database
from cutswap_transforms.cache.entry import content_key, pack, unpack


def keys(count):
    return [entry_of(i)[0] for i in range(count)]


# ---- forks --------------------------------------------------------------------------------------------------------


def test_a_signal_handler_may_fork_in_the_middle_of_the_librarys_work(tmp_path):
    cache, forked = RegionCache(tmp_path / "c"), []

    def fork(*_):
        in_child(lambda: leaves_no_doubt(cache, 10_000 + len(forked)))
        forked.append(1)

    def ask():
        for i in range(20):
            os.kill(os.getpid(), signal.SIGUSR1)
            while len(forked) == i:
                time.sleep(0.001)

    before = signal.signal(signal.SIGUSR1, fork)
    thread = threading.Thread(target=ask)
    thread.start()
    try:
        written = 0
        while thread.is_alive():
            leaves_no_doubt(cache, written)
            written += 1
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)
    assert len(cache) == written + len(forked)


# ---- readers ------------------------------------------------------------------------------------------------------


def listing(folder):
    """Names, sizes, times and bytes. Not while the file is open here: to close it drops the locks of this process."""
    return {p.name: (p.stat().st_size, p.stat().st_mtime_ns, p.read_bytes()) for p in folder.iterdir()}


def killed_writer(folder, count):
    def work():
        cache = RegionCache(folder)
        cache._put([entry_of(i) for i in range(count)])
        os.kill(os.getpid(), signal.SIGKILL)

    process = CONTEXT.Process(target=work)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL and (folder / "regions.sqlite-wal").stat().st_size


@pytest.mark.parametrize("state", ["settled", "log", "log without its index"])
def test_a_reader_leaves_the_folder_as_it_was(tmp_path, state):
    folder = tmp_path / "c"
    filled(folder, 5)
    if state != "settled":
        killed_writer(folder, 9)
    if state == "log without its index":
        (folder / "regions.sqlite-shm").unlink()
    before = listing(folder)
    reader = RegionCache(folder, read_only=True)
    found = [reader._get(key) for key in keys(12)]
    assert len(reader) == sum(entry is not None for entry in found) == (9 if state == "log" else 5)
    assert all(entry in (None, entry_of(i)[1]) for i, entry in enumerate(found))
    assert sorted(p.name for p in folder.iterdir()) == sorted(before)
    reader.close()
    assert listing(folder) == before
    leaves_no_doubt(RegionCache(folder), 20)


def test_a_reader_of_no_folder_makes_none(tmp_path):
    with one_warning("cannot be used (no such file"):
        trains_on(RegionCache(tmp_path / "c", read_only=True))
    assert not list(tmp_path.iterdir())


@contextlib.contextmanager
def writer_process(folder):
    """`write(i)`: another process stores an entry and says so; `write(None)`: it closes its cache, which empties the log."""
    ours, theirs = CONTEXT.Pipe()

    def work():
        ours.close()
        cache = RegionCache(folder)
        with contextlib.suppress(EOFError):
            while True:
                asked = theirs.recv()
                cache.close() if asked is None else leaves_no_doubt(cache, asked)
                theirs.send(asked)

    def write(i):
        ours.send(i)
        assert ours.poll(60) and ours.recv() == i

    process = CONTEXT.Process(target=work)
    process.start()
    theirs.close()
    yield write
    ours.close()
    process.join(60)
    assert process.exitcode == 0


def test_a_reader_beside_a_writer_finds_what_it_writes(tmp_path):
    filled(tmp_path / "c", 5)
    with writer_process(tmp_path / "c") as write:
        reader = RegionCache(tmp_path / "c", read_only=True)
        assert len(reader) == 5  # the file is settled: it is opened without a log
        for i in range(5, 400):
            assert reader._get(entry_of(i)[0]) is None
            write(i)
            assert reader._get(entry_of(i)[0]) == entry_of(i)[1]
            if i % 7 == 0:
                write(None)
            if i % 30 == 0:
                reader.close()
        assert len(reader) == 400


def test_reader_and_writer_of_one_process_do_not_disturb_each_other(tmp_path):
    killed_writer(tmp_path / "c", 5)
    reader, writer = RegionCache(tmp_path / "c", read_only=True), RegionCache(tmp_path / "c")
    for i in range(5, 60):
        assert len(reader) == i  # first with the log as it was left
        leaves_no_doubt(writer, i)
        if i % 5 == 0:
            writer.close()
        if i % 7 == 0:
            reader.close()


def test_a_reader_never_gets_a_wrong_value_from_a_file_in_motion(tmp_path):
    """A writer that closes after each entry rewrites the file under the reader all the time."""

    def work():
        for i in range(10**9):
            with contextlib.closing(RegionCache(tmp_path / "c")) as cache:
                cache._put([entry_of(i % 500), entry_of(i % 77)])

    filled(tmp_path / "c", 20)
    process = CONTEXT.Process(target=work)
    process.start()
    rounds, sizes = 0, set()
    while rounds < 50 or len(sizes) < 5:  # however slow the machine: until it was seen to grow
        reader = RegionCache(tmp_path / "c", read_only=True)
        sizes.add(len(reader))
        for i in np.random.default_rng(rounds).integers(0, 500, 50).tolist():
            assert reader._read(entry_of(i)[0]) in (None, entry_of(i)[1])
        rounds += 1
    process.kill()
    process.join(60)
    assert max(sizes) > 20


# ---- a folder that fails in mid-run ---------------------------------------------------------------------------------


def test_a_folder_removed_in_mid_run_is_noticed_at_the_next_write(tmp_path):
    for name in ("c", "d"):
        cache = RegionCache(tmp_path / name)
        cache._put([entry_of(0)])
        shutil.rmtree(tmp_path / name)
        if name == "d":
            in_child(lambda: None)  # a fork closes the file
        with one_warning("cannot be used (it was removed while it was in use); regions are computed and kept in this process"):
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
            with one_warning(f"cannot be used ({folder / name} is not a regular file); regions are computed and kept in this"):
                trains_on(RegionCache(folder, read_only=read_only))

    in_child(work)  # which ends after a minute


# ---- damage: the same result as without a cache ---------------------------------------------------------------------


TINY, GRID = SaliencySwap(cache=None, levels="all"), 24
GOOD = pack(np.ones((1, 4, GRID, GRID), bool))[0]


def with_entries(folder, entries):
    """A swap with a cache in which the images of `outputs` have these entries, sealed as good ones."""
    swap = SaliencySwap(cache=folder, levels="all")
    for i, entry in enumerate(entries):
        pixels = scene(12, 9, seed=i).permute(1, 2, 0).contiguous().numpy()
        swap.cache._put([(content_key(swap._finder.settings, pixels), entry)])
    swap.cache.close()
    return SaliencySwap(cache=RegionCache(folder), levels="all")


@pytest.fixture(scope="module")
def without_cache():
    return outputs(TINY, 2)


ENTRIES = st.one_of(
    st.binary(max_size=400),
    st.builds(lambda levels, grid, rest: bytes((levels, grid)) + rest, st.integers(0, 6), st.integers(0, 30), st.binary()),
    st.builds(lambda levels: pack(np.ones((1, levels, GRID, GRID), bool))[0], st.integers(0, 9)),
    st.integers(0, len(GOOD)).map(lambda n: GOOD[:n]),
)


@settings(max_examples=40)
@given(first=ENTRIES, second=ENTRIES)
@example(first=GOOD[:2] + bytes(len(GOOD) - 2), second=GOOD[:2] + bytes(72) + GOOD[74:])  # no cell, a level without a cell
@example(first=b"", second=bytes((4, 0, 0)))
def test_an_entry_that_is_none_changes_no_result_and_is_replaced(tmp_path_factory, without_cache, first, second):
    assume(all(unpack(entry, GRID, 4) is None for entry in (first, second)))
    folder = tmp_path_factory.mktemp("c")
    swap = with_entries(folder, [first, second])
    assert torch.equal(outputs(swap, 2), without_cache)
    again = SaliencySwap(cache=RegionCache(folder), levels="all")
    calls, source = [], again.saliency.native_maps
    again.saliency.native_maps = lambda images: calls.append(1) or source(images)
    assert torch.equal(outputs(again, 2), without_cache) and not calls
    shutil.rmtree(folder)


@pytest.mark.parametrize("levels", ["all", "random", 0])
@pytest.mark.parametrize(("stored", "now"), [(2, 3), (3, 2)])
def test_entries_of_another_number_of_levels_are_replaced(tmp_path: Path, levels, stored, now):
    images = torch.stack([scene(12, 9, seed=i) for i in range(4)])
    SaliencySwap(Darkness(stored), cache=tmp_path / "c", levels=levels)(images[:2])
    swap = SaliencySwap(Darkness(now), cache=tmp_path / "c", levels=levels, p=0.9)
    plain = SaliencySwap(Darkness(now), cache=None, levels=levels, p=0.9)
    assert swap(images[:1]).shape == images[:1].shape
    for seed in range(20):
        out = []
        for one in (swap, plain):
            torch.manual_seed(seed)
            out.append(one(images[1:]))
        assert torch.equal(*out)
    mixed = SaliencySwap(Darkness(now), cache=tmp_path / "c", levels=levels)
    mixed(images)  # the first is still of another number
    assert mixed._finder(images).shape[1] == now
