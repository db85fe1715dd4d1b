"""The levels that are found where none are named: the last block of each stage, four at most."""

from __future__ import annotations

import pytest
from helpers.nets import conv, layers_of
from torch import nn


def block() -> nn.Module:
    return nn.Sequential(conv(4, 4), nn.ReLU())


def reducing() -> nn.Module:
    return nn.Sequential(nn.Sequential(conv(4, 8), nn.ReLU()), conv(8, 4, 2))


@pytest.mark.parametrize(
    ("modules", "levels"),
    [
        # The last plain module of each stage where there are no blocks; one stage is one level.
        ((conv(3, 4), nn.ReLU(), nn.MaxPool2d(2), conv(4, 4), nn.ReLU(), nn.MaxPool2d(2)), ("1", "4")),
        ((conv(3, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1)), ("1",)),
        # The last block of each stage, without the stem and the inside of reducing blocks; four levels at most.
        ((conv(3, 4, 2), block(), reducing(), reducing(), block()), ("1", "2", "4")),
        ((conv(3, 4), *[conv(4, 4, 2) for _ in range(4)]), ("1", "2", "3", "4")),
    ],
    ids=["plain", "one", "blocks", "many"],
)
def test_levels_are_found(modules: tuple[nn.Module, ...], levels: tuple[str, ...]) -> None:
    assert layers_of(*modules) == levels
