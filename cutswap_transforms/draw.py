"""The random half of the method: salient regions and uniform numbers -> patch pairs.

The rules are written once, in `box`, `apart`, `halved`, `beside` and the functions around them. They work on numbers
and on tensors: `on` holds the operations whose names differ between the two. Two drivers use them. `first_pairs`
searches for the first pair that fits in one image, in plain Python, because sixty small tensor operations take ten times
as long. `draw_pairs` evaluates every attempt for a batch on any device, without synchronization. Tests compare the two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .arguments import check_masks, check_tensor, checked_int, checked_range, checked_size, scalar
from .arrays import widened
from .regions.roi import inside_at

CANDIDATES = 8
NUMBERS = 2 + CANDIDATES * 6  # uniform numbers per pair: area, aspect, and (cell, y, x) twice per candidate
HEAD = 1  # uniform number before them: draws the level

Range = tuple[float, float]


class PatchPair(NamedTuple):
    """One swap: two boxes of equal size in pixels, and the saliency level they were drawn from.

    `level` counts from fine to coarse. `height` 0 means that nothing is swapped.

    >>> PatchPair(level=2, top_a=0, left_a=1, top_b=4, left_b=5, height=3, width=2).height
    3
    """

    level: int
    top_a: int
    left_a: int
    top_b: int
    left_b: int
    height: int
    width: int


SCALARS = SimpleNamespace(
    exp=math.exp,
    sqrt=math.sqrt,
    floor=int,  # its arguments are never negative
    round=round,
    clip=lambda x, low, high: low if x < low else high if x > high else x,
    where=lambda condition, a, b: a if condition else b,
)
TENSORS = SimpleNamespace(
    exp=torch.exp,
    sqrt=torch.sqrt,
    floor=lambda x: x.long(),
    round=lambda x: x.round().long(),
    clip=lambda x, low, high: x.clamp(min=low).minimum(high) if isinstance(high, Tensor) else x.clamp(low, high),
    where=torch.where,
)
Size = tuple[int, int]  # (H, W) of the image
Real = TypeVar("Real", float, Tensor)
Whole = TypeVar("Whole", int, Tensor)
Box: TypeAlias = tuple[Whole, Whole, Whole, Whole]  # top, left, height, width


# ---- the rules, for numbers and for tensors ---------------------------------------------------------------------------


def patch_size(on: SimpleNamespace, area: Real, aspect: Real, image: Size, scale: Range, ratio: Range) -> tuple[Any, Any]:
    """(height, width) from two uniform numbers, as in RandomErasing: the area is uniform in `scale` (a share of the
    image), the aspect log-uniform in `ratio`. Each side is at least 1 and at most that of the image."""
    area = (scale[0] + area * (scale[1] - scale[0])) * (image[0] * image[1])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = on.exp(low + aspect * (high - low))
    h, w = on.sqrt(area * aspect), on.sqrt(area / aspect)
    return on.round(on.clip(h, 1, image[0])), on.round(on.clip(w, 1, image[1]))


def shared(scale: Range, swaps: int) -> Range:
    """The range of one patch's area if an image gets several swaps: together they change as much as a single one."""
    return scale[0] / swaps, scale[1] / swaps


