"""Maps and pixels on one grid, and the salient region among the cells.

A cell of an image is (saliency, lightness, red-green, yellow-blue). Arrays are NumPy's on the host, where call
overhead dominates, and torch's on a device, where nothing may be read back: `xp` is the library of the arrays.
"""

from __future__ import annotations

from functools import lru_cache
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ..arguments import check_masks, check_tensor, checked_int
from ..arrays import Array, as_dtype, library, widened
from ..saliency.maps import squashed
from ..saliency.modes import real_tensors, without_autocast
from .choose import checked_region, salient_points
from .clustering import Clustering, ClusteringLike, label_cells, resolve_clustering
from .roi import cells_inside

SMALL = 4096  # values of a map whose resizing is mostly the overhead of the call


class Cells(NamedTuple):
    """All levels of N images on a grid of P = G * G cells, as NumPy or torch arrays."""

    points: Any  # float32 [N, L, P, 4]: saliency in [0, 1], NaN where the map is not finite; three opponent colors
    flat: Any  # bool [N, L]: the map has at most one finite value
    mask: Any  # bool [N, L]: the map has two values, so it is a mask
    covered: Any  # bool [N, L, P]: the cells of which such a mask covers at least half, or else those it covers most
    inside: Any  # bool [N, 1, P], the cells of the region of interest; None: all


def make_cells(maps: list[Tensor], images: Tensor, grid: int, inside: Tensor | None = None) -> Cells:
    """The cells of images uint8 [N, 3, H, W] and their maps, L tensors [N, h_l, w_l] of any range.

    Args:
        inside: bool [N or 1, P], the cells of a region of interest. The others are never salient and do not affect the range
            of the saliency.
    """
    host = images.device.type == "cpu"
    xp: ModuleType = np if host else torch
    maps = [m.detach() if m.requires_grad else m for m in maps]
    maps = [m if m.dtype in (torch.float32, torch.float64) else m.float() for m in maps]
    maps = maps if host else [m * 0.5 for m in maps]  # so that every span fits in float32
    rows, low, high = _extremes(xp, maps)
    holes = None
    if not host or not (np.isfinite(low) & np.isfinite(high)).all():
        maps, holes = _filled(maps, grid)
        rows, low, high = _extremes(xp, maps)
    bounds = [(row, low[:, i : i + 1], high[:, i : i + 1]) for i, row in enumerate(rows)]
    mask = xp.concatenate([((row == least) | (row == most)).all(1, keepdims=True) for row, least, most in bounds], 1)
    flat = ~(low < high)  # by the original map: resampling gives a flat map a span of rounding errors
    within = None if inside is None else _array(host, inside)[:, None]  # [N, 1, P]
    small = [host and m.shape[1] * m.shape[2] <= SMALL for m in maps]
    on_grid = [_small_on_grid(m, grid) if s else _array(host, _resized(m, grid)) for m, s in zip(maps, small, strict=True)]
    resampled = widened(xp.concatenate([m[:, None] for m in on_grid], 1))  # [N, L, P]; a span may exceed float32
    covered = mask[..., None]
    if not host or mask.any():  # rare on the host; not checked on a device: that would wait for it
        values = resampled if within is None else xp.where(within, resampled, -float("inf"))
        covered = _covered(values, widened(low)[..., None], widened(high)[..., None])
    saliency = _scaled(resampled, flat, within)
    if holes is not None:
        saliency = xp.where(_array(host, holes), float("nan"), saliency)
    colors = _opponent_colors(_array(host, squashed(images, grid)).reshape(len(images), 1, images.shape[1], grid * grid))
    shared = xp.concatenate([colors] * len(maps), 1)
    columns = xp.concatenate((as_dtype(saliency, "float32")[:, :, None], shared), 2)  # [N, L, 4, P], as k-means reads them
    return Cells(xp.swapaxes(columns, 2, 3), flat, mask, covered, within)


def _scaled(values: Array, flat: Array, within: Array | None) -> Array:
    """Maps [N, L, P] scaled to [0, 1] by their range inside of the region of interest, NaN outside; flat maps are zeros."""
    xp = library(values)
    lowest, highest = (values if within is None else xp.where(within, values, far) for far in (float("inf"), -float("inf")))
    least = xp.amin(lowest, -1)[..., None]
    span = xp.amax(highest, -1)[..., None] - least
    scaled: Array = (values - least) / xp.where((span > 0) & ~flat[..., None], span, float("inf"))
    return scaled if within is None else xp.where(within, scaled, float("nan"))


