"""The caches: what is kept, under which key, and what happens when the disk, a process or the user goes wrong."""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import logging
import multiprocessing
import os
import pickle
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import warnings
import weakref
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import PIL.Image
import pytest
import torch
from helpers.caches import Counting, Scenes, entry_of, filled, one_warning, trains_on
from helpers.images import as_kind, hot_quarter, scene
from helpers.processes import in_child
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset
from torchvision import transforms as v1
from torchvision.datasets import FakeData, ImageFolder, wrap_dataset_for_transforms_v2
from torchvision.transforms import v2

from cutswap_transforms import KMeans, LayerCAMExtractor, RegionCache, SaliencySwap, SwapViews
from cutswap_transforms.__main__ import main
from cutswap_transforms.cache.entry import content_key, pack, unpack
from cutswap_transforms.cache.memory import Memory
from cutswap_transforms.images import eight_bits, pil_order
from cutswap_transforms.shell.files import ImageFiles

SETTINGS = b"s" * 32


# ---- entries and keys ---------------------------------------------------------------------------------------------


def key_of(image, settings=SETTINGS):
    """The key of an image leaf as the library makes it."""
    return content_key(settings, pil_order(eight_bits(image))[0])


@given(st.integers(1, 5), st.integers(2, 40), st.integers(0, 10**6))
def test_entries_give_back_the_regions(levels, grid, seed):
    regions = np.random.default_rng(seed).random((3, levels, grid, grid)) < 0.3
    regions[:, :, 0, 0] = True
    for entry, region in zip(pack(regions), regions, strict=True):
        assert np.array_equal(unpack(entry, grid, levels), region)
        assert len(entry) == 2 + (levels * grid * grid + 7) // 8
        wrong = [entry[:-1], entry + b"\0", entry[:2], b"", bytes((levels, grid + 1)) + entry[2:]]
        assert [unpack(e, grid, levels) for e in wrong] == [None] * 5 and unpack(entry, grid, levels + 1) is None
        assert unpack(entry[:2] + bytes(len(entry) - 2), grid, levels) is None, "a level without a cell"


def test_an_entry_of_four_levels_takes_less_than_three_hundred_bytes():
    assert len(pack(np.ones((1, 4, 24, 24), bool))[0]) == 290


def test_keys_are_of_8_bit_values_not_of_containers():
    image = scene()
    same = [image, image.permute(1, 2, 0).contiguous().permute(2, 0, 1), image.clone(), image / 255, image.double() / 255]
    same += [as_kind("PIL", image), (image.int() * 257).to(torch.uint16), torch.cat((image, image[:1]))]
    keys = {key_of(x) for x in same}
    assert len(keys) == 1
    assert key_of(image[:1]) == key_of(image[:1].expand(3, -1, -1)), "grey is grey"
    other = [image.flip(0), image[:1], image[:, :-1], image.reshape(3, 33, 40)]
    keys |= {key_of(x) for x in other} | {key_of(image, b"t" * 32)}
    assert len(keys) == 6


