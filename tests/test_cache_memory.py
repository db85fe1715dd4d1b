"""The cache in memory: its bound, what it counts for each transform, and who shares it."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from helpers.caches import entry_of
from helpers.images import hot_quarter, scene

from cutswap_transforms import RegionCache, SaliencySwap
from cutswap_transforms.cache.memory import Memory


def test_the_memory_is_bounded_and_keeps_what_it_has():
    memory = Memory(10_000)
    memory.put(entry_of(i) for i in range(100))
    assert memory.size <= 10_000 and len(memory.entries) == 10_000 // (24 + 256 + 200)
    assert memory.get(entry_of(0)[0]) == entry_of(0)[1] and memory.get(entry_of(99)[0]) is None


def test_the_memory_cache_counts_the_look_ups_of_each_transform():
    first, second = SaliencySwap(grid=17), SaliencySwap(grid=17)
    for seed in (1, 1, 2):
        first(scene(seed=seed))
    second(scene(seed=2))
    assert (first.cache.hits, first.cache.misses) == (1, 2)
    assert (second.cache.hits, second.cache.misses) == (1, 0)
    assert len(first.cache) == len(second.cache) == 2
    assert "cache='memory'" in repr(first) and first.cache
    torch.manual_seed(0)
    quiet = SaliencySwap(grid=17, p=0.0)
    quiet(scene(seed=1))
    assert (quiet.cache.hits, quiet.cache.misses) == (0, 0)


def test_the_memory_cache_counts_the_images_of_a_batch_and_nothing_of_precompute():
    swap = SaliencySwap(lambda images: hot_quarter(images))  # shares with no other
    assert swap.precompute([scene(seed=i) for i in range(3)]) == 3
    assert (swap.cache.hits, swap.cache.misses, len(swap.cache)) == (0, 0, 3)
    swap(torch.stack([scene(seed=i) for i in range(4)]))
    assert (swap.cache.hits, swap.cache.misses) == (3, 1)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda swap: pickle.loads(pickle.dumps(swap))])
def test_copies_count_from_zero_and_share_the_memory(copied):
    swap = SaliencySwap(grid=18)
    swap(scene())
    twin = copied(swap)
    assert twin.cache is not swap.cache and (twin.cache.hits, twin.cache.misses) == (0, 0)
    twin(scene())
    assert (twin.cache.hits, twin.cache.misses) == (1, 0) and (swap.cache.hits, swap.cache.misses) == (0, 1)


def test_the_cache_of_one_transform_is_an_argument_of_another():
    swap = SaliencySwap(grid=19)
    swap(scene())
    same, other = SaliencySwap(grid=19, cache=swap.cache), SaliencySwap(grid=20, cache=swap.cache)
    assert len(same.cache) == 1 and len(other.cache) == 0 and same.cache is not swap.cache
    assert SaliencySwap(cache=SaliencySwap(cache=None).cache).cache is None


def test_comparing_the_memory_cache_with_its_name_is_deprecated():
    cache = SaliencySwap().cache
    with pytest.warns(DeprecationWarning, match='`swap.cache == "memory"` is deprecated .* `hits` and `misses`'):
        assert cache == "memory"
    with pytest.warns(DeprecationWarning), pytest.raises(AssertionError):
        assert cache != "memory"
    with pytest.warns(DeprecationWarning):
        assert cache not in ("folder", "disk")
    assert cache == cache and cache != SaliencySwap().cache and cache is not None and cache != RegionCache("c")
    assert len({cache, SaliencySwap().cache}) == 2
