"""The densities of the detector: each beside a slow reference, fitted in parts as in one, stored and read."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detector import densities
from sklearn.covariance import LedoitWolf


def features(n: int = 30, width: int = 5, height: int = 3, length: int = 4, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator)
    x = torch.randn(n, height, length, width, generator=generator) @ mixing + 3
    return x.permute(0, 3, 1, 2).contiguous()  # [N, C, h, w]


def fitted(kind: str, x: torch.Tensor, parts: int = 7) -> densities.Density:
    density = densities.KINDS[kind](len(x), 0)
    for part in x.split(parts):
        density.update(part)
    density.finish()
    return density


def cells_of(x: torch.Tensor) -> np.ndarray:
    """[N, C, h, w] -> float64 [N, h, w, C]."""
    return x.permute(0, 2, 3, 1).double().numpy()


def test_place_is_the_mahalanobis_distance_at_each_place() -> None:
    train, test = features(), features(4, seed=1)
    found = fitted("place", train)(test).numpy()
    cells, tested = cells_of(train), cells_of(test)
    covariances = [[np.cov(cells[:, i, j].T) for j in range(4)] for i in range(3)]
    ridge = densities.RIDGE * np.mean([np.trace(s) / 5 for row in covariances for s in row])
    for i in range(3):
        for j in range(4):
            off = tested[:, i, j] - cells[:, i, j].mean(0)
            inverse = np.linalg.inv(covariances[i][j] + ridge * np.eye(5))
            np.testing.assert_allclose(found[:, i, j], np.sqrt(np.einsum("nc,cd,nd->n", off, inverse, off)), rtol=1e-4)


def test_neighbours_is_the_distance_to_the_nearest_cell_of_the_bank() -> None:
    train, test = features(), features(4, seed=1)
    density = fitted("neighbours", train)
    known = cells_of(train).reshape(-1, 5)
    assert len(density.bank) == len(known)  # fewer than a bank holds: all of them
    distances = np.linalg.norm(cells_of(test)[..., None, :] - known, axis=-1).min(-1)
    np.testing.assert_allclose(density(test).numpy(), distances, atol=2e-3)


def test_the_coreset_takes_the_farthest_each_time_and_covers_better_than_chance() -> None:
    cells = torch.randn(400, 6, generator=torch.Generator().manual_seed(0))
    chosen = densities.greedy_coreset(cells, 80, torch.Generator().manual_seed(1))
    assert len(set(chosen.tolist())) == 80
    nearest = torch.full((400,), torch.inf)
    for before, after in itertools.pairwise(chosen):
        nearest = torch.minimum(nearest, (cells - cells[before]).norm(dim=1))
        assert float(nearest[after]) == pytest.approx(float(nearest.max()), rel=1e-4)
    some = cells[torch.randperm(400, generator=torch.Generator().manual_seed(2))[:80]]
    assert torch.cdist(cells, cells[chosen]).amin(1).max() < torch.cdist(cells, some).amin(1).max()
    again = densities.greedy_coreset(cells, 80, torch.Generator().manual_seed(1))
    assert torch.equal(chosen, again)
    assert len(densities.greedy_coreset(cells[:3], 20, torch.Generator())) == 3


def test_pooled_is_ledoit_and_wolfs_distance_split_into_shares_whose_mean_it_is() -> None:
    train, test = features(), features(4, seed=1)
    shares = fitted("pooled", train)(test)
    expected = LedoitWolf().fit(train.mean((2, 3)).double().numpy()).mahalanobis(test.mean((2, 3)).double().numpy())
    np.testing.assert_allclose(shares.mean((1, 2)).numpy(), expected, rtol=1e-3)
    assert shares.std() > 0.01  # not one value everywhere


@pytest.mark.parametrize("kind", densities.KINDS)
def test_parts_make_no_difference_and_arrays_are_the_whole_density(kind: str) -> None:
    train, test = features(), features(4, seed=1)
    one, many = fitted(kind, train, 30), fitted(kind, train, 4)
    torch.testing.assert_close(one(test), many(test), rtol=1e-3, atol=1e-3)
    read = densities.KINDS[kind]()
    read.restore(one.arrays())
    assert torch.equal(read(test), one(test))


def test_of_many_channels_a_gaussian_takes_some_and_a_bank_takes_some_of_many_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(densities, "NUMBERS", 12 * 3 * 3)
    monkeypatch.setattr(densities, "POOL", 60)
    train = features(20)
    place = fitted("place", train)
    assert place.mean.shape == (12, 3) and len(set(place.channels.tolist())) == 3
    assert torch.isfinite(place(train)).all()
    bank = fitted("neighbours", train)
    assert len(bank.bank) == 20 * 3  # three of the twelve cells of each image


def test_constant_features_are_no_obstacle() -> None:
    flat = torch.ones(6, 4, 2, 2)
    for kind in densities.KINDS:
        assert torch.isfinite(fitted(kind, flat)(flat)).all(), kind
        assert F.relu(fitted(kind, flat)(flat)).max() < 1e-2, kind
