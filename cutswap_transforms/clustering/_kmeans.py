"""k-means for saliency maps: deterministic, without random numbers, many maps in one call.

Points are laid on a grid of 2**32 steps between the smallest and the largest value of their map. Sums of grid values
are exact, so no order of addition matters: a map gets the same labels alone and in a batch, from NumPy and from torch.

One column (the saliency value) is the common case. There the points are sorted once; a cluster is then a stretch of
sorted values, its mean a difference of two running sums, and a round of Lloyd's algorithm a search for a few borders.
This is written once, `_sorted_lloyd`, for two array libraries: NumPy on the CPU, where the overhead of a call decides,
and torch on accelerators.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ..functional import normalize_maps

Array = npt.NDArray[Any]

GRID = 2.0**32


@dataclass(frozen=True)
class QuantileKMeans:
    """Arguments and checks of every k-means that starts from the fixed quantile centres of :class:`KMeans`."""

    n_clusters: int = 4
    _: KW_ONLY
    position: bool = False
    n_iter: int = 20

    batched: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("n_clusters", "n_iter"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"`{name}` must be an int, got {value!r}")
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}")
        if not isinstance(self.position, bool):
            raise TypeError(f"`position` must be True or False, got {self.position!r}")

    @property
    def fingerprint(self) -> str:
        """A cache key: all that the labels depend on. The version rises when the same arguments give other labels."""
        return f"{self!r} v1"

    def __call__(self, points: Tensor) -> Tensor:
        """Label points ``[P, D]`` or ``[M, P, D]``, see :meth:`KMeans.__call__`."""
        raise NotImplementedError


class KMeans(QuantileKMeans):
    """Lloyd's k-means from fixed quantile centres: no random numbers; same points, same labels.

    The starting clusters are those of the quantiles (2j + 1) / 2k of the *distinct* values in the first column, so that
    a map that is mostly zero still starts from different centres. A point equally near to two centres joins the lower
    one, a cluster that loses all its points keeps its centre, and clusters are numbered by ascending centre in the
    first column.

    Args:
        n_clusters: largest number of clusters, at least 1; with fewer distinct values, each value is a cluster.
        position: ask the caller for points ``(value, y, x)``, each in [0, 1], instead of ``(value,)``.
        n_iter: largest number of rounds from the means of the starting clusters, at least 1. A CPU stops as soon as no
            point moves, with the same labels; an accelerator does them all: to know, it would wait for the host.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if `n_clusters` or `n_iter` is less than 1.

    Example:
        >>> KMeans(3)(torch.tensor([[0.9], [0.1], [0.0], [0.5], [float("nan")]]))
        tensor([ 2,  0,  0,  1, -1])
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__call__" in cls.__dict__ and "highest" not in cls.__dict__:
            cls.highest = None  # type: ignore[assignment,method-assign]  # it would not be that of the new labels

    def __call__(self, points: Tensor) -> Tensor:
        """Label points.

        Args:
            points: ``[P, D]`` or, M sets at once, ``[M, P, D]``; seen as float32; on any device.

        Returns:
            int64 ``[P]`` or ``[M, P]`` on the same device: 0, 1, ... without gaps; -1 for a point that is not finite.

        Raises:
            TypeError: if `points` is not a real tensor.
            ValueError: if `points` has another rank or no column.
        """
        rows = as_rows(points)  # [M, P, D]
        if rows.device.type == "mps":  # it has no float64
            rows = rows.cpu()
        if rows.shape[-1] == 1:
            labels = _label_values(rows[..., 0], self.n_clusters, self.n_iter + 1)
        else:
            labels = _label_points(rows, starting_labels(rows, self.n_clusters), self.n_clusters, self.n_iter + 1)
        return labels.reshape(points.shape[:-1]).to(points.device)

    def highest(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """The cells of the highest cluster of every map, in one call and without the labels of the others.

        Equal to `functional.salient_region` of `functional.cluster_saliency`: a flat map and one without finite values
        are whole.

        Args:
            levels: L float tensors ``[N, P_l]``, any range.

        Returns:
            L tensors bool ``[N, P_l]``.
        """
        device = levels[0].device
        rows = [level.detach().float() for level in levels]
        if len(rows[0]) == 0:
            return [torch.zeros(level.shape, dtype=torch.bool, device=device) for level in levels]
        if device.type in ("cpu", "mps"):  # the latter has no float64
            found = _highest_numpy([level.cpu().numpy() for level in rows], self.n_clusters, self.n_iter + 1)
            return [torch.from_numpy(region).to(device) for region in found]
        return _highest_torch(rows, self.n_clusters, self.n_iter + 1)


def as_rows(points: Tensor) -> Tensor:
    """Check points ``[P, D]`` or ``[M, P, D]`` and return them as float32 ``[M, P, D]`` without a gradient."""
    if not isinstance(points, Tensor) or points.is_complex():
        kind = points.dtype if isinstance(points, Tensor) else type(points).__name__
        raise TypeError(f"`points` must be a real tensor, got {kind}")
    if points.ndim not in (2, 3) or points.shape[-1] == 0:
        raise ValueError(f"`points` must be [P, D] or [M, P, D] with D at least 1, got shape {tuple(points.shape)}")
    rows = points.detach().to(torch.float32)
    return rows if rows.ndim == 3 else rows[None]


def starting_labels(points: Tensor, n_clusters: int) -> Tensor:
    """Clusters of the quantile centres by the first column alone: ``[M, P, D]`` -> ``[M, P]``; -1 where not finite."""
    values = points[..., 0].masked_fill(~points.isfinite().all(-1), torch.nan)
    return _label_values(values, n_clusters, 0)


def _label_values(values: Tensor, n_clusters: int, n_rounds: int) -> Tensor:
    """Labels ``[M, P]`` of values ``[M, P]`` after `n_rounds` times (mean, reassign) from the quantile centres."""
    if values.numel() == 0:
        return values.new_empty(values.shape, dtype=torch.int64)
    if values.device.type == "cpu":
        return torch.from_numpy(_label_values_numpy(values.numpy(), n_clusters, n_rounds))
    return _label_values_torch(values, n_clusters, n_rounds)


def _label_values_numpy(values: Array, n_clusters: int, n_rounds: int) -> Array:
    finite, borders = _borders_numpy(values, n_clusters, n_rounds)
    # in one byte if it can: to count is the dearest step of a large batch
    labels = np.zeros(values.shape, np.min_scalar_type(n_clusters))
    for border in borders:
        labels += values >= border[:, None]
    return np.where(finite, labels, np.int64(-1))


def _label_values_torch(values: Tensor, n_clusters: int, n_rounds: int) -> Tensor:
    finite, borders = _borders_torch(values, n_clusters, n_rounds)
    labels: Tensor = (values >= borders[:, :, None]).sum(0)
    return labels.masked_fill(~finite, -1)


def _borders_numpy(values: Array, n_clusters: int, n_rounds: int) -> tuple[Array, Array]:
    """Which values are finite, and the borders of `_sorted_lloyd`."""
    finite = np.isfinite(values)
    flat = values[finite]  # [S], rows of different lengths end to end
    count = np.count_nonzero(finite, axis=1)
    start = 0
    for stop in np.cumsum(count).tolist():
        flat[start:stop].sort()
        start = stop
    return finite, _lloyd_numpy(flat, count, n_clusters, n_rounds)


def _lloyd_numpy(flat: Array, count: Array, n_clusters: int, n_rounds: int) -> Array:
    """The borders of `_sorted_lloyd` for rows of `count` sorted values, end to end."""
    if flat.size == 0:
        return np.full((n_clusters - 1, len(count)), np.inf)
    end = np.cumsum(count)
    first = np.minimum(end - count, flat.size - 1)  # a last row without values would start beyond the end
    row = np.repeat(np.arange(len(count)), count)
    with np.errstate(divide="ignore", invalid="ignore"):  # maps of one value, clusters without one: masked out
        borders: Array = _sorted_lloyd(np, flat, row, first, end, np.arange(1, 2 * n_clusters, 2), n_rounds)
    return borders


def _highest_numpy(levels: Sequence[Array], n_clusters: int, n_rounds: int) -> list[Array]:
    """`KMeans.highest`. Few calls: at the size of saliency maps they are what takes the time."""
    scaled, whole, parts, counts = [], [], [], []
    for level in levels:
        with np.errstate(over="ignore", invalid="ignore"):  # a span beyond float32: what has no place becomes NaN
            low, high = level.min(1), level.max(1)  # [N]
            clean = bool(np.isfinite(high - low).all())
            if not clean:
                finite = np.isfinite(level)
                low, high = np.where(finite, level, np.inf).min(1), np.where(finite, level, -np.inf).max(1)
                level = np.where(finite, level, np.nan)
            span = high - low
            level = (level - low[:, None]) / np.where(span > 0, span, np.float32(1))[:, None]
        whole.append(span <= 0)
        scaled.append(level)
        ordered = np.sort(level, axis=1)  # NaN comes last
        placed = None if clean else np.isfinite(ordered)
        counts.append(np.full(len(level), level.shape[1]) if placed is None else placed.sum(1))
        parts.append(ordered.ravel() if placed is None else ordered[placed])
    borders = _lloyd_numpy(np.concatenate(parts), np.concatenate(counts), n_clusters, n_rounds)
    tops = np.where(np.isfinite(borders), borders, -np.inf).max(0, initial=-np.inf).reshape(len(levels), -1, 1)
    return [(level >= top) | flat[:, None] for level, top, flat in zip(scaled, tops, whole, strict=True)]


def _highest_torch(levels: Sequence[Tensor], n_clusters: int, n_rounds: int) -> list[Tensor]:
    """The same on an accelerator: levels of different sizes are rows of equal length, padded with NaN."""
    longest = max(level.shape[1] for level in levels)
    rows = torch.cat([F.pad(level, (0, longest - level.shape[1]), value=torch.nan) for level in levels])
    values = normalize_maps(rows[:, None])[:, 0]
    finite, borders = _borders_torch(values, n_clusters, n_rounds)
    region = finite
    if len(borders):
        region = finite & (values >= torch.where(borders.isfinite(), borders, -torch.inf).amax(0)[:, None])
    region = region | (values.nan_to_num(0.0).amax(1, keepdim=True) <= 0)  # the greatest value of any other map is 1
    split = region.reshape(len(levels), -1, longest).unbind(0)
    return [r[:, : level.shape[1]] for r, level in zip(split, levels, strict=True)]


def _borders_torch(values: Tensor, n_clusters: int, n_rounds: int) -> tuple[Tensor, Tensor]:
    """The same without a look at a value on the host: every row keeps its P places, infinity fills the unused ones."""
    n_rows, n_points = values.shape
    finite = values.isfinite()
    flat = values.masked_fill(~finite, torch.inf).sort(-1).values.flatten()  # [S] = [M * P]
    first = torch.arange(n_rows, device=values.device) * n_points
    row = torch.arange(len(flat), device=values.device) // n_points
    odd = torch.arange(1, 2 * n_clusters, 2, device=values.device)
    return finite, _sorted_lloyd(torch, flat, row, first, first + finite.sum(-1), odd, n_rounds)


def _sorted_lloyd(xp: Any, values: Any, row: Any, first: Any, end: Any, odd: Any, n_rounds: int) -> Any:
    """Lowest value of each cluster above the first, ``[k - 1, M]``; infinity where there is no such cluster.

    Args:
        xp: numpy or torch, the library of all the arrays.
        values: float32 [S], the rows one after the other, each ascending.
        row: int64 [S], the row of each value.
        first: int64 [M], where the values of a row start.
        end: int64 [M], where they end; only infinities may follow before the next row.
        odd: int64 [k], 1, 3, 5, ...: the numerators of the quantiles.
        n_rounds: how often to take the means and reassign, after the assignment to the quantiles.
    """
    low, high = values[first], values[xp.maximum(end - 1, first)]  # [M]
    span = xp.asarray(high, dtype=xp.float64) - low
    scale = xp.where(span > 0, GRID / span, 0.0)
    grid = xp.round((xp.asarray(values, dtype=xp.float64) - low[row]) * scale[row])
    grid = xp.where(grid <= GRID, grid, GRID + 1)  # infinities stay behind the values of their row
    offset = xp.asarray(row, dtype=xp.float64) * (2 * GRID)  # sets the rows apart, so that one search serves them all
    keys, base = grid + offset, offset[first]
    sums = xp.cumsum(xp.asarray(grid, dtype=xp.int64), 0)
    sums = xp.concatenate((sums[:1] * 0, sums))  # [S + 1], of all values before

    centres = keys[_quantiles(xp, keys, first, end, odd)] - base  # [k, M], ascending
    lower, upper = centres[:-1], centres[1:]

    def search() -> Any:  # a cluster starts behind the midpoint to the centre below; grid values are whole
        return xp.searchsorted(keys, xp.floor((lower + upper) * 0.5) + base, side="right")

    edges = xp.concatenate((first[None], search(), end[None]))  # [k + 1, M]
    start, inner, stop = edges[:-1], edges[1:-1], edges[1:]  # views, as are `lower` and `upper`
    for _ in range(n_rounds):
        sizes, total = stop - start, sums.take(edges)
        if xp is np:  # a round is nothing but the overhead of its calls
            np.divide(total[1:] - total[:-1], sizes, out=centres, where=sizes > 0)
        else:
            means = (total[1:] - total[:-1]) / sizes.to(xp.float64)
            centres[:] = xp.where(sizes > 0, means, centres)
        found = search()
        if xp is np and found.tobytes() == inner.tobytes():
            break
        inner[:] = found
    exists = (start[:-1] < inner) & (inner < end)
    return xp.where(exists, values[xp.minimum(inner, end - 1)], xp.inf)


def _quantiles(xp: Any, keys: Any, first: Any, end: Any, odd: Any) -> Any:
    """Where the quantiles of the distinct values of each row stand: ``[k, M]``."""
    rank = xp.cumsum(xp.concatenate((keys[:1] < keys[:1], keys[:-1] < keys[1:])), 0)  # counts distinct values
    lowest = rank[first]
    n_distinct = rank[xp.maximum(end - 1, first)] - lowest + 1
    return xp.searchsorted(rank, lowest + n_distinct * odd[:, None] // (2 * len(odd)))


def _label_points(points: Tensor, labels: Tensor, n_clusters: int, n_rounds: int) -> Tensor:
    """Labels ``[M, P]`` of points ``[M, P, D]`` after `n_rounds` times (mean, reassign) from `labels`."""
    if labels.numel() == 0:
        return labels
    finite = labels >= 0
    x = to_grid(points, finite)
    centres = x.new_full((len(x), n_clusters, x.shape[-1]), torch.inf)  # a cluster that never had a point draws none
    numbers = torch.arange(n_clusters, device=x.device)
    for _ in range(n_rounds):
        sizes, means = _sizes_and_means(x, labels, numbers)
        centres = torch.where(sizes > 0, means, centres)
        columns = range(x.shape[-1])  # one after the other: a sum whose order no device and no batch size can change
        distance = sum(((x[:, :, None, d] - centres[:, None, :, d]).square() for d in columns), x.new_zeros(()))
        before, labels = labels, torch.where(finite, distance.argmin(-1), -1)
        if x.device.type == "cpu" and torch.equal(before, labels):
            break
    sizes, means = _sizes_and_means(x, labels, numbers)
    order = torch.where(sizes > 0, means, torch.inf)[:, :, 0].argsort(dim=-1, stable=True).argsort(-1)
    return torch.where(finite, order.gather(1, labels.clamp(min=0)), -1)


def _sizes_and_means(points: Tensor, labels: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Sizes ``[M, k, 1]`` and means ``[M, k, D]`` of the clusters `numbers`; the mean of an empty one is NaN."""
    member = (labels[:, :, None] == numbers).double()  # [M, P, k]
    sizes = member.sum(1)[:, :, None]
    return sizes, member.mT @ points / sizes


def to_grid(points: Tensor, finite: Tensor) -> Tensor:
    """Whole numbers from 0 to at most 2**32, float64, same scale in every column; 0 where not finite."""
    keep = finite[:, :, None]
    x = points.double()
    low = x.masked_fill(~keep, torch.inf).amin(1, keepdim=True)
    high = x.masked_fill(~keep, -torch.inf).amax(1, keepdim=True)
    span = (high - low).amax(-1, keepdim=True)
    return torch.where(keep, ((x - low) * torch.where(span > 0, GRID / span, 0.0)).round(), 0.0)
