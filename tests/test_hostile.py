"""Hostile surroundings, by number: arbitrary arguments and images, damaged files, killed processes, forks, fresh folders.

Each test has a part that `make test` runs and the full count, which is slow.
"""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from images import pixels
from torchvision import tv_tensors

from cutswap_transforms import KMeans, SaliencySwap

# ---- the swap, whatever the arguments, the image and the maps -----------------------------------------------------------

SPECIAL = (0.0, 1.0, -1.0, float("nan"), float("inf"), -float("inf"), 1e-38, 3e38)
KINDS = ("L", "RGB", "RGBA", "P", "I;16", "uint8", "uint16", "float16", "bfloat16", "float32", "float64", "Image")


@st.composite
def images(draw):
    """A PIL image, a tensor or a tv_tensor of any size from 1 x 2; noise, few values or flat."""
    kind, h, w = draw(st.sampled_from(KINDS)), draw(st.integers(1, 40)), draw(st.integers(2, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = rng.integers(0, draw(st.sampled_from([1, 2, 256])), (h, w, 4), dtype=np.uint8)
    if kind == "I;16":
        return PIL.Image.fromarray(values[..., 0].astype(np.uint16) * 257)
    if kind in ("L", "RGB", "RGBA", "P"):
        image = PIL.Image.fromarray(values if kind == "RGBA" else values[..., :3].copy())
        return image if kind in ("RGB", "RGBA") else image.convert(kind)
    tensor = torch.from_numpy(values[..., : draw(st.sampled_from([1, 3, 4]))].copy()).permute(2, 0, 1)
    if kind == "Image":
        return tv_tensors.Image(tensor)
    dtype = getattr(torch, kind)
    return (tensor.double() / 255).to(dtype) if dtype.is_floating_point else tensor.to(dtype)


@st.composite
def maps(draw):
    """A saliency source of one to five levels with noise, few values, flat parts and what is not finite."""
    shapes = draw(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    found = []
    for shape in shapes:
        values = rng.choice([rng.random(shape), rng.integers(0, 2, shape), np.full(shape, draw(st.sampled_from(SPECIAL)))])
        holes = rng.random(shape) < draw(st.sampled_from([0.0, 0.0, 0.3, 1.0]))
        values = np.where(holes, rng.choice(SPECIAL, shape), values)
        found.append(torch.from_numpy(values.astype(np.float32)))
    return lambda batch: [m.expand(len(batch), -1, -1).clone() for m in found]


ranges = st.tuples(st.floats(1e-4, 1), st.floats(1e-4, 1)).map(lambda ends: tuple(sorted(ends)))


@st.composite
def swaps(draw):
    return SaliencySwap(
        draw(maps()),
        draw(st.sampled_from(["kmeans", KMeans(1), KMeans(9, union=False), KMeans(2, color=False, n_iter=1)])),
        levels=draw(st.sampled_from(["auto", "random", "all", 0, -1])),
        scale=draw(ranges),
        ratio=draw(st.sampled_from([(0.3, 3.3), (1, 1), (0.01, 100), (1e-6, 1e6)])),
        p=draw(st.sampled_from([1.0, 0.5, 0.0])),
        grid=draw(st.integers(2, 33)),
        cache=draw(st.sampled_from(["memory", None])),
    )


def check_swap(image, swap, seed):
    torch.manual_seed(seed)
    params = swap.make_params([image])
    state = torch.get_rng_state()
    out, mask = swap.transform(image, params), swap.transform(tv_tensors.Mask(torch.zeros(pixels(image).shape[-2:])), params)
    before, after = pixels(image).double(), pixels(out).double()
    assert type(out) is type(image) and after.shape == before.shape
    assert sorted(map(tuple, before.flatten(1).T.tolist())) == sorted(map(tuple, after.flatten(1).T.tolist()))
    assert torch.equal(pixels(swap.transform(out, params)).double(), before), "a swap undoes itself"
    assert torch.equal(before.masked_fill(mask.bool(), 0), after.masked_fill(mask.bool(), 0)), "changed outside of the mask"
    assert torch.equal(torch.get_rng_state(), state), "only `make_params` draws"
    swapped = params["pairs"][0, :, 5] > 0
    assert int(mask.sum()) == int((2 * params["pairs"][0, :, 5:].prod(1))[swapped].sum()), "boxes share a pixel"
    assert swap.p == 0.5 or bool(swapped.any()) == (swap.p == 1)
    torch.manual_seed(seed)
    assert torch.equal(swap.make_params([image])["pairs"], params["pairs"]), "a look-up draws as a computation does"


arbitrary = given(images(), swaps(), st.integers(0, 2**31))
any_speed = [HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=60, suppress_health_check=any_speed)
@arbitrary
def test_every_swap_is_a_permutation(image, swap, seed):
    check_swap(image, swap, seed)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=10_000, suppress_health_check=any_speed)
@arbitrary
def test_ten_thousand_swaps_are_permutations(image, swap, seed):
    check_swap(image, swap, seed)
