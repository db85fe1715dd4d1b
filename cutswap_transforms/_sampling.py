"""The random half for one image on the CPU, in plain Python: salient cells and uniform numbers -> a patch pair.

`functional.sample_pixel_pair`, `patch_size` and `patch_pair` say the same for batches on any device, but sixty small
tensor operations take ten times as long as this loop, whose first candidate nearly always fits. The tests hold the two
equal number by number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .functional import CANDIDATES

Box = tuple[int, int, int, int]  # top, left, height, width
NUMBERS = 2 + CANDIDATES * 6  # uniform numbers per pair: area, aspect, and (cell, y, x) twice per candidate


class Region(NamedTuple):
    """The salient cells of one level of one image."""

    cells: npt.NDArray[np.intp]  # sorted flat indices
    height: int
    width: int


def draw_size(u: Sequence[float], image: tuple[int, int], scale: Sequence[float], ratio: Sequence[float]) -> tuple[int, int]:
    """(height, width) of the patches, as `functional.patch_size`."""
    area = (scale[0] + u[0] * (scale[1] - scale[0])) * (image[0] * image[1])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = math.exp(low + u[1] * (high - low))
    h, w = min(math.sqrt(area * aspect), image[0]), min(math.sqrt(area / aspect), image[1])
    return max(round(h), 1), max(round(w), 1)


def draw_pair(
    region: Region, u: Sequence[float], size: tuple[int, int], image: tuple[int, int], taken: Sequence[Box] = ()
) -> tuple[int, int, int, int, int, int] | None:
    """(top_a, left_a, top_b, left_b, height, width), or None where nothing fits beside the boxes in `taken`.

    `u` holds the 6 * CANDIDATES uniform numbers of the candidates.
    """
    pixels: list[tuple[int, int]] = []
    h, w = size
    while True:
        for k in range(0, 2 * CANDIDATES, 2):
            if k == len(pixels):  # not before they are needed: the first candidate nearly always fits
                pixels += (_pixel(region, u, 3 * k, image), _pixel(region, u, 3 * k + 3, image))
            pair = _boxes(pixels[k], pixels[k + 1], h, w, image)
            if _fits(pair, taken):
                return pair
        if h == w == 1:
            break
        h, w = (max(1, h // 2), w) if h >= w else (h, max(1, w // 2))
    top, left = pixels[-2]
    if pixels[-1] == pixels[-2]:  # one pixel drawn twice: its neighbour serves
        aside = (
            (top, left + 1 if left + 1 < image[1] else left - 1)
            if image[1] > 1
            else (top + 1 if top + 1 < image[0] else top - 1, left)
        )
        pair = (top, left, *aside, 1, 1)
        if _fits(pair, taken):
            return pair
    return None


def _pixel(region: Region, u: Sequence[float], i: int, image: tuple[int, int]) -> tuple[int, int]:
    count = len(region.cells)
    row, column = divmod(int(region.cells[min(int(u[i] * count), count - 1)]), region.width)
    y = int((row + u[i + 1]) * (image[0] / region.height))
    x = int((column + u[i + 2]) * (image[1] / region.width))
    return min(y, image[0] - 1), min(x, image[1] - 1)


def _boxes(
    a: tuple[int, int], b: tuple[int, int], h: int, w: int, image: tuple[int, int]
) -> tuple[int, int, int, int, int, int]:
    low, right = image[0] - h, image[1] - w
    return (
        min(max(a[0] - h // 2, 0), low),
        min(max(a[1] - w // 2, 0), right),
        min(max(b[0] - h // 2, 0), low),
        min(max(b[1] - w // 2, 0), right),
        h,
        w,
    )


def _fits(pair: tuple[int, int, int, int, int, int], taken: Sequence[Box]) -> bool:
    ta, la, tb, lb, h, w = pair
    if abs(ta - tb) < h and abs(la - lb) < w:
        return False
    return all(_apart(ta, la, h, w, box) and _apart(tb, lb, h, w, box) for box in taken)


def _apart(top: int, left: int, h: int, w: int, box: Box) -> bool:
    t, le, bh, bw = box
    return top + h <= t or t + bh <= top or left + w <= le or le + bw <= left
