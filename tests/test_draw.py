"""The drawing rules: both drivers equal a slow reference, which is that of the first version; what a pair promises."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cutswap_transforms import functional
from cutswap_transforms.draw import (
    CANDIDATES,
    NUMBERS,
    SCALARS,
    TENSORS,
    draw_pairs,
    first_pairs,
    patch_size,
)

sizes = st.tuples(st.integers(1, 40), st.integers(1, 40)).filter(lambda s: s[0] * s[1] >= 2)
RATIO = (0.3, 3.3)


def overlap(a, b):
    return a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]


def reference_pairs(regions, u, levels, size, scale):
    """Rows of one image by plain loops; written apart from the library's rules."""
    (height, width), grid = size, regions.shape[-1]
    levels = [min(int(u[0] * len(regions)), len(regions) - 1)] if levels is None else levels
    rows, taken = [], []
    for s, level in enumerate(levels):
        v = u[1 + 50 * s : 51 + 50 * s]
        area = (scale[0] + v[0] * (scale[1] - scale[0])) * height * width / len(levels)
        aspect = math.exp(math.log(RATIO[0]) + v[1] * math.log(RATIO[1] / RATIO[0]))
        h = max(1, min(height, round(math.sqrt(area * aspect))))
        w = max(1, min(width, round(math.sqrt(area / aspect))))
        cells = [(y, x) for y in range(grid) for x in range(grid) if regions[level][y][x]]
        spots = []
        for k in range(16):
            a, b, c = v[2 + 3 * k : 5 + 3 * k]
            y, x = cells[min(int(a * len(cells)), len(cells) - 1)]
            spots.append((min(int((y + b) * height / grid), height - 1), min(int((x + c) * width / grid), width - 1)))
        found = None
        while found is None:
            for k in range(8):
                new = []
                for y, x in spots[2 * k : 2 * k + 2]:
                    new.append((min(max(y - h // 2, 0), height - h), min(max(x - w // 2, 0), width - w), h, w))
                if not overlap(*new) and not any(overlap(a, b) for a in new for b in taken):
                    found = new
                    break
            if h == w == 1:
                break
            h, w = (max(1, h // 2), w) if h >= w else (h, max(1, w // 2))
        if found is None and spots[14] == spots[15]:
            y, x = spots[14]
            aside = (y, x + 1 if x + 1 < width else x - 1) if width > 1 else (y + 1 if y + 1 < height else y - 1, x)
            new = [(y, x, 1, 1), (*aside, 1, 1)]
            found = None if any(overlap(a, b) for a in new for b in taken) else new
        taken += found or []
        rows.append([level, *found[0][:2], *found[1]] if found else [level, 0, 0, 0, 0, 0, 0])
    return rows


def some_regions(rng, n, levels, grid):
    regions = rng.random((n, levels, grid, grid)) < rng.choice([0.0, 0.05, 0.5, 1.0])
    regions.reshape(n, levels, -1)[..., rng.integers(grid * grid)] = True
    return regions


@given(
    st.integers(0, 10**6),
    sizes,
    st.integers(2, 12),
    st.sampled_from([None, [0], [0, 1, 2], [2, 0]]),
    st.sampled_from([(0.002, 0.03), (0.05, 0.4), (0.9, 1.0)]),
)
def test_both_drivers_equal_the_reference(seed, size, grid, levels, scale):
    """Pairs that are taken already and the last resort included: large patches fill the image at once."""
    rng = np.random.default_rng(seed)
    regions = some_regions(rng, 4, 3, grid)
    u = torch.from_numpy(rng.random((4, 1 + len(levels or [0]) * NUMBERS)))
    u = u if seed % 4 else u.round() * 0.9999999  # the ends of the range: one pixel is drawn again and again
    together = draw_pairs(torch.from_numpy(regions), u, levels, size, scale, RATIO)
    assert together.dtype == torch.int64 and together.shape == (4, len(levels or [0]), 7)
    for i in range(4):
        expected = reference_pairs(regions[i], u[i].tolist(), levels, size, scale)
        assert first_pairs(regions[i], u[i].tolist(), levels, size, scale, RATIO) == expected
        assert together[i].tolist() == expected
        boxes = [box for _, ta, la, tb, lb, h, w in expected if h for box in ((ta, la, h, w), (tb, lb, h, w))]
        assert expected[0][5] > 0, "the first pair always fits"
        assert not any(overlap(a, b) for k, a in enumerate(boxes) for b in boxes[:k])
        assert all(t >= 0 and le >= 0 and t + h <= size[0] and le + w <= size[1] for t, le, h, w in boxes)


@pytest.mark.parametrize("levels", [None, [1], [0, 3], [0, 1, 2, 3]])
def test_the_area_of_one_swap_is_shared_among_several(levels):
    u = torch.rand(2000, 1 + 4 * NUMBERS, generator=torch.Generator().manual_seed(0))
    regions = torch.ones(2000, 4, 8, 8, dtype=torch.bool)
    pairs = draw_pairs(regions, u, levels, (256, 256), (0.01, 0.03), (0.5, 2.0))
    area = (pairs[..., 5] * pairs[..., 6]).sum(1) / 256**2
    assert 0.0195 < area.mean() < 0.0205 and area.min() > 0.009 and area.max() < 0.031


def test_cells_and_offsets_are_drawn_uniformly():
    region = torch.tensor([[True, False], [True, True]]).reshape(1, 1, 2, 2).expand(30_000, -1, -1, -1)
    u = torch.rand(30_000, 1 + NUMBERS, generator=torch.Generator().manual_seed(3))
    pairs = draw_pairs(region, u, None, (20, 20), (0.0025, 0.0025), (1.0, 1.0))  # patches of one pixel
    y, x = pairs[:, 0, 1:5].reshape(-1, 2).unbind(1)
    counts = torch.bincount(y * 20 + x, minlength=400).reshape(20, 20)
    assert counts[:10, 10:].sum() == 0
    share = counts.double() / counts.sum() * 300
    assert share[:10, :10].min() > 0.6 and share.max() < 1.4  # 200 draws per pixel: five sigma is 0.35


@pytest.mark.parametrize("ratio", [(0.3, 3.3), (1e300, 1e308), (1e-308, 1e-300)])
def test_sizes_follow_scale_and_ratio_and_are_cut_to_the_image(ratio):
    u = torch.rand(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    h, w = patch_size(TENSORS, u[:, 0], u[:, 1], (10, 20), (0.1, 0.2), ratio)
    assert (h >= 1).all() and (h <= 10).all() and (w >= 1).all() and (w <= 20).all()
    assert [patch_size(SCALARS, a, b, (10, 20), (0.1, 0.2), ratio) for a, b in u.tolist()] == list(
        zip(h.tolist(), w.tolist(), strict=True)
    )
    if ratio == RATIO:
        shares = (h * w).double() / 200
        assert shares.min() > 0.08 and shares.max() < 0.23 and (h > w).any() and (h < w).any()


def numbers_for(*spots):
    """Uniform numbers that draw these cells of a 12 x 12 grid, at their upper left corner; the rest repeat the last."""
    v = []
    for y, x in [*spots, *[spots[-1]] * (2 * CANDIDATES - len(spots))]:
        v += [(12 * y + x + 0.5) / 144, 0.0, 0.0]
    return [0.0, 0.0, 0.0, *v]


@pytest.mark.parametrize(
    ("spots", "expected"),
    [
        ([(5, 5), (5, 6), (2, 2), (8, 8)], [0, 0, 0, 6, 6, 4, 4]),  # the second candidate, before the patch is halved
        ([(5, 5), (5, 6)] * 8, [0, 5, 5, 5, 6, 1, 1]),  # 4x4, 2x4, 2x2 and 1x2 still overlap one column apart
        ([(5, 5)], [0, 5, 5, 5, 6, 1, 1]),  # one pixel drawn twice: its neighbour
        ([(11, 11)], [0, 11, 11, 11, 10, 1, 1]),  # at the border the neighbour on the other side
    ],
)
def test_which_attempt_wins(spots, expected):
    region, u = np.ones((1, 12, 12), bool), numbers_for(*spots)
    rest = ((12, 12), (16 / 144, 16 / 144), (1.0, 1.0))
    assert first_pairs(region, u, [0], *rest) == [expected]
    drawn = draw_pairs(torch.from_numpy(region)[None], torch.tensor([u], dtype=torch.float64), None, *rest)
    assert drawn[0].tolist() == [expected]


def test_one_pixel_of_room_raises():
    with pytest.raises(ValueError, match=r"`image` must have room for two disjoint patches, got \(H, W\) = \(1, 1\)"):
        draw_pairs(torch.ones(1, 1, 2, 2, dtype=torch.bool), torch.rand(1, 51), None, (1, 1), (0.1, 0.2), RATIO)


def test_all_pairs_is_deprecated_and_does_the_same_without_the_first_column():
    generator = torch.Generator().manual_seed(0)
    regions, u = torch.ones(3, 2, 5, 5, dtype=torch.bool), torch.rand(3, 2 + 2 * NUMBERS, generator=generator)
    roi = torch.ones(1, 17, 11, dtype=torch.bool)
    options = {"image_size": (17, 11), "scale": (0.01, 0.1), "ratio": (0.5, 2.0)}
    with pytest.warns(
        DeprecationWarning, match=r"`functional.all_pairs` is deprecated .* draw_pairs\(regions, u\[:, 1:\]"
    ) as seen:
        old = functional.all_pairs(regions, u, [0, 1], *options.values(), roi)
    assert torch.equal(old, draw_pairs(regions, u[:, 1:], [0, 1], *options.values(), roi)) and seen[0].filename == __file__
    with pytest.warns(DeprecationWarning):
        named = functional.all_pairs(regions=regions, u=u, levels=None, **options)
    assert torch.equal(named, draw_pairs(regions, u[:, 1:], None, **options))
    with pytest.raises(AttributeError, match="has no attribute 'every_pair'; it has PatchPair, draw_pairs"):
        functional.every_pair  # noqa: B018
