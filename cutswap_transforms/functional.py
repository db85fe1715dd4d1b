"""The method as pure functions on batches, in the order the data takes: maps, clusters, region, pixels, patches, swap.

Nothing here draws random numbers, changes its inputs or waits for an accelerator. Where a function is random in the
method, it takes the uniform numbers `u` as an argument.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

CANDIDATES = 8


class PatchPair(NamedTuple):
    """One swap: two boxes of equal size in pixels, and the saliency level that they were drawn from.

    `level` counts from fine to coarse; -1 is the fused map. `height` 0 means that nothing is swapped.

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


def layer_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """LayerCAM of one layer: `relu(sum_k relu(dS/dA_k) * A_k)` (Jiang et al., IEEE TIP 2021, equations 5 and 6).

    Args:
        activations: A, float [N, K, h, w].
        gradients: dS/dA of the target score S, the same shape.

    Returns:
        Saliency maps [N, h, w], >= 0, not normalised.

    >>> a, g = torch.tensor([2.0, 3.0]).reshape(1, 2, 1, 1), torch.tensor([-1.0, 0.5]).reshape(1, 2, 1, 1)
    >>> layer_cam(a, g)
    tensor([[[1.5000]]])
    """
    if activations.shape != gradients.shape or activations.ndim != 4:
        raise ValueError(
            "`activations` and `gradients` must have one shape [N, K, h, w], "
            f"got {list(activations.shape)} and {list(gradients.shape)}"
        )
    return (gradients.relu() * activations).sum(1).relu()


def normalize_maps(maps: Tensor) -> Tensor:
    """Each map [..., h, w] scaled to [0, 1] by its least and greatest finite value; a flat one becomes zeros.

    No epsilon is added, so the scale of a map does not matter. Non-finite values stay NaN.

    >>> normalize_maps(torch.tensor([[[1.0, 3.0], [2.0, float("nan")]]]))
    tensor([[[0.0000, 1.0000],
             [0.5000,    nan]]])
    """
    maps = maps.float()
    finite = maps.isfinite()
    low = maps.masked_fill(~finite, torch.inf).amin((-2, -1), keepdim=True)
    high = maps.masked_fill(~finite, -torch.inf).amax((-2, -1), keepdim=True)
    spread = high - low
    scaled = torch.where(spread > 0, (maps - low) / spread, torch.zeros_like(maps))
    return torch.where(finite, scaled, torch.full_like(maps, torch.nan))


def fuse_maps(maps: list[Tensor]) -> Tensor:
    """One map of all levels: the mean of the min-max normalised levels on the finest grid (bilinear).

    Args:
        maps: L tensors [N, h_l, w_l].

    Returns:
        float32 [N, h, w] in [0, 1] on the grid of the level with most cells.

    >>> fuse_maps([torch.tensor([[[0.0, 2.0]]]), torch.tensor([[[7.0]]])])
    tensor([[[0.0000, 0.5000]]])
    """
    grid = max((m.shape[-2:] for m in maps), key=lambda s: s[0] * s[1])
    levels = (normalize_maps(m)[:, None].nan_to_num(0.0) for m in maps)
    resized = [F.interpolate(m, size=list(grid), mode="bilinear", align_corners=False) for m in levels]
    return torch.cat(resized, 1).mean(1)


def cluster_saliency(maps: Tensor, clustering: Callable[[Tensor], Tensor]) -> Tensor:
    """Cluster the cells of each map by saliency, and by position where the backend says `position = True`.

    Args:
        maps: [N, h, w], any range; each is min-max normalised first, non-finite cells become noise whatever the
            backend makes of them.
        clustering: a ClusteringBackend: points float32 [P, D] -> labels [P], -1 = noise. With an attribute `batched`
            that is true it is called once with [N, P, D].

    Returns:
        Labels, int64 [N, h, w].

    >>> cluster_saliency(torch.tensor([[[1.0, 5.0]]]), lambda points: (points[:, 0] > 0.5).long())
    tensor([[[0, 1]]])
    """
    if maps.ndim != 3:
        raise ValueError(f"`maps` must have shape [N, h, w], got {list(maps.shape)}")
    n, h, w = maps.shape
    points = normalize_maps(maps).reshape(n, h * w, 1)
    if getattr(clustering, "position", False):
        y = torch.linspace(0, 1, h, device=maps.device).repeat_interleave(w)
        x = torch.linspace(0, 1, w, device=maps.device).repeat(h)
        points = torch.cat((points, torch.stack((y, x), 1).expand(n, -1, -1)), 2)
    if getattr(clustering, "batched", False):
        labels = clustering(points)
    else:
        labels = torch.stack([_checked_labels(clustering(p), h * w) for p in points]) if n else points[..., 0]
    labels = labels.to(device=maps.device, dtype=torch.int64).reshape(n, h, w)
    return labels.masked_fill(~maps.isfinite(), -1)