@pytest.mark.parametrize("shape", [(3, 7, 9), (3, 1, 1), (3, 161, 163), (3, 256, 128)])
def test_every_changed_byte_changes_the_key(shape):
    """Also where all changes lie in the same byte of the 64-bit words, which alone a multilinear hash would confuse."""
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8)).permute(1, 2, 0).contiguous().permute(2, 0, 1)
    keys, flat = {key_of(image)}, image.permute(1, 2, 0).reshape(-1)
    count = 1
    for place in {0, len(flat) // 2, len(flat) - 1, *range(7, len(flat), 8 * 97)}:
        for bit in range(8):
            flat[place] ^= 1 << bit
            keys.add(key_of(image))
            flat[place] ^= 1 << bit
            count += 1
    sevens = torch.arange(len(flat))[7::8]
    for _ in range(2000 if len(sevens) > 1 else 0):
        changed = flat.clone()
        two = sevens[torch.from_numpy(rng.permutation(len(sevens))[:2])]
        changed[two] = changed[two] + torch.from_numpy(rng.integers(1, 256, len(two), dtype=np.uint8))
        keys.add(key_of(changed.reshape(shape[1], shape[2], shape[0]).permute(2, 0, 1)))
        count += 1
    assert len(keys) > 0.9 * count if len(flat) < 1000 else len(keys) == count  # few changes of a small image repeat


def test_keys_stay_the_same_between_versions():
    """A changed key would leave every cache behind without a word: raise the version in `finder` instead."""
    image = torch.arange(3 * 60 * 70, dtype=torch.int32).remainder(251).to(torch.uint8).reshape(3, 60, 70)
    assert key_of(image).hex() == "7373737373737373f5b1671b4f4cb7d519d1b1ce61aa2a10"


@pytest.mark.parametrize("kinds", [("PIL", "tensor"), ("Image", "PIL"), ("tensor", "Image")])
def test_a_pil_image_and_its_tensor_share_an_entry(tmp_path, kinds):
    source = Counting()
    swap = SaliencySwap(source, cache=tmp_path / "c")
    for kind in kinds:
        swap(as_kind(kind, scene()))
    assert source.seen == 1 and (swap.cache.hits, swap.cache.misses) == (1, 1)


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


def test_the_memory_is_bounded_and_keeps_what_it_has():
    memory = Memory(10_000)
    memory.put(entry_of(i) for i in range(100))
    assert memory.size <= 10_000 and len(memory.entries) == 10_000 // (24 + 256 + 200)
    assert memory.get(entry_of(0)[0]) == entry_of(0)[1] and memory.get(entry_of(99)[0]) is None


def test_transforms_of_equal_settings_share_one_memory_and_take_it_along():
    first, second, other = SaliencySwap(), SaliencySwap(levels="all", p=0.5), SaliencySwap(grid=16)
    stores = [swap._finder.store for swap in (first, second, other)]
    assert stores[0] is stores[1] is not stores[2]
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


def test_a_source_returns_one_number_of_maps():
    def growing(images):
        return hot_quarter(images)[:, : 1 + int(images.shape[-1] > 40)]

    swap = SaliencySwap(growing, levels="all")
    swap(scene())
    with pytest.raises(ValueError, match="`saliency` must return one number of maps for all images, got 2 after 1"):
        swap(scene(40, 60))


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


# ---- processes ----------------------------------------------------------------------------------------------------


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


def test_parent_and_forked_workers_share_a_folder(tmp_path):
    swap = SaliencySwap(cache=tmp_path / "c")
    swap(scene(seed=0))
    assert len(swap.cache) == 1
    data = Scenes(10, v2.Compose([swap, v2.ToImage()]))
    loader = DataLoader(data, batch_size=5, num_workers=2, multiprocessing_context="fork")
    assert sum(len(labels) for _, labels in loader) == 10
    assert len(swap.cache) == 10
    swap(as_kind("PIL", scene(40, 33, seed=3)))
    assert swap.cache.hits == 1, "what a worker wrote was not found by the parent"


def fill(folder, start, count):
    cache = RegionCache(folder)
    for i in range(start, start + count):
        cache._put([entry_of(i)])
        key, entry = entry_of(i // 2)
        assert cache._get(key) in (None, entry)


def test_eight_processes_fill_one_cache(tmp_path):
    context = multiprocessing.get_context("fork")
    # neighbours overlap by half: the same entry is written by two of them
    processes = [context.Process(target=fill, args=(tmp_path / "c", 50 * k, 100)) for k in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    cache = RegionCache(tmp_path / "c")
    assert len(cache) == 450
    assert all(cache._get(entry_of(i)[0]) == entry_of(i)[1] for i in range(450))


def test_threads_that_fork_at_once_do_not_wait_for_each_other(tmp_path):
    caches = [RegionCache(tmp_path / str(i)) for i in range(3)]
    for cache in caches:
        cache._put([entry_of(0)])

    def forks(_):
        for _ in range(20):
            in_child(lambda: [cache._get(entry_of(0)[0]) for cache in caches])

    threads = [threading.Thread(target=forks, args=(i,), daemon=True) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


# ---- faults: training goes on, with one warning -------------------------------------------------------------------


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


def test_read_only_is_quiet_and_writes_nothing(tmp_path):
    trains_on(tmp_path / "c", times=1).cache.close()
    before = (tmp_path / "c" / "regions.sqlite").read_bytes()
    cache = RegionCache(tmp_path / "c", read_only=True)
    swap = trains_on(cache)
    assert (cache.hits, cache.misses, len(cache)) == (1, 2, 1)
    swap.cache.close()
    assert (tmp_path / "c" / "regions.sqlite").read_bytes() == before
    assert repr(cache).endswith(", read_only=True)")


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


def test_precompute_needs_few_open_files(tmp_path):
    def work():
        swap = SaliencySwap(Counting(), cache=tmp_path / "c")
        soft = len(os.listdir("/proc/self/fd")) + 40
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, soft))
        assert swap.precompute(Scenes(128, height=8), batch_size=64, num_workers=1) == 128

    in_child(work)


def test_a_first_epoch_is_no_reason_to_warn(tmp_path):
    SaliencySwap(Counting(), cache=tmp_path / "c").precompute(Scenes(250, height=8))
    source = Counting()
    source.fingerprint = "new settings on an old folder"
    swap = SaliencySwap(source, cache=tmp_path / "c")
    for i in range(220):
        swap(scene(8, 8, seed=i))
    assert swap.cache.misses == 220


# ---- precompute ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_precompute_fills_what_the_first_epoch_would(tmp_path, workers):
    source = Counting()
    swap = SaliencySwap(source, cache=tmp_path / "c")
    assert swap.precompute(Scenes(10), batch_size=4, num_workers=workers) == 10
    assert source.seen == 10
    assert swap.precompute(Scenes(12), batch_size=4) == 2
    for image, _ in (Scenes(12)[i] for i in range(12)):
        swap(image)
    assert source.seen == 12 and swap.cache.misses == 0


def test_precompute_gathers_images_by_size_and_takes_tuples_dicts_and_tensors(tmp_path):
    class Mixed(Dataset):
        def __len__(self):
            return 9

        def __getitem__(self, i):
            image = scene(20 + 4 * (i % 3), 21, seed=i)
            return [image, {"x": as_kind("PIL", image), "y": 3}, (as_kind("Image", image), 1)][i // 3]

    assert SaliencySwap(cache=tmp_path / "c").precompute(Mixed(), batch_size=2) == 9


def test_precompute_keys_the_image_and_not_the_tensor_before_it(tmp_path):
    class WithFeatures(Scenes):
        def __getitem__(self, index):
            return {"features": torch.rand(3, 8, 8), "image": as_kind("PIL", scene(seed=index))}

    swap = SaliencySwap(cache=tmp_path / "c")
    assert swap.precompute(WithFeatures(3)) == 3
    swap(as_kind("PIL", scene(seed=1)))
    assert (swap.cache.hits, swap.cache.misses) == (1, 0)


def test_images_of_many_sizes_do_not_pile_up(tmp_path):
    stored = []

    class Growing(Scenes):
        def __getitem__(self, index):
            stored.append(len(swap.cache))
            return scene(20 + index, 21)

    swap = SaliencySwap(cache=tmp_path / "c")
    assert swap.precompute(Growing(20), batch_size=2) == 20
    assert stored[-1] >= 20 - 2 * (4 + 1)


def test_precompute_goes_on_after_an_interruption(tmp_path):
    class Interrupted(Scenes):
        def __getitem__(self, index):
            if index == 7:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    swap = SaliencySwap(Counting(), cache=tmp_path / "c")
    with pytest.raises(KeyboardInterrupt):
        swap.precompute(Interrupted(10), batch_size=2)
    assert len(swap.cache) == 6
    assert swap.precompute(Scenes(10), batch_size=2) == 4


def test_precompute_moves_no_generator_and_takes_all_without_a_rank(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")  # set by a scheduler, without torchrun
    before = torch.get_rng_state()
    assert SaliencySwap(cache=tmp_path / "c").precompute(Scenes(4), batch_size=2) == 4
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("data", "expected"), [("Scenes(11)", [6, 5]), ("Subset(Scenes(11), range(4 * {rank}, 4 * {rank} + 4))", [4, 4])]
)
def test_two_ranks_share_the_work(tmp_path, data, expected):
    """A data set that is a share already, as every rank's own Subset, loses nothing to a second division."""
    code = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "from torch.utils.data import Subset\n"
        "from helpers.caches import Counting, Scenes\nfrom cutswap_transforms import SaliencySwap\n"
        "print(SaliencySwap(Counting(), cache=sys.argv[1]).precompute({data}))"
    )
    tests = str(Path(__file__).parent)
    running = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                code.replace("{data}", data).format(rank=rank),
                str(tmp_path / "c"),
                tests,
                str(Path(tests).parent),
            ],
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2"},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        for rank in range(2)
    ]
    assert [int(process.communicate(timeout=120)[0]) for process in running] == expected
    assert len(RegionCache(tmp_path / "c")) == sum(expected)


