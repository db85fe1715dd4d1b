"""Loader workers: the same seed and number of workers give the same result however workers are started."""

from __future__ import annotations

import functools

import pytest
import torch
from helpers.images import scene
from torch.utils.data import DataLoader, Dataset

from cutswap_transforms import SaliencySwap


class OneScene(Dataset):
    """The same picture again and again: what differs between samples is drawn."""

    def __init__(self, length=12):
        self.length, self.swap = length, SaliencySwap()

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return self.swap.make_params([scene(48, 48)])["pairs"][0, 0]


@functools.lru_cache
def draws(workers, context, repeat=0):
    torch.manual_seed(17)
    loader = DataLoader(
        OneScene(), batch_size=3, num_workers=workers, multiprocessing_context=context, persistent_workers=workers > 0
    )
    return torch.cat([batch for _ in range(2) for batch in loader])  # two epochs


@pytest.mark.parametrize(("workers", "context"), [(0, None), (1, "fork"), (2, "fork")])
def test_same_seed_and_workers_same_result(workers, context):
    assert torch.equal(draws(workers, context), draws(workers, context, repeat=1))


@pytest.mark.parametrize("context", ["spawn", "forkserver"])
@pytest.mark.parametrize("workers", [1, 2])
def test_the_way_workers_start_does_not_matter(workers, context):
    assert torch.equal(draws(workers, context), draws(workers, "fork"))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_nothing_is_drawn_twice(workers):
    pairs = draws(workers, "fork" if workers else None)
    assert len({tuple(row) for row in pairs.tolist()}) == len(pairs) == 24
