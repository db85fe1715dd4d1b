"""Clustering of the cells of an image: one contract for the default k-means and for user backends.

The contract is `points [P, D] -> labels [P]`: float32 points, integer labels, -1 for noise. The columns are saliency in
[0, 1] and three opponent colors; a backend that only needs saliency takes the first column.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, TypeGuard

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..arrays import Array
from .kmeans import KMeans
from .libraries import OpenCVKMeans, SklearnKMeans, one_thread_in_workers

Labels: TypeAlias = Tensor | npt.NDArray[np.integer[Any] | np.bool_] | Sequence[int]  # [P]


class FitPredict(Protocol):
    """A scikit-learn clusterer: points float32 [P, 4] -> labels [P]. It is copied before each fit."""

    def fit_predict(self, points: npt.NDArray[Any], /) -> Labels: ...


Clustering: TypeAlias = Callable[[Tensor], Labels] | FitPredict  # points [P, 4] -> labels [P]
ClusteringLike: TypeAlias = str | Clustering
_NAMES: dict[str, type[KMeans]] = {"kmeans": KMeans, "sklearn": SklearnKMeans, "opencv": OpenCVKMeans}


def resolve_clustering(clustering: ClusteringLike) -> Clustering:
    """The backend that the argument specifies: a name, a callable `points [P, D] -> labels [P]`, or an object with
    `fit_predict`.

    Raises:
        TypeError: none of these.
        ValueError: an unknown name.
        ImportError: the extra with that name is not installed.
    """
    if isinstance(clustering, str):
        if clustering not in _NAMES:
            near = difflib.get_close_matches(clustering, _NAMES)
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise ValueError(f"`clustering` must be one of {', '.join(map(repr, _NAMES))}, got {clustering!r}{hint}")
        return _NAMES[clustering]()
    if isinstance(clustering, type):
        name = clustering.__name__
        raise TypeError(f"`clustering` must be an object, got the class {name}; pass {name}()")
    if not callable(clustering) and not hasattr(clustering, "fit_predict"):
        raise TypeError(f"`clustering` must be a name, a callable or an object with `fit_predict`, got {clustering!r}")
    return clustering


def is_built_in(clustering: object) -> TypeGuard[KMeans]:
    """True for the backends with a name: they label all maps of a batch at once, and their fingerprints are complete. A
    user's subclass is not one, because it may compute something else."""
    return type(clustering) in _NAMES.values()


def label_cells(clustering: Clustering, points: Array) -> tuple[Array, int]:
    """Labels int64 [M, P] of the points [M, P, D] of M maps, 0 to k - 1 or -1 for noise, and k; same library as the points.

    A user backend gets the finite points of one map at a time, as a tensor. An object with `fit_predict` gets NumPy
    points and is never fitted itself: each map fits a copy.

    Raises:
        TypeError: labels that are not integers.
        ValueError: not one label per point.
    """
    points = points.detach() if isinstance(points, Tensor) else points
    if is_built_in(clustering):
        return clustering.label(points), clustering.n_clusters
    given = points if isinstance(points, Tensor) else torch.from_numpy(points)
    labels = torch.full(given.shape[:-1], -1, dtype=torch.int64, device=given.device)
    most = 1
    for row, label in zip(given, labels, strict=True):
        keep = row.isfinite().all(-1)
        if not keep.any():
            continue
        assigned = _labels_of(clustering, row[keep])
        names, dense = torch.unique(assigned[assigned >= 0], return_inverse=True)  # user backends may number clusters freely
        label[keep] = assigned.masked_scatter(assigned >= 0, dense).clamp(min=-1)
        most = max(most, len(names))
    return labels if isinstance(points, Tensor) else labels.numpy(), most


def _labels_of(clustering: Clustering, points: Tensor) -> Tensor:
    if callable(clustering):
        output = clustering(points)
    else:
        with one_thread_in_workers():
            output = copy.deepcopy(clustering).fit_predict(points.cpu().numpy())
    array = output if isinstance(output, Tensor) else np.asarray(output)
    if not isinstance(array, Tensor) and array.dtype.kind not in "biu":
        raise TypeError(f"`clustering` must return integer labels, got {array.dtype} from {clustering!r}")
    labels = torch.as_tensor(array, device=points.device)
    if labels.is_floating_point() or labels.is_complex():
        raise TypeError(f"`clustering` must return integer labels, got {labels.dtype} from {clustering!r}")
    if labels.shape != points.shape[:-1]:
        shapes = f"shape {tuple(points.shape[:-1])}, got {tuple(labels.shape)}"
        raise ValueError(f"`clustering` must return one label per point, {shapes} from {clustering!r}")
    return labels.to(torch.int64)
