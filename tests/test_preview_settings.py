"""The settings of a swap in the words of a caption: names, never a repr, and nothing that is not so."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from helpers.nets import Small, cam_of
from helpers.sheets import hot_quarter, two_clusters
from torch import Tensor

from cutswap_transforms import KMeans, LayerCAMExtractor, SaliencySwap
from cutswap_transforms.preview.settings import settings_in_words
from cutswap_transforms.regions.clustering import resolve_clustering


def darkness(images: Tensor, power: int = 1) -> Tensor:
    return (1 - images.mean(1, keepdim=True)) ** power


class Edges:
    """A source, and a callable object with a backend's method."""

    def native_maps(self, images: Tensor) -> list[Tensor]:
        return [images.float().mean(1)]

    def fit_predict(self, points: Any) -> Any:
        return points[:, 0] > 0.5


class Called:
    def __call__(self, images: Tensor) -> Tensor:
        return darkness(images)


@pytest.mark.parametrize(
    ("saliency", "words"),
    [
        ("tiny", "tiny"),
        (LayerCAMExtractor(weights=None), "tiny, random weights"),
        (darkness, "darkness"),
        (partial(partial(darkness), power=2), "darkness"),
        (lambda images: darkness(images), "a lambda"),
        (Called(), "Called"),
        (Edges(), "Edges"),
    ],
)
def test_a_source_is_said_by_its_name(saliency: Any, words: str) -> None:
    assert settings_in_words(SaliencySwap(saliency)).startswith(f"saliency {words}; clustering kmeans; levels all; scale 0.002")


def test_the_weights_of_a_net_are_said_only_if_they_are_not_its_own(tmp_path: Any) -> None:
    said = settings_in_words(SaliencySwap(cam_of(Small())))
    assert said.startswith("saliency Small; ") and "DEFAULT" not in said
    source = LayerCAMExtractor()
    source.weights = str(tmp_path / "mine.pth")
    assert settings_in_words(SaliencySwap(source)).startswith("saliency tiny, weights mine.pth; ")


@pytest.mark.parametrize(
    ("clustering", "words"),
    [
        (KMeans(3, color=False), "kmeans, n_clusters 3, color False"),
        (two_clusters, "two_clusters"),
        (Edges(), "Edges"),
    ],
)
def test_a_clustering_is_said_by_its_name_and_what_was_changed(clustering: Any, words: str) -> None:
    assert f"; clustering {words}; " in settings_in_words(SaliencySwap(hot_quarter, clustering))


def test_the_name_of_a_library_is_said() -> None:
    pytest.importorskip("sklearn")
    assert "; clustering sklearn; " in settings_in_words(SaliencySwap(hot_quarter, resolve_clustering("sklearn")))


def test_what_is_not_the_default_is_said() -> None:
    swap = SaliencySwap(hot_quarter, levels=(0, -1), p=0.5, region="top", roi=torch.eye(10) > 0)
    assert settings_in_words(swap).endswith("; grid 24; p 0.5; region top; roi 10% of the frame")
    assert "; levels 0, -1; " in settings_in_words(swap)
    assert settings_in_words(SaliencySwap(hot_quarter, roi="part")).endswith("; grid 24; roi of each sample, part")
