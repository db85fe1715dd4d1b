"""K-means: equal to a reference by loops, alike in NumPy and torch, ties and empty clusters, arguments, fingerprints."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import sklearn.cluster
import torch
from helpers.clustering import INF, K_MEANS, NAN, points_of
from hypothesis import given
from hypothesis import strategies as st

from cutswap_transforms import KMeans
from cutswap_transforms.regions import kmeans
from cutswap_transforms.regions.choose import REGIONS, salient_points
from cutswap_transforms.regions.clustering import resolve_clustering
from cutswap_transforms.regions.libraries import OpenCVKMeans, SklearnKMeans


def reference_k_means(points, n_clusters, n_iter, weight):
    """Lloyd's algorithm by loops over clusters and points, in Python's float64."""
    saliency = [p[0] for p in points]
    labels = [min(int(value * n_clusters), n_clusters - 1) for value in saliency]
    points = [(p[0] * weight, *p[1:]) for p in points]
    for _ in range(n_iter):
        centres = {}
        for j in set(labels):
            members = [p for p, label in zip(points, labels, strict=True) if label == j]
            centres[j] = [sum(column) / len(members) for column in zip(*members, strict=True)]
        distances = [{j: sum((a - b) ** 2 for a, b in zip(p, c, strict=True)) for j, c in centres.items()} for p in points]
        labels = [min(sorted(d), key=d.get) for d in distances]
    return labels


@pytest.mark.parametrize("n_clusters", [1, 2, 3, 7])
@pytest.mark.parametrize(("n_iter", "columns", "weight"), [(1, 4, 0.5), (3, 1, 1.0), (10, 4, 0.5), (40, 4, 2.0)])
def test_kmeans_equals_the_reference(n_clusters, n_iter, columns, weight):
    options = {"saliency_weight": weight, "n_iter": n_iter}
    for seed in range(3):
        points = points_of(83, columns, seed=seed)
        for color, seen in ((True, points), (False, points[:, :1])):
            expected = reference_k_means(seen.double().tolist(), n_clusters, n_iter, weight)
            assert KMeans(n_clusters, color=color, **options)(points).tolist() == expected


def test_rounding_errors_do_not_change_the_labels():
    points = points_of(8, 576, 4)
    points[:, 100:400, 0] = 0.3  # a plateau, as coarse maps have
    noisy = points.clone()
    noisy[..., 0] += 1e-7 * torch.randn(8, 576, generator=torch.Generator().manual_seed(1))
    assert (KMeans()(points) == KMeans()(noisy)).double().mean() > 0.999


def test_a_tie_goes_to_the_lower_cluster_and_an_empty_cluster_stays_empty():
    points, start = np.array([[[0.0], [2.0], [4.0], [2.0]]]), np.array([[0, 0, 1, 1]])  # the means are 1 and 3
    assert kmeans.lloyd(np, points, start, 2, 1).tolist() == [[0, 0, 1, 0]]
    assert KMeans(5)(torch.tensor([[0.0], [0.0], [1.0]])).tolist() == [0, 0, 4]


class Finite(np.ndarray):
    """Refuses a matrix product of anything that is not finite: some processors warn of it, where others are silent."""

    def __matmul__(self, other):
        assert np.isfinite(self).all() and np.isfinite(other).all()
        return super().__matmul__(other)


def test_an_empty_cluster_is_never_nearest_and_brings_no_inf_into_a_product():
    points = np.linspace(0, kmeans.LARGEST, 7, dtype="f4")[None, :, None].view(Finite)
    labels = kmeans.lloyd(np, points, np.array([[0, 0, 0, 2, 2, 2, 2]]), 4, 5)
    assert labels.tolist() == [[0, 0, 0, 2, 2, 2, 2]]
    assert kmeans.lloyd(np, points, np.full((1, 7), -1), 4, 5).tolist() == [[-1] * 7]


@given(
    st.lists(st.lists(st.sampled_from([NAN, INF, *(i / 16 for i in range(17))]), min_size=18, max_size=18), min_size=1),
    st.integers(1, 6),
)
def test_numpy_and_torch_do_the_same(rows, n_clusters):
    """Each point is shifted by its own small step: a tie between two means would be broken by rounding errors."""
    steps = torch.arange(18).reshape(9, 2) * 0.618 % 1
    points = torch.tensor(rows).reshape(-1, 9, 2) + 5e-4 * steps
    ours = KMeans(n_clusters, n_iter=1, saliency_weight=1.0)
    labels = [ours.label(points.numpy()), ours.label(points)]
    assert np.array_equal(labels[0], labels[1].numpy())
    for region in REGIONS:
        found = salient_points(points[..., 0].numpy(), labels[0], n_clusters, region)
        assert np.array_equal(found, salient_points(points[..., 0], labels[1], n_clusters, region).numpy())


@pytest.mark.parametrize("kind", K_MEANS.values())
@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"n_clusters": 0}, ValueError, "`n_clusters` must be at least 1, got 0"),
        ({"n_iter": -3}, ValueError, "`n_iter` must be at least 1, got -3"),
        ({"n_clusters": 4.0}, TypeError, r"`n_clusters` must be an int, got 4\.0"),
        ({"n_iter": True}, TypeError, "`n_iter` must be an int, got True"),
        ({"color": 1}, TypeError, "`color` must be True or False, got 1"),
        ({"saliency_weight": "1"}, TypeError, "`saliency_weight` must be a number, got '1'"),
        ({"saliency_weight": 0}, ValueError, "`saliency_weight` must be positive and finite, got 0"),
        ({"saliency_weight": INF}, ValueError, "`saliency_weight` must be positive and finite, got inf"),
    ],
)
def test_arguments_are_checked(kind, arguments, error, sentence):
    with pytest.raises(error, match=sentence):
        kind(**arguments)


@pytest.mark.parametrize("kind", K_MEANS.values())
def test_a_weight_may_be_as_large_or_small_as_numbers_are(kind):
    points = points_of(50, 4)
    by_saliency = kind(saliency_weight=1e9)(points)
    assert torch.equal(by_saliency, kind(saliency_weight=1e25)(points))
    assert torch.equal(by_saliency, kind(saliency_weight=1e300)(points))
    alone = kind(color=False)(points)
    assert torch.equal(alone, kind(color=False, saliency_weight=1e-30)(points))
    assert torch.equal(alone, kind(color=False, saliency_weight=1e30)(points))


def test_points_are_checked():
    for shape in ((), (5,), (1, 1, 5, 1), (5, 0)):
        with pytest.raises(ValueError, match=r"`points` must be \[P, D\] or \[M, P, D\] with D at least 1, got shape"):
            KMeans()(torch.zeros(shape))
    with pytest.raises(TypeError, match="`points` must be a real tensor, got ndarray"):
        KMeans()(np.zeros((5, 1)))
    with pytest.raises(TypeError, match=r"`points` must be a real tensor, got torch\.complex64"):
        KMeans()(torch.zeros(5, 1, dtype=torch.complex64))
    with pytest.raises(ValueError, match=r"`points` must not exceed 1e\+18, got 2e\+18; divide the columns by their spread"):
        KMeans()(torch.tensor([[0.5, -2e18], [0.1, 3.0]]))


@pytest.mark.parametrize("kind", K_MEANS.values())
@pytest.mark.parametrize(("low", "high"), [(-3.0, 0.5), (-0.01, 1.0), (0.0, 255.0), (-2.0, -1.0)])
def test_saliency_of_another_range_is_refused(kind, low, high):
    points = points_of(40, 4)
    points[:, 0] = torch.linspace(low, high, 40)
    sentence = r"`points` must have saliency in \[0, 1\] in the first column, got values from .* to .*; scale it by"
    for refused in (points, torch.stack((points_of(40, 4), points)), points[:, :1].double()):
        with pytest.raises(ValueError, match=sentence):
            kind()(refused)
    points[:, 0] = (points[:, 0] - low) / (high - low)
    points[0, 0], points[1, 0], points[2] = NAN, INF, torch.tensor([-5.0, NAN, 0, 0])  # noise has no saliency
    assert kind()(points)[:3].tolist() == [-1, -1, -1]


def test_a_kmeans_shows_its_arguments_and_each_choice_has_its_own_fingerprint():
    assert repr(KMeans(5)) == "KMeans(n_clusters=5, saliency_weight=0.5, color=True, n_iter=10)"
    assert KMeans(5) == KMeans(5) != SklearnKMeans(5)
    choices = [
        KMeans(),
        KMeans(3),
        KMeans(color=False),
        KMeans(n_iter=3),
        KMeans(saliency_weight=1),
        SklearnKMeans(),
        OpenCVKMeans(),
    ]
    assert len({choice.fingerprint for choice in choices}) == len(choices)
    assert KMeans().fingerprint == KMeans(4).fingerprint == resolve_clustering("kmeans").fingerprint
    assert sklearn.__version__ in SklearnKMeans().fingerprint and cv2.__version__ in OpenCVKMeans().fingerprint
