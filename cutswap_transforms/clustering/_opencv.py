"""k-means of OpenCV (extra `opencv` or `opencv-headless`; any `cv2` serves)."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch.utils.data import get_worker_info

from ._library import LibraryKMeans

MAX_ROUNDS = 98  # cv2.kmeans does at most 100; the first makes the starting centres, the last moves no label


class OpenCVKMeans(LibraryKMeans):
    """:func:`cv2.kmeans` from the quantile clusters of :class:`KMeans`: no random numbers, one attempt, float32 sums.

    Takes the arguments of :class:`KMeans`, `n_iter` up to 98. In a DataLoader worker it uses one thread.

    Raises:
        ImportError: if no ``cv2`` can be imported.
        ValueError: if `n_iter` is more than 98.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_iter > MAX_ROUNDS:
            raise ValueError(f"`n_iter` must be at most {MAX_ROUNDS} with OpenCV, got {self.n_iter}")

    def _library(self) -> Any:
        try:
            return importlib.import_module("cv2")
        except ImportError as error:
            raise ImportError(
                '`clustering="opencv"` needs OpenCV: pip install "cutswap-transforms[opencv]", '
                'or "cutswap-transforms[opencv-headless]" beside packages that bring the headless build'
            ) from error

    def _partition(self, points: np.ndarray[Any, Any], start: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        cv2 = self._library()
        criteria = (cv2.TERM_CRITERIA_COUNT, self.n_iter + 2, 0.0)  # see MAX_ROUNDS for the 2
        n_clusters, initial = int(start.max()) + 1, start.astype(np.int32)[:, None]
        with _one_thread_in_workers(cv2):
            _, labels, _ = cv2.kmeans(
                points.astype(np.float32), n_clusters, initial, criteria, 1, cv2.KMEANS_USE_INITIAL_LABELS
            )
        flat: np.ndarray[Any, Any] = labels[:, 0]
        return flat


@contextmanager
def _one_thread_in_workers(cv2: Any) -> Iterator[None]:
    """Workers are parallel already, and OpenCV's thread pool does not survive a fork."""
    n_threads = cv2.getNumThreads()
    if get_worker_info() is None or n_threads == 1:
        yield
        return
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(n_threads)
