"""albumentations 2.0 and AlbumentationsX: image and mask, seeded by the Compose, in pickled copies too."""

from __future__ import annotations

import io
import json
import pickle

import albumentations as A
import numpy as np
import pytest
import torch

from cutswap_transforms import SaliencySwap
from cutswap_transforms.adapters import AlbumentationsSwap

RNG = np.random.default_rng(0)
IMAGES = {
    "rgb": RNG.integers(0, 256, (48, 52, 3), dtype=np.uint8),
    "grey": RNG.integers(0, 256, (48, 52, 1), dtype=np.uint8),
    "float": RNG.random((48, 52, 3), dtype=np.float32),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_image_and_mask(kind):
    image, before = IMAGES[kind].copy(), IMAGES[kind]
    out = A.Compose([AlbumentationsSwap()], seed=3)(image=image, mask=np.zeros((48, 52), np.uint8))
    changed = (out["image"] != before).any(-1)
    assert out["image"].shape == before.shape and out["image"].dtype == before.dtype and np.array_equal(image, before)
    assert out["mask"].any() and not changed[out["mask"] == 0].any()
    assert np.array_equal(np.sort(out["image"].reshape(-1)), np.sort(before.reshape(-1)))


def test_a_flipped_view_is_an_image():
    out = A.Compose([AlbumentationsSwap()], seed=0)(image=IMAGES["rgb"][::-1, ::-1], mask=np.zeros((48, 52), np.uint8))
    assert out["mask"].any() and np.array_equal(np.sort(out["image"].reshape(-1)), np.sort(IMAGES["rgb"].reshape(-1)))


def test_the_seed_of_the_compose_decides_and_torchs_generator_stays():
    state = torch.get_rng_state()
    first, second, other = (A.Compose([AlbumentationsSwap()], seed=seed) for seed in (3, 3, 4))
    images = [[compose(image=IMAGES["rgb"])["image"] for _ in range(3)] for compose in (first, second, other)]
    assert all(map(np.array_equal, images[0], images[1])) and not all(map(np.array_equal, images[0], images[2]))
    assert not np.array_equal(images[0][0], images[0][1]), "the stream goes on"
    assert torch.equal(torch.get_rng_state(), state)


def test_a_probability_and_a_pickled_copy():
    never = A.Compose([AlbumentationsSwap(p=0.0)])
    assert np.array_equal(never(image=IMAGES["rgb"])["image"], IMAGES["rgb"])
    compose = pickle.loads(pickle.dumps(A.Compose([AlbumentationsSwap(SaliencySwap(levels="all"))], seed=1)))
    assert compose(image=IMAGES["rgb"], mask=np.zeros((48, 52), np.uint8))["mask"].any()


# ---- written and read by albumentations itself ------------------------------------------------------------------------

ARGUMENTS = {"levels": (0, -1), "scale": (0.01, 0.02), "p": 0.9, "grid": 20, "normalized": ((0.5,), (0.5,)), "cache": None}
ARGUMENTS["region"] = "top"


@pytest.mark.parametrize("form", ["json", "yaml"])
@pytest.mark.parametrize("swap", [None, SaliencySwap("tiny", "sklearn", **ARGUMENTS)], ids=["default", "other"])
def test_a_saved_compose_is_loaded(swap, form):
    saved, file = A.Compose([AlbumentationsSwap(swap, p=0.8)]), io.StringIO()
    A.save(saved, file, data_format=form)
    file.seek(0)
    loaded = A.load(file, data_format=form)
    assert repr(loaded.transforms[0].swap) == repr(saved.transforms[0].swap) and loaded.transforms[0].p == 0.8
    outs = []
    for compose in (saved, loaded, A.from_dict(A.to_dict(saved))):
        compose.set_random_seed(5)
        outs.append([compose(image=IMAGES["float"])["image"] for _ in range(3)])
    assert all(map(np.array_equal, outs[0], outs[1])) and all(map(np.array_equal, outs[0], outs[2]))


def test_a_folder_of_a_cache_is_saved_with_the_swap(tmp_path):
    compose = A.from_dict(json.loads(json.dumps(A.to_dict(AlbumentationsSwap(SaliencySwap(cache=tmp_path))))))
    assert compose.swap.cache.folder == tmp_path


class Other(SaliencySwap):
    pass


@pytest.mark.parametrize(
    ("swap", "got"),
    [
        (SaliencySwap(lambda x: x[:, :1], cache=None), r"saliency=<function .*lambda"),
        (SaliencySwap(roi=np.eye(9)), "roi=<mask of 9 x 9"),
        (Other(), "a Other"),
    ],
)
def test_a_swap_that_no_file_can_hold_is_told_and_replayed(swap, got):
    with pytest.raises(TypeError, match=f"`swap` must be a SaliencySwap of names and numbers to be written .* got {got}"):
        A.to_dict(AlbumentationsSwap(swap))
    replays(swap, lambda replay: replay)


def replays(swap, travel):
    out = A.ReplayCompose([AlbumentationsSwap(swap), A.HorizontalFlip(p=0.5)])(image=IMAGES["rgb"])
    again = A.ReplayCompose.replay(travel(out["replay"]), image=IMAGES["rgb"])
    assert np.array_equal(again["image"], out["image"]) and not np.array_equal(out["image"], IMAGES["rgb"])


def test_a_replay_goes_through_json():
    replays(None, lambda replay: json.loads(json.dumps(replay)))
