"""What the k-means of other libraries share: start, grid and numbering are those of the default one."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from ._kmeans import GRID, QuantileKMeans, as_rows, starting_labels, to_grid


class LibraryKMeans(QuantileKMeans):
    """k-means of another library, on the CPU, one set of points after the other, started as :class:`KMeans` is."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._library()  # a missing extra should show now, not in a loader worker

    @property
    def fingerprint(self) -> str:
        """As that of :class:`KMeans`, with the version of the library."""
        library = self._library()
        return f"{super().fingerprint} {library.__name__} {library.__version__}"

    def __call__(self, points: Tensor) -> Tensor:
        rows = as_rows(points).cpu()
        labels = starting_labels(rows, self.n_clusters)  # [M, P]
        if labels.numel():
            grid = (to_grid(rows, labels >= 0) / GRID).numpy()
            for row, label in zip(grid, labels.numpy(), strict=True):
                finite = label >= 0
                start = label[finite]
                if start.any():  # more than one cluster
                    label[finite] = _number_by_value(row[finite], self._partition(row[finite], start))
        return labels.reshape(points.shape[:-1]).to(points.device)

    def _library(self) -> Any:
        """The library, imported when first needed; ImportError with the command that installs it."""
        raise NotImplementedError

    def _partition(self, points: np.ndarray[Any, Any], start: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Labels [P] of float64 points [P, D] in [0, 1] after `n_iter` rounds from the means of clusters `start`."""
        raise NotImplementedError


def cluster_means(points: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Means ``[k, D]`` of points ``[P, D]`` in clusters 0 .. k - 1, none of them empty."""
    sums = [np.bincount(labels, column) for column in points.T]
    return np.stack(sums, axis=1) / np.bincount(labels)[:, None]


def _number_by_value(points: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Renumber labels 0, 1, ... in the order of the clusters' means in the first column."""
    labels = np.unique(labels, return_inverse=True)[1].ravel()
    order = cluster_means(points, labels)[:, 0].argsort(kind="stable")
    return order.argsort()[labels]