def _checked_labels(labels: Tensor, count: int) -> Tensor:
    labels = torch.as_tensor(labels)
    if labels.shape != (count,) or labels.is_floating_point():
        raise ValueError(
            f"`clustering` must return {count} integer labels [P] for points [P, D], "
            f"got {labels.dtype} of shape {list(labels.shape)}"
        )
    return labels


def salient_region(maps: Tensor, labels: Tensor) -> Tensor:
    """The cluster of highest mean saliency of each map; noise (-1) is never part of it.

    A flat map (all its finite values are equal), a map without finite values and a map that is all noise have no such
    cluster: their region is the whole map.

    Args:
        maps: [N, h, w].
        labels: int [N, h, w] as from `cluster_saliency`; on an accelerator below the larger of 256 and h * w.

    Returns:
        bool [N, h, w], at least one cell true.

    >>> salient_region(torch.tensor([[[0.0, 0.9, 1.0, 5.0]]]), torch.tensor([[[0, 1, 1, -1]]]))
    tensor([[[False,  True,  True, False]]])
    """
    if maps.shape != labels.shape or maps.ndim != 3:
        raise ValueError(f"`maps` and `labels` must have one shape [N, h, w], got {list(maps.shape)} and {list(labels.shape)}")
    n, cells = maps.shape[0], maps[0].numel() if len(maps) else 0
    values, labels = maps.reshape(n, cells).double(), labels.reshape(n, cells).long()
    finite = values.isfinite()
    kept = (labels >= 0) & finite
    bins = max(cells, 256)
    if labels.device.type == "cpu" and labels.numel() and int(labels.max()) >= bins:
        labels = torch.unique(labels, return_inverse=True)[1]  # a backend may number its clusters as it likes
        bins = max(bins, labels.numel())
    index = torch.where(kept, labels, bins)  # one spare bin collects the noise
    count = torch.zeros(n, bins + 1, dtype=torch.float64, device=maps.device).scatter_add_(1, index, kept.double())
    total = torch.zeros_like(count).scatter_add_(1, index, torch.where(kept, values, 0.0))
    mean = torch.where(count > 0, total / count, -torch.inf)
    mean[:, bins] = -torch.inf
    region = kept & (labels == mean.argmax(1, keepdim=True))
    low = torch.where(finite, values, torch.inf).amin(1, keepdim=True)
    flat = torch.where(finite, values, -torch.inf).amax(1, keepdim=True) <= low
    return (region | flat | ~kept.any(1, keepdim=True)).reshape(maps.shape)


