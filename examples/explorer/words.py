"""What the regions mean for the settings, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cutswap_transforms.draw import HEAD, NUMBERS, SCALARS, SURFACE, first_pairs, patch_size
from cutswap_transforms.preview.steps import Found

from .settings import Settings

PATCHES = 40  # that are drawn for a share
ROOM = 0.9  # of the draws that must fit for a size to be suggested
SCALES = ((0.002, 0.03), (0.002, 0.01), (0.001, 0.005), (0.0005, 0.002))  # to suggest from, the default first
Range = tuple[float, float]


class Advice(NamedTuple):
    """Sentences on the regions, and a scale that would suit them better, if one would."""

    sentences: list[str]
    scale: Range | None


def advise(found: Found, settings: Settings, size: tuple[int, int]) -> Advice:
    """How the saliency lies, how much of the frame the regions cover, and which size of patches suits them.

    Args:
        size: (H, W) of the image.
    """
    surface = found.spread >= SURFACE / 255
    room, suggested = _room(found, settings, size, surface)
    return Advice([_spread(found.spread, surface, settings), _share(found), room], suggested)


def _spread(spread: float, surface: bool, settings: Settings) -> str:
    if surface:
        meaning = (
            f"The saliency is spread out ({spread:.2f}; from 0.70 on the image is treated as a surface, or as many objects)"
        )
        auto = ', so "auto" makes a swap on every level; "random" makes one'
    else:
        meaning = f"The saliency is gathered ({spread:.2f}, below 0.70), as on an object"
        auto = ', so "auto" makes one swap, on a level drawn at random'
    return f"{meaning}{auto if settings.levels == 'auto' else ''}."


def _share(found: Found) -> str:
    covered = [100 * float(region.float().mean()) for region in found.regions]
    shares = [f"{p:.0f}" if p >= 1 else f"{p:.1f}" for p in covered]
    if len(shares) == 1:
        return f"The region covers {shares[0]} % of the frame."
    return f"The regions cover {', '.join(shares[:-1])} and {shares[-1]} % of the frame, from the finest level to the coarsest."


def _room(found: Found, settings: Settings, size: tuple[int, int], surface: bool) -> tuple[str, Range | None]:
    every = settings.levels == "all" or (settings.levels == "auto" and surface)

    def share(scale: Range) -> float:
        return share_with_room(found.regions.numpy(), size, scale, (settings.flattest, settings.tallest), every)

    room = share(settings.scale)
    said = f"{100 * room:.0f} % of the patches of {percent(settings.scale)} of the frame find room in their region"
    if room >= ROOM:
        return f"{said}: this size suits it.", None
    said += "; the others are halved until they do."
    smaller = [s for s in SCALES if s[1] < settings.scale[1]]
    if not smaller:
        return f"{said} No smaller size is suggested.", None
    best = next((s for s in smaller if share(s) >= ROOM), None)
    if best is None:
        return f"{said} So that more of them fit, {percent(smaller[-1])} is suggested.", smaller[-1]
    return f"{said} So that {100 * ROOM:.0f} % fit, {percent(best)} is suggested.", best


def share_with_room(
    regions: np.ndarray[tuple[int, int, int], np.dtype[np.bool_]],
    size: tuple[int, int],
    scale: Range,
    ratio: Range,
    every: bool,
) -> float:
    """The share of patches whose drawn size fits into their region twice.

    Args:
        regions: bool [L, G, G].
        size: (H, W) of the image.
        scale, ratio: as in `SaliencySwap`.
        every: one swap per level, as `levels="all"`, instead of one on a level that is drawn.
    """
    count = len(regions)
    swaps = count if every else 1
    numbers = np.random.default_rng(0).random((max(1, PATCHES // swaps), HEAD + swaps * NUMBERS))
    kept = 0
    for u in numbers.tolist():
        levels: Sequence[int] = range(count) if every else [min(int(u[1] * count), count - 1)]
        for s, row in enumerate(first_pairs(regions, u, levels, size, scale, ratio)):
            area, aspect = u[HEAD + s * NUMBERS :][:2]
            kept += tuple(row[5:]) == patch_size(SCALARS, area, aspect, size, scale, ratio)
    return kept / (len(numbers) * swaps)


def percent(scale: Range) -> str:
    return f"{100 * scale[0]:g} to {100 * scale[1]:g} %"
