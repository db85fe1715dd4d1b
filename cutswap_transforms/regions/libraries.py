"""Adapters: the k-means of scikit-learn and OpenCV with the arguments and the start of the default one."""

from __future__ import annotations

import functools
import importlib
import sys
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from ..arrays import Array
from .kmeans import KMeans

Points = npt.NDArray[np.float32]  # [P, D], finite
Labels = npt.NDArray[np.int64]  # [P]


class LibraryKMeans(KMeans):
    """k-means of another library on the CPU, one map at a time, from the start of :class:`KMeans`."""

    extra: ClassVar[str]  # also the name of the backend
    module: ClassVar[str]
    install: ClassVar[str]  # the end of a message

    def __post_init__(self, union: bool | None) -> None:
        super().__post_init__(union)
        self._library()  # report a missing extra at construction, not in a loader worker

    @property
    def fingerprint(self) -> str:
        return f"{super().fingerprint} {self.module} {self._library().__version__}"

    def _library(self) -> Any:
        try:
            return importlib.import_module(self.module)
        except ImportError as error:
            raise ImportError(f'`clustering="{self.extra}"` needs {self.module}: {self.install}') from error

    def _partition(self, x: Array, finite: Array, start: Array) -> Array:
        if isinstance(x, Tensor):
            on_host = self._partition(x.cpu().numpy(), finite.cpu().numpy(), start.cpu().numpy())
            return torch.from_numpy(on_host).to(x.device)
        labels: Array = start.copy()
        for points, keep, label in zip(x, finite, labels, strict=True):
            clusters, first = np.unique(label[keep], return_inverse=True)
            if len(clusters) > 1:
                centers = np.stack([points[keep][first == j].mean(0) for j in range(len(clusters))])
                with one_thread_in_workers():
                    label[keep] = self._fit(points[keep], first, centers)
        return labels

    def _fit(self, points: Points, start: Labels, centers: Points) -> Labels:
        raise NotImplementedError


class SklearnKMeans(LibraryKMeans):
    """:class:`sklearn.cluster.KMeans` with the start of :class:`KMeans`; it draws no random numbers."""

    extra, module = "sklearn", "sklearn"
    install = 'pip install "cutswap-transforms[sklearn]"'

    def _fit(self, points: Points, start: Labels, centers: Points) -> Labels:
        kmeans = importlib.import_module("sklearn.cluster").KMeans(
            len(centers), init=centers, n_init=1, max_iter=self.n_iter, tol=0, random_state=0
        )
        with warnings.catch_warnings():  # fewer distinct points than clusters is a valid case
            warnings.simplefilter("ignore", importlib.import_module("sklearn.exceptions").ConvergenceWarning)
            labels: Labels = kmeans.fit_predict(points)
            return labels


class OpenCVKMeans(LibraryKMeans):
    """:func:`cv2.kmeans` from the starting labels of :class:`KMeans`, one attempt; it draws no random numbers."""

    extra, module = "opencv", "cv2"
    install = (
        'pip install "cutswap-transforms[opencv]", or "cutswap-transforms[opencv-headless]" beside packages that bring the '
        "headless build"
    )

    def _fit(self, points: Points, start: Labels, centers: Points) -> Labels:
        cv2 = self._library()
        # cv2 needs two rounds more than `lloyd`: the first computes the centers, the last moves no label.
        criteria = (cv2.TERM_CRITERIA_COUNT, self.n_iter + 2, 0.0)
        initial, k = start.astype(np.int32)[:, None], len(centers)
        # Its thread count is not set: in a forked worker that may wait for threads lost in the fork.
        result = cv2.kmeans(points, k, initial, criteria, 1, cv2.KMEANS_USE_INITIAL_LABELS)
        labels: Labels = result[1][:, 0]
        return labels


def one_thread_in_workers() -> AbstractContextManager[Any]:
    """Limit OpenMP and BLAS to one thread in a DataLoader worker: workers are parallel already, and GNU OpenMP may hang
    in a forked child whose parent has used it."""
    if get_worker_info() is None or "sklearn" not in sys.modules:
        return nullcontext()
    limit: AbstractContextManager[Any] = _thread_pools().limit(limits=1)
    return limit


@functools.cache
def _thread_pools() -> Any:
    """Searching the pools takes milliseconds, so it is done once per process; scikit-learn needs threadpoolctl."""
    return importlib.import_module("threadpoolctl").ThreadpoolController()
