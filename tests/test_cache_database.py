"""Files that fail or are not ours, disks that are full, folders of others: training goes on, with one warning."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sqlite3
import warnings

import numpy as np
import pytest
from helpers.caches import entry_of, filled, one_warning, trains_on
from helpers.processes import in_child

from cutswap_transforms import RegionCache


@pytest.mark.parametrize("content", [b"not a database at all, but somebody's notes " * 200, b"SQLite format 3\0" + bytes(3000)])
def test_a_foreign_file_is_left_alone(tmp_path, content):
    path = tmp_path / "regions.sqlite"
    path.write_bytes(content)
    with one_warning("Move that file away or name another folder, or pass cache=None"):
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
