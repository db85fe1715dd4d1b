"""One check for every number: those of NumPy and torch are numbers, truth values are none, and the sentence names the rule."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.images import hot_quarter, scene

from cutswap_transforms import KMeans, LayerCAMExtractor, RegionCache, SaliencySwap, functional
from cutswap_transforms.regions.libraries import OpenCVKMeans, SklearnKMeans

EXTRACTOR = LayerCAMExtractor()
PAIRS = torch.tensor([[[0, 0, 0, 4, 4, 2, 2]]])
REGIONS, U = torch.ones(1, 2, 4, 4, dtype=torch.bool), torch.full((1, 51), 0.5)
IMAGES, MAPS = torch.zeros(1, 3, 8, 8, dtype=torch.uint8), [torch.rand(1, 4, 4)]


def swap_with(**arguments):
    return SaliencySwap(hot_quarter, **arguments)


def precompute(**arguments):
    return swap_with().precompute([scene()], **arguments)


def drawn(**arguments):
    options = {"levels": None, "image_size": (8, 8), "scale": (0.01, 0.1), "ratio": (0.5, 2.0), **arguments}
    return functional.draw_pairs(REGIONS, U, **options).tolist()


# What takes an integer: the call that gives what became of it, and a value that it takes.
INTEGERS = {
    "grid": (lambda n: swap_with(grid=n).grid, 9),
    "levels": (lambda n: swap_with(levels=n).levels, 1),
    "n_clusters": (lambda n: (KMeans(n).n_clusters, KMeans(n).fingerprint), 3),
    "n_iter": (lambda n: (SklearnKMeans(n_iter=n), SklearnKMeans(n_iter=n).fingerprint), 3),
    "target": (lambda n: (LayerCAMExtractor(target=n).target, LayerCAMExtractor(target=n).fingerprint), 5),
    "input_size": (lambda n: LayerCAMExtractor(input_size=n).input_size, 64),
    "batch_size": (lambda n: precompute(batch_size=n), 4),
    "num_workers": (lambda n: precompute(num_workers=n), 0),
    "rows": (lambda n: swap_with().preview([scene()], rows=n).size, 1),
    "level": (lambda n: EXTRACTOR.overlay(scene(), n).tobytes(), 1),
    "salient_regions": (lambda n: functional.salient_regions(MAPS, IMAGES, KMeans(), n).shape, 4),
    "image_size": (lambda n: functional.patch_mask(PAIRS, (n, n)).shape, 8),
    "draw_pairs": (lambda n: drawn(image_size=(n, n)), 8),
}
NUMBERS = {
    "p": lambda x: swap_with(p=x).p,
    "saliency_weight": lambda x: (KMeans(saliency_weight=x).saliency_weight, KMeans(saliency_weight=x).fingerprint),
    "scale": lambda x: swap_with(scale=(x, x)).scale,
    "ratio": lambda x: swap_with(ratio=(x, x)).ratio,
    "normalized": lambda x: swap_with(normalized=((x,), (x,))).normalized,
    "mean_std": lambda x: LayerCAMExtractor(mean_std=((x,) * 3, (x,) * 3)).fingerprint,
    "draw_pairs": lambda x: drawn(scale=(x, x), ratio=(x, x)),
}
FLAGS = {
    "return_mask": lambda flag: swap_with(return_mask=flag).return_mask,
    "color": lambda flag: (OpenCVKMeans(color=flag), OpenCVKMeans(color=flag).fingerprint),
    "read_only": lambda flag: RegionCache("cache", read_only=flag).read_only,
}


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.array, torch.tensor])
def test_integers_of_numpy_and_torch_are_integers(name, kind):
    call, value = INTEGERS[name]
    expected, found = call(value), call(kind(value))
    assert found == expected and repr(found) == repr(expected)


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize(
    "value", [True, np.True_, np.array(True), torch.tensor(True), 1.5, np.float32(4.0), "4", np.array([4])]
)
def test_what_is_no_integer_is_refused_by_name(name, value):
    if name == "levels" and isinstance(value, np.ndarray) and value.ndim:
        return  # several levels may stand in an array
    parameter = {"salient_regions": "grid", "draw_pairs": "image_size"}.get(name, name)
    with pytest.raises((TypeError, ValueError), match=rf"`{parameter}` must be .*, got "):
        INTEGERS[name][0](value)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16, np.array, torch.tensor])
def test_numbers_of_numpy_and_torch_are_numbers(name, kind):
    expected, found = NUMBERS[name](0.5), NUMBERS[name](kind(0.5))
    assert found == expected and repr(found) == repr(expected)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [True, np.True_, "0.5", None, 1j, np.array([0.5]), torch.tensor(True)])
def test_what_is_no_number_is_refused_by_name(name, value):
    parameter = "scale" if name == "draw_pairs" else name
    with pytest.raises(TypeError, match=rf"`{parameter}` must be .*, got "):
        NUMBERS[name](value)


@pytest.mark.parametrize("name", FLAGS)
def test_flags_are_true_or_false(name):
    for flag in (True, False):
        assert FLAGS[name](np.bool_(flag)) == FLAGS[name](flag)
    for other in (1, 0, "no", None, np.int64(1)):
        with pytest.raises(TypeError, match=f"`{name}` must be True or False, got "):
            FLAGS[name](other)


@pytest.mark.parametrize("kind", [np.array, torch.tensor, list])
def test_ranges_and_levels_may_stand_in_an_array(kind):
    swap = swap_with(scale=kind([0.25, 0.5]), levels=kind([1, 0]), normalized=(kind([0.5]), kind([0.25])))
    assert swap.scale == (0.25, 0.5) and swap.levels == (1, 0) and swap.normalized == ((0.5,), (0.25,))


@pytest.mark.parametrize("value", ["12", {0.1: 1, 0.2: 2}, {0.1, 0.2}, b"ab", (0.1, 0.2, 0.3), 0.1])
def test_text_and_what_has_no_order_is_no_range(value):
    with pytest.raises(TypeError, match=r"`scale` must be two numbers \(low, high\), got "):
        swap_with(scale=value)


IMAGE = torch.rand(3, 8, 8)


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda: functional.swap_patches(IMAGE, [[0] * 7]), TypeError, r"`pairs` must be a tensor \[N, S, 7\], got list"),
        (lambda: functional.swap_patches(IMAGE.numpy(), PAIRS), TypeError, "`image` must be a tensor, got ndarray"),
        (lambda: functional.patch_mask(PAIRS, 8), TypeError, r"`image_size` must be two integers \(H, W\), got 8"),
        (
            lambda: functional.layer_cam(IMAGE, IMAGE),
            ValueError,
            r"`activations` must have shape \[N, K, h, w\], got \[3, 8, 8\]",
        ),
        (
            lambda: functional.layer_cam(IMAGE[None], None),
            TypeError,
            r"`gradients` must be a tensor \[N, K, h, w\], got NoneType",
        ),
        (lambda: functional.normalize_maps([1.0]), TypeError, r"`maps` must be a tensor \[..., h, w\], got list"),
        (lambda: functional.normalize_maps(torch.rand(3)), ValueError, r"`maps` must have shape \[..., h, w\], got \[3\]"),
        (lambda: functional.salient_regions([], IMAGES, KMeans()), TypeError, r"`maps` must be a list of one or more tensors"),
        (
            lambda: functional.salient_regions([np.zeros((1, 4, 4))], IMAGES, KMeans()),
            TypeError,
            r"`maps` must be a tensor \[1, h, w\], got ndarray",
        ),
        (lambda: functional.salient_regions(MAPS, IMAGE, KMeans()), ValueError, r"`images` must have shape \[N, 3, H, W\]"),
        (lambda: functional.salient_regions(MAPS, IMAGES, 4), TypeError, "`clustering` must be a name, a callable or an"),
        (lambda: drawn(levels=(0, 1)), ValueError, r"`u` must have 1 \+ S \* 50 columns for S = 2 levels, got 51"),
        (lambda: drawn(levels=(2,)), ValueError, r"`levels` must be in \[0, 1\], got 2"),
        (lambda: drawn(levels=1), TypeError, r"`levels` must be a sequence of indices or None, got 1"),
        (lambda: drawn(scale=(0.2, 0.1)), ValueError, "`scale` must be 0 < low <= high <= 1"),
        (lambda: swap_with().transform(IMAGE, {}), TypeError, "`params` must be what `make_params` returns, got {}"),
        (lambda: swap_with().transform(IMAGE, {"pairs": torch.tensor(1)}), ValueError, r"`pairs` must have shape \[N, S, 7\]"),
        (lambda: precompute(device="gpu"), ValueError, "`device` must be a device of torch such as 'cuda', got 'gpu'"),
        (lambda: LayerCAMExtractor(precision=["fp32"]), ValueError, '`precision` must be "fp32" or "bf16"'),
    ],
)
def test_every_message_names_the_parameter_the_rule_and_the_value(call, error, sentence):
    with pytest.raises(error, match=sentence):
        call()
