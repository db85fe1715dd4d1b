"""Advice on the settings from the regions, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cutswap_transforms.draw import HEAD, NUMBERS, SCALARS, first_pairs, patch_size, shared
from cutswap_transforms.preview.steps import RegionSteps

from .settings import Settings

PATCHES = 40  # drawn to estimate a share
ROOM = 0.9  # share of the draws that must fit for a size to be suggested
SCALES = ((0.002, 0.03), (0.002, 0.01), (0.001, 0.005), (0.0005, 0.002))  # to suggest from, the default first
Range = tuple[float, float]


class Advice(NamedTuple):
    """Sentences on the regions, and a scale that fits them better, if there is one."""

    sentences: list[str]
    scale: Range | None


def advise(found: RegionSteps, settings: Settings, size: tuple[int, int]) -> Advice:
    """How much of the frame the regions cover, and which patch size fits them.

    Args:
        size: (H, W) of the image.
    """
    room, suggested = _room(found, settings, size)
    return Advice([_share(found), room], suggested)


def _share(found: RegionSteps) -> str:
    covered = [100 * float(region.float().mean()) for region in found.regions]
    shares = [f"{p:.0f}" if p >= 1 else f"{p:.1f}" for p in covered]
    if len(shares) == 1:
        return f"The region covers {shares[0]} % of the frame."
    return f"The regions cover {', '.join(shares[:-1])} and {shares[-1]} % of the frame, from the finest level to the coarsest."


def _room(found: RegionSteps, settings: Settings, size: tuple[int, int]) -> tuple[str, Range | None]:
    def share(scale: Range) -> float:
        levels = range(len(found.regions)) if settings.levels == "all" else None
        return share_with_room(found.regions.numpy(), size, scale, (settings.flattest, settings.tallest), levels)

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
    levels: Sequence[int] | None,
) -> float:
    """The share of drawn patch sizes that fit into their region twice.

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
    return kept / (len(numbers) * swaps)


def percent(scale: Range) -> str:
    return f"{100 * scale[0]:g} to {100 * scale[1]:g} %"
