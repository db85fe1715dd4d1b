"""One cache folder and many processes: loader workers, writers at once, threads that fork."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time

from helpers.caches import Scenes, entry_of, leaves_no_doubt
from helpers.images import as_kind, scene
from helpers.processes import in_child
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from cutswap_transforms import RegionCache, SaliencySwap


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
        assert cache._get(entry_of(i)[0]) == entry_of(i)[1]  # a hit: a hundred misses in a row would cause a warning
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
