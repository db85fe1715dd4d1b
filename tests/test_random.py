"""Nobody's generator moves: not Python's, NumPy's or torch's on the CPU, and no accelerator is reseeded."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from detector.tuning import MaskedViews
from helpers import detecting
from helpers.images import as_kind, scene

from cutswap_transforms import LayerCAMExtractor, SaliencySwap
from cutswap_transforms.__main__ import main
from cutswap_transforms.seeds import own_seed


@pytest.fixture
def unmoved(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Counts the seeds of accelerators by stand-ins; after the test the generators of the CPU are where they were."""
    seeds: list[int] = []
    for module in (torch.cuda, torch.mps, torch.xpu):
        for name in ("manual_seed", "manual_seed_all"):
            monkeypatch.setattr(module, name, seeds.append, raising=False)
    torch.manual_seed(0)
    assert seeds, "the stand-ins count"
    seeds.clear()
    states = random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()
    yield
    assert not seeds
    assert (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()) == states


def test_a_seed_of_ones_own_is_that_of_torch_and_ends_with_the_block(unmoved: None) -> None:
    with own_seed(2**63 - 1):
        drawn = torch.rand(3)
    with pytest.raises(KeyError), own_seed(5):
        torch.rand(3)
        raise KeyError
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(2**63 - 1)
        assert torch.equal(torch.rand(3), drawn)


def test_a_net_of_random_weights_is_made(unmoved: None) -> None:
    LayerCAMExtractor("resnet18", weights=None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "parts").mkdir()
    for i in range(3):
        as_kind("PIL", scene(50, 60, seed=i)).save(tmp_path / "parts" / f"{i}.png")
    return tmp_path / "parts"


def test_negatives_are_exported_and_previewed(unmoved: None, folder: Path) -> None:
    assert main(["export", str(folder), str(folder.parent / "out"), "--count", "4", "--size", "32", "--num-workers", "0"]) == 0
    assert main(["preview", str(folder), "--out", str(folder.parent / "sheet.png"), "--size", "32"]) == 0


def test_a_training_draws_its_views_and_trains(unmoved: None, toy: Path, tmp_path: Path) -> None:
    views = MaskedViews(torch.stack([scene(seed=i) for i in range(2)]), [SaliencySwap()], seed=0)
    first, again, other = views[0, 1], views[0, 1], views[1, 1]
    assert torch.equal(first[0], again[0]) and not torch.equal(first[0], other[0])
    detecting.fit(toy / "flange", tmp_path, detecting.TRAINED)
