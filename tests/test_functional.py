"""The method as functions: each against a slow reference, over odd sizes; rules of the patch pair as properties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cutswap_transforms import KMeans, PatchPair, functional
from cutswap_transforms._sampling import NUMBERS, Region, draw_pair, draw_size
from cutswap_transforms.functional import (
    CANDIDATES,
    cluster_saliency,
    fuse_maps,
    layer_cam,
    normalize_maps,
    patch_mask,
    patch_pair,
    patch_size,
    salient_region,
    salient_regions,
    sample_pixel_pair,
    swap_patches,
)

sizes = st.tuples(st.integers(1, 40), st.integers(1, 40)).filter(lambda s: s[0] * s[1] >= 2)
grids = st.tuples(st.integers(1, 9), st.integers(1, 9))


def halves(points):
    """A backend that reads the value: two clusters at one half, NaN is noise."""
    return torch.where(points[..., 0].isnan(), -1, (points[..., 0] > 0.5).long())


def random_rows(seed, n, swaps=1):
    return torch.rand(n, 2 + swaps * NUMBERS, generator=torch.Generator().manual_seed(seed))


def some_region(rng, n, grid):
    region = torch.from_numpy(rng.random((n, *grid)) < 0.4)
    region.view(n, -1)[:, rng.integers(0, grid[0] * grid[1])] = True
    return region


# ---- maps and clusters --------------------------------------------------------------------------------------------


def test_layer_cam_equals_a_double_loop():
    gen = torch.Generator().manual_seed(0)
    a, g = (torch.randn(2, 5, 3, 4, generator=gen) for _ in range(2))
    expected = np.zeros((2, 3, 4))
    for n in range(2):
        for k in range(5):
            expected[n] += np.maximum(g[n, k].double().numpy(), 0) * a[n, k].double().numpy()
    np.testing.assert_allclose(layer_cam(a, g).numpy(), np.maximum(expected, 0), rtol=1e-5, atol=1e-6)


def test_layer_cam_refuses_unequal_shapes():
    with pytest.raises(
        ValueError, match=r"`activations` and `gradients` must have one shape \[N, K, h, w\], got \[1, 2, 3, 4\]"
    ):
        layer_cam(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3, 5))


@pytest.mark.parametrize("factor", [1e-30, 1e-6, 1.0, 1e6])
def test_normalised_maps_span_zero_to_one_at_any_scale(factor):
    maps = torch.rand(3, 5, 7, generator=torch.Generator().manual_seed(1))
    scaled = normalize_maps(maps * factor)
    assert scaled.amin((1, 2)).tolist() == [0.0] * 3
    assert scaled.amax((1, 2)).tolist() == [1.0] * 3
    torch.testing.assert_close(scaled, normalize_maps(maps), rtol=1e-4, atol=1e-5)


def test_flat_and_nan_maps_have_defined_results():
    maps = torch.stack((torch.full((3, 4), 2.5), torch.full((3, 4), torch.nan), torch.arange(12.0).reshape(3, 4)))
    maps[2, 0, 0] = torch.inf
    scaled = normalize_maps(maps)
    assert (scaled[0] == 0).all()
    assert scaled[1].isnan().all()
    assert scaled[2, 0, 0].isnan()
    assert scaled[2, 2, 3] == 1
    regions = salient_region(maps, cluster_saliency(maps, halves))
    assert regions[0].all() and regions[1].all()
    assert not regions[2, 0, 0] and regions[2, 2, 3] and not regions[2, 0, 1]


def test_fused_map_is_the_mean_of_normalised_levels_on_the_finest_grid():
    fine, coarse = torch.rand(2, 4, 6), torch.rand(2, 2, 3)
    up = torch.nn.functional.interpolate(normalize_maps(coarse)[:, None], size=[4, 6], mode="bilinear")[:, 0]
    torch.testing.assert_close(fuse_maps([fine, coarse]), (normalize_maps(fine) + up) / 2)
    torch.testing.assert_close(fuse_maps([coarse, fine]), (normalize_maps(fine) + up) / 2)


def test_a_backend_that_asks_for_positions_gets_them():
    seen = []

    class Spy:
        position = True

        def __call__(self, points):
            seen.append(points)
            return torch.zeros(len(points), dtype=torch.int64)

    cluster_saliency(torch.rand(2, 3, 5), Spy())
    assert [p.shape for p in seen] == [(15, 3)] * 2
    assert seen[0][:, 1].reshape(3, 5)[:, 0].tolist() == [0, 0.5, 1]
    assert seen[0][:, 2].reshape(3, 5)[0].tolist() == [0, 0.25, 0.5, 0.75, 1]


def test_labels_of_a_wrong_shape_are_named():
    with pytest.raises(ValueError, match=r"`clustering` must return 6 integer labels \[P\] .* of shape \[3\]"):
        cluster_saliency(torch.rand(1, 2, 3), lambda points: torch.zeros(3, dtype=torch.int64))


@given(st.integers(0, 10**6), grids)
def test_salient_region_is_the_cluster_of_highest_mean(seed, grid):
    rng = np.random.default_rng(seed)
    maps, labels = torch.from_numpy(rng.random((2, *grid))), torch.from_numpy(rng.integers(-1, 4, (2, *grid)))
    region = salient_region(maps, labels)
    assert torch.equal(salient_region(maps, torch.where(labels < 0, labels, labels * 10**6 + 500)), region)
    for n in range(2):
        means = {k: maps[n][labels[n] == k].mean().item() for k in range(4) if (labels[n] == k).any()}
        kept = maps[n][labels[n] >= 0]
        flat = not len(kept) or maps[n].max() == maps[n].min()
        expected = torch.ones(grid, dtype=torch.bool) if flat else labels[n] == max(means, key=means.get)
        assert torch.equal(region[n], expected)


def test_noise_is_no_part_of_a_region_of_equal_values():
    maps, labels = torch.tensor([[[0.0, 0.0, 0.0, 9.0]]]), torch.tensor([[[0, 0, 0, -1]]])
    assert salient_region(maps, labels).tolist() == [[[True, True, True, False]]]
    assert salient_region(maps, torch.full_like(labels, -1)).all() and salient_region(torch.ones_like(maps), labels).all()


def test_cells_that_are_not_finite_are_noise_whatever_the_backend_says():
    maps = torch.tensor([[[torch.nan, 1.0, 5.0]]])
    assert cluster_saliency(maps, lambda points: torch.zeros(len(points), dtype=torch.int64)).tolist() == [[[-1, 0, 0]]]


def test_a_kmeans_with_other_labels_is_asked_for_them():
    class Lowest(KMeans):
        def __call__(self, points):
            labels = super().__call__(points)
            return torch.where(labels == labels.amax(-1, keepdim=True), -1, labels)

    (region,) = salient_regions([torch.tensor([[[0.0, 0.5, 0.5, 1.0]]])], Lowest(3))
    assert region.tolist() == [[[False, True, True, False]]]


def test_a_size_beyond_the_image_is_cut_to_it():
    pair = patch_pair(torch.tensor([[[5, 10], [5, 80]]]), torch.tensor([[20, 5]]), (10, 100))
    assert pair.tolist() == [[0, 0, 8, 0, 78, 10, 5]]


def test_extreme_aspects_are_cut_to_the_image():
    u = torch.tensor([[0.5, 0.5]])
    for ratio in ((1e300, 1e308), (1e-308, 1e-300)):
        (size,) = patch_size(u, (10, 20), (0.1, 0.2), ratio).tolist()
        assert tuple(size) == draw_size(u[0].tolist(), (10, 20), (0.1, 0.2), ratio)
        assert sorted(size) in ([1, 10], [1, 20])


def test_levels_in_one_call_equal_levels_alone():
    class Batched:
        batched = True
        __call__ = staticmethod(halves)

    maps = [torch.rand(3, 8, 9), torch.rand(3, 4, 4), torch.full((3, 2, 2), 1.0), torch.full((3, 1, 1), torch.nan)]
    maps[1][0, 1], maps[1][1] = torch.nan, -torch.inf
    maps.append(torch.tensor([[[-3e38, 0.0, 1e38, 3e38]]]).expand(3, 1, 4))  # its span is beyond float32
    for backend in (Batched(), KMeans(), KMeans(1)):
        together = salient_regions(maps, backend)
        alone = [salient_region(m, cluster_saliency(m, backend)) for m in maps]
        assert all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))


# ---- pixel pairs and patch pairs ----------------------------------------------------------------------------------


@given(st.integers(0, 10**6), grids, sizes)
def test_pixels_lie_in_cells_of_the_region(seed, grid, size):
    rng = np.random.default_rng(seed)
    region = some_region(rng, 3, grid)
    pixels = sample_pixel_pair(region, torch.from_numpy(rng.random((3, 5, 2, 3))), size)
    assert pixels.shape == (3, 5, 2, 2)
    y, x = pixels.unbind(-1)
    assert (y >= 0).all() and (y < size[0]).all() and (x >= 0).all() and (x < size[1]).all()
    for n in range(3):
        for py, px in pixels[n].reshape(-1, 2).tolist():
            rows = {int(f * grid[0] / size[0]) for f in (py, min(py + 0.999999, size[0] - 1e-9))}
            columns = {int(f * grid[1] / size[1]) for f in (px, min(px + 0.999999, size[1] - 1e-9))}
            assert any(region[n, r, c] for r in range(min(rows), max(rows) + 1) for c in range(min(columns), max(columns) + 1))


def test_cells_and_offsets_are_drawn_uniformly():
    region = torch.tensor([[[True, False], [True, True]]])
    u = torch.rand(1, 30_000, 2, 3, generator=torch.Generator().manual_seed(3))
    y, x = sample_pixel_pair(region, u, (20, 20)).reshape(-1, 2).unbind(-1)
    counts = torch.bincount(y * 20 + x, minlength=400).reshape(20, 20)
    assert counts[:10, 10:].sum() == 0
    share = counts.double() / counts.sum() * 300
    assert share[:10, :10].min() > 0.6 and share.max() < 1.4  # 200 draws per pixel: five sigma is 0.35


@given(st.integers(0, 10**6), sizes)
def test_sizes_follow_scale_and_ratio(seed, size):
    u = torch.rand(4, 2, generator=torch.Generator().manual_seed(seed))
    hw = patch_size(u, size, (0.01, 0.2), (0.3, 3.3))
    assert (hw >= 1).all() and (hw <= torch.tensor(size)).all()
    assert [draw_size(row, size, (0.01, 0.2), (0.3, 3.3)) for row in u.tolist()] == [tuple(r) for r in hw.tolist()]


def boxes(row):
    pair = PatchPair(*row)
    return [(pair.top_a, pair.left_a, pair.height, pair.width), (pair.top_b, pair.left_b, pair.height, pair.width)]


def overlap(a, b):
    return a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]


@given(st.integers(0, 10**6), sizes, grids, st.tuples(st.integers(1, 40), st.integers(1, 40)))
def test_a_pair_is_disjoint_inside_and_equal_to_the_plain_python_draw(seed, size, grid, patch):
    patch = (min(patch[0], size[0]), min(patch[1], size[1]))
    rng = np.random.default_rng(seed)
    n, swaps = 3, 3
    region = some_region(rng, n, grid)
    u = torch.from_numpy(rng.random((n, swaps, CANDIDATES, 2, 3)))
    rows: list[torch.Tensor] = []
    for s in range(swaps):
        pixels = sample_pixel_pair(region, u[:, s], size)
        rows.append(patch_pair(pixels, torch.tensor([patch] * n), size, level=s, taken=torch.stack(rows, 1) if rows else None))
    for i in range(n):
        found = Region(np.flatnonzero(region[i].numpy()), *grid)
        taken: list[tuple[int, int, int, int]] = []
        for s in range(swaps):
            level, *row = rows[s][i].tolist()
            expected = draw_pair(found, u[i, s].flatten().tolist(), patch, size, taken)
            assert level == s
            assert tuple(row) == (expected or (0,) * 6)
            if s == 0:
                assert row[4] > 0, "the first pair always fits"
            if row[4]:
                new = boxes([0, *row])
                assert not overlap(*new)
                assert not any(overlap(a, b) for a in new for b in taken)
                assert all(t >= 0 and le >= 0 and t + h <= size[0] and le + w <= size[1] for t, le, h, w in new)
                taken += new


def test_the_first_disjoint_candidate_wins_before_the_patch_is_halved():
    same, far = [[5, 5], [5, 6]], [[2, 2], [8, 8]]
    pair = patch_pair(torch.tensor([[same, far]]), torch.tensor([[4, 4]]), (12, 12))
    assert pair.tolist() == [[0, 0, 0, 6, 6, 4, 4]]
    pair = patch_pair(torch.tensor([[same, same]]), torch.tensor([[4, 4]]), (12, 12))
    assert pair.tolist() == [[0, 5, 5, 5, 6, 1, 1]]  # 4x4, 2x4, 2x2 and 1x2 still overlap one column apart


def test_one_pixel_of_room_raises():
    with pytest.raises(ValueError, match=r"`image` must have room for two disjoint patches, got \(H, W\) = \(1, 1\)"):
        patch_pair(torch.zeros(1, 2, 2, dtype=torch.int64), torch.tensor([[1, 1]]), (1, 1))


# ---- swap and mask ------------------------------------------------------------------------------------------------

DTYPES = [
    torch.uint8,
    torch.uint16,
    torch.int16,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.bool,
]


@pytest.mark.parametrize("dtype", DTYPES)
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
    assert torch.equal(functional._gathered(image, pairs).double(), out.double())


def test_single_images_and_masks_follow_the_pairs():
    image, pairs = torch.rand(3, 8, 9), torch.tensor([[[0, 0, 0, 4, 4, 2, 3]]])
    assert torch.equal(swap_patches(image, pairs), swap_patches(image[None], pairs)[0])
    assert torch.equal(swap_patches(image[0], pairs), swap_patches(image, pairs)[0])


def test_pairs_of_height_zero_swap_nothing():
    image, pairs = torch.rand(1, 3, 5, 5), torch.zeros(1, 2, 7, dtype=torch.int64)
    assert torch.equal(swap_patches(image, pairs), image)
    assert torch.equal(functional._gathered(image, pairs), image)
    assert patch_mask(pairs, (5, 5)).sum() == 0


def test_the_mask_is_one_in_both_boxes():
    pairs = torch.tensor([[[0, 0, 1, 3, 2, 2, 3], [1, 5, 5, 6, 6, 1, 1]], [[0, 0, 0, 0, 0, 0, 0]] * 2])
    mask = patch_mask(pairs, (7, 8))
    assert mask.shape == (2, 1, 7, 8) and mask.dtype == torch.uint8
    assert mask[0].sum() == 2 * 6 + 2 and mask[0, 0, 0, 1] == mask[0, 0, 4, 4] == mask[0, 0, 6, 6] == 1
    assert mask[1].sum() == 0


@pytest.mark.parametrize(
    ("image", "pairs", "sentence"),
    [
        (torch.zeros(3, 4, 4), torch.zeros(1, 7), r"`pairs` must have shape \[N, S, 7\], got \[1, 7\]"),
        (
            torch.zeros(2, 3, 4, 4),
            torch.zeros(1, 1, 7),
            r"`image` must hold as many images as `pairs` \(1\), got shape \[2, 3, 4, 4\]",
        ),
    ],
)
def test_swap_says_what_is_wrong(image, pairs, sentence):
    with pytest.raises(ValueError, match=sentence):
        swap_patches(image, pairs)
