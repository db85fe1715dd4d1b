"""The pictures of every step of the method for one image."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from PIL import Image, ImageChops

from .._images import eight_bits
from ..draw import PatchPair
from ..regions.cells import cluster_cells, make_cells, pick_regions, spread_of
from ..saliency.source import native_maps
from ..swap import patch_mask
from .panels import boxes, fitted, heat_map, level_clusters, picture


class Steps(NamedTuple):
    """Pictures of one size and what they were made from."""

    photo: Image.Image
    maps: list[Image.Image]  # a level each, over the photo
    regions: list[Image.Image]  # a level each: cells by cluster, the salient region outlined
    boxes: Image.Image
    negative: Image.Image
    difference: Image.Image  # absolute, brightened to the full range
    mask: Image.Image
    pairs: list[PatchPair]  # those that swap something
    sizes: list[tuple[int, int]]  # of the native maps
    share: list[float]  # of the image that the region of a level covers
    spread: float  # how evenly the saliency lies over the image, 0 to 1


def steps(image: Any, swap: Any, side: int) -> Steps:
    """Draw the swap of a single image as the next call of `swap` would make it.

    Args:
        image: PIL image or tensor [C, H, W].
        swap: a `SaliencySwap`.
        side: longer side of the pictures in pixels.

    Raises:
        TypeError, ValueError: as `SaliencySwap`; a batch of several images.
    """
    swap.check_inputs([image])
    params = swap.make_params([image])
    seen = eight_bits(image, swap.normalized).cpu()
    if len(seen) != 1:
        raise ValueError(f"`images` must be single images [C, H, W], got a batch of {len(seen)}")
    size, grid = (seen.shape[-2], seen.shape[-1]), swap.grid
    maps = native_maps(swap.saliency, seen)
    cells = make_cells(maps, seen, grid)
    labels, k = cluster_cells(cells, swap.clustering)
    regions = pick_regions(cells, labels, k)
    shown = [torch.from_numpy(x[0]).reshape(-1, grid, grid) for x in (cells.points[..., 0], labels, regions)]
    pairs = [pair for row in params["pairs"][0].tolist() if (pair := PatchPair(*row)).height > 0]
    photo = fitted(picture(seen[0]), side)
    swapped = picture(eight_bits(swap.transform(image, params), swap.normalized)[0].cpu())
    negative = fitted(swapped, side)
    changed = fitted(ImageChops.difference(swapped, picture(seen[0])), side)
    peak = int(eight_bits(changed).max())
    return Steps(
        photo,
        [heat_map(photo, m) for m in maps],
        [level_clusters(photo, *(x[level] for x in shown)) for level in range(len(maps))],
        boxes(photo, pairs, size),
        negative,
        changed.point([min(255, round(value * 255 / max(peak, 1))) for value in range(256)] * 3),
        fitted(picture(patch_mask(params["pairs"].cpu(), size)[0].expand(3, -1, -1) * 255), side),
        pairs,
        [(m.shape[1], m.shape[2]) for m in maps],
        [float(region.float().mean()) for region in shown[2]],
        int(spread_of(cells)[0]) / 255,
    )
