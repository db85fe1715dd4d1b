"""The detector's densities against anomalib's PaDiM and PatchCore on equal features."""

from __future__ import annotations

import pytest
import torch
from anomalib.models.components import KCenterGreedy, MultiVariateGaussian
from anomalib.models.image.padim.anomaly_map import AnomalyMapGenerator
from anomalib.models.image.patchcore.torch_model import PatchcoreModel
from detector import densities, networks
from lightning.pytorch import seed_everything

ADDED = 0.01 + 1e-5  # what anomalib adds to the diagonal, in two steps


def features(images: int, seed: int, width: int = 16, height: int = 5, length: int = 6) -> torch.Tensor:
    """Maps [N, C, h, w] of which the channels are correlated and the mean is not zero."""
    mixing = torch.randn(width, width, generator=torch.Generator().manual_seed(0))
    x = torch.randn(images, height, length, width, generator=torch.Generator().manual_seed(seed))
    return (x @ mixing + 3).permute(0, 3, 1, 2).contiguous()


def fitted(kind: str, x: torch.Tensor) -> densities.Density:
    density = densities.KINDS[kind](images=len(x), seed=0)
    for part in x.split(7):
        density.update(part)
    density.finish()
    return density


@pytest.fixture(scope="module")
def patchcore() -> PatchcoreModel:
    return PatchcoreModel(layers=["layer1"], backbone="resnet18", pre_trained=False)


def test_local_means_are_patchcores_away_from_the_border(patchcore: PatchcoreModel) -> None:
    """There it counts zeros from outside of the image in, and we do not."""
    x = features(3, seed=1)
    ours, theirs = networks.local_means(x), patchcore.feature_pooler(x)
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours[..., 1:-1, 1:-1], theirs[..., 1:-1, 1:-1])


@pytest.mark.parametrize("images", [12, 60])  # fewer and more than channels
def test_place_is_the_distance_of_padim(images: int) -> None:
    train, test = features(images, seed=1), features(4, seed=2)
    variance = train.var(0).mean()
    scale = (ADDED / (densities.RIDGE * variance)).sqrt()  # with it our ridge is what anomalib adds
    train, test = scale * train, scale * test
    stats = MultiVariateGaussian().fit(train)
    theirs = AnomalyMapGenerator.compute_distance(test, stats)
    torch.testing.assert_close(fitted("place", train)(test), theirs[:, 0], rtol=1e-3, atol=1e-5)


def test_neighbours_is_the_distance_of_patchcore(patchcore: PatchcoreModel) -> None:
    train, test = features(30, seed=1), features(4, seed=2)  # 900 cells: the bank keeps all
    test[0] = train[7]
    patchcore.memory_bank = patchcore.reshape_embedding(train)
    density = fitted("neighbours", train)
    assert density.bank.shape == patchcore.memory_bank.shape
    theirs, _ = patchcore.nearest_neighbors(patchcore.reshape_embedding(test), n_neighbors=1)
    torch.testing.assert_close(density(test), theirs.reshape(4, 5, 6), rtol=0, atol=2e-3)


@pytest.mark.parametrize("width", [8, 64])  # without and with a projection of ours
def test_the_coreset_covers_about_as_well_as_anomalibs(width: int) -> None:
    """On the mean of five draws: both choose in a random projection, and ours has fewer dimensions."""
    generator = torch.Generator().manual_seed(0)
    cells = torch.randn(2000, 4, generator=generator) * torch.randn(2000, 1, generator=generator).exp()  # few are far off
    cells = cells @ torch.randn(4, width, generator=generator)

    def radius(chosen: torch.Tensor | list[int]) -> float:
        assert len(set(map(int, chosen))) == 100
        return float(torch.cdist(cells, cells[chosen]).amin(1).max())

    ours, theirs = 0.0, 0.0
    for seed in range(5):
        seed_everything(seed)  # anomalib draws from torch and from numpy
        theirs += radius(KCenterGreedy(cells, sampling_ratio=0.05).select_coreset_idxs())
        ours += radius(densities.greedy_coreset(cells, 100, torch.Generator().manual_seed(seed)))
    assert ours <= 1.1 * theirs
    assert 5 * radius(torch.arange(100)) > 2 * theirs  # any cells would not do
