"""SaliencySwap: values, levels, randomness, samples and masks."""

from __future__ import annotations

import pickle
import random

import numpy as np
import pytest
import torch
from helpers.images import as_kind, hot_quarter, pil, pixels, scene, sorted_pixels
from hypothesis import given
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.transforms import v2

from cutswap_transforms import KMeans, SaliencySwap, SwapViews, functional
from cutswap_transforms.functional import PatchPair

MEAN_STD = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
KINDS = ["PIL", "Image", "tensor"]


@pytest.fixture(scope="module")
def swap():
    return SaliencySwap()


@pytest.fixture(scope="module")
def quick():
    return SaliencySwap(hot_quarter)


def rows(params):
    return [PatchPair(*row) for row in params["pairs"].reshape(-1, 7).tolist()]


# ---- values -------------------------------------------------------------------------------------------------------


TENSORS = [torch.uint8, torch.uint16, torch.float16, torch.bfloat16, torch.float32, torch.float64]


def tensor_of(dtype, height=40, width=33, channels=3, seed=0):
    image = scene(height, width, channels, seed)
    return (
        (image.to(torch.int32) * 257).to(dtype)
        if dtype == torch.uint16
        else image
        if dtype == torch.uint8
        else (image / 255).to(dtype)
    )


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
@pytest.mark.parametrize("channels", [1, 3, 4, 6])
@pytest.mark.parametrize("dtype", TENSORS)
def test_tensors_of_every_kind_are_permuted_and_restored(quick, dtype, channels, layout):
    image = tensor_of(dtype, channels=channels)
    if layout == "channels_last":
        image = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    elif layout == "strided":
        wide = torch.zeros(channels, 80, 66).to(dtype)
        wide[:, ::2, ::2] = image
        image = wide[:, ::2, ::2]
    before = image.clone()
    params = quick.make_params([image])
    out = quick.transform(image, params)
    assert out.dtype == dtype and out.shape == image.shape
    assert torch.equal(image.double(), before.double())
    assert not torch.equal(out.double(), before.double())
    assert torch.equal(sorted_pixels(out), sorted_pixels(before))
    assert torch.equal(quick.transform(out, params).double(), before.double())
    assert torch.equal(quick.transform(image, params).double(), out.double()), "transform is no function of its params"


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16"])
def test_pil_images_keep_mode_and_palette(quick, mode):
    image = pil(mode)
    before = np.array(image)
    params = quick.make_params([image])
    out = quick.transform(image, params)
    assert out.mode == mode and out.size == image.size and out.getpalette() == image.getpalette()
    assert np.array_equal(np.array(image), before)
    assert torch.equal(sorted_pixels(out), sorted_pixels(image))
    assert np.array_equal(np.array(quick.transform(out, params)), before)
    pair = rows(params)[0]
    expected = functional.swap_patches(pixels(image), params["pairs"])
    assert torch.equal(pixels(out), expected) and pair.height > 0


@given(
    st.tuples(st.integers(2, 300), st.integers(2, 517)),
    st.integers(0, 10**6),
    st.sampled_from(["random", "all", 1]),
)
def test_rules_of_the_swap_hold_at_any_size(size, seed, levels):
    torch.manual_seed(seed)
    transform = SaliencySwap(hot_quarter, levels=levels, scale=(0.002, 0.3))
    image = torch.arange(size[0] * size[1], dtype=torch.int32).reshape(1, *size).to(torch.uint16)
    params = transform.make_params([image])
    out = transform.transform(image, params)
    assert torch.equal(out.flatten().to(torch.int32).sort()[0], image.flatten().to(torch.int32).sort()[0])
    assert torch.equal(transform.transform(out, params).to(torch.int32), image.to(torch.int32))
    pairs = [pair for pair in rows(params) if pair.height]
    assert pairs, "no swap was made"
    mask = functional.patch_mask(params["pairs"], size)
    assert int(mask.sum()) == sum(2 * pair.height * pair.width for pair in pairs), "boxes overlap or leave the image"


def test_the_smallest_image_has_one_swap():
    image = torch.tensor([[[0, 255]]], dtype=torch.uint8)
    assert SaliencySwap()(image).tolist() == [[[255, 0]]]
    with pytest.raises(ValueError, match=r"`image` must have room for two disjoint patches, got \(H, W\) = \(1, 1\)"):
        SaliencySwap()(image[..., :1])


