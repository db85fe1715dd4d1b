"""The folder as an object: what lies in it, what it counts, pickles of it, and when it warns of images that never return."""

from __future__ import annotations

import contextlib
import pickle
import sqlite3

import pytest
from helpers.caches import Counting, Scenes, entry_of, one_warning, trains_on
from helpers.images import scene

from cutswap_transforms import RegionCache, SaliencySwap


def test_the_folder_is_private_and_nothing_lies_beside_it(tmp_path):
    folder = tmp_path / "a" / "cache"
    before = set(tmp_path.iterdir())
    cache = RegionCache(folder)
    assert set(tmp_path.iterdir()) == before, "the folder was made before it was needed"
    cache._put([entry_of(1)])
    cache.close()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [p.name for p in folder.iterdir()] == ["regions.sqlite"]
    assert b"pickle" not in (folder / "regions.sqlite").read_bytes()


def test_a_pickled_cache_is_a_path(tmp_path):
    cache = RegionCache(tmp_path / "c")
    cache._put([entry_of(1)])
    data = pickle.dumps(cache)
    twin = pickle.loads(data)
    assert len(data) < 500 and twin._get(entry_of(1)[0]) == entry_of(1)[1] and repr(twin) == repr(cache)


def test_a_damaged_entry_is_computed_anew_and_mended(tmp_path):
    source = Counting()
    swap = SaliencySwap(source, cache=tmp_path / "c")
    swap(scene())
    with contextlib.closing(sqlite3.connect(tmp_path / "c" / "regions.sqlite")) as file, file:
        ((entry,),) = file.execute("SELECT entry FROM regions").fetchall()
        file.execute("UPDATE regions SET entry = ?", (entry[:-1] + bytes([entry[-1] ^ 1]),))
    swap(scene())
    assert source.seen == 1, "what was read once is in memory"
    again = SaliencySwap(source, cache=tmp_path / "c")
    again(scene())
    again(scene())
    assert source.seen == 2 and (again.cache.hits, again.cache.misses) == (1, 1)
    assert SaliencySwap(source, cache=tmp_path / "c")(scene()) is not None and source.seen == 2


def test_read_only_is_quiet_and_writes_nothing(tmp_path):
    trains_on(tmp_path / "c", times=1).cache.close()
    before = (tmp_path / "c" / "regions.sqlite").read_bytes()
    cache = RegionCache(tmp_path / "c", read_only=True)
    swap = trains_on(cache)
    assert (cache.hits, cache.misses, len(cache)) == (1, 2, 1)
    swap.cache.close()
    assert (tmp_path / "c" / "regions.sqlite").read_bytes() == before
    assert repr(cache).endswith(", read_only=True)")


def test_images_that_are_never_the_same_twice_are_noticed_once(tmp_path):
    cache = RegionCache(tmp_path / "c")
    SaliencySwap(Counting(), cache=cache).precompute(Scenes(300, height=8))
    fresh = RegionCache(tmp_path / "c")
    swap = SaliencySwap(Counting(), cache=fresh)
    with one_warning("put deterministic steps such as Resize before SaliencySwap and random ones after it"):
        for i in range(250):
            swap(scene(8, 8, seed=1000 + i))


def test_a_first_epoch_of_several_workers_is_no_reason_to_warn(tmp_path):
    """Workers fill a fresh folder together: at its hundredth miss each sees the entries of the others."""
    for start in (0, 1000, 2000):
        RegionCache(tmp_path / "c")._get(entry_of(start)[0])
    caches = [RegionCache(tmp_path / "c") for _ in range(3)]
    for i in range(150):
        for k, cache in enumerate(caches):
            key, entry = entry_of(1000 * k + i)
            assert cache._get(key) is None
            cache._put([(key, entry)])


def test_a_first_epoch_is_no_reason_to_warn(tmp_path):
    SaliencySwap(Counting(), cache=tmp_path / "c").precompute(Scenes(250, height=8))
    source = Counting()
    source.fingerprint = "new settings on an old folder"
    swap = SaliencySwap(source, cache=tmp_path / "c")
    for i in range(220):
        swap(scene(8, 8, seed=i))
    assert swap.cache.misses == 220


def test_get_and_put_of_a_folder_are_deprecated_and_do_the_same(tmp_path):
    cache = RegionCache(tmp_path / "c")
    key, entry = entry_of(1)
    with pytest.warns(
        DeprecationWarning, match=r"`RegionCache.put` is deprecated and will be removed: SaliencySwap\(cache=...\)"
    ) as seen:
        cache.put([(key, entry)])
    with pytest.warns(DeprecationWarning, match="`RegionCache.get` .* SaliencySwap.precompute fills"):
        assert cache.get(key) == entry == cache._get(key)
    assert seen[0].filename == __file__
    assert (cache.hits, cache.misses, len(cache)) == (2, 0, 1)
