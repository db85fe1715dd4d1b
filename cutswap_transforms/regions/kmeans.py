"""The default k-means: Lloyd's algorithm from a fixed start, all maps of a batch in one call.

It draws no random numbers and stops after a fixed number of rounds. It is written once for two array libraries, `xp`:
NumPy on the host, where call overhead dominates, and torch on a device, where nothing may be read back.
"""

from __future__ import annotations

import warnings
from dataclasses import KW_ONLY, InitVar, dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..arguments import checked_bool, checked_int, checked_number
from ..arrays import Array, as_dtype, library
from .choose import members

LARGEST = 1e18  # of a point's numbers: squares of larger ones do not fit into float32
FAR = 1e38  # above all distances, but finite: matrix products of some CPUs warn of inf * 0 in unused lanes
OVERSHOOT = 1e-3  # rounding and resampling leave [0, 1] by less; the start clips such values

_UNION = (
    "`union` of KMeans is deprecated and will be removed: the region is chosen alike for every backend; use "
    'SaliencySwap(region="salient"), the default, for union=True, or region="top" for union=False'
)


@dataclass(frozen=True)
class KMeans:
    """Lloyd's k-means of the cells, from a fixed start: no random numbers, so equal points get equal labels.

    Args:
        n_clusters: number of clusters, at least 1; some may stay empty.
        saliency_weight: factor of the first column. The colors have weight 1; with more weight the regions follow
            the saliency map, with less the colors.
        color: False clusters by the first column only.
        n_iter: number of rounds, at least 1. On the host it stops once no label changes, with the same result.
        union: deprecated; use `SaliencySwap(region=...)`, which chooses the clusters of the region.

    The start cuts the range [0, 1] of saliency into equal parts, so the few cells of a peak start as their own cluster.
    A cluster that loses all its points stays empty.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: `n_clusters` or `n_iter` below 1, `saliency_weight` not positive and finite.

    Warns:
        DeprecationWarning: `union` is given.

    >>> KMeans(2)(torch.tensor([[0.9], [0.1], [0.0], [0.8], [float("nan")]]))
    tensor([ 1,  0,  0,  1, -1])
    """

    n_clusters: int = 4
    _: KW_ONLY
    saliency_weight: float = 0.5
    color: bool = True
    n_iter: int = 10
    union: InitVar[bool | None] = None

    def __post_init__(self, union: bool | None) -> None:
        checked: dict[str, Any] = {name: checked_int(name, getattr(self, name), 1) for name in ("n_clusters", "n_iter")}
        checked["color"] = checked_bool("color", self.color)
        weight = checked["saliency_weight"] = checked_number("saliency_weight", self.saliency_weight)
        if not 0 < weight < float("inf"):
            raise ValueError(f"`saliency_weight` must be positive and finite, got {self.saliency_weight!r}")
        for name, value in checked.items():  # NumPy numbers would change the fingerprint
            object.__setattr__(self, name, value)
        if union is not None:
            warnings.warn(_UNION, DeprecationWarning, stacklevel=3)
            object.__setattr__(self, "top_alone", not union)

    @property
    def fingerprint(self) -> str:
        """All that the labels depend on. Raise the version when the same arguments give other labels."""
        return f"{self!r} v6"

    def __call__(self, points: Tensor) -> Tensor:
        """Label points [P, D] or, M sets at once, [M, P, D]. The first column is saliency in [0, 1].

        Returns:
            int64 [P] or [M, P] on the device of the points: 0 to n_clusters - 1; -1 for a point that is not finite.

        Raises:
            TypeError: `points` is not a tensor of real numbers.
            ValueError: another rank, no column, or (on the CPU) saliency of another range or numbers above 1e18.
        """
        rows = _checked_points(points)
        labels = torch.from_numpy(self.label(rows.numpy())) if rows.device.type == "cpu" else self.label(rows)
        return labels.reshape(points.shape[:-1])

    def label(self, points: Array) -> Array:
        """`__call__` for float32 points [M, P, D] of NumPy or torch, unchecked."""
        xp = library(points)
        if 0 in points.shape:
            return as_dtype(points.sum(-1), "int64")
        x = points if self.color else points[..., :1]
        finite = xp.isfinite(x.sum(-1))
        x = xp.where(finite[..., None], x, 0.0)  # a copy, modified below
        labels = as_dtype(x[..., 0] * self.n_clusters, "int64").clip(0, self.n_clusters - 1)  # equal parts of [0, 1]
        start: Array = xp.where(finite, labels, -1)
        if self.saliency_weight > 1:  # the colors shrink in its place: squares of large numbers do not fit into float32
            x[..., 1:] *= 1 / self.saliency_weight
        elif self.color:  # without colors, the scale does not matter
            x[..., 0] *= self.saliency_weight
        assigned: Array = self._partition(x, finite, start)
        return as_dtype(assigned, "int64")  # the default integer of NumPy 1 depends on the system

    def _partition(self, x: Array, finite: Array, start: Array) -> Array:
        """Labels int64 [M, P] from the starting labels, arguments as `lloyd`; -1 where not finite."""
        return lloyd(library(x), x, start, self.n_clusters, self.n_iter)


