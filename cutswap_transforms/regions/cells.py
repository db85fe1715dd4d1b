"""Maps and pixels on one grid: a cell of an image is (saliency, lightness, red-green, yellow-blue)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..saliency.maps import squashed
from .clustering import label_cells, top_cluster


class Cells(NamedTuple):
    """All levels of N images on a grid of P = G * G cells."""

    points: Tensor  # float32 [N, L, P, 4]: saliency in [0, 1], NaN where the map is not finite; three opponent colours
    flat: Tensor  # bool [N, L]: the map has one finite value, or none
    mask: Tensor  # bool [N, L]: the map has two values, so it is a mask already


def make_cells(maps: list[Tensor], images: Tensor, grid: int) -> Cells:
    """The cells of images uint8 [N, 3, H, W] and their maps, L tensors [N, h_l, w_l] of any range."""
    maps = [m if m.is_floating_point() else m.float() for m in maps]
    low, high = (torch.stack(ends, 1) for ends in zip(*(torch.aminmax(m.flatten(1), dim=1) for m in maps), strict=True))
    noise = None
    if low.device.type != "cpu" or not bool((high - low).isfinite().all()):  # a value is not finite, or the span is not
        maps, low, high, noise = _without_holes(maps, grid)
    two_valued = [
        ((m == a[:, None, None]) | (m == b[:, None, None])).flatten(1).all(1)
        for m, a, b in zip(maps, low.unbind(1), high.unbind(1), strict=True)
    ]
    saliency = torch.stack([_resized(m, grid) for m in maps], 1)  # [N, L, P]
    least, most = torch.aminmax(saliency, dim=-1, keepdim=True)
    flat = ~(low < high)  # asked of the map itself: resampling gives a flat map a span of rounding errors
    scaled = (saliency - least) / torch.where(most > least, most - least, 1.0)
    saliency = torch.where(flat[..., None], 0.0, scaled).float()
    saliency = saliency if noise is None else saliency.masked_fill(noise, torch.nan)
    r, g, b = squashed(images, grid).flatten(2).mul(1 / 255).unbind(1)  # [N, P]
    colours = torch.stack(((r + g + b) / 3, r - g, (r + g) / 2 - b), -1)
    points = torch.cat((saliency[..., None], colours[:, None].expand(-1, len(maps), -1, -1)), -1)
    return Cells(points, flat, torch.stack(two_valued, 1))


def _without_holes(maps: list[Tensor], grid: int) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    """Maps in float64 with the lowest finite value where one is not finite, their lowest and highest values [N, L], and
    the cells [N, L, P] of which more than half is not finite."""
    finite = [m.isfinite() for m in maps]
    low = [m.double().masked_fill(~f, torch.inf).flatten(1).amin(1) for m, f in zip(maps, finite, strict=True)]
    high = [m.double().masked_fill(~f, -torch.inf).flatten(1).amax(1) for m, f in zip(maps, finite, strict=True)]
    filled = [
        torch.where(f, m.double(), a.nan_to_num(posinf=0.0)[:, None, None]) for m, f, a in zip(maps, finite, low, strict=True)
    ]
    noise = torch.stack([_resized(1.0 - f.double(), grid) > 0.5 for f in finite], 1)
    return filled, torch.stack(low, 1), torch.stack(high, 1), noise


def _resized(m: Tensor, grid: int) -> Tensor:
    """[N, h, w] -> [N, P], bilinear, antialiased where the map is finer than the grid."""
    finer = max(m.shape[-2:]) > grid
    return F.interpolate(m[:, None], size=(grid, grid), mode="bilinear", antialias=finer).flatten(1)


def salient_regions(maps: list[Tensor], images: Tensor, clustering: object, grid: int = 24) -> Tensor:
    """The salient region of every level: the cluster of highest mean saliency among the cells of the grid.

    A map of two values is a mask already: its region is the cells that the mask covers by half. A flat map and a map
    without finite values say nothing: their region is all cells. Noise (label -1, or a map that is not finite there) is
    never part of another region; where a backend calls everything noise, the region is all cells.

    Args:
        maps: L tensors [N, h_l, w_l], any range.
        images: uint8 [N, 3, H, W].
        clustering: `KMeans` or another backend, points float32 [P, 4] -> integer labels [P].
        grid: G, the number of cells along each side of the image.

    Returns:
        bool [N, L, G, G], each with at least one true cell.

    >>> image = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    >>> salient_regions([torch.tensor([[[0.0, 3.0]]])], image, lambda points: points[:, 0] > 0.5, grid=2).tolist()
    [[[[False, True], [False, True]]]]
    """
    cells = make_cells(maps, images, grid)
    regions = pick_regions(cells, *cluster_cells(cells, clustering))
    return regions.reshape(*regions.shape[:2], grid, grid)


def cluster_cells(cells: Cells, clustering: object) -> tuple[Tensor, int]:
    """Labels int64 [N, L, P], 0 to k - 1 or -1 for noise, and k."""
    labels, k = label_cells(clustering, cells.points.flatten(0, 1))
    return labels.reshape(cells.points.shape[:3]), k


def pick_regions(cells: Cells, labels: Tensor, k: int) -> Tensor:
    """The region bool [N, L, P] among clustered cells, by the rules of `salient_regions`."""
    saliency, labels = cells.points[..., 0].flatten(0, 1), labels.flatten(0, 1)
    if saliency.device.type == "cpu":  # not as_tensor, which would follow a default device of the caller's
        region = torch.from_numpy(top_cluster(saliency.numpy(), labels.numpy(), k))
    else:
        region = top_cluster(saliency, labels, k)
    region = torch.where(cells.mask.reshape(-1, 1), saliency >= 0.5, region)
    whole = cells.flat.reshape(-1, 1) | ~region.any(1, keepdim=True)
    return (region | whole).reshape(cells.points.shape[:3])
