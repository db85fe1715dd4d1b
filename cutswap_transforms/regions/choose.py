"""From clusters to the salient region, by the same rule for every backend."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ..arrays import Array, library, widened

EMPTY = -1e30  # the mean of a cluster without points: below any other, and finite in float32 too
REGIONS = ("salient", "top")


def checked_region(region: object) -> str:
    if region not in REGIONS:
        raise ValueError(f"`region` must be 'salient' or 'top', got {region!r}")
    return str(region)


def salient_points(saliency: Array, labels: Array, k: int, region: str) -> Array:
    """The points of the salient clusters; none if all points are noise.

    Args:
        saliency: float [..., P], NumPy or torch; ignored where the label is -1.
        labels: int64 [..., P] below k.
        region: "salient": the clusters with mean saliency at or above the midpoint between the highest and the lowest
            mean; "top": the one with the highest mean saliency, the first if several are equal.

    Returns:
        bool [..., P].
    """
    xp = library(labels)
    means = cluster_means(saliency, labels, k)
    if region == "top":
        first: Array = (labels == means.argmax(-1)[..., None]) & (labels >= 0)
        return first
    lowest = xp.amin(xp.where(means == EMPTY, -EMPTY, means), -1)
    chosen = means >= ((xp.amax(means, -1) + lowest) * 0.5)[..., None]  # [..., k]
    index = labels.clip(0)
    salient: Array = chosen.gather(-1, index) if isinstance(index, Tensor) else np.take_along_axis(chosen, index, -1)
    salient &= labels >= 0
    return salient


def cluster_means(saliency: Array, labels: Array, k: int) -> Array:
    """Mean saliency [..., k] of the clusters, EMPTY for one without points; labels int64 [..., P] below k, -1 is noise."""
    xp = library(labels)
    numbers = xp.arange(k) if xp is np else xp.arange(k, device=labels.device)
    member = labels[..., None, :] == numbers[:, None]  # [..., k, P]
    columns = xp.stack((xp.where(labels >= 0, saliency, 0.0), xp.ones_like(saliency)), -1)  # one product: sums and sizes
    sums = widened(member) @ widened(columns)  # [..., k, 2]
    means: Array = xp.where(sums[..., 1] > 0, sums[..., 0] / sums[..., 1].clip(1), EMPTY)
    return means
