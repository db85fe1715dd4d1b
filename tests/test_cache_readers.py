"""Caches that only read: no trace of them in the folder, and what writers beside them leave is found."""

from __future__ import annotations

import contextlib
import os
import signal

import numpy as np
import pytest
from helpers.caches import entry_of, filled, keys, leaves_no_doubt, one_warning, trains_on
from helpers.processes import CONTEXT

from cutswap_transforms import RegionCache


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
