"""k-means of scikit-learn (extra `sklearn`)."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import numpy as np

from ._backend import one_thread_in_workers
from ._library import LibraryKMeans, cluster_means


class SklearnKMeans(LibraryKMeans):
    """:class:`sklearn.cluster.KMeans` from the quantile centres of :class:`KMeans`: no random numbers, one start.

    Takes the arguments of :class:`KMeans`. In a DataLoader worker it uses one thread.

    Raises:
        ImportError: if scikit-learn is missing.
    """

    def _library(self) -> Any:
        try:
            return importlib.import_module("sklearn")
        except ImportError as error:
            raise ImportError('`clustering="sklearn"` needs scikit-learn: pip install "cutswap-transforms[sklearn]"') from error

    def _partition(self, points: np.ndarray[Any, Any], start: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        cluster = importlib.import_module("sklearn.cluster")
        exceptions = importlib.import_module("sklearn.exceptions")
        centres = cluster_means(points, start)
        # tol=0 as in KMeans; random_state keeps it from asking for NumPy's global generator
        kmeans = cluster.KMeans(len(centres), init=centres, n_init=1, max_iter=self.n_iter, tol=0, random_state=0)
        with one_thread_in_workers(), warnings.catch_warnings():
            # two values nearer to each other than its rounding are one cluster to it: a result, not a fault
            warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
            labels: np.ndarray[Any, Any] = kmeans.fit_predict(points)
        return labels
