"""Every clustering backend keeps one contract, and the k-means agree with each other and with a slow reference."""

from __future__ import annotations

import contextlib
import copy
import pickle
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import hypothesis
import numpy as np
import pytest
import sklearn.cluster
import torch
from hypothesis import strategies as st
from threadpoolctl import ThreadpoolController
from torch import Tensor
from torch.utils.data import DataLoader

from cutswap_transforms import functional
from cutswap_transforms.clustering import (
    KMeans,
    OpenCVKMeans,
    SklearnKMeans,
    _backend,
    _kmeans,
    _opencv,
    clustering_names,
    register_clustering,
    resolve_clustering,
)

NAN, INF = float("nan"), float("inf")
K_MEANS = {"kmeans": KMeans, "sklearn": SklearnKMeans, "opencv": OpenCVKMeans}


def thirds(points: Tensor) -> Tensor:
    """A user's callable: three fixed ranges of the value."""
    return (points[:, 0] * 3).long().clamp(0, 2)


SPECS: dict[str, Any] = {name: name for name in clustering_names()} | {
    "dbscan": sklearn.cluster.DBSCAN(eps=0.05, min_samples=2),
    "callable": thirds,
    "object": KMeans(3, position=True, n_iter=7),
}


@pytest.fixture(params=SPECS.values(), ids=SPECS.keys())
def backend(request: pytest.FixtureRequest) -> Any:
    return resolve_clustering(request.param)


def values(*shape: int, seed: int = 0) -> Tensor:
    """Saliency-like points in [0, 1]: many zeros, a long tail. One column, unless the last size says otherwise."""
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return (drawn.clamp(min=0) / 4).square().clamp(max=1)


def highest_of(points: Tensor, backend: KMeans) -> Tensor:
    maps = points[:, None]
    return functional.salient_region(maps, functional.cluster_saliency(maps, backend))[:, 0]


def test_every_wanted_backend_is_there() -> None:
    assert set(K_MEANS) <= set(clustering_names())
    assert {name: type(resolve_clustering(name)) for name in K_MEANS} == K_MEANS


