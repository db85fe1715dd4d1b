"""Cells, clusters and regions: one contract for every clustering backend, k-means against a reference, masks, NaN."""

from __future__ import annotations

import contextlib
import random
import sys

import cv2
import numpy as np
import pytest
import sklearn.cluster
import torch
from helpers.images import scene
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import ThreadpoolController
from torch.utils.data import DataLoader

from cutswap_transforms import KMeans
from cutswap_transforms.regions import kmeans, libraries
from cutswap_transforms.regions.cells import make_cells, salient_regions
from cutswap_transforms.regions.choose import REGIONS, salient_points
from cutswap_transforms.regions.clustering import label_cells, resolve_clustering
from cutswap_transforms.regions.libraries import OpenCVKMeans, SklearnKMeans
from cutswap_transforms.saliency.maps import squashed

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


@pytest.fixture(params=SPECS.values(), ids=SPECS.keys())
def backend(request):
    return resolve_clustering(request.param)


def points_of(*shape, seed=0):
    """Points in [0, 1]; the first column as saliency: many zeros, a long tail."""
    points = torch.rand(*shape, generator=torch.Generator().manual_seed(seed))
    points[..., 0] = ((points[..., 0] - 0.4).clamp(min=0) / 0.6).square()
    return points


def labels_of(backend, points):
    return label_cells(backend, points)[0]


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


@pytest.mark.parametrize("name", ["sklearn", "opencv"])
@pytest.mark.parametrize("n_points", [5, 64, 576])
def test_the_libraries_agree_with_the_default(name, n_points):
    """The regions are those of the default where all have converged; between two rounds the libraries stop elsewhere."""
    points = points_of(4, n_points, 4, seed=n_points)
    for n_clusters in (2, 3):
        ours, theirs = KMeans(n_clusters, n_iter=90)(points), K_MEANS[name](n_clusters, n_iter=90)(points)
        same = (salient_points(points[..., 0].numpy(), x.numpy(), n_clusters, "salient") for x in (ours, theirs))
        assert np.mean(np.equal(*same)) == 1.0


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
    points = np.linspace(0, 3e38, 7)[None, :, None].view(Finite)
    labels = kmeans.lloyd(np, points, np.array([[0, 0, 0, 2, 2, 2, 2]]), 4, 5)
    assert labels.tolist() == [[0, 0, 0, 2, 2, 2, 2]]
    assert kmeans.lloyd(np, points, np.full((1, 7), -1), 4, 5).tolist() == [[-1] * 7]


@given(
    st.lists(st.lists(st.sampled_from([NAN, INF, *(i / 16 for i in range(17))]), min_size=18, max_size=18), min_size=1),
    st.integers(1, 6),
)
def test_numpy_and_torch_do_the_same(rows, n_clusters):
    """In sixteenths all sums are exact, so only a different formula could give another label."""
    points = torch.tensor(rows).reshape(-1, 9, 2)
    ours = KMeans(n_clusters, n_iter=1, saliency_weight=1.0)
    labels = [ours.label(points.numpy()), ours.label(points)]
    assert np.array_equal(labels[0], labels[1].numpy())
    for region in REGIONS:
        found = salient_points(points[..., 0].numpy(), labels[0], n_clusters, region)
        assert np.array_equal(found, salient_points(points[..., 0], labels[1], n_clusters, region).numpy())