def salient_regions(maps: list[Tensor], clustering: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """`salient_region(m, cluster_saliency(m, clustering))` of every level; in one call where the backend has `highest`.

    Args:
        maps: L tensors [N, h_l, w_l].
        clustering: a ClusteringBackend.

    Returns:
        L tensors bool [N, h_l, w_l].

    >>> two = lambda points: (points[:, 0] > 0.5).long()
    >>> [r.tolist() for r in salient_regions([torch.tensor([[[0.0, 2.0]]]), torch.tensor([[[3.0]]])], two)]
    [[[[False, True]]], [[[True]]]]
    """
    highest = getattr(clustering, "highest", None)  # L tensors [N, P_l] -> the same, bool
    if highest is None or getattr(clustering, "position", False):
        return [salient_region(m, cluster_saliency(m, clustering)) for m in maps]
    regions = highest([m.flatten(1) for m in maps])
    return [r.reshape(m.shape) for r, m in zip(regions, maps, strict=True)]


def sample_pixel_pair(region: Tensor, u: Tensor, image_size: tuple[int, int] | None = None) -> Tensor:
    """Two pixels of the region: a cell each, drawn with replacement, and a uniform position inside the cell.

    Args:
        region: bool [N, h, w], at least one true cell in each map.
        u: uniform numbers in [0, 1), [N, 2, 3] or [N, K, 2, 3]: cell, vertical and horizontal offset in the cell.
        image_size: (H, W) of the image that the cells tile; by default (h, w), each cell one pixel.

    Returns:
        int64 [N, 2, 2] or [N, K, 2, 2]: (y, x) of the two pixels.

    >>> region = torch.tensor([[[False, True], [True, False]]])
    >>> sample_pixel_pair(region, torch.tensor([[[0.1, 0.5, 0.5], [0.6, 0.5, 0.5]]]), image_size=(8, 8))
    tensor([[[2, 6],
             [6, 2]]])
    """
    n, h, w = region.shape
    height, width = image_size or (h, w)
    u = u.double()
    rank = region.reshape(n, h * w).cumsum(1)  # [N, h*w]: a true cell's running number
    count = rank[:, -1]
    spread = [n] + [1] * (u.ndim - 2)
    wanted = (u[..., 0] * count.reshape(spread)).long().minimum(count.reshape(spread) - 1)
    cell = torch.searchsorted(rank, (wanted + 1).reshape(n, -1)).reshape(wanted.shape)
    y = ((cell // w + u[..., 1]) * (height / h)).long().clamp(0, height - 1)
    x = ((cell % w + u[..., 2]) * (width / w)).long().clamp(0, width - 1)
    return torch.stack((y, x), -1)


def patch_size(u: Tensor, image_size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]) -> Tensor:
    """Height and width of patches: area uniform in `scale`, aspect log-uniform in `ratio`, as RandomErasing draws them.

    Args:
        u: uniform numbers [N, 2]: area, aspect.
        image_size: (H, W).
        scale: range of the area as a fraction of the image.
        ratio: range of the aspect.

    Returns:
        int64 [N, 2], at least 1 and at most the image.

    >>> patch_size(torch.tensor([[0.0, 0.5]]), (100, 100), (0.01, 0.02), (0.5, 2.0))
    tensor([[10, 10]])
    """
    height, width = image_size
    u = u.double()
    area = (scale[0] + u[:, 0] * (scale[1] - scale[0])) * (height * width)
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = (low + u[:, 1] * (high - low)).exp()
    h, w = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    return torch.stack((h.clamp(1, height), w.clamp(1, width)), 1).long()


def patch_pair(
    pixels: Tensor, size: Tensor, image_size: tuple[int, int], *, level: Tensor | int = 0, taken: Tensor | None = None
) -> Tensor:
    """The patch pair around a pixel pair: two boxes of one size, inside the image, that do not overlap.

    Boxes are centred on the pixels and pushed into the image. Of several candidates the first wins whose boxes are
    disjoint; if none is, the longer side is halved and the same candidates are tried again. At 1x1 equal pixels of the
    last resort are told apart by taking the neighbour, so an image of two pixels or more always gets a pair.

    Args:
        pixels: int [N, 2, 2] or candidates [N, K, 2, 2], (y, x).
        size: int [N, 2], height and width; larger ones than the image are cut to it.
        image_size: (H, W), at least two pixels.
        level: int or [N], written into the result.
        taken: pairs [N, S, 7] that the new boxes must not touch; where no candidate fits beside them, nothing is
            swapped (height 0).

    Returns:
        int64 [N, 7], rows as `PatchPair`.

    Raises:
        ValueError: an image of fewer than two pixels.

    >>> patch_pair(torch.tensor([[[2, 2], [7, 7]]]), torch.tensor([[3, 3]]), (10, 10)).tolist()
    [[0, 1, 1, 6, 6, 3, 3]]
    """
    height, width = image_size
    if height * width < 2:
        raise ValueError(f"`image` must have room for two disjoint patches, got (H, W) = {image_size}")
    n = pixels.shape[0]
    pixels = pixels.reshape(n, 1, -1, 2, 2)  # [N, 1, K, pixel, (y, x)]
    size = torch.stack((size[:, 0].clamp(1, height), size[:, 1].clamp(1, width)), 1).to(pixels.device).long()
    sizes = _halvings(size, max(height, width))[:, :, None, None]  # [N, T, 1, 1, (h, w)]
    limit = torch.stack((height - sizes[..., 0], width - sizes[..., 1]), -1)
    corner = (pixels - sizes // 2).clamp(min=0).minimum(limit)  # [N, T, K, box, (top, left)]
    corner = _last_resort(corner, sizes[:, -1, 0, 0], image_size)
    box = sizes.expand_as(corner)
    free = _disjoint(corner[..., 0, :], corner[..., 1, :], box[..., 0, :])  # [N, T, K]
    if taken is not None:
        for s in range(taken.shape[1]):
            for first in (1, 3):
                other = taken[:, s, None, None, None, first : first + 2]
                side = taken[:, s, None, None, None, 5:7]
                free = free & (_disjoint(corner, other, box, side).all(-1) | (side[..., 0, 0] == 0))
    flat = free.reshape(n, -1)
    first_free = flat.to(torch.int8).argmax(1)  # the first of equal maxima: least halving, then first candidate
    index = first_free[:, None, None].expand(-1, 1, 2)
    boxes = [corner[..., b, :].reshape(n, -1, 2).gather(1, index)[:, 0] for b in (0, 1)]
    side = box[..., 0, :].reshape(n, -1, 2).gather(1, index)[:, 0]
    levels = (level if isinstance(level, Tensor) else torch.full((n,), level, device=pixels.device))[:, None]
    pair = torch.cat((levels, boxes[0], boxes[1], side), 1).long()
    return torch.where(flat.any(1, keepdim=True), pair, _no_swap(levels))


def _halvings(size: Tensor, longest: int) -> Tensor:
    """[N, T, 2]: the size, then the longer side (of equal ones the height) halved again and again down to 1x1."""
    steps = [size]
    for _ in range(2 * max(1, longest.bit_length())):
        h, w = steps[-1].unbind(1)
        tall = h >= w
        halves = (steps[-1] // 2).clamp(min=1)
        steps.append(torch.stack((torch.where(tall, halves[:, 0], h), torch.where(tall, w, halves[:, 1])), 1))
    return torch.stack(steps, 1)


def _last_resort(corner: Tensor, smallest: Tensor, image_size: tuple[int, int]) -> Tensor:
    """At 1x1 (the last halving) move the second box of the last candidate off the first one where they coincide."""
    height, width = image_size
    a, b = corner[:, -1, -1, 0], corner[:, -1, -1, 1]
    top, left = a.unbind(1)
    if width > 1:
        aside = torch.stack((top, torch.where(left + 1 < width, left + 1, left - 1)), 1)
    else:
        aside = torch.stack((torch.where(top + 1 < height, top + 1, top - 1), left), 1)
    corner = corner.clone()
    corner[:, -1, -1, 1] = torch.where((a == b).all(1, keepdim=True), aside, b)
    return corner


def _disjoint(a: Tensor, b: Tensor, size_a: Tensor, size_b: Tensor | None = None) -> Tensor:
    """bool [...]: boxes with corners a, b [..., 2] share no pixel."""
    size_b = size_a if size_b is None else size_b
    return ((a + size_a <= b) | (b + size_b <= a)).any(-1)


def _no_swap(levels: Tensor) -> Tensor:
    return torch.cat((levels.long(), levels.new_zeros(levels.shape[0], 6, dtype=torch.int64)), 1)


def swap_patches(image: Tensor, pairs: Tensor) -> Tensor:
    """Swap the two patches of every pair: a permutation of the pixels that undoes itself when applied again.

    Args:
        image: [C, H, W] or [N, C, H, W] (an [H, W] mask works too), any dtype and memory format.
        pairs: int64 [N, S, 7] as from `patch_pair`, N = 1 for a single image; boxes mutually disjoint.

    Returns:
        A new tensor of the same shape, dtype and device.

    Raises:
        ValueError: shapes that do not fit, or (on the CPU) boxes that reach beyond the image.

    >>> swap_patches(torch.arange(4).reshape(1, 1, 4), torch.tensor([[[0, 0, 0, 0, 3, 1, 1]]]))
    tensor([[[3, 1, 2, 0]]])
    """
    if pairs.ndim != 3 or pairs.shape[-1] != 7:
        raise ValueError(f"`pairs` must have shape [N, S, 7], got {list(pairs.shape)}")
    batch = image if image.ndim == 4 else image[None] if image.ndim == 3 else image[None, None]
    if image.ndim not in (2, 3, 4) or batch.shape[0] != pairs.shape[0]:
        raise ValueError(f"`image` must hold as many images as `pairs` ({pairs.shape[0]}), got shape {list(image.shape)}")
    if batch.device.type != "cpu":
        return _gathered(batch, pairs.to(batch.device)).reshape(image.shape)
    out = batch.clone()
    for i, rows in enumerate(pairs.tolist()):
        for level, ta, la, tb, lb, h, w in rows:
            if max(ta, tb) + h > batch.shape[2] or max(la, lb) + w > batch.shape[3]:
                box, size = PatchPair(level, ta, la, tb, lb, h, w), tuple(batch.shape[2:])
                raise ValueError(f"`pairs` must lie inside the image, got {box} for (H, W) = {size}")
            if h:
                out[i, :, ta : ta + h, la : la + w] = batch[i, :, tb : tb + h, lb : lb + w]
                out[i, :, tb : tb + h, lb : lb + w] = batch[i, :, ta : ta + h, la : la + w]
    return out.reshape(image.shape) if image.ndim == 2 else out if image.ndim == 4 else out[0]


def _gathered(batch: Tensor, pairs: Tensor) -> Tensor:
    """The swap as one gather, for accelerators: no loop over images or pixels, nothing read back."""
    n, c, height, width = batch.shape
    y = torch.arange(height, device=batch.device)[None, :, None]
    x = torch.arange(width, device=batch.device)[None, None, :]
    source = (y * width + x).expand(n, -1, -1)  # [N, H, W]: where each pixel comes from
    for s in range(pairs.shape[1]):
        _, ta, la, tb, lb, h, w = (v[:, None, None] for v in pairs[:, s].unbind(1))
        shift = (tb - ta) * width + (lb - la)
        source = torch.where(_inside(y, x, ta, la, h, w), source + shift, source)
        source = torch.where(_inside(y, x, tb, lb, h, w), source - shift, source)
    index = source.reshape(n, 1, height * width).expand(-1, c, -1)
    bits = batch.view(torch.int16) if batch.dtype == torch.uint16 else batch  # gather does not know uint16
    return bits.reshape(n, c, height * width).gather(2, index).view(batch.dtype).reshape(batch.shape)


def _inside(y: Tensor, x: Tensor, top: Tensor, left: Tensor, h: Tensor, w: Tensor) -> Tensor:
    return (y >= top) & (y < top + h) & (x >= left) & (x < left + w)


def patch_mask(pairs: Tensor, image_size: tuple[int, int]) -> Tensor:
    """The swapped area as a mask: 1 in both boxes of every pair, 0 elsewhere.

    Args:
        pairs: int64 [N, S, 7].
        image_size: (H, W).

    Returns:
        uint8 [N, 1, H, W].

    >>> patch_mask(torch.tensor([[[0, 0, 0, 0, 3, 1, 1]]]), (1, 4))
    tensor([[[[1, 0, 0, 1]]]], dtype=torch.uint8)
    """
    height, width = image_size
    if pairs.device.type != "cpu":
        y = torch.arange(height, device=pairs.device)[:, None]
        x = torch.arange(width, device=pairs.device)[None, :]
        _, ta, la, tb, lb, h, w = (v[:, :, None, None] for v in pairs.unbind(2))
        return (_inside(y, x, ta, la, h, w) | _inside(y, x, tb, lb, h, w)).any(1, keepdim=True).to(torch.uint8)
    mask = torch.zeros(pairs.shape[0], 1, height, width, dtype=torch.uint8, device="cpu")
    for i, rows in enumerate(pairs.tolist()):
        for _, ta, la, tb, lb, h, w in rows:
            mask[i, 0, ta : ta + h, la : la + w] = 1
            mask[i, 0, tb : tb + h, lb : lb + w] = 1
    return mask