@pytest.mark.parametrize("image", [torch.zeros(3, 20, 20), torch.full((3, 20, 31), 255, dtype=torch.uint8)])
def test_flat_images_get_a_swap_anywhere(swap, image):
    centres = {tuple(row[1:3]) for _ in range(40) for row in rows(swap.make_params([image])) if row[5]}
    assert len(centres) > 20
    assert torch.equal(swap(image), image)


def test_a_map_with_nan_still_guides():
    def torn(images):
        maps = hot_quarter(images)
        maps[:, :, 0] = torch.nan
        return maps

    swap = SaliencySwap(torn)
    for _ in range(200):
        pair = rows(swap.make_params([scene()]))[0]
        assert pair.top_a + pair.height >= 5 and pair.top_a < 22 and pair.left_a < 19  # the quarter, and a cell of 24 beside it


@pytest.mark.parametrize("levels", ["random", "all", 0, (0, 1), -1])
def test_every_box_touches_the_salient_quarter(levels):
    transform = SaliencySwap(hot_quarter, levels=levels)
    image = scene(64, 96)
    for _ in range(50):
        for pair in rows(transform.make_params([image])):
            if pair.height:
                assert pair.top_a < 32 and pair.left_a < 48 and pair.top_b < 32 and pair.left_b < 48


def test_levels_say_which_maps_are_swapped_on():
    image = scene(64, 64)

    def levels_of(levels, times=1):
        transform = SaliencySwap(hot_quarter, levels=levels)
        return [[pair.level for pair in rows(transform.make_params([image]))] for _ in range(times)]

    assert levels_of("all") == [[0, 1]]
    assert levels_of((1, 0)) == [[1, 0]]
    assert levels_of(-1) == [[1]]
    drawn = [row[0] for row in levels_of("random", 60)]
    assert 10 < sum(drawn) < 50


def test_the_embedded_net_sees_the_object(swap):
    """On a bright textured object on a plain ground, boxes lie on the object more often than a blind draw would."""
    image = torch.zeros(3, 128, 128)
    image[:, 70:120, 10:60] = torch.rand(3, 50, 50, generator=torch.Generator().manual_seed(0)) * 0.6 + 0.3
    hits = 0
    for seed in range(60):
        torch.manual_seed(seed)
        pair = rows(swap.make_params([image]))[0]
        y, x = pair.top_a + pair.height / 2, pair.left_a + pair.width / 2
        hits += 60 <= y < 128 and x < 70
    assert hits > 30, f"{hits} of 60; the object and its margin cover 29 % of the image"


def test_draw_checks_a_sample_and_draws_what_the_swap_would(swap):
    sample = {"image": scene(40, 33), "mask": tv_tensors.Mask(torch.zeros(40, 33)), "label": 1}
    torch.manual_seed(3)
    params = swap.draw(sample)
    torch.manual_seed(3)
    assert torch.equal(swap(sample)["image"], swap.transform(sample["image"], params))
    with pytest.raises(ValueError, match="masks of the image's size"):
        swap.draw({**sample, "mask": tv_tensors.Mask(torch.zeros(40, 32))})
    with pytest.raises(TypeError, match="`sample` must hold an image"):
        swap.draw({"label": 1})


# ---- randomness ---------------------------------------------------------------------------------------------------


def test_host_and_device_draws_are_the_same_function():
    for levels in ("random", "all", (1, 0)):
        transform = SaliencySwap(hot_quarter, levels=levels, p=0.7)
        batch = torch.stack([scene(50, 37, seed=i) for i in range(16)])
        chosen = {"random": None, "all": [0, 1]}.get(levels, levels)
        torch.manual_seed(9)
        on_host = transform.make_params([batch])["pairs"]
        u = torch.rand(16, 2 + (1 if chosen is None else 2) * 50, generator=torch.Generator().manual_seed(9))
        maps = list(hot_quarter(batch).unbind(1))
        regions = functional.salient_regions(maps, batch, KMeans())
        on_device = functional.draw_pairs(regions, u[:, 1:], chosen, (50, 37), transform.scale, transform.ratio)
        assert torch.equal(on_host, on_device * (u[:, :1, None] < 0.7)), levels


