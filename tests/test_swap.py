"""The swap kernels and the mask, on the host and as the gather that accelerators use."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
import torch

from cutswap_transforms import SaliencySwap
from cutswap_transforms.swap import _gathered, patch_mask, swap_in_pil, swap_patches

KINDS = ["uint8", "uint16", "int16", "int64", "float16", "bfloat16", "float32", "float64", "bool"]


@pytest.mark.parametrize("dtype", [getattr(torch, kind) for kind in KINDS])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
def test_a_swap_permutes_pixels_and_undoes_itself(dtype, layout):
    values = torch.arange(2 * 3 * 17 * 11).reshape(2, 3, 17, 11)
    image = (values % 2 == 0) if dtype == torch.bool else (values % 251).to(dtype)
    if layout == "channels_last":
        image = image.contiguous(memory_format=torch.channels_last)
    elif layout == "strided":
        image = image.transpose(2, 3).contiguous().transpose(2, 3)
    before = image.clone()
    pairs = torch.tensor([[[0, 0, 0, 9, 6, 8, 5]], [[1, 2, 3, 16, 10, 1, 1]]])
    out = swap_patches(image, pairs)
    expected = before.double().numpy().copy()
    for n, ((_, ta, la, tb, lb, h, w),) in enumerate(pairs.tolist()):
        for dy in range(h):
            for dx in range(w):
                expected[n, :, ta + dy, la + dx] = before[n, :, tb + dy, lb + dx].double()
                expected[n, :, tb + dy, lb + dx] = before[n, :, ta + dy, la + dx].double()
    assert out.dtype == dtype and np.array_equal(out.double().numpy(), expected)
    assert torch.equal(image.double(), before.double()), "the input was changed"
    assert torch.equal(swap_patches(out, pairs).double(), before.double())
    gathered = _gathered(image, pairs)
    assert torch.equal(gathered.double(), out.double())
    assert out.stride() == image.stride() and (layout == "strided" or gathered.stride() == image.stride())


def test_single_images_and_masks_follow_the_pairs():
    image, pairs = torch.rand(3, 8, 9), torch.tensor([[[0, 0, 0, 4, 4, 2, 3]]])
    assert torch.equal(swap_patches(image, pairs), swap_patches(image[None], pairs)[0])
    assert torch.equal(swap_patches(image[0], pairs), swap_patches(image, pairs)[0])


def test_pairs_of_height_zero_swap_nothing():
    image, pairs = torch.rand(1, 3, 5, 5), torch.zeros(1, 2, 7, dtype=torch.int64)
    assert torch.equal(swap_patches(image, pairs), image)
    assert torch.equal(_gathered(image, pairs), image)
    assert patch_mask(pairs, (5, 5)).sum() == 0


def test_the_mask_is_one_in_both_boxes():
    pairs = torch.tensor([[[0, 0, 1, 3, 2, 2, 3], [1, 5, 5, 6, 6, 1, 1]], [[0, 0, 0, 0, 0, 0, 0]] * 2])
    mask = patch_mask(pairs, (7, 8))
    assert mask.shape == (2, 1, 7, 8) and mask.dtype == torch.uint8
    assert mask[0].sum() == 2 * 6 + 2 and mask[0, 0, 0, 1] == mask[0, 0, 4, 4] == mask[0, 0, 6, 6] == 1
    assert mask[1].sum() == 0


OUTSIDE = r"`pairs` must be inside the image, got PatchPair\(level=0, .*\(H, W\) = \(8, 8\)"


@pytest.mark.parametrize(
    ("image", "pairs", "sentence"),
    [
        (torch.zeros(3, 4, 4), torch.zeros(1, 7), r"`pairs` must have shape \[N, S, 7\], got \[1, 7\]"),
        (
            torch.zeros(2, 3, 4, 4),
            torch.zeros(1, 1, 7, dtype=torch.int64),
            r"`image` must hold as many images as `pairs` \(1\), got shape \[2, 3, 4, 4\]",
        ),
        (torch.rand(3, 8, 8), torch.tensor([[[0, 0, 0, 6, 6, 3, 3]]]), OUTSIDE),
        (torch.rand(3, 8, 8), torch.tensor([[[0, -3, 0, 2, 0, 2, 2]]]), OUTSIDE),
    ],
)
def test_swap_says_what_is_wrong(image, pairs, sentence):
    with pytest.raises(ValueError, match=sentence):
        swap_patches(image, pairs)


APART = r"`pairs` must have boxes that share no pixel, got PatchPair\(.* among 1 pairs"


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ([0, -3, 0, 2, 0, 2, 2], OUTSIDE),
        ([0, 0, 0, 2, -1, 2, 2], OUTSIDE),
        ([0, 0, 0, 4, 4, -2, 2], OUTSIDE),
        ([0, 0, 0, 4, 4, 2, 0], OUTSIDE),
        ([0, 0, 0, 6, 6, 3, 2], OUTSIDE),
        ([0, 0, 0, 1, 1, 2, 2], APART),
        ([0, 3, 3, 3, 3, 2, 2], APART),
    ],
)
def test_pairs_that_are_no_permutation_are_refused_everywhere(row, sentence):
    pairs = torch.tensor([[row]])
    for swap in (
        lambda: swap_patches(torch.rand(3, 8, 8), pairs),
        lambda: patch_mask(pairs, (8, 8)),
        lambda: swap_in_pil(PIL.Image.new("L", (8, 8)), pairs[0].tolist()),
    ):
        with pytest.raises(ValueError, match=sentence):
            swap()


def test_two_pairs_that_share_a_pixel_are_refused():
    pairs = torch.tensor([[[0, 0, 0, 4, 4, 2, 2], [1, 1, 1, 6, 0, 1, 1]]])
    with pytest.raises(ValueError, match=r"share no pixel, got .*level=1.* among 2 pairs"):
        swap_patches(torch.rand(3, 8, 8), pairs)


def test_pairs_are_integers():
    with pytest.raises(TypeError, match=r"`pairs` must be integers, got torch.float32"):
        swap_patches(torch.rand(3, 8, 8), torch.zeros(1, 1, 7))


def test_a_swap_inside_of_a_function_transform_has_its_gradient():
    image, swap = torch.rand(3, 32, 32), SaliencySwap()
    params = swap.make_params([image])
    gradient = torch.func.grad(lambda x: (swap.transform(x, params) ** 2).sum())(image)
    torch.testing.assert_close(gradient, 2 * image)


def test_params_of_no_image_leave_a_pil_image_as_it_is():
    image, swap = PIL.Image.new("RGB", (30, 30)), SaliencySwap()
    assert swap.transform(image, swap.make_params([torch.zeros(0, 3, 30, 30, dtype=torch.uint8)])) is image
