"""Every clustering backend, points for it, and the state of a process that it must leave alone."""

from __future__ import annotations

import contextlib
import random

import cv2
import numpy as np
import sklearn.cluster
import torch
from threadpoolctl import ThreadpoolController

from cutswap_transforms import KMeans
from cutswap_transforms.regions.clustering import label_cells
from cutswap_transforms.regions.libraries import OpenCVKMeans, SklearnKMeans

NAN, INF = float("nan"), float("inf")


def thirds(points):
    """A user's callable: three fixed ranges of saliency."""
    return (points[:, 0] * 3).long().clamp(0, 2)


K_MEANS = {"kmeans": KMeans, "sklearn": SklearnKMeans, "opencv": OpenCVKMeans}
SPECS = {name: name for name in K_MEANS} | {
    "dbscan": sklearn.cluster.DBSCAN(eps=0.05, min_samples=2),
    "callable": thirds,
    "object": KMeans(4, saliency_weight=2.0, color=False, n_iter=7),
}


def points_of(*shape, seed=0):
    """Points in [0, 1]; the first column as saliency: many zeros, a long tail."""
    points = torch.rand(*shape, generator=torch.Generator().manual_seed(seed))
    points[..., 0] = ((points[..., 0] - 0.4).clamp(min=0) / 0.6).square()
    return points


def labels_of(backend, points):
    return label_cells(backend, points)[0]


@contextlib.contextmanager
def two_opencv_threads():
    n_threads = cv2.getNumThreads()
    cv2.setNumThreads(2)
    try:
        yield
    finally:
        cv2.setNumThreads(n_threads)


def global_state():
    """Random generators and thread counts of the process, less OpenCV's generator, which cannot be read."""
    kind, keys, *rest = np.random.get_state()
    pools = {pool["filepath"]: pool["num_threads"] for pool in ThreadpoolController().info()}
    generators = [kind, keys.tolist(), rest, random.getstate(), torch.get_rng_state().tolist()]
    return [*generators, pools, torch.get_num_threads(), cv2.getNumThreads()]
