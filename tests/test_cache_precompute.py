"""`SaliencySwap.precompute`: what it fills and skips, how ranks share it, and data sets that it warns of."""

from __future__ import annotations

import functools
import logging
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from helpers.caches import Counting, Scenes
from helpers.images import as_kind, hot_quarter, scene
from helpers.processes import in_child
from torch import nn
from torch.utils.data import ConcatDataset, Dataset, Subset
from torchvision import transforms as v1
from torchvision.datasets import FakeData, ImageFolder, wrap_dataset_for_transforms_v2
from torchvision.transforms import v2

from cutswap_transforms import RegionCache, SaliencySwap, SwapViews


def test_precompute_needs_few_open_files(tmp_path):
    def work():
        swap = SaliencySwap(Counting(), cache=tmp_path / "c")
        soft = len(os.listdir("/proc/self/fd")) + 40
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, soft))
        assert swap.precompute(Scenes(128, height=8), batch_size=64, num_workers=1) == 128

    in_child(work)


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
