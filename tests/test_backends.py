"""One contract for every clustering backend: labels, noise, threads, workers, and what `clustering` may be."""

from __future__ import annotations

import sys

import cv2
import numpy as np
import pytest
import sklearn.cluster
import torch
from helpers.clustering import INF, K_MEANS, NAN, SPECS, global_state, labels_of, points_of, two_opencv_threads
from threadpoolctl import ThreadpoolController
from torch.utils.data import DataLoader

from cutswap_transforms import KMeans
from cutswap_transforms.regions import libraries
from cutswap_transforms.regions.cells import salient_regions
from cutswap_transforms.regions.choose import salient_points
from cutswap_transforms.regions.clustering import label_cells, resolve_clustering


@pytest.fixture(params=SPECS.values(), ids=SPECS.keys())
def backend(request):
    return resolve_clustering(request.param)


# ---- the contract -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [4, 1])
def test_one_label_per_point_the_same_again_and_for_a_batch_as_for_a_loop(backend, columns):
    points = torch.stack([points_of(53, columns, seed=seed) for seed in range(3)])
    points[..., 1:] = points[..., 1:].round()  # the other columns fall apart by themselves
    points[1, 40:] = NAN
    before = points.clone()
    labels, k = label_cells(backend, points)
    assert labels.shape == (3, 53) and labels.dtype == torch.int64
    assert labels.min() >= -1 and labels.max() < k and all(len(row.unique()) > 1 for row in labels)
    assert torch.equal(points.nan_to_num(9), before.nan_to_num(9)), "the points were changed"
    assert torch.equal(labels_of(backend, points.clone().requires_grad_()), labels)
    alone = torch.cat([labels_of(backend, row[None]) for row in points])
    assert torch.equal(alone, labels)
    with torch.inference_mode():
        assert torch.equal(labels_of(backend, points * 1), labels)


@pytest.mark.parametrize("value", [0.0, 0.7, 1.0])
def test_constant_points_share_a_cluster(backend, value):
    labels = labels_of(backend, torch.full((1, 35, 4), value))
    assert len(labels.unique()) == 1 and labels[0, 0] >= 0


@pytest.mark.parametrize("count", [0, 1, 2])
def test_fewer_points_than_clusters(backend, count):
    labels = labels_of(backend, torch.tensor([[[0.9] * 4, [0.1] * 4]])[:, :count])
    assert labels.shape == (1, count) and set(labels.flatten().tolist()) <= {-1, 0, 1, 2, 3}


def test_points_that_are_not_finite_are_noise_and_change_nothing(backend):
    points = points_of(1, 60, 4)
    holes = torch.zeros(1, 3, 4)
    holes[0, 0, 0], holes[0, 1, 0], holes[0, 2, 0] = NAN, INF, -INF
    labels = labels_of(backend, torch.cat((points[:, :20], holes, points[:, 20:]), 1))
    assert labels[0, 20:23].tolist() == [-1, -1, -1]
    assert torch.equal(torch.cat((labels[:, :20], labels[:, 23:]), 1), labels_of(backend, points))
    assert (labels_of(backend, torch.full((2, 7, 4), NAN)) == -1).all()


def test_random_numbers_and_threads_are_left_alone(backend):
    def opencv_draw():
        return cv2.randu(np.zeros(8, np.uint8), 0, 255).tolist()

    points = points_of(3, 97, 4)
    labels_of(backend, points)  # what a library sets up at its first use is its own business
    with two_opencv_threads():
        cv2.setRNGSeed(7)
        drawn = opencv_draw()
        cv2.setRNGSeed(7)
        before = global_state()
        labels_of(backend, points)
        assert global_state() == before and opencv_draw() == drawn


# ---- the default and the libraries --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sklearn", "opencv"])
@pytest.mark.parametrize("n_points", [5, 64, 576])
def test_the_libraries_agree_with_the_default(name, n_points):
    """The regions are those of the default where all have converged; between two rounds the libraries stop elsewhere."""
    points = points_of(4, n_points, 4, seed=n_points)
    for n_clusters in (2, 3):
        ours, theirs = KMeans(n_clusters, n_iter=90)(points), K_MEANS[name](n_clusters, n_iter=90)(points)
        same = (salient_points(points[..., 0].numpy(), x.numpy(), n_clusters, "salient") for x in (ours, theirs))
        assert np.mean(np.equal(*same)) == 1.0


# ---- what the argument may be -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "error", "sentence"),
    [
        ("kmean", ValueError, "must be one of 'kmeans', 'sklearn', 'opencv', got 'kmean'; did you mean 'kmeans'"),
        ("xyz", ValueError, "`clustering` must be one of 'kmeans', 'sklearn', 'opencv', got 'xyz'$"),
        (sklearn.cluster.DBSCAN, TypeError, r"must be an object, got the class DBSCAN; pass DBSCAN\(\)"),
        (4, TypeError, "must be a name, a callable or an object with `fit_predict`, got 4"),
    ],
)
def test_other_things_are_refused(spec, error, sentence):
    with pytest.raises(error, match=sentence):
        resolve_clustering(spec)