@pytest.mark.parametrize("levels", ["random", "all", (0, 2)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_on_an_accelerator_nothing_is_read_back(levels, dtype):
    """Tensors on the meta device have no values: whatever would wait for the device to look at one raises."""
    transform = SaliencySwap(levels=levels, p=0.5, return_mask=True)
    out, mask = transform(torch.empty(4, 3, 40, 33, dtype=dtype, device="meta"))
    assert out.device.type == mask.device.type == "meta"
    assert out.shape == (4, 3, 40, 33) and out.dtype == dtype and mask.shape == (4, 1, 40, 33)
    told = SaliencySwap(levels=levels, normalized=MEAN_STD)
    sample = {"x": torch.empty(4, 3, 40, 33, device="meta"), "m": tv_tensors.Mask(torch.empty(4, 40, 33, device="meta"))}
    assert told.make_params([sample["x"]])["pairs"].shape == (4, {"random": 1, (0, 2): 2}.get(levels, 3), 7)
    assert told(sample)["m"].shape == (4, 40, 33)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("levels", ["random", "all", (0, 2)])
def test_cuda_swaps_without_waiting_and_undoes_itself(levels):
    transform = SaliencySwap(levels=levels, return_mask=True)
    batch = torch.stack([scene(64, 57, seed=i) for i in range(8)]).cuda()
    transform(batch)  # loads the net
    torch.cuda.set_sync_debug_mode("error")
    try:
        out, mask = transform(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    different = (out != batch).any(1, keepdim=True)
    assert different.flatten(1).any(1).all() and (mask.bool() | ~different).all()
    assert all(torch.equal(sorted_pixels(a.cpu()), sorted_pixels(b.cpu())) for a, b in zip(out, batch, strict=True))


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_the_numbers_drawn_do_not_depend_on_the_outcome(p):
    states = []
    for image in (scene(), torch.zeros(3, 40, 33, dtype=torch.uint8), scene(300, 200)):
        torch.manual_seed(11)
        SaliencySwap(hot_quarter, p=p)(image)
        states.append(torch.get_rng_state())
    assert all(torch.equal(s, states[0]) for s in states)


def test_p_is_the_share_of_changed_images():
    batch = torch.stack([scene(seed=i) for i in range(400)])
    out = SaliencySwap(hot_quarter, p=0.25)(batch)
    changed = (out != batch).flatten(1).any(1).sum().item()
    assert 65 < changed < 135


def test_a_missed_p_passes_the_very_objects():
    image, mask = tv_tensors.Image(scene()), tv_tensors.Mask(torch.zeros(1, 40, 33, dtype=torch.uint8))
    out = SaliencySwap(hot_quarter, p=0.0)({"image": image, "mask": mask, "label": "x"})
    assert out["image"] is image and out["mask"] is mask


@pytest.mark.parametrize("clustering", ["kmeans", "sklearn", "opencv"])
def test_nobody_elses_random_state_or_threads_move(clustering):
    import cv2

    transform = SaliencySwap(clustering=clustering)
    transform(scene())
    random.seed(1)
    np.random.seed(1)
    cv2.setRNGSeed(1)
    before = random.getstate(), str(np.random.get_state()), torch.get_num_threads(), cv2.getNumThreads()
    noise = np.zeros((4, 4))
    transform(scene(seed=2))
    assert (random.getstate(), str(np.random.get_state()), torch.get_num_threads(), cv2.getNumThreads()) == before
    cv2.randu(noise, 0, 1)
    cv2.setRNGSeed(1)
    assert np.array_equal(noise, cv2.randu(np.zeros((4, 4)), 0, 1))


# ---- samples and masks --------------------------------------------------------------------------------------------


def test_all_images_of_a_sample_get_the_same_pairs(quick):
    a, b = scene(seed=1), scene(seed=2)
    sample = {"first": tv_tensors.Image(a), "second": as_kind("PIL", b)}
    torch.manual_seed(4)
    out = quick(sample)
    torch.manual_seed(4)
    pairs = quick.make_params([sample["first"]])["pairs"]
    assert torch.equal(pixels(out["first"]), functional.swap_patches(a, pairs))
    assert torch.equal(pixels(out["second"]).to(torch.uint8), functional.swap_patches(b, pairs))


def test_of_plain_tensors_the_first_is_the_image(quick):
    target = torch.rand(3, 40, 33)
    out, same = quick((scene(), target))
    assert same is target and not torch.equal(out, scene())


@pytest.mark.parametrize("kind", KINDS)
def test_masks_on_request_are_those_of_a_sample(kind):
    """One route: the mask beside the bare image is the one that a zero mask in a sample would become."""
    image, swap = as_kind(kind, scene()), SaliencySwap(hot_quarter, return_mask=True)
    torch.manual_seed(4)
    out, mask = swap(image)
    assert type(mask) is tv_tensors.Mask and mask.dtype == torch.uint8 and mask.shape == (1, 40, 33)
    torch.manual_seed(4)
    sample = SaliencySwap(hot_quarter)({"x": image, "m": tv_tensors.Mask(torch.zeros(1, 40, 33, dtype=torch.uint8))})
    assert torch.equal(sample["m"], mask) and torch.equal(pixels(sample["x"]), pixels(out))
    different = (pixels(out) != pixels(image)).any(0)
    assert (mask[0].bool() | ~different).all(), "a changed pixel is not marked"
    params = swap.make_params([image])
    assert type(swap.transform(image, params)) is type(image), "transform never returns a tuple"


def test_masks_of_batches_are_zero_where_p_missed():
    batch = torch.stack([scene(seed=i) for i in range(12)])
    out, mask = SaliencySwap(hot_quarter, p=0.5, return_mask=True)(batch)
    assert mask.shape == (12, 1, 40, 33)
    changed, marked = (out != batch).flatten(1).any(1), mask.flatten(1).any(1)
    assert torch.equal(changed, marked) and 0 < changed.sum() < 12
    single, empty = SaliencySwap(hot_quarter, p=0.0, return_mask=True)(batch[0])
    assert torch.equal(single, batch[0]) and empty.shape == (1, 40, 33) and not empty.any()


@pytest.mark.parametrize("shape", [(40, 33), (1, 40, 33), (3, 40, 33)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.int64, torch.float32])
def test_a_mask_in_the_sample_gets_ones_in_the_region(quick, shape, dtype):
    mask = tv_tensors.Mask(torch.zeros(shape).to(dtype))
    mask[..., 39, 32] = 1 if dtype == torch.bool else 7
    before = mask.clone()
    torch.manual_seed(8)
    out = quick({"image": scene(), "mask": mask})
    torch.manual_seed(8)
    region = functional.patch_mask(quick.make_params([scene()])["pairs"], (40, 33))[0, 0].bool()
    assert type(out["mask"]) is tv_tensors.Mask and out["mask"].dtype == dtype and out["mask"].shape == mask.shape
    assert torch.equal(mask, before)
    assert (out["mask"][..., region] == 1).all()
    assert torch.equal(out["mask"][..., ~region], before[..., ~region])


@pytest.mark.parametrize("shape", [(4, 40, 33), (4, 1, 40, 33)])
def test_a_batch_of_masks_follows_the_batch_of_images(quick, shape):
    batch = torch.stack([scene(seed=i) for i in range(4)])
    out = quick({"image": tv_tensors.Image(batch), "mask": tv_tensors.Mask(torch.zeros(shape, dtype=torch.uint8))})
    different = (out["image"] != batch).any(1)
    marked = out["mask"].reshape(4, 40, 33).bool()
    assert (marked | ~different).all() and marked.flatten(1).any(1).all()


def test_the_anomaly_generator_gives_float_masks_and_travels():
    generator = pickle.loads(pickle.dumps(SaliencySwap(levels="all", return_mask=True).as_anomaly_generator()))
    batch = torch.stack([scene(seed=i) for i in range(3)]) / 255
    out, mask = generator(batch)
    assert out.shape == batch.shape and type(mask) is torch.Tensor
    assert mask.shape == (3, 1, 40, 33) and mask.dtype == torch.float32 and set(mask.unique().tolist()) == {0.0, 1.0}
    assert not list(generator.parameters())
    single, mask = generator(batch[0])
    assert single.shape == (3, 40, 33) and mask.shape == (1, 40, 33) and mask.any()


def test_the_net_is_no_part_of_the_module(swap):
    assert list(swap.parameters()) == [] and swap.state_dict() == {} and list(swap.children()) == []
    text = repr(SaliencySwap(levels="all", scale=(0.01, 0.02)))
    assert "levels='all'" in text and "scale=(0.01, 0.02)" in text and "Conv2d" not in text and len(text) < 600


def test_pickles_are_small_before_and_after_the_first_call():
    swap = SaliencySwap(p=0.8)
    before = pickle.dumps(swap)
    swap(scene())
    assert len(before) < 100_000 and len(pickle.dumps(swap)) < 100_000


def test_the_method_sees_8_bits_of_every_kind_of_image(swap):
    """Pairs are functions of the 8-bit image: a float image and its file are swapped alike, and share an entry."""
    image, found = scene(64, 57), []
    for x in (
        image,
        image / 255,
        image.double() / 255,
        (image.int() * 257).to(torch.uint16),
        *(as_kind(k, image) for k in KINDS),
    ):
        torch.manual_seed(6)
        found.append(swap.make_params([x])["pairs"])
    assert all(torch.equal(pairs, found[0]) for pairs in found)


def test_normalised_images_are_declared_and_undone():
    image = scene(64, 64) / 255
    normal = v2.functional.normalize(image, *MEAN_STD)
    plain, told = SaliencySwap(p=1.0), SaliencySwap(normalized=MEAN_STD)
    params = []
    for transform, x in ((plain, image), (told, normal)):
        torch.manual_seed(6)
        params.append(transform.make_params([x])["pairs"])
    assert torch.equal(*params)
    with pytest.raises(
        ValueError,
        match=r"`image` of floating point must be in \[0, 1\], got values from .* takes normalized=\(mean, std\)",
    ):
        plain(normal)


@pytest.mark.parametrize("kind", ["PIL", "Image"])
def test_tensors_before_the_image_are_no_images(quick, kind):
    image, label, features = as_kind(kind, scene()), torch.tensor(3), torch.rand(2, 7)
    out = quick({"label": label, "features": features, "image": image, "mask": tv_tensors.Mask(torch.zeros(40, 33))})
    assert out["label"] is label and out["features"] is features
    assert not torch.equal(pixels(out["image"]), pixels(image)) and out["mask"].any()


def test_images_that_require_a_gradient_pass_it_on(quick):
    image = (scene() / 255).requires_grad_()
    for transform in (quick, SaliencySwap()):
        transform(image).sum().backward()
    assert torch.equal(image.grad, torch.full_like(image, 2.0))


def test_a_default_device_is_not_taken_for_that_of_the_image():
    image = scene()
    with torch.device("meta"):
        out, mask = SaliencySwap(hot_quarter, cache=None, return_mask=True)(image)
        views = SwapViews(SaliencySwap(hot_quarter, cache=None))(image)
        labels = SwapViews.collate([views])[1]
        SaliencySwap(hot_quarter, normalized=MEAN_STD)(v2.functional.normalize(image / 255, *MEAN_STD))
    assert out.device.type == mask.device.type == "cpu" and mask.any()
    assert {x.device.type for x in (*views, labels)} == {"cpu"}


def test_numbers_of_numpy_are_numbers():
    assert SaliencySwap(hot_quarter, levels=np.int64(1), p=np.float32(0.5)).levels == (1,)


# ---- errors -------------------------------------------------------------------------------------------------------


def test_masks_are_returned_for_bare_images_only():
    with pytest.raises(
        TypeError, match=r"`return_mask=True` takes one bare image or batch, got dict; .* tv_tensors.Mask of zeros"
    ):
        SaliencySwap(hot_quarter, return_mask=True)({"image": scene()})


def test_params_of_another_size_are_refused(quick):
    params = quick.make_params([scene(40, 33)])
    with pytest.raises(
        ValueError, match=r"`params` must be drawn for an image of \(H, W\) = \(20, 17\), got those for \(40, 33\)"
    ):
        quick.transform(scene(20, 17), params)
