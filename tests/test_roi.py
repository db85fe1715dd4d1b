"""A given region: both patches keep to it, on the host and on a device alike."""

import copy
import io
import multiprocessing
import pickle

import numpy as np
import PIL.Image
import pytest
import torch
from helpers.images import scene
from hypothesis import given
from hypothesis import strategies as st
from torchvision import tv_tensors

from cutswap_transforms import KMeans, RegionCache, SaliencySwap
from cutswap_transforms.draw import first_pairs
from cutswap_transforms.functional import draw_pairs, salient_regions
from cutswap_transforms.regions.roi import GivenRegion, Roi, cells_inside, inside_at


def centers(pairs):
    """(y, x) of both patches of all swaps of one image."""
    for _, top_a, left_a, top_b, left_b, h, w in (row for row in pairs.tolist() if row[5]):
        yield top_a + h // 2, left_a + w // 2
        yield top_b + h // 2, left_b + w // 2


def disk(height, width):
    y, x = np.ogrid[:height, :width]
    return (y - height * 0.6) ** 2 + (x - width * 0.4) ** 2 < (min(height, width) * 0.25) ** 2


@given(st.integers(0, 10**6))
def test_the_host_draws_what_a_device_draws_and_both_keep_to_the_region(seed):
    rng = torch.Generator().manual_seed(seed)
    size = tuple(torch.randint(2, 60, (2,), generator=rng).tolist())
    grid = int(torch.randint(2, 9, (1,), generator=rng))
    roi = torch.rand(2, *size, generator=rng) > 0.4
    try:
        cells = cells_inside(roi, grid)
    except ValueError:
        return
    regions = cells.reshape(2, 1, grid, grid).expand(-1, 3, -1, -1)
    u = torch.rand(2, 1 + 3 * 50, generator=rng)
    arguments = [0, 1, 2], size, (0.002, 0.4), (0.3, 3.3)
    pairs = draw_pairs(regions, u, *arguments, roi)
    assert [first_pairs(regions[i].numpy(), u[i].tolist(), *arguments, roi[i].numpy()) for i in range(2)] == pairs.tolist()
    assert (pairs[:, 0, 5] > 0).all()
    assert all(roi[i, y, x] for i in range(2) for y, x in centers(pairs[i]))


def test_a_pixel_is_drawn_from_those_inside_and_all_alike():
    """A cell of 4 x 4 pixels of which 10 lie inside: each is met, none outside."""
    roi = torch.zeros(1, 8, 8, dtype=torch.bool)
    roi[0, :4, :4] = torch.tensor([[0, 1, 1, 1], [0, 1, 1, 1], [0, 1, 1, 1], [0, 1, 0, 0]])
    regions = cells_inside(roi, 2).reshape(1, 1, 2, 2)
    assert regions.sum() == 1
    u = torch.rand(4000, 51, generator=torch.Generator().manual_seed(0))
    pairs = draw_pairs(regions.expand(4000, -1, -1, -1), u, [0], (8, 8), (0.001, 0.001), (1.0, 1.0), roi)[:, 0]
    counts = torch.zeros(8, 8).index_put((pairs[:, 1], pairs[:, 2]), torch.ones(4000), accumulate=True)
    assert torch.equal(counts > 0, roi[0]) and counts[roi[0]].min() > 300


def test_only_cells_inside_by_half_are_clustered_and_the_range_is_theirs():
    values = torch.zeros(1, 8, 8)
    values[:, :, 4:], values[:, 2:4, :2] = 9.0, 1.0  # the peak lies outside
    roi = torch.zeros(1, 16, 16, dtype=torch.bool)
    roi[:, :, :8] = True
    image = scene(16, 16)[None]
    region = salient_regions([values], image, KMeans(2, color=False), 8, roi=roi)[0, 0]
    assert torch.equal(region, (values[0] == 1.0))
    flat, torn = torch.ones(1, 8, 8), torch.full((1, 8, 8), float("nan"))
    mask = torch.zeros(1, 8, 8)
    mask[:, :, 6:] = 1  # outside altogether
    for nothing in (flat, torn, mask):
        found = salient_regions([nothing], image, KMeans(2), 8, roi=roi)[0, 0]
        assert found[:, :4].all() and not found[:, 4:].any()
    noise = salient_regions([values], image, lambda p: torch.full((len(p),), -1), 8, roi=roi)[0, 0]
    assert noise.sum() == 32 and not noise[:, 4:].any()


KINDS = ["bool array", "uint8 array", "uint16 tensor", "bfloat16 tensor", "read-only view", "tensor", "mask"]
MODES = ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16", "I", "F"]