def _checked_points(points: Tensor) -> Tensor:
    if not isinstance(points, Tensor) or points.is_complex():
        kind = points.dtype if isinstance(points, Tensor) else type(points).__name__
        raise TypeError(f"`points` must be a real tensor, got {kind}")
    if points.ndim not in (2, 3) or points.shape[-1] == 0:
        raise ValueError(f"`points` must be [P, D] or [M, P, D] with D at least 1, got shape {tuple(points.shape)}")
    rows = points.detach().to(torch.float32)
    if rows.device.type == "cpu":
        _check_range(rows[rows.isfinite().all(-1)])
    return rows if rows.ndim == 3 else rows[None]


def _check_range(points: Tensor) -> None:
    if not len(points):
        return
    low, high = (float(v) for v in points[:, 0].aminmax())
    if low < -OVERSHOOT or high > 1 + OVERSHOOT:
        raise ValueError(
            f"`points` must have saliency in [0, 1] in the first column, got values from {low:.4g} to {high:.4g}; "
            "scale it by (x - x.min()) / (x.max() - x.min())"
        )
    if (largest := float(points.abs().max())) > LARGEST:
        raise ValueError(f"`points` must not exceed {LARGEST:g}, got {largest:.4g}; divide the columns by their spread")


def lloyd(xp: ModuleType, x: Array, labels: Array, n_clusters: int, n_iter: int) -> Array:
    """`n_iter` rounds of (means of the clusters, nearest mean) from `labels`.

    A point equally near to two means counts for both, and ends in the one with the lower number.

    Args:
        xp: numpy or torch, the library of the arrays.
        x: float32 [M, P, D].
        labels: int64 [M, P]; -1, no cluster, is kept.
    """
    kept = (labels >= 0)[:, None, :]
    holes = xp is torch or not kept.all()
    member = members(labels, n_clusters)  # [M, k, P]
    columns = xp.concatenate((xp.swapaxes(x, 1, 2), xp.ones_like(x[:, None, :, 0])), 1)  # [M, D + 1, P]
    rows = xp.swapaxes(columns, 1, 2)  # with the ones, one product gives sums and sizes
    before = None
    for _ in range(n_iter):
        sums = as_dtype(member, "float32") @ rows  # [M, k, D + 1]
        if xp is np and before is not None and (before == sums).all():
            break
        before, sizes = sums, sums[..., -1:]
        empty = as_dtype(sizes == 0, "float32")
        lines = sums / -(sizes + empty)
        # Half the squared distance minus a term common to all means: a linear function of the point.
        lines[..., -1:] = (lines[..., :-1] ** 2).sum(-1, keepdims=True) * 0.5 + empty * FAR
        distance = lines @ columns  # [M, k, P]
        member = distance == xp.amin(distance, 1)[:, None]
        if holes:
            member = member & kept
    nearest: Array = xp.where(kept[:, 0], as_dtype(member, "int64").argmax(1), -1)
    return nearest