class TestContract:
    """What holds for every backend, whatever its way of clustering."""

    @pytest.mark.parametrize("shape", [(97, 1), (64, 3), (3, 53, 1), (2, 31, 3)])
    def test_gives_one_label_per_point(self, backend: Any, shape: tuple[int, ...]) -> None:
        points = values(*shape)
        before = points.clone()
        labels = backend(points)
        assert labels.shape == points.shape[:-1]
        assert labels.dtype == torch.int64
        assert int(labels.min()) >= -1
        assert len(labels.unique()) > 1
        assert torch.equal(points, before)

    def test_gives_the_same_labels_again(self, backend: Any) -> None:
        points = values(2, 97, 1)
        assert torch.equal(backend(points), backend(points.clone()))

    def test_a_batch_equals_a_loop(self, backend: Any) -> None:
        points = torch.stack([values(53, 1, seed=seed) * (seed + 1) / 4 for seed in range(4)])
        points[1, 40:] = NAN
        assert torch.equal(backend(points), torch.stack([backend(p) for p in points]))

    def test_takes_any_layout_and_a_gradient(self, backend: Any) -> None:
        points = values(3, 53, 2)[:, ::2, :1]
        expected = backend(points.contiguous())
        assert torch.equal(backend(points), expected)
        assert torch.equal(backend(points.clone().requires_grad_()), expected)
        with torch.inference_mode():
            assert torch.equal(backend(points * 1), expected)

    def test_one_point(self, backend: Any) -> None:
        assert backend(torch.tensor([[0.3]])).tolist() in ([0], [-1])

    @pytest.mark.parametrize("shape", [(0, 1), (0, 3), (0, 5, 1), (2, 0, 1), (2, 0, 3)])
    def test_no_points(self, backend: Any, shape: tuple[int, ...]) -> None:
        labels = backend(torch.zeros(shape))
        assert labels.shape == shape[:-1]
        assert labels.dtype == torch.int64

    @pytest.mark.parametrize("value", [0.0, 0.7, 1.0])
    def test_constant_points_share_a_cluster(self, backend: Any, value: float) -> None:
        labels = backend(torch.full((35, 1), value))
        assert len(labels.unique()) == 1
        assert labels[0] >= 0

    def test_more_clusters_than_points(self, backend: Any) -> None:
        labels = backend(torch.tensor([[0.9], [0.1]]))
        assert set(labels.tolist()) <= {-1, 0, 1, 2}

    def test_points_that_are_not_finite_are_noise_and_change_nothing(self, backend: Any) -> None:
        points = values(60, 1)
        mixed = torch.cat((points[:20], torch.tensor([[NAN], [INF], [-INF]]), points[20:]))
        labels = backend(mixed)
        assert labels[20:23].tolist() == [-1, -1, -1]
        assert torch.equal(torch.cat((labels[:20], labels[23:])), backend(points))

    @pytest.mark.parametrize("shape", [(7, 1), (2, 7, 3)])
    def test_nothing_finite_is_all_noise(self, backend: Any, shape: tuple[int, ...]) -> None:
        assert torch.equal(backend(torch.full(shape, NAN)), torch.full(shape[:-1], -1))

    def test_rows_with_nothing_finite_leave_the_others_alone(self, backend: Any) -> None:
        points = torch.full((5, 30, 1), NAN)
        points[1], points[3] = values(30, 1), values(30, 1, seed=1)
        labels = backend(points)
        assert torch.equal(labels[[0, 2, 4]], torch.full((3, 30), -1))
        assert torch.equal(labels[[1, 3]], torch.stack([backend(points[1]), backend(points[3])]))

    def test_leaves_random_numbers_and_threads_alone(self, backend: Any) -> None:
        points = values(3, 97, 1)
        backend(points)  # what a library sets up at its first use is its own business
        with two_opencv_threads():
            cv2.setRNGSeed(7)
            drawn = opencv_draw()
            cv2.setRNGSeed(7)
            before = global_state()
            backend(points)
            assert global_state() == before
            assert opencv_draw() == drawn

    @pytest.mark.parametrize("twin", [copy.deepcopy, lambda b: pickle.loads(pickle.dumps(b))], ids=["copied", "pickled"])
    def test_a_twin_gives_the_same_labels(self, backend: Any, twin: Callable[[Any], Any]) -> None:
        points = values(2, 97, 1)
        for _ in range(2):  # before and after the first call
            other = twin(backend)
            assert torch.equal(other(points), backend(points))
            assert (other.fingerprint, other.position, repr(other)) == (
                backend.fingerprint,
                backend.position,
                repr(backend),
            )

    def test_resolving_again_changes_nothing(self, backend: Any) -> None:
        assert resolve_clustering(backend) is backend

    @pytest.mark.parametrize("shape", [(), (5,), (1, 1, 5, 1), (5, 0)])
    def test_refuses_other_shapes(self, backend: Any, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"`points` must be \[P, D\] or \[M, P, D\] with D at least 1, got shape"):
            backend(torch.zeros(shape))

    def test_refuses_other_kinds(self, backend: Any) -> None:
        with pytest.raises(TypeError, match="`points` must be a real tensor, got ndarray"):
            backend(np.zeros((5, 1)))
        with pytest.raises(TypeError, match=r"`points` must be a real tensor, got torch\.complex64"):
            backend(torch.zeros(5, 1, dtype=torch.complex64))


@contextlib.contextmanager
def two_opencv_threads() -> Iterator[None]:
    n_threads = cv2.getNumThreads()
    cv2.setNumThreads(2)
    try:
        yield
    finally:
        cv2.setNumThreads(n_threads)