def test_an_accelerator_is_never_waited_for():
    """Tensors on the meta device have no values: whatever would look at one raises."""
    images = torch.empty(2, 3, 30, 20, dtype=torch.uint8, device="meta")
    maps = [torch.empty(2, side, side, device="meta") for side in (32, 4)]
    with pytest.raises(RuntimeError, match="meta"):
        bool(maps[0].sum() > 0)
    assert salient_regions(maps, images, KMeans(), 12).shape == (2, 2, 12, 12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_finds_the_regions_of_the_cpu():
    images = torch.stack([scene(64, 57, seed=i) for i in range(4)])
    maps = [torch.rand(4, side, side) for side in (32, 4)]
    expected = salient_regions(maps, images, KMeans())
    maps, images = [m.cuda() for m in maps], images.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        regions = salient_regions(maps, images, KMeans())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert (regions.cpu() == expected).double().mean() > 0.999


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


def test_points_are_checked():
    for shape in ((), (5,), (1, 1, 5, 1), (5, 0)):
        with pytest.raises(ValueError, match=r"`points` must be \[P, D\] or \[M, P, D\] with D at least 1, got shape"):
            KMeans()(torch.zeros(shape))
    with pytest.raises(TypeError, match="`points` must be a real tensor, got ndarray"):
        KMeans()(np.zeros((5, 1)))
    with pytest.raises(TypeError, match=r"`points` must be a real tensor, got torch\.complex64"):
        KMeans()(torch.zeros(5, 1, dtype=torch.complex64))


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


# ---- cells and regions --------------------------------------------------------------------------------------------------


def test_cells_are_saliency_and_opponent_colours():
    image = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    image[0, :, :4, :4] = torch.tensor([255, 0, 0], dtype=torch.uint8)[:, None, None]  # red
    image[0, :, 4:, 4:] = torch.tensor([0, 0, 255], dtype=torch.uint8)[:, None, None]  # blue
    cells = make_cells([torch.tensor([[[2.0, 6.0], [2.0, 2.0]]]), torch.ones(1, 3, 5)], image, 2)
    assert cells.points.shape == (1, 2, 4, 4)
    assert cells.points[0, 0, :, 0].tolist() == [0, 1, 0, 0] and cells.points[0, 1, :, 0].tolist() == [0] * 4
    red, black, blue = (cells.points[0, 0, k, 1:] for k in (0, 1, 3))
    # At this size the antialiased filter reaches into the neighbours, alike in all channels.
    assert red[1] > 0.6 and abs(float(red[0]) - float(red[1]) / 3) < 0.01 and abs(float(red[2]) - float(red[1]) / 2) < 0.1
    assert blue[2] < -0.6 and float(np.abs(black).max()) < 0.3
    assert cells.flat.tolist() == [[False, True]] and cells.mask.tolist() == [[True, True]]


@pytest.mark.parametrize("side", [5, 64, 200])
@pytest.mark.parametrize("kind", ["grey", "one colour", "scene"])
def test_a_mask_comes_through_whatever_the_image_and_the_backend(backend, side, kind):
    image = {
        "grey": scene(side, side, 1).expand(3, -1, -1),
        "one colour": torch.full((3, side, side), 70),
        "scene": scene(side, side),
    }
    mask = torch.zeros(1, side, side)
    mask[:, : side // 2, side // 3 :] = 4.0
    region = salient_regions([mask, mask == 0], image[kind][None].to(torch.uint8), backend, 10)[0]
    covered = torch.nn.functional.interpolate(mask[None] / 4, size=(10, 10), mode="bilinear", antialias=side > 10)[0, 0]
    assert torch.equal(region[0], covered >= 0.5)
    assert torch.equal(region[1], ~region[0])


@pytest.mark.parametrize("hole", [4, 2])
def test_a_mask_that_covers_every_cell_by_half_is_all_cells(hole):
    """One pixel of 16 is a hole, or every other pixel: what resampling rounds must not decide."""
    mask = torch.ones(1, 96, 96)
    mask[:, ::hole, ::hole] = 0
    assert salient_regions([mask], scene(96, 96)[None], KMeans(), 24).all()


def test_maps_may_be_of_any_float_type_and_need_a_gradient():
    values, image = torch.rand(1, 8, 8), scene()[None]
    expected = salient_regions([values], image, KMeans())
    assert torch.equal(salient_regions([values.clone().requires_grad_()], image, KMeans()), expected)
    assert salient_regions([values.bfloat16()], image, KMeans()).shape == expected.shape


def test_a_mask_thinner_than_a_cell_is_found():
    mask = torch.zeros(1, 100, 100)
    mask[:, 42] = 1
    region = salient_regions([mask], scene(100, 100)[None], KMeans(), 10)[0, 0]
    assert region[4].all() and region.sum() == 10


def test_flat_maps_and_maps_without_finite_values_give_the_whole_image(backend):
    maps = [torch.full((2, 3, 3), 2.5), torch.full((2, 7, 5), NAN), torch.full((2, 1, 1), 1.0), torch.full((2, 3, 4), INF)]
    maps[0] = maps[0] * 0.3  # no sum of weights gives this number again
    assert salient_regions(maps, torch.stack([scene(), scene(seed=1)]), backend, 9).all()


def test_holes_are_never_salient_and_do_not_move_the_rest():
    values = torch.zeros(1, 24, 24)
    values[:, 4:12, 4:20] = torch.rand(8, 16, generator=torch.Generator().manual_seed(0)) + 3
    image = scene(96, 96)[None]
    torn = values.clone()
    torn[:, 6:12, 6:8], torn[:, 0, 0], torn[:, 23, 23] = NAN, INF, -INF
    whole, region = (salient_regions([m], image, KMeans(2, color=False), 24)[0, 0] for m in (values, torn))
    assert whole[4:12, 4:20].all() and whole.sum() == 128
    assert not region[6:12, 6:8].any() and region.sum() == 128 - 12


def test_a_span_beyond_float32_is_no_hole():
    values = torch.tensor([[[-3e38, 0.0], [1e38, 3e38]]])
    region = salient_regions([values], torch.zeros(1, 3, 2, 2, dtype=torch.uint8), KMeans(), 2, region="top")
    assert region.tolist() == [[[[False, False], [False, True]]]]


def test_all_noise_is_the_whole_image():
    assert salient_regions([torch.rand(1, 5, 5)], scene()[None], lambda p: torch.full((len(p),), -1), 8).all()


@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize("size", [(255, 255), (37, 53), (64, 129)])
def test_nothing_but_the_net_tells_left_from_right(axis, size):
    images = torch.stack([scene(*size), scene(*size).roll(7, -1)])
    for side in (24, 128):
        assert torch.equal(squashed(images.flip(axis), side), squashed(images, side).flip(axis))
    generator = torch.Generator().manual_seed(0)
    maps = [torch.rand(2, side, side, generator=generator) ** 3 for side in (32, 16, 7, 4)]
    found = salient_regions(maps, images, KMeans())
    assert torch.equal(salient_regions([m.flip(axis) for m in maps], images.flip(axis), KMeans()), found.flip(axis))


def test_regions_follow_the_object_and_not_the_blob():
    """A sharp bright square under a blurred map: colour finds its border, saliency alone does not."""
    image = torch.full((1, 3, 96, 96), 30, dtype=torch.uint8)
    image[:, :, 24:72, 24:72] = 200
    y = torch.linspace(-1, 1, 12)
    blob = torch.exp(-(((y[:, None] + 0.1) / 0.9) ** 2) - ((y + 0.1) / 0.9) ** 2)[None]  # its centre is off the object's
    truth = torch.zeros(24, 24, dtype=torch.bool)
    truth[6:18, 6:18] = True
    both, values = (salient_regions([blob], image, KMeans(color=c))[0, 0] for c in (True, False))
    assert (both & truth).sum() / (both | truth).sum() > 0.8
    assert (values & truth).sum() / (values | truth).sum() < 0.7