@pytest.mark.parametrize(
    ("name", "module", "command"),
    [
        ("sklearn", "sklearn", r'pip install "cutswap-transforms\[sklearn\]"'),
        ("opencv", "cv2", r'pip install "cutswap-transforms\[opencv\]", or "cutswap-transforms\[opencv-headless\]"'),
    ],
)
def test_a_missing_extra_names_its_command(monkeypatch, name, module, command):
    monkeypatch.setitem(sys.modules, module, None)  # what Python does with a module that must not be found
    with pytest.raises(ImportError, match=command):
        resolve_clustering(name)


def test_noise_of_a_users_backend_stays_noise_and_its_numbers_do_not_matter():
    points = torch.tensor([0.0, 0.01, 0.02, 0.5, 0.98, 0.99, 1.0])[None, :, None]
    estimator = sklearn.cluster.DBSCAN(eps=0.05, min_samples=2)
    assert labels_of(estimator, points).tolist() == [[0, 0, 0, -1, 1, 1, 1]]
    assert not hasattr(estimator, "labels_")  # the user's object is never fitted
    for kind in (list, np.array, lambda x: torch.tensor(x, dtype=torch.int32)):
        labels, k = label_cells(lambda p, kind=kind: kind([-3, 10**9, 5]), torch.zeros(1, 3, 4))
        assert labels.tolist() == [[-1, 1, 0]] and k == 2 and labels.dtype == torch.int64


def test_a_subclass_of_the_kmeans_is_called_for_its_own_labels():
    class Lowest(KMeans):
        def __call__(self, points):
            assert points.ndim == 2
            labels = super().__call__(points)
            return torch.where(labels == labels.max(), -1, labels)

    values = torch.tensor([[[0.0, 0.5, 0.5, 1.0]]]).reshape(1, 2, 2)
    region = salient_regions([values], torch.zeros(1, 3, 2, 2, dtype=torch.uint8), Lowest(3), 2, region="top")
    assert region.tolist() == [[[[False, True], [True, False]]]]


@pytest.mark.parametrize(
    ("clustering", "error", "sentence"),
    [
        (lambda points: points[:, 0], TypeError, r"`clustering` must return integer labels, got torch\.float32 from <function"),
        (lambda points: None, TypeError, "`clustering` must return integer labels, got object from <function"),
        (
            lambda points: points.long(),
            ValueError,
            r"must return one label per point, shape \(5,\), got \(5, 4\) from <function",
        ),
    ],
)
def test_labels_are_checked(clustering, error, sentence):
    with pytest.raises(error, match=sentence):
        label_cells(clustering, points_of(1, 5, 4))


def test_libraries_use_one_thread_in_workers_and_give_the_others_back(monkeypatch):
    seen = {}

    def spy(owner, name, key, threads):
        original = getattr(owner, name)

        def watched(*args, **kwargs):
            seen[key] = threads()
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, watched)

    def pools():
        return {pool["num_threads"] for pool in ThreadpoolController().info()}

    spy(sklearn.cluster.KMeans, "fit_predict", "sklearn", pools)
    spy(sklearn.cluster.DBSCAN, "fit_predict", "dbscan", pools)
    with two_opencv_threads(), ThreadpoolController().limit(limits=2):
        before = global_state()
        for worker_info in (None, object()):
            monkeypatch.setattr(libraries, "get_worker_info", lambda info=worker_info: info)
            for spec in ("sklearn", sklearn.cluster.DBSCAN()):
                labels_of(resolve_clustering(spec), points_of(1, 97, 4))
            assert (seen == {"sklearn": {1}, "dbscan": {1}}) is (worker_info is not None)
            assert global_state() == before


def test_forked_workers_give_the_labels_of_the_parent():
    """Also of a parent that has used OpenCV's threads, which a fork loses."""
    with two_opencv_threads():
        cv2.GaussianBlur(np.zeros((4000, 4000), np.uint8), (5, 5), 0)
        forked_workers_agree()


def forked_workers_agree():
    dataset = [points_of(1, 97, 4, seed=seed) for seed in range(3)]
    for spec in K_MEANS:
        cluster = resolve_clustering(spec)
        expected = torch.cat([labels_of(cluster, points) for points in dataset])  # the parent has used its threads by then
        loader = DataLoader(
            dataset, num_workers=1, collate_fn=lambda b, c=cluster: labels_of(c, b[0]), multiprocessing_context="fork"
        )
        assert torch.equal(torch.cat(list(loader)), expected)