def global_state() -> list[Any]:
    """Random generators and thread counts of the process, less OpenCV's generator, which cannot be read."""
    kind, keys, *rest = np.random.get_state()
    pools = {pool["filepath"]: pool["num_threads"] for pool in ThreadpoolController().info()}
    generators = [kind, keys.tolist(), rest, random.getstate(), torch.get_rng_state().tolist()]
    return [*generators, pools, torch.get_num_threads(), cv2.getNumThreads()]


def opencv_draw() -> list[int]:
    drawn: list[int] = cv2.randu(np.zeros(8, np.uint8), 0, 255).tolist()
    return drawn


def reference_k_means(points: list[tuple[float, ...]], n_clusters: int, n_iter: int) -> list[int]:
    """Lloyd's algorithm by loops over clusters and points, in Python's float64."""

    def nearest(point: tuple[float, ...], centres: list[tuple[float, ...]]) -> int:
        distances = [sum((p - c) ** 2 for p, c in zip(point, centre, strict=True)) for centre in centres]
        return distances.index(min(distances))

    distinct = sorted({point[0] for point in points})
    quantiles = [(distinct[(2 * j + 1) * len(distinct) // (2 * n_clusters)],) for j in range(n_clusters)]
    labels = [nearest(point[:1], quantiles) for point in points]
    centres: list[tuple[float, ...]] = [(INF,) * len(points[0])] * n_clusters
    for _ in range(n_iter + 1):
        for j in range(n_clusters):
            members = [point for point, label in zip(points, labels, strict=True) if label == j]
            if members:
                centres[j] = tuple(sum(column) / len(members) for column in zip(*members, strict=True))
        labels = [nearest(point, centres) for point in points]
    return by_value(labels, [point[0] for point in points])


def by_value(labels: list[int], firsts: list[float]) -> list[int]:
    """Number clusters by their mean value."""
    means = {}
    for j in set(labels):
        members = [v for v, label in zip(firsts, labels, strict=True) if label == j]
        means[j] = sum(members) / len(members)
    order = sorted(means, key=means.__getitem__)
    return [order.index(label) for label in labels]


def partition(labels: Tensor) -> set[frozenset[int]]:
    """The clusters as sets of indices, whatever their numbers."""
    return {frozenset((labels == label).nonzero()[:, 0].tolist()) for label in labels.unique()}


class TestKMeans:
    @pytest.mark.parametrize("n_clusters", [1, 2, 4, 7])
    @pytest.mark.parametrize("n_iter", [1, 3, 20])
    def test_agrees_with_the_reference(self, n_clusters: int, n_iter: int) -> None:
        for seed in range(3):
            points = values(83, 1, seed=seed)
            expected = reference_k_means([tuple(p) for p in points.tolist()], n_clusters, n_iter)
            assert KMeans(n_clusters, n_iter=n_iter)(points).tolist() == expected

    @pytest.mark.parametrize("n_clusters", [2, 4])
    def test_agrees_with_the_reference_in_space(self, n_clusters: int) -> None:
        for seed in range(3):
            points = torch.cat((values(61, 1, seed=seed), torch.rand(61, 2)), 1)
            expected = reference_k_means([tuple(p) for p in points.tolist()], n_clusters, 20)
            assert KMeans(n_clusters, position=True)(points).tolist() == expected

    @pytest.mark.parametrize("backend", ["sklearn", "opencv"])
    @pytest.mark.parametrize("n_points", [5, 64, 1024])
    @pytest.mark.parametrize("kind", ["uniform", "sparse", "gaussian"])
    def test_the_libraries_agree_on_values(self, backend: str, n_points: int, kind: str) -> None:
        torch.manual_seed(n_points)
        points = {"uniform": torch.rand, "gaussian": torch.randn, "sparse": values}[kind](4, n_points, 1)
        for n_clusters in (2, 4, 6):
            ours, theirs = KMeans(n_clusters)(points), K_MEANS[backend](n_clusters)(points)
            assert [partition(row) for row in theirs] == [partition(row) for row in ours]
            assert torch.equal(ours, theirs)

    @pytest.mark.parametrize("backend", K_MEANS)
    def test_clusters_are_numbered_by_value_without_gaps(self, backend: str) -> None:
        for n_columns, seed in [(1, 0), (3, 0), (3, 1), (3, 2)]:
            points = torch.rand(97, n_columns, generator=torch.Generator().manual_seed(seed))
            labels = resolve_clustering(backend)(points)
            assert labels.unique().tolist() == [0, 1, 2, 3]
            means = [points[labels == j, 0].mean().item() for j in range(4)]
            assert means == sorted(means)

    @pytest.mark.parametrize("backend", K_MEANS)
    def test_fewer_values_than_clusters_are_a_cluster_each(self, backend: str) -> None:
        points = torch.tensor([0.5, 0.0, 0.0, 1.0, 0.5, 0.0])[:, None]
        assert K_MEANS[backend](5)(points).tolist() == [1, 0, 0, 2, 1, 0]
        assert K_MEANS[backend](5, position=True)(points.expand(-1, 3)).tolist() == [1, 0, 0, 2, 1, 0]

    @pytest.mark.parametrize("backend", K_MEANS)
    def test_mostly_zero_values_still_make_all_clusters(self, backend: str) -> None:
        points = torch.zeros(400, 1)
        points[:8, 0] = torch.tensor([0.1, 0.12, 0.4, 0.42, 0.44, 0.9, 0.95, 1.0])
        assert resolve_clustering(backend)(points).unique().tolist() == [0, 1, 2, 3]

    @pytest.mark.parametrize("backend", K_MEANS)
    @pytest.mark.parametrize("scale", [1e-30, 1e30])
    def test_scale_and_shift_do_not_matter(self, backend: str, scale: float) -> None:
        points = values(97, 1)
        cluster = resolve_clustering(backend)
        assert torch.equal(cluster(points * scale), cluster(points))
        assert torch.equal(cluster(points * 64 - 32), cluster(points))

    @pytest.mark.parametrize("backend", K_MEANS)
    def test_almost_equal_values_give_no_warning(self, backend: str) -> None:
        labels = resolve_clustering(backend)(torch.tensor([0.0, 1e-9, 2e-9, 1.0])[:, None])
        assert labels[0] == 0
        assert labels[3] == labels.max() > 0

    def test_a_tie_goes_to_the_lower_cluster(self) -> None:
        assert KMeans(2)(torch.tensor([[0.0], [0.5], [1.0]])).tolist() == [0, 0, 1]

    @pytest.mark.parametrize("position", [False, True])
    def test_a_cluster_that_runs_empty_leaves_no_gap(self, position: bool) -> None:
        # It starts with 0.31 and 0.5, and the first means of its neighbours, 0.28 and 0.56, draw away both.
        points = torch.tensor([0.0, 0.1, *[0.29] * 50, 0.31, 0.5, *[0.551] * 50, 0.57, 0.6, 1.0])[:, None]
        points = torch.cat((points, torch.zeros_like(points)), 1) if position else points
        labels = KMeans(3, position=position)(points).tolist()
        assert labels == [0] * 53 + [1] * 54
        assert labels == reference_k_means([tuple(p) for p in points.tolist()], 3, 20)

    @hypothesis.given(
        st.lists(st.lists(st.sampled_from([NAN, INF, -INF, *(i / 16 for i in range(17))]), min_size=9, max_size=9)),
        st.integers(1, 6),
        st.integers(0, 9),
    )
    def test_numpy_and_torch_do_the_same(self, rows: list[list[float]], n_clusters: int, n_rounds: int) -> None:
        points = torch.tensor(rows).reshape(-1, 9)
        hypothesis.assume(len(points))
        in_numpy = torch.from_numpy(_kmeans._label_values_numpy(points.numpy(), n_clusters, n_rounds))
        assert torch.equal(_kmeans._label_values_torch(points, n_clusters, n_rounds), in_numpy)
        highest = highest_of(points, KMeans(n_clusters, n_iter=n_rounds + 1))
        assert torch.equal(KMeans(n_clusters, n_iter=n_rounds + 1).highest([points])[0], highest)
        assert torch.equal(_kmeans._highest_torch([points], n_clusters, n_rounds + 2)[0], highest)

    @pytest.mark.parametrize(("n_points", "n_clusters"), [(1, 4), (2, 4), (1024, 4), (1024, 300)])
    def test_numpy_and_torch_do_the_same_on_maps(self, n_points: int, n_clusters: int) -> None:
        points = values(6, n_points, seed=3)
        points[2, n_points // 2 :] = NAN
        points[5] = 0.0
        for n_rounds in (0, 1, 21, 60):
            in_numpy = torch.from_numpy(_kmeans._label_values_numpy(points.numpy(), n_clusters, n_rounds))
            assert torch.equal(_kmeans._label_values_torch(points, n_clusters, n_rounds), in_numpy)

    @pytest.mark.parametrize("shape", [(3, 40, 1), (40, 1), (2, 40, 3)])
    def test_an_accelerator_is_never_waited_for(self, shape: tuple[int, ...]) -> None:
        points = torch.empty(shape, device="meta")  # has no values: whatever looks at one fails
        with pytest.raises(RuntimeError, match="meta"):
            bool(points.sum() > 0)
        assert KMeans()(points).shape == shape[:-1]

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    @pytest.mark.parametrize("shape", [(3, 40, 1), (40, 1), (2, 40, 3)])
    def test_cuda_gives_the_labels_of_the_cpu(self, shape: tuple[int, ...]) -> None:
        points = values(*shape)
        expected, points = KMeans()(points), points.cuda()
        torch.cuda.set_sync_debug_mode("error")
        try:
            labels = KMeans()(points)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert labels.is_cuda
        assert torch.equal(labels.cpu(), expected)


class TestArguments:
    @pytest.mark.parametrize("kind", K_MEANS.values())
    def test_are_checked(self, kind: Any) -> None:
        with pytest.raises(ValueError, match="`n_clusters` must be at least 1, got 0"):
            kind(0)
        with pytest.raises(ValueError, match="`n_iter` must be at least 1, got -3"):
            kind(n_iter=-3)
        with pytest.raises(TypeError, match=r"`n_clusters` must be an int, got 4\.0"):
            kind(4.0)
        with pytest.raises(TypeError, match="`n_iter` must be an int, got True"):
            kind(n_iter=True)
        with pytest.raises(TypeError, match="`position` must be True or False, got 1"):
            kind(position=1)

    def test_opencv_has_a_limit_of_its_own(self) -> None:
        assert OpenCVKMeans(n_iter=98)(values(9, 1)).shape == (9,)
        with pytest.raises(ValueError, match="`n_iter` must be at most 98 with OpenCV, got 99"):
            OpenCVKMeans(n_iter=99)

    def test_are_seen_in_the_repr_and_cannot_change(self) -> None:
        assert repr(KMeans(5, position=True)) == "KMeans(n_clusters=5, position=True, n_iter=20)"
        assert KMeans(5) == KMeans(5) != SklearnKMeans(5)
        with pytest.raises(AttributeError):
            KMeans().n_clusters = 3  # type: ignore[misc]

    def test_each_choice_has_its_own_fingerprint(self) -> None:
        choices = [KMeans(), KMeans(3), KMeans(position=True), KMeans(n_iter=3), SklearnKMeans(), OpenCVKMeans()]
        assert len({choice.fingerprint for choice in choices}) == len(choices)
        assert KMeans().fingerprint == KMeans(4).fingerprint == resolve_clustering("kmeans").fingerprint
        assert sklearn.__version__ in SklearnKMeans().fingerprint
        assert cv2.__version__ in OpenCVKMeans().fingerprint


class TestNames:
    @pytest.fixture(autouse=True)
    def _own_table(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_backend, "_FACTORIES", dict(_backend._FACTORIES))

    def test_a_registered_name_resolves(self) -> None:
        register_clustering("thirds", lambda: thirds)
        register_clustering("density", sklearn.cluster.DBSCAN)
        register_clustering("six", lambda: KMeans(6))
        assert clustering_names()[-3:] == ("thirds", "density", "six")
        points = values(97, 1)
        assert torch.equal(resolve_clustering("thirds")(points), thirds(points))
        assert resolve_clustering("density")(points).shape == (97,)
        assert resolve_clustering("thirds").fingerprint is None, "a name says nothing of what it stands for"
        assert resolve_clustering("six") == KMeans(6)

    @pytest.mark.parametrize("name", ["kmeans", "sklearn", "opencv"])
    def test_a_name_is_taken_once(self, name: str) -> None:
        with pytest.raises(ValueError, match=f"`name` must be new, got '{name}'; registered are kmeans, sklearn, opencv"):
            register_clustering(name, lambda: thirds)

    def test_only_a_name_and_a_factory_can_be_registered(self) -> None:
        with pytest.raises(TypeError, match="`name` must be a str, got 3"):
            register_clustering(3, KMeans)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="`factory` must be callable without arguments, got 'kmeans'"):
            register_clustering("mine", "kmeans")  # type: ignore[arg-type]

    def test_an_unknown_name_lists_the_near_ones_and_all(self) -> None:
        every = "'kmeans', 'sklearn', 'opencv'"
        with pytest.raises(ValueError, match=f"`clustering` must be one of {every}, got 'kmean'; did you mean 'kmeans'"):
            resolve_clustering("kmean")
        with pytest.raises(ValueError, match=f"`clustering` must be one of {every}, got 'xyz'$"):
            resolve_clustering("xyz")

    @pytest.mark.parametrize(
        ("name", "module", "command"),
        [
            ("sklearn", "sklearn", r'pip install "cutswap-transforms\[sklearn\]"'),
            ("opencv", "cv2", r'pip install "cutswap-transforms\[opencv\]", or "cutswap-transforms\[opencv-headless\]"'),
        ],
    )
    def test_a_missing_extra_names_its_command(
        self, monkeypatch: pytest.MonkeyPatch, name: str, module: str, command: str
    ) -> None:
        monkeypatch.setitem(sys.modules, module, None)  # what Python does with a module that must not be found
        with pytest.raises(ImportError, match=command):
            resolve_clustering(name)
        with pytest.raises(ImportError, match=command):
            K_MEANS[name](3)


class TestOwnBackends:
    """A user's callable or object, seen through the contract."""

    def test_noise_of_dbscan_stays_noise(self) -> None:
        points = torch.tensor([0.0, 0.01, 0.02, 0.5, 0.98, 0.99, 1.0])[:, None]
        estimator = sklearn.cluster.DBSCAN(eps=0.05, min_samples=2)
        assert resolve_clustering(estimator)(points).tolist() == [0, 0, 0, -1, 1, 1, 1]
        assert not hasattr(estimator, "labels_")  # the user's object is never fitted

    def test_other_numbers_below_zero_are_noise_too(self) -> None:
        assert resolve_clustering(lambda p: torch.tensor([-3, -1, 5]))(torch.zeros(3, 1)).tolist() == [-1, -1, 5]

    def test_a_batched_callable_is_called_once(self) -> None:
        class Batched:
            batched = True
            calls = 0

            def __call__(self, points: Tensor) -> Tensor:
                self.calls += 1
                return (points[..., 0] > 0.5).long()

        source, points = Batched(), values(3, 53, 1)
        points[1, 7] = NAN
        labels = resolve_clustering(source)(points)
        assert source.calls == 1
        assert labels[1, 7] == -1
        assert torch.equal(labels[2], (points[2, :, 0] > 0.5).long())

    def test_attributes_are_passed_on(self) -> None:
        class Spatial:
            position = True
            fingerprint = "spatial 3"

            def __call__(self, points: Tensor) -> Tensor:
                return (points[:, 1] > 0.5).int()

        backend = resolve_clustering(Spatial())
        assert (backend.position, backend.fingerprint) == (True, "spatial 3")
        backend = resolve_clustering(thirds)
        assert (backend.position, backend.fingerprint, repr(backend)) == (False, None, repr(thirds))

    @pytest.mark.parametrize("kind", [int, list, np.array], ids=["int32 tensor", "list", "array"])
    def test_labels_may_be_of_any_integer_kind(self, kind: Any) -> None:
        found = torch.tensor([2, 0, 1], dtype=torch.int32) if kind is int else kind([2, 0, 1])
        labels = resolve_clustering(lambda points: found)(torch.zeros(3, 1))
        assert labels.dtype == torch.int64
        assert labels.tolist() == [2, 0, 1]

    def test_labels_are_checked(self) -> None:
        with pytest.raises(TypeError, match=r"`clustering` must return integer labels, got torch\.float32 from <function"):
            resolve_clustering(lambda points: points[:, 0])(values(5, 1))
        with pytest.raises(ValueError, match=r"must return one label per point, shape \(5,\), got \(5, 1\) from <function"):
            resolve_clustering(lambda points: points.long())(values(5, 1))

    def test_a_class_and_other_things_are_refused(self) -> None:
        with pytest.raises(TypeError, match=r"must be an object, got the class DBSCAN; pass DBSCAN\(\)"):
            resolve_clustering(sklearn.cluster.DBSCAN)
        with pytest.raises(TypeError, match="must be a name, a callable or an object with `fit_predict`, got 4"):
            resolve_clustering(4)


class TestWorkers:
    def test_libraries_use_one_thread_and_give_the_others_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: dict[str, Any] = {}

        def spy(owner: Any, name: str, key: str, threads: Callable[[], Any]) -> None:
            original = getattr(owner, name)

            def watched(*args: Any, **kwargs: Any) -> Any:
                seen[key] = threads()
                return original(*args, **kwargs)

            monkeypatch.setattr(owner, name, watched)

        def pools() -> set[int]:
            return {pool["num_threads"] for pool in ThreadpoolController().info()}

        spy(cv2, "kmeans", "opencv", cv2.getNumThreads)
        spy(sklearn.cluster.KMeans, "fit_predict", "sklearn", pools)
        spy(sklearn.cluster.DBSCAN, "fit_predict", "dbscan", pools)
        expected = {"opencv": 1, "sklearn": {1}, "dbscan": {1}}

        with two_opencv_threads(), ThreadpoolController().limit(limits=2):
            before = global_state()
            for worker_info in (None, object()):
                for module in (_backend, _opencv):
                    monkeypatch.setattr(module, "get_worker_info", lambda info=worker_info: info)
                for spec in ("opencv", "sklearn", sklearn.cluster.DBSCAN()):
                    resolve_clustering(spec)(values(97, 1))
                assert (seen == expected) is (worker_info is not None)
                assert global_state() == before

    def test_forked_workers_give_the_labels_of_the_parent(self) -> None:
        dataset = [values(97, 1, seed=seed) for seed in range(3)]
        for spec in ("kmeans", "sklearn", "opencv"):
            cluster = resolve_clustering(spec)
            expected = torch.stack([cluster(points) for points in dataset])  # the parent has used its threads by then
            loader = DataLoader(
                dataset, num_workers=1, collate_fn=lambda batch, c=cluster: c(batch[0]), multiprocessing_context="fork"
            )
            assert torch.equal(torch.stack(list(loader)), expected)
