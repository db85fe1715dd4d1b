"""The examples' ways to make negatives: the controls differ from the guided swap in the place alone."""

from __future__ import annotations

import itertools
import sys
from types import SimpleNamespace
from typing import Any

import augment
import numpy as np
import pytest
import torch
import varied_swap
from helpers.images import scene, sorted_pixels
from torch import nn

from cutswap_transforms import LayerCAMExtractor, SaliencySwap

NAMES = ("none", "random-swap", "object-swap", "saliency-swap", "cutpaste", "scar", "3way-cutpaste", "3way-saliency")
SWAPS = ("random-swap", "object-swap", "saliency-swap")


def on_ground(bright: bool, height: int = 64, width: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    """A disc on a plain ground with some noise, and where the disc is."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    disc = (y - 30) ** 2 + (x - 24) ** 2 < 14**2
    noise = torch.randn(3, height, width, generator=torch.Generator().manual_seed(0)) * 8
    grey = torch.where(disc == bright, 170.0, 60.0) + noise
    return grey.clamp(0, 255).to(torch.uint8), disc


def params_of(swap: Any, image: torch.Tensor, seed: int = 0) -> dict[str, Any]:
    torch.manual_seed(seed)
    return swap.make_params([image])


def test_names() -> None:
    assert augment.AUGMENTATIONS == NAMES
    assert [len(augment.make_negatives(name)) for name in NAMES] == [0, 1, 1, 1, 1, 1, 2, 2]
    with pytest.raises(ValueError, match=r"`augmentation` must be one of none, .*3way-saliency, got 'swap'"):
        augment.make_negatives("swap")


@pytest.mark.parametrize("name", NAMES[1:])
def test_negatives_keep_the_image_follow_the_seed_and_have_a_mask_of_all_that_changed(name: str) -> None:
    image = scene(64, 64)
    before = image.clone()
    for negative in augment.make_negatives(name):
        first, again, other = (torch.manual_seed(s) and negative(image) for s in (0, 0, 1))
        assert first.shape == image.shape and first.dtype == torch.uint8
        assert torch.equal(first, again) and not torch.equal(first, other)
        assert torch.equal(image, before) and not torch.equal(first, image)
        for seed in range(10):
            torch.manual_seed(seed)
            out, mask = augment.with_mask(negative, image)
            assert mask.shape == (1, 64, 64) and mask.dtype == torch.uint8
            changed = (out != image).any(0, keepdim=True)
            assert not (changed & (mask == 0)).any()
            assert changed.sum() > 0.8 * mask.sum()  # patches of one texture share some pixels


def test_controls_swap_as_often_as_the_guided_swap_at_the_same_sizes_in_other_places() -> None:
    image, _ = on_ground(True)
    for name, (levels, count) in itertools.product(SWAPS, (("all", 3), ([0, 2], 2), ("random", 1))):
        (swap,) = augment.make_negatives(name, levels=levels, scale=(0.002, 0.004))
        assert int((params_of(swap, image)["pairs"][0, :, 5] > 0).sum()) == count
    swaps = [augment.make_negatives(name, "random")[0] for name in SWAPS]
    assert len({(swap.scale, swap.ratio) for swap in swaps}) == 1
    sizes = []
    for seed in range(20):
        pairs = [params_of(swap, image, seed)["pairs"][0, 0].tolist() for swap in swaps]
        assert len({tuple(pair[1:5]) for pair in pairs}) == 3
        sizes.append(pairs[0][5:7] == pairs[1][5:7])
    assert np.mean(sizes) > 0.8  # the same numbers are drawn; now and then no candidate fits and the patch is halved


def test_an_image_and_its_mirror_image_have_mirrored_maps_both_ways() -> None:
    tiny = LayerCAMExtractor()
    both, images = augment.BothWays(tiny), torch.stack([scene(40, 64), scene(40, 64).flip(-2)])
    for seen, mirrored, plain in zip(*map(both.native_maps, (images, images.flip(-1))), tiny.native_maps(images), strict=True):
        torch.testing.assert_close(seen, mirrored.flip(-1), rtol=1e-4, atol=1e-9)
        assert seen.shape == plain.shape and not torch.allclose(seen, plain, rtol=0.01)
    assert (
        both.fingerprint != tiny.fingerprint and augment.BothWays(LayerCAMExtractor(target=3)).fingerprint != both.fingerprint
    )
    assert SaliencySwap(both)(images[0]).shape == (3, 40, 64)


def test_otsu_finds_the_object_on_either_ground_with_the_threshold_of_a_search() -> None:
    for bright in (True, False):
        image, disc = on_ground(bright)
        found = augment.OtsuObject()(image[None].float() / 255)
        assert found.shape == (1, 1, *disc.shape)
        assert (found[0, 0].bool() == disc).float().mean() > 0.99
    grey = torch.from_numpy(np.random.default_rng(0).normal([[90], [160]], 25, (2, 400)).clip(0, 255)).long()
    images = torch.stack((grey.flatten()[:700], grey.flatten()[-700:])).reshape(2, 20, 35)
    for image, threshold in zip(images, augment.otsu_threshold(images), strict=True):
        values = image.double().flatten()
        spreads = []
        for t in range(256):
            low, high = values[values <= t], values[values > t]
            gap = (low.mean() - high.mean()) ** 2 if len(low) and len(high) else torch.tensor(0.0)
            spreads.append(float(gap) * len(low) * len(high))
        assert spreads[int(threshold)] == pytest.approx(max(spreads), rel=1e-6)


def test_object_swap_stays_on_the_object_and_random_swap_does_not() -> None:
    image, disc = on_ground(True)
    inside = {}
    for name in ("random-swap", "object-swap"):
        swap, hits = augment.make_negatives(name, scale=(0.002, 0.005), grid=96)[0], []  # fine cells: the object to a pixel
        torch.manual_seed(0)
        for _ in range(100):
            for _, ta, la, tb, lb, h, w in swap.make_params([image])["pairs"][0].tolist():
                hits += [bool(disc[t + h // 2, left + w // 2]) for t, left in ((ta, la), (tb, lb))]
        inside[name] = np.mean(hits)
    assert inside["object-swap"] > 0.97
    assert inside["random-swap"] == pytest.approx(float(disc.float().mean()), abs=0.1)


@pytest.mark.parametrize("name", ["object-swap", "scar"])
def test_batches_are_drawn_image_by_image(name: str) -> None:
    images = torch.stack([scene(64, 64, seed=1)] * 4)
    (negative,) = augment.make_negatives(name)
    torch.manual_seed(0)
    batch = augment.augment_batch(negative, images)
    torch.manual_seed(0)
    assert torch.equal(batch, torch.stack([negative(image) for image in images]))
    assert len({image.numpy().tobytes() for image in batch}) == 4
    if name == "object-swap":
        assert torch.equal(sorted_pixels(batch[0]), sorted_pixels(images[0]))


def test_saliency_by_name_and_by_factory(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny, blind = (augment.load_saliency(name) for name in ("tiny", "random"))
    assert tiny.fingerprint != blind.fingerprint
    conv, pool, head = nn.Conv2d(3, 4, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Linear(4, 2)
    net = nn.Sequential(conv, nn.ReLU(), pool, nn.Flatten(), head)
    own = SimpleNamespace(net=lambda: net, source=lambda: lambda images: images[:, :1], extractor=lambda: blind)
    monkeypatch.setitem(sys.modules, "own_nets", own)  # type: ignore[arg-type]
    assert augment.load_saliency("own_nets:net", 32).native_maps(torch.rand(2, 3, 40, 40))[0].shape[0] == 2
    assert augment.load_saliency("own_nets:source")(torch.rand(2, 3, 4, 4)).shape == (2, 1, 4, 4)
    assert augment.load_saliency("own_nets:extractor") is blind


def varied(name: str = "saliency-swap", **variation: Any) -> Any:
    return augment.make_negatives(name, "random", variation=variation or None, levels=[0])[0]


def test_variation_without_a_choice_is_the_swap_and_variations_reach_the_controls() -> None:
    image = scene(64, 64)
    same = [(torch.manual_seed(0), swap(image))[1] for swap in (varied(), varied(rule="any"))]
    assert torch.equal(*same)
    for name in SWAPS:
        plain, soft = varied(name), varied(name, rule="any", feather=3, jitter=0.0)
        assert isinstance(soft, varied_swap.VariedSwap) and not isinstance(plain, varied_swap.VariedSwap)
        params = params_of(soft, image)
        changes = [varied_swap.mean_change(image, swap.transform(image, params), params["pairs"]) for swap in (soft, plain)]
        assert changes[0] < changes[1]
    with pytest.raises(ValueError, match="`rule` must be any, near, far, alike, unlike, visible, got 'best'"):
        varied(rule="best")


@pytest.mark.parametrize(("low", "high", "measure"), [("near", "far", "distance"), ("alike", "unlike", "visible_change")])
def test_rules_order_the_pairs_at_one_size(low: str, high: str, measure: str) -> None:
    image = scene(64, 64)
    found, areas = [], []
    for rule, seed in itertools.product((low, high), range(15)):
        pairs = params_of(varied(rule=rule), image, seed)["pairs"]
        found.append(getattr(varied_swap, measure)(*((pairs,) if measure == "distance" else (image, pairs))))
        areas.append(int(pairs[0, 0, 5] * pairs[0, 0, 6]))
    assert varied(rule=low).scale == varied(rule=high).scale == (0.002, 0.03)
    assert np.mean(found[15:]) > 1.3 * np.mean(found[:15])
    assert np.median(areas[:15]) == np.median(areas[15:])


def test_feather_fades_the_seams() -> None:
    image, swap = scene(128, 128), varied(feather=2)
    params = params_of(swap, image)
    soft, hard = (kind.transform(swap, image, params).float() for kind in (type(swap), augment.SaliencySwap))
    _, top, left, _, _, h, w = params["pairs"][0, 0].tolist()
    inside = (slice(None), slice(top + 2, top + h - 2), slice(left + 2, left + w - 2))
    assert torch.equal(soft[inside], hard[inside]) and soft[inside].numel() > 0
    corner = (slice(None), top, left)
    wanted = image[corner] + 9 / 25 * (hard[corner] - image[corner])  # nine of the window's 25 pixels lie inside
    torch.testing.assert_close(soft[corner], wanted, atol=0.5, rtol=0)
    untouched = (hard == image).all(0)
    assert torch.equal(soft[:, untouched], image[:, untouched].float())


def test_jitter_multiplies_the_patches_channels() -> None:
    image, swap = scene(64, 64) // 2, varied(jitter=0.3)
    params = params_of(swap, image)
    out, hard = swap.transform(image, params), augment.SaliencySwap.transform(swap, image, params)
    inside = augment.with_mask(swap, image)[1][0] * 0
    _, ta, la, tb, lb, h, w = params["pairs"][0, 0].tolist()
    inside[ta : ta + h, la : la + w] = inside[tb : tb + h, lb : lb + w] = 1
    wanted = torch.where(inside.bool(), (hard * params["gain"][0]).round(), image)
    assert out.dtype == torch.uint8 and torch.equal(out.float(), wanted.float())
    assert params["gain"].min() > 0.7 and params["gain"].max() < 1.3 and params["gain"].unique().numel() == 3
    batch = swap.transform(torch.stack([image] * 2), {k: torch.cat([v] * 2) for k, v in params.items()})
    assert torch.equal(batch[1], out)


def test_visible_rule_drops_swaps_that_change_nothing() -> None:
    image, faint = torch.full((3, 64, 64), 90, dtype=torch.uint8), {}
    image[:, :, 50:] = 200
    for rule in ("any", "visible"):
        swap = augment.VariedSwap(augment.Anywhere(), rule=rule)
        torch.manual_seed(0)
        shares = varied_swap.describe_swaps(swap, image.expand(60, -1, -1, -1), augment.OtsuObject())
        faint[rule] = shares["faint"]
        assert 0.05 < shares["on_object"] < 0.95
    assert faint["visible"] < 0.1 < faint["any"]
