"""The embedded net: its gradient written out equals autograd's, its weights are data, and its randomness is its own."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from make_samples import make_scene
from torch import Tensor

from cutswap_transforms import KMeans
from cutswap_transforms.functional import salient_regions
from cutswap_transforms.saliency import LayerCAMExtractor, tiny


def noise(n: int, size: int) -> Tensor:
    x = torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))
    return x.contiguous(memory_format=torch.channels_last)


def reference(arrays: dict[str, np.ndarray], image: Tensor, target: int | None) -> list[Tensor]:
    """One image [3, s, s] in float64 by autograd, from the weights' names alone."""
    w = {name: torch.from_numpy(a).double() for name, a in arrays.items()}
    x, levels = image[None].double(), []
    for stage in (1, 2, 3, 4):
        first = f"stage{stage}.conv0"
        x = F.relu(F.conv2d(x, w[f"{first}.weight"], w[f"{first}.bias"], stride=4 if stage == 1 else 2, padding=1))
        for j in range(1, 9):
            name = f"stage{stage}.conv{j}"
            if f"{name}.weight" in w:
                x = F.relu(x + F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=1))
        if not levels:
            x = x.requires_grad_()
        levels.append(x)
    logits = (x.mean((2, 3)) @ w["head.weight"].T + w["head.bias"])[0]
    score = logits[int(logits.argmax()) if target is None else target]
    gradients = torch.autograd.grad(score, levels)
    return [torch.relu((torch.relu(g) * a).sum(1))[0].detach() for g, a in zip(gradients, levels, strict=True)]


def packaged() -> dict[str, np.ndarray]:
    return dict(np.load(tiny.PACKAGED, allow_pickle=False))


RANDOM = [(None, size, target, 1e-4) for size in (128, 97, 64) for target in (None, 7)]


@pytest.mark.parametrize(("weights", "size", "target", "rtol"), [*RANDOM, ("DEFAULT", 128, None, 1e-3)])
def test_maps_equal_autograd_in_float64_with_fewer_levels_too(weights: Any, size: int, target: int | None, rtol: float) -> None:
    arrays = packaged() if weights else tiny._random_weights()
    x = noise(2, size)
    maps = tiny.TinyCAM(weights, target=target).maps(x)
    for i in range(2):
        for level, expected in zip(maps, reference(arrays, x[i], target), strict=True):
            assert expected.max() > 0
            torch.testing.assert_close(level[i].double(), expected, rtol=rtol, atol=0.01 * rtol * float(expected.max()))
    for layers in (["stage4"], ["stage3", "stage1"], ["stage2"]):
        some = tiny.TinyCAM(weights, target=target, layers=layers).maps(x)
        assert all(torch.equal(s, maps[tiny.LAYERS.index(n)]) for s, n in zip(some, layers, strict=True))


def test_packaged_file_is_small_and_free_of_pickle() -> None:
    assert {a.dtype for a in packaged().values()} == {np.dtype(np.float16)}
    assert sum(a.size for a in packaged().values()) <= 1_000_000
    assert tiny.PACKAGED.stat().st_size <= 2_000_000


def test_random_weights_are_the_same_every_time_and_move_no_generator() -> None:
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    first, second = tiny._random_weights(), tiny._random_weights()
    assert all(np.array_equal(first[n], second[n]) for n in first)
    tiny._placed.cache_clear()
    LayerCAMExtractor(weights=None)
    assert tiny.load("DEFAULT") is tiny.load("DEFAULT") is not tiny.load(None)  # one net per process
    assert random.getstate() == states[0]
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), states[1], strict=True))
    assert torch.equal(torch.get_rng_state(), states[2])


def test_weights_from_a_file_that_is_read_anew_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    arrays = tiny._random_weights()
    np.savez(path, **arrays)
    mine = LayerCAMExtractor(weights=path)
    assert mine.fingerprint == LayerCAMExtractor(weights=None).fingerprint != LayerCAMExtractor().fingerprint
    np.savez_compressed(path, **(arrays | {"head.bias": arrays["head.bias"] + 1}))
    assert LayerCAMExtractor(weights=str(path)).fingerprint != mine.fingerprint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head.bias": None}, r"`weights` of \"tiny\".*'head.bias' of shape None, needed is \(1000,\)"),
        ({"head.weight": np.zeros((10, 192))}, r"'head.weight' of shape \(10, 192\), needed is \(1000, 192\)"),
        ({"head.bias": np.full(1000, np.nan)}, "must be finite"),
        ({"head.bias": np.array([{}], dtype=object)}, "allow_pickle=False"),
    ],
)
def test_weights_that_are_none_of_ours(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    arrays = tiny._random_weights() | changes
    np.savez(tmp_path / "other.npz", **{name: a for name, a in arrays.items() if a is not None})
    with pytest.raises(ValueError, match=message):
        LayerCAMExtractor(weights=tmp_path / "other.npz")


@pytest.mark.parametrize(("ground", "least"), [("cloth", 0.8), ("wood", 0.8), ("tiles", 0.55)])
def test_it_sees_an_object_on_a_strong_texture(ground, least):
    """Cloth and tiles had no part in the training. The first version's net had 3 % of its region on objects on cloth."""
    y, x = np.mgrid[0:192, 0:192]
    images, masks = [], []
    for seed in range(8):
        cy, cx, angle = 96 + 20 * math.sin(seed), 96 + 20 * math.cos(2 * seed), seed * 0.8
        u, v = (x - cx) * math.cos(angle) + (y - cy) * math.sin(angle), (y - cy) * math.cos(angle) - (x - cx) * math.sin(angle)
        r = np.hypot(u / 62, v / 40)
        colour = np.array([[200, 195, 190], [60, 70, 110], [150, 60, 50], [120, 130, 90]][seed % 4])
        lit = colour * (1.1 - 0.35 * np.clip(r, 0, 1)[..., None] ** 2 - 0.1 * (v / 40)[..., None])
        images.append(np.where(r[..., None] < 1, lit, make_scene(ground, seed, 192)).clip(0, 255).astype(np.uint8))
        masks.append(r < 1)
    batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    regions = salient_regions(LayerCAMExtractor().native_maps(batch), batch, KMeans())
    found = F.interpolate(regions.float(), size=(192, 192), mode="nearest-exact").bool()
    truth = torch.from_numpy(np.stack(masks))[:, None]
    on, covered = ((found & truth).sum((2, 3)) / whole.sum((2, 3)) for whole in (found, truth))
    assert on.mean(0)[:3].min() > least and covered.mean(0).max() > 0.7
