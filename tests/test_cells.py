"""Cells and regions: the features of a cell, masks that come through as they are, flat maps and NaN, mirrored images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.clustering import INF, NAN, SPECS
from helpers.images import scene

from cutswap_transforms import KMeans
from cutswap_transforms.regions.cells import SMALL, _resized, _shares, _small_on_grid, make_cells, salient_regions
from cutswap_transforms.regions.clustering import resolve_clustering
from cutswap_transforms.saliency.maps import squashed


@pytest.fixture(params=SPECS.values(), ids=SPECS.keys())
def backend(request):
    return resolve_clustering(request.param)


def test_an_accelerator_is_never_waited_for():
    """Tensors on the meta device have no values: whatever would look at one raises."""
    images = torch.empty(2, 3, 30, 20, dtype=torch.uint8, device="meta")
    maps = [torch.empty(2, side, side, device="meta") for side in (32, 4)]
    with pytest.raises(RuntimeError, match="meta"):
        bool(maps[0].sum() > 0)
    assert salient_regions(maps, images, KMeans(), 12).shape == (2, 2, 12, 12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_finds_the_regions_of_the_cpu():
    images = torch.stack([scene(64, 57, seed=i) for i in range(4)])
    maps = [torch.rand(4, side, side) for side in (32, 4)]
    expected = salient_regions(maps, images, KMeans())
    maps, images = [m.cuda() for m in maps], images.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        regions = salient_regions(maps, images, KMeans())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert (regions.cpu() == expected).double().mean() > 0.999


def test_cells_are_saliency_and_opponent_colours():
    image = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    image[0, :, :4, :4] = torch.tensor([255, 0, 0], dtype=torch.uint8)[:, None, None]  # red
    image[0, :, 4:, 4:] = torch.tensor([0, 0, 255], dtype=torch.uint8)[:, None, None]  # blue
    cells = make_cells([torch.tensor([[[2.0, 6.0], [2.0, 2.0]]]), torch.ones(1, 3, 5)], image, 2)
    assert cells.points.shape == (1, 2, 4, 4)
    assert cells.points[0, 0, :, 0].tolist() == [0, 1, 0, 0] and cells.points[0, 1, :, 0].tolist() == [0] * 4
    red, black, blue = (cells.points[0, 0, k, 1:] for k in (0, 1, 3))
    # At this size the antialiased filter reaches into the neighbours, alike in all channels.
    assert red[1] > 0.6 and abs(float(red[0]) - float(red[1]) / 3) < 0.01 and abs(float(red[2]) - float(red[1]) / 2) < 0.1
    assert blue[2] < -0.6 and float(np.abs(black).max()) < 0.3
    assert cells.flat.tolist() == [[False, True]] and cells.mask.tolist() == [[True, True]]


@pytest.mark.parametrize("sides", [(1, 1), (2, 7), (24, 24), (31, 12), (64, 64), (1, SMALL)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_small_maps_are_resized_as_torch_resizes_them(sides, dtype, request):
    _shares.cache_clear()
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float16)  # a caller may have set another
    request.addfinalizer(lambda: torch.set_default_dtype(before))
    maps = torch.rand(2, *sides, dtype=dtype, generator=torch.Generator().manual_seed(0))
    found = torch.from_numpy(_small_on_grid(maps, 24))
    torch.testing.assert_close(found, _resized(maps, 24).double(), rtol=0, atol=1e-6)


def test_small_maps_keep_their_precision_and_their_strides_do_not_matter():
    image = torch.full((1, 3, 64, 64), 128, dtype=torch.uint8)
    blob = torch.exp(-((torch.linspace(-1, 1, 14, dtype=torch.float64)[:, None] - torch.linspace(-1, 1, 14)) ** 2))[None]
    near, far = (salient_regions([blob + offset], image, KMeans()) for offset in (0, 1e8))
    assert near.equal(far)
    coarse = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(204))
    few = (torch.nn.functional.interpolate(coarse, (56, 56), mode="bicubic").clamp(0, 1)[0] * 5).round() / 5  # with ties
    assert salient_regions([few], image, KMeans()).equal(salient_regions([few.mT.contiguous().mT], image, KMeans()))


def test_no_images_have_no_regions():
    maps, images = [torch.rand(0, 7, 7)], torch.zeros(0, 3, 30, 30, dtype=torch.uint8)
    assert salient_regions(maps, images, KMeans(), 12).shape == (0, 1, 12, 12)


@pytest.mark.parametrize("side", [5, 64, 200])
@pytest.mark.parametrize("kind", ["grey", "one colour", "scene"])
def test_a_mask_comes_through_whatever_the_image_and_the_backend(backend, side, kind):
    image = {
        "grey": scene(side, side, 1).expand(3, -1, -1),
        "one colour": torch.full((3, side, side), 70),
        "scene": scene(side, side),
    }
    mask = torch.zeros(1, side, side)
    mask[:, : side // 2, side // 3 :] = 4.0
    region = salient_regions([mask, mask == 0], image[kind][None].to(torch.uint8), backend, 10)[0]
    covered = torch.nn.functional.interpolate(mask[None] / 4, size=(10, 10), mode="bilinear", antialias=side > 10)[0, 0]
    assert torch.equal(region[0], covered >= 0.5)
    assert torch.equal(region[1], ~region[0])


@pytest.mark.parametrize("hole", [4, 2])
def test_a_mask_that_covers_every_cell_by_half_is_all_cells(hole):
    """One pixel of 16 is a hole, or every other pixel: what resampling rounds must not decide."""
    mask = torch.ones(1, 96, 96)
    mask[:, ::hole, ::hole] = 0
    assert salient_regions([mask], scene(96, 96)[None], KMeans(), 24).all()


def test_maps_may_be_of_any_float_type_and_need_a_gradient():
    values, image = torch.rand(1, 8, 8), scene()[None]
    expected = salient_regions([values], image, KMeans())
    assert torch.equal(salient_regions([values.clone().requires_grad_()], image, KMeans()), expected)
    assert salient_regions([values.bfloat16()], image, KMeans()).shape == expected.shape


def test_a_mask_thinner_than_a_cell_is_found():
    mask = torch.zeros(1, 100, 100)
    mask[:, 42] = 1
    region = salient_regions([mask], scene(100, 100)[None], KMeans(), 10)[0, 0]
    assert region[4].all() and region.sum() == 10


def test_flat_maps_and_maps_without_finite_values_give_the_whole_image(backend):
    maps = [torch.full((2, 3, 3), 2.5), torch.full((2, 7, 5), NAN), torch.full((2, 1, 1), 1.0), torch.full((2, 3, 4), INF)]
    maps[0] = maps[0] * 0.3  # no sum of weights gives this number again
    assert salient_regions(maps, torch.stack([scene(), scene(seed=1)]), backend, 9).all()


def test_holes_are_never_salient_and_do_not_move_the_rest():
    values = torch.zeros(1, 24, 24)
    values[:, 4:12, 4:20] = torch.rand(8, 16, generator=torch.Generator().manual_seed(0)) + 3
    image = scene(96, 96)[None]
    torn = values.clone()
    torn[:, 6:12, 6:8], torn[:, 0, 0], torn[:, 23, 23] = NAN, INF, -INF
    whole, region = (salient_regions([m], image, KMeans(2, color=False), 24)[0, 0] for m in (values, torn))
    assert whole[4:12, 4:20].all() and whole.sum() == 128
    assert not region[6:12, 6:8].any() and region.sum() == 128 - 12


def test_a_span_beyond_float32_is_no_hole():
    values = torch.tensor([[[-3e38, 0.0], [1e38, 3e38]]])
    region = salient_regions([values], torch.zeros(1, 3, 2, 2, dtype=torch.uint8), KMeans(), 2, region="top")
    assert region.tolist() == [[[[False, False], [False, True]]]]


def test_all_noise_is_the_whole_image():
    assert salient_regions([torch.rand(1, 5, 5)], scene()[None], lambda p: torch.full((len(p),), -1), 8).all()


@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize("size", [(255, 255), (37, 53), (64, 129)])
def test_nothing_but_the_net_tells_left_from_right(axis, size):
    images = torch.stack([scene(*size), scene(*size).roll(7, -1)])
    for side in (24, 128):
        assert torch.equal(squashed(images.flip(axis), side), squashed(images, side).flip(axis))
    generator = torch.Generator().manual_seed(0)
    maps = [torch.rand(2, side, side, generator=generator) ** 3 for side in (32, 16, 7, 4)]
    found = salient_regions(maps, images, KMeans())
    assert torch.equal(salient_regions([m.flip(axis) for m in maps], images.flip(axis), KMeans()), found.flip(axis))


def test_regions_follow_the_object_and_not_the_blob():
    """A sharp bright square under a blurred map: colour finds its border, saliency alone does not."""
    image = torch.full((1, 3, 96, 96), 30, dtype=torch.uint8)
    image[:, :, 24:72, 24:72] = 200
    y = torch.linspace(-1, 1, 12)
    blob = torch.exp(-(((y[:, None] + 0.1) / 0.9) ** 2) - ((y + 0.1) / 0.9) ** 2)[None]  # its centre is off the object's
    truth = torch.zeros(24, 24, dtype=torch.bool)
    truth[6:18, 6:18] = True
    both, values = (salient_regions([blob], image, KMeans(color=c))[0, 0] for c in (True, False))
    assert (both & truth).sum() / (both | truth).sum() > 0.8
    assert (values & truth).sum() / (values | truth).sum() < 0.7