def _opponent_colors(pixels: Array) -> Array:
    """Lightness, red-green and yellow-blue [N, 1, 3, P] of pixels float32 [N, 1, 3, P] in [0, 255]."""
    shares = pixels * (1 / 255)
    r, g, b = (shares[:, :, i : i + 1] for i in range(3))
    both = r + g
    colors: Array = library(pixels).concatenate(((both + b) * (1 / 3), r - g, both * 0.5 - b), 2)
    return colors


def _covered(values: Array, low: Array, high: Array) -> Array:
    """Where resampled maps [N, L, P] are in the upper half between the lowest and the highest value [N, L, 1] of the map,
    or, for maps that never reach it, in the upper half of their own range."""
    xp = library(values)
    top = xp.amax(values, -1)[..., None]
    middle = low + (high - low) * (0.5 - 1e-6)  # resampling rounds
    covered: Array = values >= xp.where(top >= middle, middle, low + (top - low) * 0.5)
    return covered


def _array(host: bool, x: Tensor) -> Any:
    return x.numpy() if host else x


def _extremes(xp: ModuleType, maps: list[Tensor]) -> tuple[list[Any], Any, Any]:
    """Maps as rows [N, P_l], their lowest and highest values [N, L], NaN if the map has one."""
    rows = [_array(xp is np, m).reshape(len(m), m.shape[1] * m.shape[2]) for m in maps]
    low, high = (xp.concatenate([end(row, 1, keepdims=True) for row in rows], 1) for end in (xp.amin, xp.amax))
    return rows, low, high


def _filled(maps: list[Tensor], grid: int) -> tuple[list[Tensor], Tensor]:
    """Maps with non-finite values replaced by their lowest finite one, so that the neighbors of a hole get low saliency,
    and the cells [N, L, P] of which more than half is not finite."""
    finite = [m.isfinite() for m in maps]
    lowest = [m.masked_fill(~f, torch.inf).amin((1, 2), keepdim=True) for m, f in zip(maps, finite, strict=True)]
    filled = [torch.where(f, m, a.nan_to_num(posinf=0.0)) for m, f, a in zip(maps, finite, lowest, strict=True)]
    return filled, torch.stack([_resized(1.0 - f.float(), grid) > 0.5 for f in finite], 1)


def _resized(m: Tensor, grid: int) -> Tensor:
    """[N, h, w] -> [N, P], bilinear, antialiased if the map is finer than the grid."""
    return F.interpolate(m[:, None], size=(grid, grid), mode="bilinear", antialias=_finer(m, grid)).flatten(1)


def _finer(m: Tensor, grid: int) -> bool:
    return max(m.shape[-2:]) > grid


@torch.compiler.disable  # type: ignore[untyped-decorator]  # which warns of the cache
def _small_on_grid(m: Tensor, grid: int) -> npt.NDArray[np.float64]:
    """`_resized` as two matrix products of NumPy: a fifth of the time of torch's operator on a small map.

    In float64, so that neither the strides of the map nor the processor decide where a map of few values has ties."""
    down, along = (_shares(side, grid, _finer(m, grid)) for side in m.shape[-2:])
    cells: npt.NDArray[np.float64] = down @ np.ascontiguousarray(m.numpy(), np.float64) @ along.T
    return cells.reshape(len(m), grid * grid)


@lru_cache(maxsize=64)
def _shares(side: int, grid: int, finer: bool) -> npt.NDArray[np.float64]:
    """[G, side]: what each cell takes from each row of a map."""
    with real_tensors():
        eye = torch.eye(side, dtype=torch.float64)[None, None]
        rows = F.interpolate(eye, size=(grid, side), mode="bilinear", antialias=finer)
    return rows[0, 0].numpy()


