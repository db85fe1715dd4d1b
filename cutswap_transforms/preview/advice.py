"""Advice on the settings from the regions of an image: how much of it they cover, and which patch size fits into them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from ..draw import HEAD, NUMBERS, SCALARS, first_pairs, patch_size, shared

if TYPE_CHECKING:
    from ..transform import SaliencySwap
    from .steps import RegionSteps

PATCHES = 40  # drawn to estimate a share
ROOM = 0.9  # share of the draws, to the percent, that must fit for a size to be suggested
SCALES = ((0.002, 0.03), (0.002, 0.01), (0.001, 0.005), (0.0005, 0.002))  # to suggest from, the default first
SURFACE, SMALL = 0.6, 0.02  # mean shares of the frame from and below which the sentence says what this means; ours
Range = tuple[float, float]


class Advice(NamedTuple):
    """Sentences on the regions, and a scale that fits them better, if there is one."""

    sentences: list[str]
    scale: Range | None


def advise(found: RegionSteps, swap: SaliencySwap, size: tuple[int, int]) -> Advice:
    """How much of the frame the regions cover, and which patch size fits into them.

    Args:
        found: the regions of one image, as `region_steps` finds them for `swap`.
        size: (H, W) of the image.
    """
    count = len(found.regions)
    levels = None if isinstance(swap.levels, str) and swap.levels == "random" else swap._chosen_levels(count)
    regions: npt.NDArray[np.bool_] = found.regions.numpy()
    room, suggested = _room(regions, levels, swap, size)
    return Advice([_cover(regions if levels is None else regions[levels]), room], suggested)


def _cover(regions: npt.NDArray[np.bool_]) -> str:
    """The shares of the frame, and what they mean if they are large or small."""
    covered = [float(region.mean()) for region in regions]
    shares = [f"{100 * share:.0f}" if share >= 0.01 else f"{100 * share:.1f}" for share in covered]
    if len(shares) == 1:
        said = f"The region covers {shares[0]} % of the frame"
    else:
        listed = f"{', '.join(shares[:-1])} and {shares[-1]} %"
        said = f"The regions cover {listed} of the frame, from the finest level to the coarsest"
    mean = sum(covered) / len(covered)
    if mean >= SURFACE:
        return f"{said}: a surface, or a part that fills the frame."
    return f"{said}: very little, crop the image to the part." if mean < SMALL else f"{said}."


def _room(
    regions: npt.NDArray[np.bool_], levels: Sequence[int] | None, swap: SaliencySwap, size: tuple[int, int]
) -> tuple[str, Range | None]:
    def share(scale: Range) -> float:
        return share_with_room(regions, size, scale, swap.ratio, levels)

    room = share(swap.scale)
    said = f"{100 * room:.0f} % of the patches of {percent(swap.scale)} of the frame fit into their region"
    if room >= ROOM:
        return f"{said}: this size suits it.", None
    said += "; the others are halved until they do."
    smaller = [s for s in SCALES if s[1] < swap.scale[1]]
    if not smaller:
        return f"{said} No smaller size is suggested.", None
    best = next((s for s in smaller if share(s) >= ROOM), None)
    if best is None:
        return f"{said} So that more of them fit, {percent(smaller[-1])} is suggested.", smaller[-1]
    return f"{said} So that {100 * ROOM:.0f} % fit, {percent(best)} is suggested.", best


def share_with_room(
    regions: npt.NDArray[np.bool_],
    size: tuple[int, int],
    scale: Range,
    ratio: Range,
    levels: Sequence[int] | None,
) -> float:
    """The share of drawn patch sizes that fit into their region twice, to the percent.

    Args:
        regions: bool [L, G, G].
        size: (H, W) of the image.
        scale, ratio: as in `SaliencySwap`.
        levels: one swap on each; None: one swap on a random level.
    """
    swaps = len(levels or [0])
    numbers = np.random.default_rng(0).random((max(1, PATCHES // swaps), HEAD + swaps * NUMBERS))
    kept = 0
    for u in numbers.tolist():
        for s, row in enumerate(first_pairs(regions, u, levels, size, scale, ratio)):
            area, aspect = u[HEAD + s * NUMBERS :][:2]
            kept += tuple(row[5:]) == patch_size(SCALARS, area, aspect, size, shared(scale, swaps), ratio)
    return round(kept / (len(numbers) * swaps), 2)


def percent(scale: Range) -> str:
    """A range of shares, in percent."""
    return f"{100 * scale[0]:g} to {100 * scale[1]:g} %"