def test_progress_without_tqdm_is_a_log_line(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with caplog.at_level(logging.INFO, "cutswap_transforms"):
        SaliencySwap(Counting(), cache=tmp_path / "c").precompute(Scenes(3))
    assert "salient regions: 3 of 3 images" in caplog.text


def test_precompute_says_what_it_needs(tmp_path):
    with pytest.raises(ValueError, match="`cache` must be writable to be filled, got None; pass cache=FOLDER"):
        SaliencySwap(hot_quarter, cache=None).precompute(Scenes())
    with pytest.raises(ValueError, match=r"got RegionCache\(.*read_only=True\)"):
        SaliencySwap(Counting(), cache=RegionCache(tmp_path, read_only=True)).precompute(Scenes())
    with pytest.raises(TypeError, match="`dataset` must be a map-style data set with a length, got generator"):
        SaliencySwap(hot_quarter).precompute(image for image in [scene()])


class Wrapped(Dataset):
    """A data set of the user's, around another."""

    def __init__(self, inner, augment=None):
        self.inner, self.augment = inner, augment

    def __len__(self):
        return len(self.inner)

    def __getitem__(self, index):
        image, label = self.inner[index]
        return (self.augment(image) if self.augment else image), label


SOMEWHERE = SaliencySwap(Counting())
HOLDERS = {
    "itself": lambda swap: Scenes(2, swap),
    "Compose": lambda swap: Scenes(2, v2.Compose([v2.Resize(20), v2.Compose([v2.ToImage(), swap])])),
    "v1": lambda swap: Scenes(2, v1.Compose([v1.Resize(20), v1.RandomApply([v1.RandomOrder([swap])])])),
    "Sequential": lambda swap: Scenes(2, nn.Sequential(nn.Identity(), swap)),
    "ModuleList": lambda swap: Scenes(2, v2.RandomChoice([nn.ModuleList([swap])[0], v2.Identity()])),
    "Subset": lambda swap: Subset(ConcatDataset([Scenes(2), Subset(Scenes(2, swap), [0])]), [0, 2]),
    "a wrapper": lambda swap: Wrapped(Wrapped(Scenes(2)), v2.Compose([swap])),
    "torchvision": lambda swap: FakeData(2, (3, 20, 20), transform=v2.Compose([v2.ToImage(), swap])),
    "for v2": lambda swap: wrap_dataset_for_transforms_v2(ImageFolder(scenes_in_classes(), transform=swap)),
    "transforms": lambda swap: ImageFolder(scenes_in_classes(), transform=swap),
    "a closure": lambda swap: Scenes(2, lambda image: swap(image)),
    "a global": lambda swap: Scenes(2, lambda image: SOMEWHERE(image)),
    "partial": lambda swap: Scenes(2, functools.partial(lambda one, image: one(image), swap)),
    "Lambda": lambda swap: Scenes(2, v2.Lambda(functools.partial(map_one, swap=swap))),
    "a method": lambda swap: Scenes(2, swap.forward),
    "a generator of anomalies": lambda swap: Scenes(2, v2.Compose([v2.ToImage(), swap.as_anomaly_generator()])),
}


def map_one(image, swap):
    return swap(image)


def scenes_in_classes():
    folder = Path(tempfile.mkdtemp())
    (folder / "good").mkdir()
    as_kind("PIL", scene()).save(folder / "good" / "0.png")
    return str(folder)


@pytest.mark.parametrize("holder", HOLDERS)
def test_precompute_of_swapped_images_is_told(holder):
    swap = SaliencySwap(Counting())
    with pytest.warns(UserWarning, match=r"`dataset` must give samples without the swap, got a \w+ that holds a SaliencySwap"):
        swap.precompute(HOLDERS[holder](SaliencySwap(Counting())))


def test_precompute_takes_views_whose_first_is_the_image_and_data_sets_without_a_swap(tmp_path):
    swap = SaliencySwap(Counting(), cache=tmp_path / "c")
    views = v2.Compose([v2.ToImage(), SwapViews(SaliencySwap(Counting(), cache=None)), v2.ToDtype(torch.float32, scale=True)])
    assert swap.precompute(Scenes(3, views)) == 3 == len(swap.cache)
    assert swap.precompute(Wrapped(Scenes(3, v2.Compose([v2.ToImage(), SaliencySwap(p=0)])))) == 0
    loop = Scenes(4)
    loop.itself, loop.many, loop.kind, loop.none = [loop], [[0] * 9] * 10**6, SaliencySwap, functools.partial(print)
    assert swap.precompute(loop) == 1


# ---- the command --------------------------------------------------------------------------------------------------


def test_the_command_makes_the_keys_of_a_compose(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for i in range(3):
        as_kind("PIL", scene(60, 50, seed=i)).save(tmp_path / "in" / f"{i}.png")
    (tmp_path / "in" / "broken.png").write_bytes(b"no image")
    command = ["precompute", str(tmp_path / "in"), "--size", "40", "--cache", str(tmp_path / "c"), "--batch-size", "2"]
    assert main(command) == 0
    told = capsys.readouterr()
    assert "regions of 3 images computed in" in told.out and "3 kept" in told.out
    assert "skipped" in told.err and "broken.png: not a readable image (UnidentifiedImageError)" in told.err
    assert main(command) == 0
    assert "regions of 0 images computed" in capsys.readouterr().out
    transform = v2.Compose([v2.Resize(40), SaliencySwap(cache=tmp_path / "c")])
    for i in range(3):
        transform(PIL.Image.open(tmp_path / "in" / f"{i}.png").convert("RGB"))
    assert (transform.transforms[1].cache.hits, transform.transforms[1].cache.misses) == (3, 0)


@pytest.fixture
def scenes(tmp_path):
    """A folder of 10 images."""
    (tmp_path / "in").mkdir()
    for i in range(10):
        as_kind("PIL", scene(seed=i)).save(tmp_path / "in" / f"{i}.png")
    return tmp_path / "in"


def command(images, *more):
    return ["precompute", str(images), "--size", "32", "--cache", str(Path(images).parent / "c"), "--batch-size", "2", *more]


def test_the_command_says_what_is_missing(scenes, tmp_path, capsys):
    assert main(command(tmp_path / "none")) == 2
    assert "error: `images` must be files or folders that exist, got" in capsys.readouterr().err


def test_the_command_wants_a_cache_before_it_begins(scenes, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(SaliencySwap, "precompute", None)
    (tmp_path / "other").mkdir()
    with contextlib.closing(sqlite3.connect(tmp_path / "other" / "regions.sqlite")) as other, other:
        other.execute("CREATE TABLE mine (x)")
    for cache in (str(scenes / "0.png"), str(tmp_path / "other"), "x" * 5000, str(tmp_path / "a\0b")):
        assert main([*command(scenes), "--cache", cache]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: `--cache` must be a folder that can be written, got {cache} (")


@pytest.mark.parametrize("workers", ["0", "2"])
def test_the_command_says_that_nothing_can_be_read(tmp_path, capsys, workers):
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.JPG"):
        (tmp_path / "in" / name).write_bytes(b"no image")
    assert main(command(tmp_path / "in", "--num-workers", workers)) == 2
    assert "error: none of the 2 images tried could be read\n" in capsys.readouterr().err
    as_kind("PIL", scene()).save(tmp_path / "in" / "c.png")
    for computed in (1, 0):  # what is in the cache already was read, too
        assert main(command(tmp_path / "in", "--num-workers", workers)) == 0
        told = capsys.readouterr().out
        assert f"regions of {computed} images computed" in told and "1 kept; 2 files skipped" in told


@pytest.mark.parametrize("option", ["--size", "--batch-size", "--num-workers"])
def test_the_commands_numbers_have_bounds(scenes, capsys, option):
    for value in ("-1", "9" * 30, "9" * 5000):
        with pytest.raises(SystemExit) as stop:
            main(command(scenes, f"{option}={value}"))
        assert stop.value.code == 2 and f"argument {option}: must be an integer from " in capsys.readouterr().err


@pytest.mark.parametrize("device", ["xpu", "nonsense", "cuda", "cuda:99", "meta", "hpu", "", "cpu:-1"])
def test_the_command_asks_the_device_before_it_begins(scenes, tmp_path, capsys, device):
    if device in ("xpu", "cuda", "hpu") and getattr(torch, device, None) and getattr(torch, device).is_available():
        pytest.skip("it is here")
    assert main(command(scenes, "--device", device)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: `--device` must be cpu or what torch can use here, got {device!r} (")
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(("rank", "world"), [("a", "2"), ("0", "b"), ("0", "0")])
def test_the_command_takes_torchruns_variables_for_what_they_are(scenes, capsys, monkeypatch, rank, world):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world)
    assert main(command(scenes)) == 2
    assert f"error: `RANK` must be below `WORLD_SIZE`, both integers, got {rank!r} and {world!r}" in capsys.readouterr().err


def test_the_command_keeps_what_is_finished(scenes, tmp_path, capsys, monkeypatch):
    read = ImageFiles.__getitem__
    for at, fault, status, word in (
        (6, KeyboardInterrupt, 130, "stopped: "),
        (7, MemoryError, 1, "error: MemoryError; "),
        (8, RuntimeError("CUDA error\nmore"), 1, "error: CUDA error more; "),
    ):

        def interrupted(self, index, at=at, fault=fault):
            if index == at:
                raise fault
            return read(self, index)

        monkeypatch.setattr(ImageFiles, "__getitem__", interrupted)
        assert main(command(scenes)) == status
        kept = f"the regions of {at // 2 * 2} images are kept in {tmp_path / 'c'}, the same command goes on from there"
        assert capsys.readouterr().err.splitlines()[-1] == word + kept
    monkeypatch.undo()
    assert main(command(scenes)) == 0
    assert "regions of 2 images computed" in capsys.readouterr().out


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal here")
def test_the_command_tells_of_a_killed_worker(scenes, capsys, monkeypatch):
    monkeypatch.setattr(ImageFiles, "__getitem__", lambda self, index: os.kill(os.getpid(), signal.SIGKILL))
    assert main(command(scenes, "--num-workers", "1")) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("error: DataLoader worker (pid") and "the regions of 0 images are kept in" in told


@pytest.mark.parametrize(("fault", "status"), [(ValueError, 2), (RuntimeError, 1), (MemoryError, 1), (OSError, 1)])
def test_the_command_says_in_a_line_what_a_worker_met(scenes, capsys, monkeypatch, fault, status):
    monkeypatch.setattr(ImageFiles, "__getitem__", Mock(side_effect=fault("what it says")))
    assert main(command(scenes, "--num-workers", "1")) == status
    told = capsys.readouterr().err
    assert told.splitlines()[-1].startswith(f"error: {fault.__name__}: what it says") and "Traceback" not in told


def test_the_command_stops_where_the_disk_is_full(scenes, tmp_path, capfd):
    def work():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (33_000, 33_000))
        assert main(command(scenes, "--batch-size", "1")) == 1

    assert main(command(scenes / "0.png", "--cache", str(tmp_path / "c"))) == 0
    in_child(work)
    told = capfd.readouterr().err.splitlines()[-1]
    assert told.startswith("error: ") and "images are kept in" in told and "Traceback" not in told


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "2"])
def test_ctrl_c_ends_the_command_and_its_workers_without_a_traceback(scenes, tmp_path, workers):
    """The command waits for its fifth image, which never comes, so that it is in the middle when the signal arrives."""
    endless = (
        "import pathlib, signal, sys\n"
        "from cutswap_transforms.__main__ import main\n"
        "from cutswap_transforms.shell.files import ImageFiles\n"
        "read = ImageFiles.__getitem__\n"
        "def wait(self, index):\n"
        "    if index < 4:\n"
        "        return read(self, index)\n"
        "    pathlib.Path(sys.argv[1]).touch()\n"
        "    signal.pause()\n"
        "ImageFiles.__getitem__ = wait\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job ignores it
        "raise SystemExit(main(sys.argv[2:]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", endless, str(tmp_path / "waits"), *command(scenes, "--num-workers", workers)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # as in a terminal, workers get the signal as well
    )
    while not (tmp_path / "waits").exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "Traceback" not in told, told
    assert told.splitlines()[-1].startswith("stopped: the regions of ")


# ---- what counts, and names that go -----------------------------------------------------------------------------------


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


def test_get_and_put_of_a_folder_are_deprecated_and_do_the_same(tmp_path):
    cache = RegionCache(tmp_path / "c")
    key, entry = entry_of(1)
    with pytest.warns(
        DeprecationWarning, match=r"`RegionCache.put` is deprecated and will go: SaliencySwap\(cache=...\)"
    ) as seen:
        cache.put([(key, entry)])
    with pytest.warns(DeprecationWarning, match="`RegionCache.get` .* SaliencySwap.precompute fills"):
        assert cache.get(key) == entry == cache._get(key)
    assert seen[0].filename == __file__
    assert (cache.hits, cache.misses, len(cache)) == (2, 0, 1)
