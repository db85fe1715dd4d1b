"""`RegionCache.merge`: entries of other folders are added; damage is named, and a kill in the middle loses nothing."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sqlite3
import time
import warnings

import numpy as np
import pytest
from helpers.caches import Counting, Scenes, entry_of, filled, keys, one_warning
from helpers.images import scene
from helpers.processes import CONTEXT

from cutswap_transforms import RegionCache, SaliencySwap
from cutswap_transforms.cache import merge


def folder_of(folder, numbers):
    with contextlib.closing(RegionCache(folder)) as cache:
        cache._put(entry_of(i) for i in numbers)
    return folder


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_entries_of_all_folders_are_added_once(tmp_path, monkeypatch):
    monkeypatch.setattr(merge, "_BATCH", 7)
    sources = [folder_of(tmp_path / str(k), range(10 * k, 10 * k + 15)) for k in range(3)]
    before = [files(folder) for folder in sources]
    cache = RegionCache(tmp_path / "all")
    cache._put([entry_of(99)])
    assert cache.merge([sources[0], str(sources[1])]) == 25 and cache.merge(iter(sources)) == 10
    assert cache.merge(sources) == 0 == cache.merge([cache.folder])
    assert len(cache) == 36 and cache.hits == cache.misses == 0
    cache.close()
    again = RegionCache(tmp_path / "all", read_only=True)
    assert all(again._get(entry_of(i)[0]) == entry_of(i)[1] for i in (*range(35), 99))
    assert [files(folder) for folder in sources] == before


def test_a_folder_per_rank_becomes_one(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        SaliencySwap(Counting(), cache=tmp_path / str(rank)).precompute(Scenes(5, height=8))
    swap = SaliencySwap(Counting(), cache=tmp_path / "all")
    assert swap.cache.merge([tmp_path / "0", tmp_path / "1"]) == 5
    for i in range(5):
        swap(scene(8, 33, seed=i))
    assert (swap.cache.hits, swap.cache.misses) == (5, 0)


def test_a_log_that_a_killed_writer_left_is_merged(tmp_path):
    def work():
        folder_of(tmp_path / "a", range(3))
        cache = RegionCache(tmp_path / "a")
        cache._put([entry_of(3)])
        os.kill(os.getpid(), signal.SIGKILL)

    process = CONTEXT.Process(target=work)
    process.start()
    process.join(60)
    before = files(tmp_path / "a")
    assert before["regions.sqlite-wal"]
    assert RegionCache(tmp_path / "all").merge([tmp_path / "a"]) == 4
    assert {**files(tmp_path / "a"), "regions.sqlite-shm": b""} == {**before, "regions.sqlite-shm": b""}


@contextlib.contextmanager
def told(*sentences):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    assert len(caught) == len(sentences) and all(w.category is RuntimeWarning and w.filename == __file__ for w in caught)
    for warning, sentence in zip(caught, sentences, strict=True):
        assert re.match(
            f"`folders` must be cache folders that can be read, {sentence}; all that could be", str(warning.message)
        )


def test_damaged_entries_are_named_and_left_out_and_mended(tmp_path):
    for name, damaged in (("a", 3), ("b", 5), ("all", 7)):
        with contextlib.closing(sqlite3.connect(filled(tmp_path / name, 9))) as file, file:
            file.execute("UPDATE regions SET entry = ? WHERE key = ?", ("text", entry_of(damaged)[0]))
            file.execute("INSERT INTO regions VALUES (5, x'00')")
    cache = RegionCache(tmp_path / "all")
    with told(f"'{tmp_path}/a' has 1 damaged entries"):
        assert cache.merge([tmp_path / "a"]) == 1
    assert cache._get(entry_of(7)[0]) == entry_of(7)[1]
    with told(f"'{tmp_path}/a' has 1 damaged entries", f"'{tmp_path}/b' has 1 damaged entries"):
        assert RegionCache(tmp_path / "new").merge([tmp_path / "a", tmp_path / "b"]) == 9


def test_folders_that_cannot_be_read_are_named_and_the_others_merged(tmp_path):
    for name in ("notes", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "notes" / "regions.sqlite").write_bytes(b"somebody's notes " * 500)
    with contextlib.closing(sqlite3.connect(tmp_path / "other" / "regions.sqlite")) as other, other:
        other.execute("CREATE TABLE regions (key, entry)")
    good = folder_of(tmp_path / "good", range(4))
    cache, problem = RegionCache(tmp_path / "all"), r"' could not be read to its end \("
    with told(
        f"'{tmp_path}/none{problem}no such file: .*",
        f"'{tmp_path}/notes{problem}.*",
        f"'{tmp_path}/other{problem}it is not a .*",
    ):
        assert cache.merge([tmp_path / "none", tmp_path / "notes", tmp_path / "other", good]) == 4
    assert not (tmp_path / "none").exists()


def test_flipped_bits_end_no_merge_and_are_never_merged(tmp_path):
    path = filled(tmp_path / "a")
    good, rng, lost = path.read_bytes(), np.random.default_rng(0), 0
    for trial in range(30):
        data = bytearray(good)
        for _ in range(20):
            data[rng.integers(0, len(data))] ^= 1 << rng.integers(0, 8)
        path.write_bytes(bytes(data))
        with warnings.catch_warnings(), contextlib.closing(RegionCache(tmp_path / f"all{trial}")) as cache:
            warnings.simplefilter("ignore")
            count = cache.merge([tmp_path / "a"])
            assert count == len(cache) == sum(cache._read(key) is not None for key in keys(40)) if count else True
        lost += count < 40
    assert lost > 10, "the flips did no harm: this test tests nothing"


def test_an_index_that_runs_in_circles_ends(tmp_path, monkeypatch):
    rows = [entry_of(i) for i in range(2)]
    monkeypatch.setattr(merge, "_after", lambda connection, last: rows)
    filled(tmp_path / "a", 1)
    with told(
        rf"'{tmp_path}/a' could not be read to its end \(its index is damaged\)", f"'{tmp_path}/a' has 4 damaged entries"
    ):
        RegionCache(tmp_path / "all").merge([tmp_path / "a"])


def test_a_cache_that_cannot_be_written_is_an_error(tmp_path):
    filled(tmp_path / "a", 2)
    with pytest.raises(ValueError, match=r"`cache` must be writable to be filled, got RegionCache\(.*True\); open it"):
        RegionCache(tmp_path / "a", read_only=True).merge([tmp_path / "a"])
    with pytest.raises(TypeError, match="`folders` must be a list of folders, got '/a'; put it in a list"):
        RegionCache(tmp_path / "all").merge("/a")
    assert not (tmp_path / "all").exists()
    (tmp_path / "file").write_text("in the way")
    with (
        one_warning("cannot be used"),
        pytest.raises(RuntimeError, match=r"`cache` must be a folder that can be written, got .*, which failed after 0 images"),
    ):
        RegionCache(tmp_path / "file" / "c").merge([tmp_path / "a"])


def test_kills_in_the_middle_lose_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(merge, "_BATCH", 10)
    filled(tmp_path / "a", 3000)
    rng, sizes, put = np.random.default_rng(0), [0], RegionCache._put

    def told_put(cache, items, writer):
        put(cache, items)
        if items:
            os.write(writer, b".")

    for _ in range(15):
        reader, writer = os.pipe()
        with monkeypatch.context() as patch:
            patch.setattr(RegionCache, "_put", lambda self, items, writer=writer: told_put(self, list(items), writer))
            process = CONTEXT.Process(target=lambda: RegionCache(tmp_path / "all").merge([tmp_path / "a"]))
            process.start()
        os.close(writer)
        os.read(reader, 1)  # a new batch was stored
        time.sleep(rng.uniform(0, 0.004))
        process.kill()
        process.join(60)
        os.close(reader)
        with contextlib.closing(RegionCache(tmp_path / "all")) as cache:
            sizes.append(len(cache))
            assert sizes[-1] >= sizes[-2] and sizes[-1] % 10 == 0, "a batch is stored whole or not at all"
    cache = RegionCache(tmp_path / "all")
    assert len({*sizes}) > 3 and cache.merge([tmp_path / "a"]) == 3000 - sizes[-1]
    assert len(cache) == 3000 and all(cache._read(entry_of(i)[0]) == entry_of(i)[1] for i in range(3000))
