"""The pictures of every step of the method for one image: first the deterministic half, then the random one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from PIL import Image, ImageChops
from torch import Tensor

from ..draw import PatchPair
from ..images import ImageLike, eight_bits, image_leaves, image_size
from ..regions.cells import segment
from ..regions.roi import inside_of, sample_leaves
from ..saliency.source import native_maps
from ..swap import patch_mask, swaps_made
from .pair import boxes
from .panels import ROI, dim_outside, fitted, heat_map, level_clusters, picture

if TYPE_CHECKING:
    from ..transform import SaliencySwap


class RegionSteps(NamedTuple):
    """The deterministic half: the same for every swap of the image. Lists hold one entry per level."""

    photo: Image.Image
    original: Image.Image  # the photo, dim outside a region of interest
    maps: list[Image.Image]  # over the photo
    cells: list[Image.Image]  # by cluster, the salient region outlined
    regions: Tensor  # bool [L, G, G]
    sizes: list[tuple[int, int]]  # of the native maps


class SwapSteps(NamedTuple):
    """The random half: one swap."""

    boxes: Image.Image
    negative: Image.Image
    difference: Image.Image  # absolute, scaled to the full range
    mask: Image.Image
    pairs: list[PatchPair]  # only pairs that swap something


def region_steps(sample: object, swap: SaliencySwap, side: int) -> RegionSteps:
    """The steps of `swap` for a single image before the random ones.

    Args:
        sample: PIL image or tensor [C, H, W], or a sample with one.
        swap: a `SaliencySwap`.
        side: longer side of the pictures in pixels.

    Raises:
        TypeError, ValueError: as `SaliencySwap`; also for a batch of several images.
    """
    leaves = sample_leaves(sample, swap.roi)
    seen = _seen(leaves, swap)
    maps = native_maps(swap.saliency, seen)
    inside = inside_of(swap.roi, leaves, image_leaves(leaves)[0], swap.grid)
    within_cells = None if inside is None else inside.cells.cpu()
    cells, *clustered = segment(maps, seen, swap.clustering, swap.grid, swap.region, within_cells)
    grids = [torch.from_numpy(x[0]).reshape(-1, swap.grid, swap.grid) for x in (cells.points[..., 0], *clustered)]
    photo = fitted(picture(seen[0]), side)

    def within(panel: Image.Image) -> Image.Image:
        return panel if inside is None else dim_outside(panel, inside.pixels[0].cpu(), ROI)

    return RegionSteps(
        photo,
        within(photo),
        [heat_map(photo, m) for m in maps],
        [within(level_clusters(photo, *(x[level] for x in grids))) for level in range(len(maps))],
        grids[2],
        [(m.shape[1], m.shape[2]) for m in maps],
    )


def swap_steps(image: ImageLike, swap: SaliencySwap, params: dict[str, Any], steps: RegionSteps) -> SwapSteps:
    """One swap of the image.

    Args:
        image: PIL image or tensor [C, H, W], the guiding one of the sample.
        params: as `swap.make_params` draws them.
        steps: the result of `region_steps` for the sample.
    """
    size = image_size(image)
    pairs = swapped_pairs(params)
    photo, side = steps.photo, max(steps.photo.size)
    negative = fitted(negative_picture(image, swap, params), side)
    changed = ImageChops.difference(negative, photo)
    peak = int(eight_bits(changed).max())
    return SwapSteps(
        boxes(steps.original, pairs, size),
        negative,
        changed.point([min(255, round(value * 255 / max(peak, 1))) for value in range(256)] * 3),
        fitted(picture(patch_mask(params["pairs"].cpu(), size)[0] * 255), side).convert("RGB"),
        pairs,
    )


def swapped_pairs(params: dict[str, Any]) -> list[PatchPair]:
    """The pairs of the first image that swap something."""
    pairs: Tensor = params["pairs"][0]
    return [PatchPair(*row) for row in pairs[swaps_made(pairs)].tolist()]


def negative_picture(image: ImageLike, swap: SaliencySwap, params: dict[str, Any]) -> Image.Image:
    """The swapped image in RGB, at its own size."""
    swapped = swap.transform(image, params)
    if isinstance(swapped, Image.Image) and swapped.mode == "RGB" and swap.normalized is None:
        return swapped  # nothing to convert
    return picture(eight_bits(swapped, swap.normalized)[0].cpu())


def _seen(leaves: list[Any], swap: SaliencySwap) -> Tensor:
    """The input of the method: uint8 [1, 3, H, W]."""
    swap.check_inputs(leaves)
    seen = eight_bits(image_leaves(leaves)[0], swap.normalized).cpu()
    if len(seen) != 1:
        raise ValueError(f"`images` must be single images [C, H, W], got a batch of {len(seen)}")
    return seen