@pytest.mark.parametrize("kind", [*KINDS, *[f"PIL {mode}" for mode in MODES]])
@pytest.mark.parametrize("size", [(40, 30), (97, 64), (200, 301)])
def test_one_mask_for_all_images_of_any_size(kind, size):
    mask = disk(61, 45)
    picture = PIL.Image.fromarray(mask.astype("u1") * 255)
    wide = picture.convert("I") if kind in ("PIL I;16", "PIL I") else picture
    roi = {
        "bool array": mask,
        "uint8 array": mask.astype("u1") * 7,
        "uint16 tensor": torch.from_numpy(mask).to(torch.uint16),
        "bfloat16 tensor": torch.from_numpy(mask).to(torch.bfloat16),
        "read-only view": np.broadcast_to(mask[::-1], mask.shape)[::-1],
        "tensor": torch.from_numpy(mask),
        "mask": tv_tensors.Mask(torch.from_numpy(mask)[None].to(torch.uint8)),
        **{f"PIL {mode}": wide.convert(mode) for mode in MODES if kind == f"PIL {mode}"},
    }[kind]
    swap = SaliencySwap(roi=roi, levels="all")
    assert swap.roi.mask.tolist() == mask.tolist()
    image = scene(*size)
    inside = torch.nn.functional.interpolate(torch.from_numpy(mask)[None, None].float(), size, mode="nearest-exact")[0, 0] > 0
    for seed in range(5):
        torch.manual_seed(seed)
        params = swap.make_params([image])
        assert all(inside[y, x] for y, x in centers(params["pairs"][0]))
        assert not torch.equal(swap.transform(image, params), image)