def pixel(on: SimpleNamespace, cell: Whole, down: Real, right: Real, grid: int, image: Size) -> tuple[Any, Any]:
    """(y, x) at the given share of a cell's height and width."""
    y = on.floor((cell // grid + down) * (image[0] / grid))
    x = on.floor((cell % grid + right) * (image[1] / grid))
    return on.clip(y, 0, image[0] - 1), on.clip(x, 0, image[1] - 1)


def box(on: SimpleNamespace, around: tuple[Whole, Whole], h: Whole, w: Whole, image: Size) -> Box[Whole]:
    """The box around a pixel, shifted into the image."""
    return on.clip(around[0] - h // 2, 0, image[0] - h), on.clip(around[1] - w // 2, 0, image[1] - w), h, w


def apart(a: Box[Whole], b: Box[Whole]) -> Any:
    """True if two boxes share no pixel."""
    return (a[0] + a[2] <= b[0]) | (b[0] + b[2] <= a[0]) | (a[1] + a[3] <= b[1]) | (b[1] + b[3] <= a[1])


def center(of: Box[Whole]) -> tuple[Whole, Whole]:
    """The pixel (y, x) that `box` put the box around, unless the box was shifted."""
    return of[0] + of[2] // 2, of[1] + of[3] // 2


def fits(a: Box[Whole], b: Box[Whole], taken: Sequence[Box[Whole]]) -> Any:
    """True if two boxes are apart from each other and from all boxes in `taken`."""
    free = apart(a, b)
    for other in taken:
        free = free & apart(a, other) & apart(b, other)
    return free


def halved(on: SimpleNamespace, h: Whole, w: Whole) -> tuple[Whole, Whole]:
    """The longer side halved (the height if they are equal), down to 1."""
    tall = h >= w
    return on.where(tall, on.clip(h // 2, 1, h), h), on.where(tall, w, on.clip(w // 2, 1, w))


def window(cell: Whole, grid: int, side: int) -> tuple[Whole, Whole]:
    """The pixels [start, end) of a row or column of cells, as in adaptive pooling."""
    return cell * side // grid, -(-(cell + 1) * side // grid)


def beside(on: SimpleNamespace, y: Whole, x: Whole, image: Size) -> tuple[Whole, Whole]:
    """A neighbor of a pixel: the last resort if one pixel was drawn twice."""
    if image[1] > 1:
        return y, on.where(x + 1 < image[1], x + 1, x - 1)
    return on.where(y + 1 < image[0], y + 1, y - 1), x


# ---- one image on the host --------------------------------------------------------------------------------------------


def first_pairs(
    regions: npt.NDArray[np.bool_],
    u: Sequence[float],
    levels: Sequence[int] | None,
    image: Size,
    scale: Range,
    ratio: Range,
    inside: npt.NDArray[np.bool_] | None = None,
) -> list[list[int]]:
    """Rows as `PatchPair` for one image. Arguments as `draw_pairs`: regions [L, G, G], u and levels lists, inside [H, W]."""
    grid = regions.shape[-1]
    rows: list[list[int]] = []
    taken: list[Box[int]] = []
    chosen = [min(int(u[0] * len(regions)), len(regions) - 1)] if levels is None else levels
    scale = shared(scale, len(chosen))
    for s, level in enumerate(chosen):
        v = u[HEAD + s * NUMBERS : HEAD + (s + 1) * NUMBERS]
        h, w = patch_size(SCALARS, v[0], v[1], image, scale, ratio)
        pair = _first_pair(regions[level].ravel().nonzero()[0], grid, v[2:], h, w, image, taken, inside)
        if pair is None:
            rows.append([level, 0, 0, 0, 0, 0, 0])
        else:
            a, b = pair
            rows.append([level, a[0], a[1], *b])
            taken += pair
    return rows


def _first_pair(
    cells: npt.NDArray[np.intp],
    grid: int,
    u: Sequence[float],
    h: int,
    w: int,
    image: Size,
    taken: Sequence[Box[int]],
    inside: npt.NDArray[np.bool_] | None,
) -> tuple[Box[int], Box[int]] | None:
    """The first pair of boxes that fits, or None. `u` holds the uniform numbers of the candidates."""
    count = len(cells)

    def drawn(i: int) -> tuple[int, int]:
        cell = int(cells[min(int(u[i] * count), count - 1)])
        if inside is not None:
            return _pixel_inside(inside, cell, u[i + 1], grid)
        y, x = pixel(SCALARS, cell, u[i + 1], u[i + 2], grid, image)
        return y, x

    pixels: list[tuple[tuple[int, int], tuple[int, int]]] = []
    while True:
        for k in range(CANDIDATES):
            if k == len(pixels):  # drawn lazily: the first candidate nearly always fits
                pixels.append((drawn(6 * k), drawn(6 * k + 3)))
            a, b = box(SCALARS, pixels[k][0], h, w, image), box(SCALARS, pixels[k][1], h, w, image)
            if fits(a, b, taken) and (inside is None or (inside[center(a)] and inside[center(b)])):
                return a, b
        if h == w == 1:
            break
        h, w = halved(SCALARS, h, w)
    (y, x), last = pixels[-1]
    if (y, x) == last:
        other = beside(SCALARS, y, x, image) if inside is None else _next_inside(inside, y, x)
        a, b = (y, x, 1, 1), (*other, 1, 1)
        if fits(a, b, taken):
            return a, b
    return None


def _pixel_inside(inside: npt.NDArray[np.bool_], cell: int, share: float, grid: int) -> tuple[int, int]:
    """The pixel (y, x) at the given share of a cell's pixels inside the mask."""
    (top, bottom), (left, right) = window(cell // grid, grid, inside.shape[0]), window(cell % grid, grid, inside.shape[1])
    spots = inside[top:bottom, left:right].ravel().nonzero()[0]  # a third faster than flatnonzero
    down, along = divmod(int(spots[min(int(share * len(spots)), len(spots) - 1)]), right - left)
    return top + down, left + along


def _next_inside(inside: npt.NDArray[np.bool_], y: int, x: int) -> tuple[int, int]:
    """The next pixel inside the mask, row by row; the first one after the last."""
    spots = np.flatnonzero(inside)
    following = int(np.searchsorted(spots, y * inside.shape[1] + x)) + 1
    spot = int(spots[following % len(spots)])
    return spot // inside.shape[1], spot % inside.shape[1]


# ---- a batch on any device --------------------------------------------------------------------------------------------


def _drawn(u: Tensor, count: int) -> Tensor:
    scaled: Tensor = widened(u[:, 0]) * count
    return scaled.long().clamp(max=count - 1)


def draw_pairs(
    regions: Tensor,
    u: Tensor,
    levels: Sequence[int] | None,
    image_size: Size,
    scale: Range,
    ratio: Range,
    roi: Tensor | None = None,
) -> Tensor:
    """The patch pairs of a batch, as a function of uniform numbers.

    For each swap a size is drawn and eight candidate pairs: two cells of the region, with replacement, a uniform position
    inside each, and the boxes around these pixels, shifted into the image. The first candidate whose boxes are apart
    from each other and from those of earlier swaps wins. If there is none, the longer side is halved and the same
    candidates are tried again. At 1x1 a pixel that was drawn twice is paired with its neighbor.

    Args:
        regions: bool [N, L, G, G], each with at least one true cell.
        u: uniform numbers in [0, 1), [N, 1 + S * 50] for S swaps per image: one draws a level, then 50 for each swap.
        levels: the S levels to swap on, the same for all images; None draws one per image, S = 1.
        image_size: (H, W), at least two pixels.
        scale: range of the patch area as a share of the image; each of S swaps gets an S-th of it.
        ratio: range of the aspect, height / width.
        roi: bool [N, H, W], or [1, H, W] for all: the centers of both patches are inside. At least half of each true cell of
            `regions` must be inside, as in the output of `salient_regions` with the same roi. None: everywhere. On a
            device, a roi without a cell counts as the whole image.

    Returns:
        int64 [N, S, 7], rows as `PatchPair`; height 0 if no pair fits beside the earlier swaps.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: an image of fewer than two pixels, shapes that do not match, levels or ranges out of range, or (on the CPU)
            a roi without a cell.

    >>> region = torch.eye(4, dtype=torch.bool).reshape(1, 1, 4, 4)
    >>> draw_pairs(region, torch.linspace(0, 0.98, 51)[None], None, (8, 8), (0.05, 0.1), (1.0, 1.0)).tolist()
    [[[0, 2, 2, 2, 3, 1, 1]]]
    """
    image_size, scale, ratio = _checked_draw(regions, u, image_size, scale, ratio)
    n, count, grid, _ = regions.shape
    if roi is not None:
        check_masks("roi", roi, n, image_size)
    u = widened(u)
    images = torch.arange(n, device=u.device)
    inside = None if roi is None else inside_at(roi, grid).pixels.expand(n, -1, -1)
    chosen = _chosen(levels, _drawn(u, count), count)
    if not 0 < len(chosen) <= (u.shape[1] - HEAD) // NUMBERS:
        raise ValueError(f"`u` must have {HEAD} + S * {NUMBERS} columns for S = {len(chosen)} levels, got {u.shape[1]}")
    scale = shared(scale, len(chosen))
    rows: list[Tensor] = []
    taken: list[Box[Tensor]] = []
    for s, level in enumerate(chosen):
        v = u[:, HEAD + s * NUMBERS : HEAD + (s + 1) * NUMBERS]
        h, w = patch_size(TENSORS, v[:, 0], v[:, 1], image_size, scale, ratio)
        pair = _best_pair(regions[images, level].flatten(1), grid, v[:, 2:], h, w, image_size, taken, inside)
        rows.append(torch.cat((level[:, None], pair), 1))
        for top, left in ((pair[:, 0], pair[:, 1]), (pair[:, 2], pair[:, 3])):
            taken.append(tuple(x[:, None, None] for x in (top, left, pair[:, 4], pair[:, 5])))  # type: ignore[arg-type]
    return torch.stack(rows, 1)


def _checked_draw(regions: Tensor, u: Tensor, image_size: Size, scale: Range, ratio: Range) -> tuple[Size, Range, Range]:
    check_tensor("regions", regions, "[N, L, G, G]", 4)
    check_tensor("u", u, f"[N, {HEAD} + S * {NUMBERS}]", 2)
    size = checked_size("image_size", image_size)
    if size[0] * size[1] < 2:
        raise ValueError(f"`image` must have room for two disjoint patches, got (H, W) = {size}")
    return size, checked_range("scale", scale, 1.0), checked_range("ratio", ratio, float("inf"))


def _chosen(levels: Sequence[int] | None, drawn: Tensor, count: int) -> list[Tensor]:
    """The levels of every swap, S tensors int64 [N]."""
    if levels is None:
        return [drawn]
    if isinstance(levels, str) or not isinstance(levels, (Sequence, np.ndarray)) or scalar(levels) is not levels:
        raise TypeError(f"`levels` must be a sequence of indices or None, got {levels!r}")
    indices = [checked_int("levels", level, 0, count - 1) for level in levels]
    return [torch.full_like(drawn, i) for i in indices]  # fills on the device, without a copy from the host


def _best_pair(
    region: Tensor,
    grid: int,
    u: Tensor,
    h: Tensor,
    w: Tensor,
    image: Size,
    taken: Sequence[Box[Tensor]],
    inside: Tensor | None,
) -> Tensor:
    """top_a, left_a, top_b, left_b, height, width [N, 6] of the first attempt that fits; zeros if none does."""
    n, spots = len(u), u.reshape(len(u), CANDIDATES, 2, 3)
    rank = region.cumsum(1)  # [N, G * G]: rank of each true cell
    total = rank[:, -1:, None]
    index = (spots[..., 0] * total).long().minimum(total - 1)  # [N, K, 2]
    cell = torch.searchsorted(rank, (index + 1).flatten(1)).reshape(index.shape)
    if inside is None:
        y, x = pixel(TENSORS, cell, spots[..., 1], spots[..., 2], grid, image)
    else:
        y, x = _pixels_inside(inside, cell, spots[..., 1], grid)
    sizes = [(h, w)]
    for _ in range(2 * max(image).bit_length()):  # enough to reach 1x1
        sizes.append(halved(TENSORS, *sizes[-1]))
    tall, wide = (torch.stack(side, 1)[:, :, None] for side in zip(*sizes, strict=True))  # [N, T, 1]
    a, b = (box(TENSORS, (y[:, None, :, j], x[:, None, :, j]), tall, wide, image) for j in (0, 1))  # [N, T, K]
    again = (a[0][:, -1, -1] == b[0][:, -1, -1]) & (a[1][:, -1, -1] == b[1][:, -1, -1])
    last = a[0][:, -1, -1], a[1][:, -1, -1]
    partner = beside(TENSORS, *last, image) if inside is None else _nexts_inside(inside, *last)
    for side, other in zip(b[:2], partner, strict=True):
        side[:, -1, -1] = torch.where(again, other, side[:, -1, -1])
    free = fits(a, b, taken)
    if inside is not None:
        images = torch.arange(n, device=u.device)[:, None, None]
        for y, x in (center(a), center(b)):
            free = free & inside[images, y, x]
    free = free.flatten(1)
    first = free.to(torch.int8).argmax(1, keepdim=True)  # the first maximum: least halving, then first candidate
    parts = (a[0], a[1], b[0], b[1], tall.expand_as(a[0]), wide.expand_as(a[0]))
    pair: Tensor = torch.cat([part.reshape(n, -1).gather(1, first) for part in parts], 1)
    return pair.mul(free.any(1, keepdim=True))


def _pixels_inside(inside: Tensor, cell: Tensor, share: Tensor, grid: int) -> tuple[Tensor, Tensor]:
    """`_pixel_inside` for masks [N, H, W], cells and shares [N, K, 2]."""
    sides = inside.shape[1:]
    (top, bottom), (left, right) = (window(at, grid, side) for at, side in zip((cell // grid, cell % grid), sides, strict=True))
    down, along = (torch.arange(side // grid + 2, device=cell.device) for side in sides)  # the longest window
    y, x = top[..., None, None] + down[:, None], left[..., None, None] + along  # [N, K, 2, h, 1], [N, K, 2, 1, w]
    within = (y < bottom[..., None, None]) & (x < right[..., None, None])
    images = torch.arange(len(cell), device=cell.device).reshape(-1, 1, 1, 1, 1)
    member = (inside[images, y.clamp(max=sides[0] - 1), x.clamp(max=sides[1] - 1)] & within).flatten(3)
    rank = member.cumsum(-1)
    total = rank[..., -1]
    index = (share * total).long().minimum(total - 1)
    spot = (rank <= index[..., None]).sum(-1).clamp(max=member.shape[-1] - 1)
    return (top + spot // len(along)).clamp(max=sides[0] - 1), (left + spot % len(along)).clamp(max=sides[1] - 1)


def _nexts_inside(inside: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """`_next_inside` for masks [N, H, W] and pixels [N]."""
    width, flat = inside.shape[2], inside.flatten(1)
    spots = flat.to(torch.int8).argsort(dim=1, descending=True, stable=True)  # pixels inside come first, in order
    rank = flat.cumsum(1)
    following = rank.gather(1, (y * width + x)[:, None]) % rank[:, -1:].clamp(min=1)
    spot = spots.gather(1, following)[:, 0]
    return spot // width, spot % width
