"""From clusters to the salient region, by the same rule for every backend."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..arrays import Array, as_dtype, library

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
    member = members(labels, k)
    means = cluster_means(saliency, member)
    if region == "top":
        chosen = members(means.argmax(-1)[..., None], k)[..., 0]
    else:
        xp = library(labels)
        lowest = xp.amin(xp.where(means == EMPTY, -EMPTY, means), -1)
        chosen = means >= ((xp.amax(means, -1) + lowest) * 0.5)[..., None]  # [..., k]
    salient: Array = (member & chosen[..., None]).any(-2)
    return salient


def members(labels: Array, k: int) -> Array:
    """bool [..., k, P]: the points of each cluster; labels int64 [..., P]."""
    numbers = torch.arange(k, device=labels.device) if isinstance(labels, Tensor) else np.arange(k)
    member: Array = labels[..., None, :] == numbers[:, None]
    return member


def cluster_means(saliency: Array, member: Array) -> Array:
    """Mean saliency [..., k] of the clusters, EMPTY for one without points; member bool [..., k, P].

    Values of points without a cluster do not count."""
    xp = library(saliency)
    known = as_dtype(xp.where(member.any(-2), saliency, 0.0), "float32")
    shares = as_dtype(member, "float32")
    sums, sizes = (shares @ known[..., None])[..., 0], shares.sum(-1)
    empty = sizes == 0
    means: Array = xp.where(empty, EMPTY, sums / (sizes + as_dtype(empty, "float32")))
    return means