def salient_regions(
    maps: list[Tensor],
    images: Tensor,
    clustering: ClusteringLike,
    grid: int = 24,
    *,
    region: str = "salient",
    roi: Tensor | None = None,
) -> Tensor:
    """The salient region of every level among the cells of the grid: the clusters of high mean saliency.

    A map of two values is a mask: its region is the cells of which it covers at least half, or, if there are none, the
    cells that it covers at least half as much as any other. A map with at most one finite value has no information: its
    region is all cells. Otherwise noise (label -1, or a non-finite map value) is never in a region; if a backend labels
    everything as noise, the region is all cells.

    Args:
        maps: L tensors [N, h_l, w_l], any range.
        images: uint8 [N, 3, H, W].
        clustering: `KMeans` or another backend, points float32 [P, 4] -> integer labels [P].
        grid: G, the number of cells along each side of the image.
        region: "salient": the clusters with mean saliency at or above the midpoint between the highest and the lowest
            mean, so an object of several colors is one region; "top": only the cluster with the highest mean.
        roi: bool [N, H, W], or [1, H, W] for all: where pixels may be swapped. Only cells at least half inside are
            clustered and chosen. None: everywhere.

    Returns:
        bool [N, L, G, G], each with at least one true cell.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: shapes that do not match, `grid` below 1, another `region`, or (on the CPU) a roi without a cell.

    >>> image = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    >>> salient_regions([torch.tensor([[[0.0, 3.0]]])], image, lambda points: points[:, 0] > 0.5, grid=2).tolist()
    [[[[False, True], [False, True]]]]
    """
    check_tensor("images", images, "[N, 3, H, W]", 4)
    if not isinstance(maps, (list, tuple)) or not maps:
        raise TypeError(f"`maps` must be a list of one or more tensors [N, h, w], got {maps!r}")
    for m in maps:
        check_tensor("maps", m, f"[{len(images)}, h, w]", 3)
    grid = checked_int("grid", grid, 1)
    if roi is not None:
        check_masks("roi", roi, len(images), (images.shape[2], images.shape[3]))
    inside = None if roi is None else cells_inside(roi, grid)
    return find_regions(maps, images, resolve_clustering(clustering), grid, checked_region(region), inside)


def find_regions(
    maps: list[Tensor], images: Tensor, clustering: Clustering, grid: int, region: str, inside: Tensor | None = None
) -> Tensor:
    """`salient_regions` without checks; `inside` as in `make_cells`."""
    regions = segment(maps, images, clustering, grid, region, inside).regions
    regions = regions.reshape(*regions.shape[:2], grid, grid)
    return regions if isinstance(regions, Tensor) else torch.from_numpy(regions)


class Segmented(NamedTuple):
    """Cells with their labels and regions, as NumPy or torch arrays."""

    cells: Cells
    labels: Any  # int64 [N, L, P], -1 is noise
    regions: Any  # bool [N, L, P]


def segment(
    maps: list[Tensor], images: Tensor, clustering: Clustering, grid: int, region: str, inside: Tensor | None = None
) -> Segmented:
    """All steps from maps to regions; arguments as `find_regions`."""
    with without_autocast(images.device.type):  # half-precision products move points to other clusters
        cells = make_cells(maps, images, grid, inside)
        labels, k = cluster_cells(cells, clustering)
        return Segmented(cells, labels, pick_regions(cells, labels, k, region))


def cluster_cells(cells: Cells, clustering: Clustering) -> tuple[Any, int]:
    """Labels int64 [N, L, P], 0 to k - 1 or -1 for noise, and k."""
    shape = cells.points.shape
    labels, k = label_cells(clustering, cells.points.reshape(shape[0] * shape[1], *shape[2:]))
    return labels.reshape(shape[:3]), k


def pick_regions(cells: Cells, labels: Array, k: int, region: str) -> Any:
    """The region bool [N, L, P] among clustered cells, by the rules of `salient_regions`."""
    xp = library(labels)
    saliency = cells.points[..., 0]
    salient = salient_points(saliency, labels, k, region)
    regions = xp.where(cells.mask[..., None], cells.covered & ~xp.isnan(saliency), salient)
    if cells.inside is None:
        return regions | cells.flat[..., None] | ~regions.any(-1)[..., None]
    regions = (regions | cells.flat[..., None]) & cells.inside
    return regions | (cells.inside & ~regions.any(-1)[..., None])