def _file(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return PIL.Image.open(io.BytesIO(stream.getvalue()))


def test_a_picture_of_a_mask_is_read_by_its_colors():
    mask = disk(61, 45)
    labels = PIL.Image.fromarray(mask.astype("u1"))  # an index of a palette whose color is nearly black
    labels.putpalette([0, 0, 0, 0, 0, 1])
    clear = PIL.Image.fromarray(np.dstack([np.full((*mask.shape, 3), 255), mask * 255]).astype("u1"))
    white = PIL.Image.fromarray(mask.astype("u1") * 255)
    ones = PIL.Image.fromarray(mask.astype("u1")).convert("RGB")
    for picture in (labels, clear, _file(labels, "PNG"), _file(ones, "WEBP", lossless=True)):
        assert Roi(picture).mask.tolist() == mask.tolist()
    for kind in ("JPEG", "WEBP"):  # whose rings around every edge are above zero
        lossy = _file(white, kind, quality=60)
        assert (Roi(lossy).mask.numpy() != mask).mean() < 0.01
        assert (np.asarray(lossy.convert("L")) > 0).mean() > mask.mean() + 0.01


def test_a_mask_of_the_sample_is_that_of_its_image_and_is_not_marked():
    swap = SaliencySwap(roi="where", cache=None)
    images = torch.stack([scene(seed=i) for i in range(4)])
    height, width = images.shape[-2:]
    left = torch.zeros(4, 1, height, width, dtype=torch.uint8)
    left[::2, ..., : width // 2], left[1::2, ..., width // 2 :] = 1, 1
    before = left.clone()
    sample = {"image": images, "where": tv_tensors.Mask(left), "mask": tv_tensors.Mask(torch.zeros_like(left)), "name": "x"}
    torch.manual_seed(3)
    out = swap(sample)
    assert out["where"] is sample["where"] and torch.equal(left, before) and out["name"] == "x"
    assert (out["mask"].flatten(1).sum(1) > 0).all()
    torch.manual_seed(3)
    singles = [
        swap({"image": image, "where": tv_tensors.Mask(mask)})["image"] for image, mask in zip(images[:1], left, strict=False)
    ]
    assert torch.equal(singles[0], out["image"][0])
    fixed = SaliencySwap(roi=left[0], cache=None)
    torch.manual_seed(3)
    assert torch.equal(fixed(images[0]), out["image"][0])


def test_regions_of_two_masks_never_meet_in_a_cache(tmp_path):
    image = scene(96, 96)
    halves = [np.zeros((96, 96), bool) for _ in range(2)]
    halves[0][:, :48], halves[1][:, 48:] = True, True
    for cache in ("memory", tmp_path / "regions"):
        swaps = [SaliencySwap(roi=half, cache=cache) for half in halves] + [SaliencySwap(cache=cache)]
        for _ in range(2):
            found = [swap._finder(image, None, None if swap.roi is None else _cells(swap, image)) for swap in swaps]
            assert not (found[0] & found[1]).any() and not np.array_equal(found[0], found[2])
    named = SaliencySwap(roi="roi", cache=tmp_path / "regions")
    before = RegionCache(tmp_path / "regions")
    dataset = [{"image": image, "roi": tv_tensors.Mask(torch.from_numpy(half))} for half in halves]
    assert named.precompute(dataset) == 0 and len(before) == 3  # the cells are what counts, not how they were given
    quarters = [{"image": image, "roi": tv_tensors.Mask(torch.from_numpy(half & half.T))} for half in halves]
    assert named.precompute(quarters) == 2


def _cells(swap, image):
    return swap.roi.at(tuple(image.shape[-2:]), swap.grid, torch.device("cpu")).cells


@pytest.mark.parametrize("size", [(50, 50), (1024, 1024), (31, 17)])
def test_a_copy_keeps_the_mask_and_is_small_before_and_after_a_call(size):
    swap = SaliencySwap(roi=disk(*size))
    image = scene()
    fresh = pickle.dumps(swap)
    torch.manual_seed(0)
    expected = swap(image)
    used = pickle.dumps(swap)
    assert max(len(fresh), len(used)) < 10_000  # one mask has 1 MB
    for twin in (pickle.loads(fresh), pickle.loads(used), copy.deepcopy(swap)):
        torch.manual_seed(0)
        assert torch.equal(twin(image), expected)
        assert torch.equal(twin.roi.mask, swap.roi.mask) and twin.roi.fingerprint == swap.roi.fingerprint
    assert Roi(disk(*size).T).fingerprint != swap.roi.fingerprint


def test_a_worker_that_is_spawned_has_the_mask():
    swap, image = SaliencySwap(roi=disk(40, 30), cache=None), scene(40, 30)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pairs = pool.apply(_pairs, (swap, image))
    assert torch.equal(torch.tensor(pairs), torch.tensor(_pairs(swap, image)))


def _pairs(swap, image):
    torch.manual_seed(1)
    return swap.make_params([image])["pairs"].tolist()


def test_an_accelerator_is_never_waited_for():
    roi = torch.empty(2, 30, 20, dtype=torch.bool, device="meta")
    maps = [torch.empty(2, 8, 8, device="meta")]
    regions = salient_regions(maps, torch.empty(2, 3, 30, 20, dtype=torch.uint8, device="meta"), KMeans(), 6, roi=roi)
    u = torch.empty(2, 51, device="meta")
    assert draw_pairs(regions, u, [0], (30, 20), (0.01, 0.1), (1.0, 1.0), roi).shape == (2, 1, 7)


@pytest.mark.parametrize(
    ("roi", "error", "sentence"),
    [
        (np.full((4, 4), "a"), TypeError, r"`roi` must be a mask .*, got ndarray of <U1"),
        (np.full((4, 4), None), TypeError, r"`roi` must be a mask .*, got ndarray of object"),
        (np.ones((4, 4), complex), TypeError, r"`roi` must be a mask .*, got ndarray of complex128"),
        (torch.ones(4, 4).to_sparse(), TypeError, r"`roi` must be a mask .*, got Tensor of torch.float32"),
        (torch.ones(4, 4, device="meta"), TypeError, r"`roi` must be a mask .*, got Tensor of torch.float32"),
        (torch.ones(4, 4, dtype=torch.complex64), TypeError, r"`roi` must be a mask .*, got Tensor of torch.complex64"),
        (PIL.Image.new("RGBA", (6, 4)), ValueError, "`roi` must be true where .*, got 4 x 6 pixels that are all false"),
        (5, TypeError, r"`roi` must be a mask \(PIL image, array or tensor \[H, W\]\), the key of one or None, got 5"),
        (np.zeros((2, 4, 4)), ValueError, r"`roi` must have shape \[H, W\], got \[2, 4, 4\]"),
        (np.zeros((4, 6)), ValueError, "`roi` must be true where pixels may be swapped, got 4 x 6 pixels that are all false"),
    ],
)
def test_a_roi_is_checked(roi, error, sentence):
    with pytest.raises(error, match=sentence):
        SaliencySwap(roi=roi)


def test_a_roi_without_a_cell_is_an_error_where_the_image_is_known():
    dot = np.zeros((96, 96), bool)
    dot[50, 50] = True
    with pytest.raises(ValueError, match="`roi` must cover at least half of a cell of the grid, got at most 6% of one"):
        SaliencySwap(roi=dot)(scene(96, 96))
    with pytest.raises(ValueError, match="`roi` must have two pixels at the size of the image, 2 x 2, got one"):
        cells_inside(torch.tensor([[[True, False], [False, False]]]), 2)


def test_a_key_needs_a_sample_with_a_mask_under_it():
    swap = SaliencySwap(roi="where")
    sentence = "`roi='where'` must be the key of a tv_tensors.Mask in each sample, a dict, got "
    for sample, got in (
        (scene(), "Tensor"),
        ({"image": scene()}, "NoneType under it"),
        ({"where": scene()}, "Tensor under it"),
        ({"image": scene(), "where": tv_tensors.Mask(scene()[0].to(torch.complex64))}, "Mask of torch.complex64 under it"),
    ):
        with pytest.raises(TypeError, match=sentence + got):
            swap(sample)
    with pytest.raises(TypeError, match="`roi='where'` takes the mask from the sample"):
        swap.make_params([scene()])


def test_a_key_takes_one_mask_for_each_image():
    swap = SaliencySwap(roi="where")
    image = scene(20, 30)
    for dtype in (torch.bool, torch.uint8, torch.uint16, torch.float32):
        for shape in ((20, 30), (1, 20, 30)):
            assert not torch.equal(
                swap({"image": image, "where": tv_tensors.Mask(torch.ones(shape, dtype=dtype))})["image"], image
            )
    batch = torch.stack([image] * 2)
    assert len(swap({"image": batch, "where": tv_tensors.Mask(torch.ones(2, 20, 30))})["image"]) == 2
    for images, shape in ((image, (3, 20, 30)), (batch, (2, 2, 20, 30))):
        with pytest.raises(ValueError, match="`roi='where'` must name one mask for each image, got shape"):
            swap({"image": images, "where": tv_tensors.Mask(torch.ones(shape))})
    with pytest.raises(ValueError, match="`return_mask` must be False if `roi` is a key, 'where'"):
        SaliencySwap(roi="where", return_mask=True)


def test_a_batch_where_p_hits_a_few_takes_the_mask_of_each():
    images = torch.stack([scene(40, 60, seed=i) for i in range(12)])
    masks = torch.zeros(12, 1, 40, 60, dtype=torch.uint8)
    for i in range(12):
        masks[i, :, :, 5 * (i % 8) : 5 * (i % 8) + 20] = 1
    for cache in ("memory", None):
        swap = SaliencySwap(roi="where", p=0.4, cache=cache)
        torch.manual_seed(0)
        marked = torch.zeros_like(masks)
        params = swap.make_params([images, GivenRegion(masks), tv_tensors.Mask(marked)])
        made = [bool(rows[:, 5].any()) for rows in params["pairs"]]
        assert 0 < sum(made) < 12
        assert all(masks[i, 0, y, x] for i in range(12) for y, x in centers(params["pairs"][i]))


def test_the_functions_refuse_masks_that_do_not_fit_the_images():
    image, maps = scene(16, 12)[None], [torch.rand(1, 4, 4)]
    regions, u = torch.ones(1, 1, 4, 4, dtype=torch.bool), torch.rand(1, 51)
    for roi in (torch.ones(1, 16, 16) > 0, torch.ones(2, 16, 12) > 0, torch.ones(1, 16, 12)):
        for call in (
            lambda roi=roi: salient_regions(maps, image, KMeans(2), 4, roi=roi),
            lambda roi=roi: draw_pairs(regions, u, [0], (16, 12), (0.01, 0.1), (1.0, 1.0), roi),
        ):
            with pytest.raises(ValueError, match=r"`roi` must be bool \[1 or 1, 16, 12\], got torch"):
                call()


def test_a_device_takes_a_mask_without_a_cell_for_the_whole_image():
    class OnDevice(torch.Tensor):
        device = torch.device("cuda")

    masks = torch.zeros(3, 8, 8, dtype=torch.bool)
    masks[0, 0, 0], masks[1, :4], masks[2, ::2] = True, True, True
    pixels, cells = (found.as_subclass(torch.Tensor) for found in inside_at(masks.as_subclass(OnDevice), 2))
    assert cells.tolist() == [[True] * 4, [True, True, False, False], [True] * 4]
    assert pixels[0].all() and torch.equal(pixels[1:], masks[1:])  # where it may be drawn is where it is found
    one = torch.tensor([[[True, False], [False, False]]])  # a cell, but no room for two patches
    assert all(found.as_subclass(torch.Tensor).all() for found in inside_at(one.as_subclass(OnDevice), 2))
