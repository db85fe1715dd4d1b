"""Which share of the work is a process's: from the process group, torchrun's variables or SLURM's."""

from __future__ import annotations

import pytest
import torch
from helpers.caches import Counting, Scenes

from cutswap_transforms import SaliencySwap
from cutswap_transforms.ranks import rank_and_world

NAMES = ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((None, None, None, None), (0, 1)),
        (("1", "3", None, None), (1, 3)),
        ((None, None, "2", "3"), (2, 3)),
        (("1", "3", "2", "4"), (1, 3)),  # torchrun under srun
        (("1", None, "2", "4"), (2, 4)),  # one alone does not define a share
        ((None, "3", None, "4"), (0, 1)),
    ],
)
def test_the_first_pair_that_is_set_counts(monkeypatch, values, expected):
    for name, value in zip(NAMES, values, strict=True):
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
    assert rank_and_world() == expected


def test_the_process_group_comes_first(monkeypatch):
    monkeypatch.setenv("RANK", "nonsense")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name, value in (("is_initialized", True), ("get_rank", 3), ("get_world_size", 5)):
        monkeypatch.setattr(torch.distributed, name, lambda value=value: value)
    assert rank_and_world() == (3, 5)


@pytest.mark.parametrize(
    ("rank", "world"), [("a", "2"), ("0", "b"), ("0", "0"), ("2", "2"), ("-1", "2"), ("", "2"), ("0.5", "2")]
)
@pytest.mark.parametrize("names", [NAMES[:2], NAMES[2:]])
def test_nonsense_is_an_error(monkeypatch, names, rank, world):
    for name, value in zip(names, (rank, world), strict=True):
        monkeypatch.setenv(name, value)
    starter = "torchrun" if "RANK" in names else "srun"
    sentence = (
        f"`{names[0]}` must be below `{names[1]}`, both integers, got '{rank}' and '{world}'; unset them without {starter}"
    )
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        rank_and_world()


def test_precompute_shares_by_slurm(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "3")
    for rank, count in enumerate((4, 4, 3)):
        monkeypatch.setenv("SLURM_PROCID", str(rank))
        assert SaliencySwap(Counting(), cache=tmp_path / "c").precompute(Scenes(11, height=8)) == count
