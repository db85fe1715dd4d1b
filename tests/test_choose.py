"""Which clusters make the region: the rule against a slow reference, and alike for every backend."""

import numpy as np
import pytest
import sklearn.cluster
import torch
from helpers.images import scene
from hypothesis import given
from hypothesis import strategies as st

from cutswap_transforms import KMeans, RegionCache, SaliencySwap
from cutswap_transforms.functional import salient_regions
from cutswap_transforms.regions.choose import REGIONS, salient_points


def reference(saliency, labels, region):
    """By dictionaries, for one map."""
    means = {k: saliency[labels == k].mean() for k in set(labels.tolist()) if k >= 0}
    if not means:
        return np.zeros(len(labels), bool)
    highest, middle = max(means, key=means.get), (max(means.values()) + min(means.values())) / 2
    return np.isin(labels, [highest] if region == "top" else [k for k, mean in means.items() if mean >= middle])


@given(st.integers(0, 10**6), st.integers(1, 9), st.sampled_from(REGIONS))
def test_the_region_equals_the_reference(seed, count, region):
    rng = np.random.default_rng(seed)
    saliency, labels = rng.random((2, 30)), rng.integers(-1, count, (2, 30))
    found = salient_points(saliency, labels, count, region)
    assert np.array_equal(found, [reference(s, k, region) for s, k in zip(saliency, labels, strict=True)])
    assert np.array_equal(salient_points(torch.from_numpy(saliency), torch.from_numpy(labels), count, region).numpy(), found)


def test_clusters_above_the_midpoint_of_their_mean_saliency_are_one_region():
    saliency = np.array([0.9, 0.7, 0.49, 0.1]).repeat(3)  # the midpoint is 0.5
    labels = np.array([2, 0, 3, 1]).repeat(3)
    assert np.array_equal(salient_points(saliency, labels, 5, "salient"), saliency > 0.5)
    assert np.array_equal(salient_points(saliency, labels, 5, "top"), saliency > 0.8)
    assert not salient_points(saliency, np.full(12, -1), 5, "salient").any()


@pytest.mark.parametrize("xp", [np, torch])
def test_the_midpoint_knows_no_sign(xp):
    """On a device values are not looked at, so the rule itself must hold for any."""
    saliency, labels = np.array([[-4.0, -4.0, -3.0, -1.0, 9.0]]), np.array([[0, 0, 1, 3, -1]])
    arrays = (saliency, labels) if xp is np else (torch.from_numpy(saliency), torch.from_numpy(labels))
    assert salient_points(*arrays, 5, "salient").tolist() == [[False, False, False, True, False]]
    saliency[0, 2] = -2.5  # the midpoint of -4 and -1
    assert salient_points(*arrays, 5, "salient").tolist() == [[False, False, True, True, False]]
    assert salient_points(*arrays, 5, "top").tolist() == [[False, False, False, True, False]]


def four_steps(points):
    return (points[:, 0] * 4).long().clamp(max=3)


@pytest.mark.parametrize("backend", [four_steps, sklearn.cluster.DBSCAN(eps=0.05, min_samples=1), KMeans(4, color=False)])
def test_every_backend_has_the_same_choice(backend):
    """Three gray objects of saliency 1, 0.7 and 0.3 on a ground of 0: the midpoint lies between the second and the third."""
    values = torch.zeros(1, 8, 8)
    values[:, :2], values[:, 2:4], values[:, 4:6] = 1.0, 0.7, 0.3
    image = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    joined, top = (salient_regions([values], image, backend, 8, region=region)[0, 0] for region in ("salient", "top"))
    assert torch.equal(joined, values[0] > 0.5) and torch.equal(top, values[0] > 0.8)


def test_the_choice_reaches_the_swap_and_is_part_of_the_key(tmp_path):
    image = scene(64, 64)
    swaps = [SaliencySwap(four_steps_map, four_steps, levels=0, region=region) for region in REGIONS]
    regions = [swap._finder(image) for swap in swaps]
    assert regions[0].sum() > regions[1].sum() > 0
    assert [swap.region for swap in swaps] == list(REGIONS) and "region='top'" in repr(swaps[1])
    for region in REGIONS:
        SaliencySwap(region=region, cache=tmp_path)(image)
    assert len(RegionCache(tmp_path)) == 2


def four_steps_map(images):
    return torch.linspace(0, 1, 24).expand(len(images), 1, 24, 24)


def test_a_region_is_checked():
    with pytest.raises(ValueError, match="`region` must be 'salient' or 'top', got 'union'"):
        SaliencySwap(region="union")


@pytest.mark.parametrize("kind", ["kmeans", "sklearn", "opencv"])
def test_union_of_a_kmeans_is_deprecated_and_keeps_its_meaning(kind):
    make = type(SaliencySwap(clustering=kind).clustering)
    for union, region in ((True, "salient"), (False, "top")):
        with pytest.warns(DeprecationWarning, match=r"SaliencySwap\(region=\"salient\"\)"):
            old = make(union=union)
        assert SaliencySwap(clustering=old).region == region and old == make() and old.fingerprint == make().fingerprint
