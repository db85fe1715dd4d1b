"""Where the regions of an image come from: the net or a cache, and what must agree for an entry to be served."""

from __future__ import annotations

import gc
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.caches import Counting, Darkness, outputs
from helpers.images import hot_quarter, scene
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from cutswap_transforms import KMeans, LayerCAMExtractor, RegionCache, SaliencySwap
from cutswap_transforms.cache.entry import content_key, pack, unpack
from cutswap_transforms.saliency import tiny


@pytest.mark.parametrize("cache", ["memory", "folder", "object"])
def test_the_first_epoch_fills_and_the_second_reads(tmp_path, cache):
    made = {"memory": "memory", "folder": str(tmp_path / "c"), "object": RegionCache(tmp_path / "c")}[cache]
    source = Counting()
    swap, plain = SaliencySwap(source, cache=made), SaliencySwap(Counting(), cache=None)
    for epoch in range(3):
        for i in range(6):
            out = []
            for one in (swap, plain):
                torch.manual_seed(100 * epoch + i)
                out.append(one(scene(seed=i)))
            assert torch.equal(*out), "the cache changes the result"
    assert source.seen == 6


@pytest.mark.parametrize("levels", ["random", "all", 1])
@pytest.mark.parametrize("saliency", ["tiny", hot_quarter])
def test_hit_and_miss_draw_the_same(levels, saliency):
    batch = torch.stack([scene(seed=i) for i in range(5)])
    swap = SaliencySwap(saliency, levels=levels, p=0.8)
    out = []
    for _ in range(2):
        torch.manual_seed(1)
        out.append(swap(batch))
    assert torch.equal(*out)


def test_every_setting_has_entries_of_its_own(tmp_path):
    cache = RegionCache(tmp_path / "c")
    for arguments in ({}, {"grid": 16}, {"clustering": "sklearn"}, {"clustering": KMeans(3)}):
        SaliencySwap(cache=cache, **arguments)(scene())
    other = Counting()
    other.fingerprint = "another"
    for source in (Counting(), other):
        SaliencySwap(source, cache=cache)(scene())
    assert len(cache) == 6
    SaliencySwap(cache=cache, levels="all", p=0.9, scale=(0.1, 0.2), normalized=((0.5,), (0.5,)))(scene() / 127.5 - 1)
    assert len(cache) == 6, "settings of the random half, or another range of the same pixels, made another entry"


def test_only_the_exact_class_vouches_for_its_results(tmp_path):
    class Extractor(LayerCAMExtractor):
        def native_maps(self, images):
            return list(hot_quarter(images).unbind(1))

    class Clusters(KMeans):
        def __call__(self, points):
            return super().__call__(points).clamp(max=1)

    class Told(Extractor):
        fingerprint = "hot quarter, told"

    class Base:
        fingerprint = "base"

        def __call__(self, images):
            return hot_quarter(images)

    class Derived(Base):
        pass

    SaliencySwap(Base(), cache=tmp_path / "c")
    for arguments in ({"saliency": Extractor()}, {"clustering": Clusters()}, {"saliency": Derived()}):
        with pytest.raises(ValueError, match="without a string attribute `fingerprint`"):
            SaliencySwap(**arguments, cache=tmp_path / "c")
    SaliencySwap(Told(), cache=tmp_path / "c")
    base, mine = SaliencySwap(levels=0), SaliencySwap(Extractor(), levels=0)
    image = scene(64, 64)
    before = base._finder(image)
    assert not np.array_equal(mine._finder(image)[:, 0], before[:, 0]), "the subclass was given the regions of its base"
    assert np.array_equal(base._finder(image), before)


def test_transforms_of_equal_settings_share_one_memory_and_take_it_along():
    first, second, other = SaliencySwap(), SaliencySwap(levels="all", p=0.5), SaliencySwap(grid=16)
    before = [len(swap.cache) for swap in (first, second, other)]
    first(scene(seed=1234))  # which no other test has
    assert [len(swap.cache) - kept for swap, kept in zip((first, second, other), before, strict=True)] == [1, 1, 0]
    for _ in range(148):  # dropped transforms with callables of their own leave nothing behind
        SaliencySwap(lambda images: hot_quarter(images))(scene())
    gone = weakref.ref(SaliencySwap(lambda images: hot_quarter(images))._finder.store)
    gc.collect()
    assert gone() is None


def test_sources_without_a_fingerprint_are_kept_in_memory_only(tmp_path):
    with pytest.raises(
        ValueError, match=r"`cache` in a folder must know .* got `saliency` without a string attribute `fingerprint`"
    ):
        SaliencySwap(hot_quarter, cache=tmp_path)
    with pytest.raises(ValueError, match=r"got `clustering` without a string attribute"):
        SaliencySwap(clustering=lambda points: torch.zeros(len(points), dtype=torch.int64), cache=tmp_path)
    assert not list(tmp_path.iterdir())
    calls = []

    def source(images):
        calls.append(len(images))
        return hot_quarter(images)

    first, second = SaliencySwap(source), SaliencySwap(source)
    for swap in (first, second, first, second):
        swap(scene(seed=77))
    assert calls == [1, 1], "two transforms may hold different functions, one transform holds one"


def test_a_folder_that_was_read_once_is_served_from_memory(tmp_path):
    SaliencySwap(Counting(), cache=tmp_path / "c")(scene())
    swap = SaliencySwap(Counting(), cache=tmp_path / "c")
    swap(scene())
    (tmp_path / "c" / "regions.sqlite").write_bytes(b"")
    swap(scene())
    assert (swap.cache.hits, swap.cache.misses) == (2, 0)


def test_a_name_of_a_folder_is_taken_as_it_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("./memory", "my_memory", "mem", "None"):
        swap = SaliencySwap(Counting(), cache=name)
        swap(scene())
        assert (tmp_path / name / "regions.sqlite").exists() and len(swap.cache) == 1
    for wrong, got in ((3, "int"), ("", "''")):
        with pytest.raises(TypeError, match=f"`cache` must be 'memory', a folder, a RegionCache or None, got {got}"):
            SaliencySwap(hot_quarter, cache=wrong)
    with pytest.raises(TypeError, match="`folder` must be a path, got int"):
        RegionCache(3)


TINY, GRID = SaliencySwap(cache=None, levels="all"), 24
LEVELS = len(tiny.LEVELS)
GOOD = pack(np.ones((1, LEVELS, GRID, GRID), bool))[0]


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
@example(first=b"", second=bytes((LEVELS, 0, 0)))
def test_an_entry_that_is_none_changes_no_result_and_is_replaced(tmp_path_factory, without_cache, first, second):
    assume(all(unpack(entry, GRID, LEVELS) is None for entry in (first, second)))
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
