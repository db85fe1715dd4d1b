"""Checks of constructor arguments: each returns the argument in its settled form or says what is wrong with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

MeanStd = tuple[Sequence[float], Sequence[float]]
GRIDS = (2, 255)  # an entry of the cache holds the grid in one byte


def checked_range(name: str, value: Any, top: float) -> tuple[float, float]:
    try:
        low, high = (float(v) for v in value)
    except (TypeError, ValueError):
        raise TypeError(f"`{name}` must be two numbers (low, high), got {value!r}") from None
    if not 0 < low <= high <= top or high == float("inf"):
        bound = f"0 < low <= high <= {top:g}" if top < float("inf") else "0 < low <= high"
        raise ValueError(f"`{name}` must be {bound}, got {value!r}")
    return low, high


def checked_probability(p: Any) -> float:
    if isinstance(p, bool) or not isinstance(p, Real):
        raise TypeError(f"`p` must be a number in [0, 1], got {p!r}")
    if not 0 <= float(p) <= 1:
        raise ValueError(f"`p` must be a number in [0, 1], got {p!r}")
    return float(p)


def checked_levels(levels: Any) -> str | tuple[int, ...]:
    if isinstance(levels, str):
        if levels not in ("auto", "random", "all"):
            raise ValueError(f"`levels` must be 'auto', 'random', 'all' or indices, got {levels!r}")
        return levels
    indices = (levels,) if isinstance(levels, Integral) else tuple(levels) if isinstance(levels, Sequence) else ()
    whole = all(isinstance(i, Integral) and not isinstance(i, bool) for i in indices)
    if not indices or not whole or len(set(indices)) < len(indices):
        raise ValueError(f"`levels` must be 'auto', 'random', 'all' or distinct indices, got {levels!r}")
    return tuple(int(i) for i in indices)


def checked_grid(grid: Any) -> int:
    if not isinstance(grid, int) or isinstance(grid, bool):
        raise TypeError(f"`grid` must be an int, got {grid!r}")
    if not GRIDS[0] <= grid <= GRIDS[1]:
        raise ValueError(f"`grid` must lie in [{GRIDS[0]}, {GRIDS[1]}], got {grid}")
    return grid


def checked_mean_std(
    name: str, value: Any, channels: int | None = None, other: str = ""
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) as tuples of numbers. `other` names in messages what else the argument may be.

    Raises:
        TypeError: something else than two sequences of numbers.
        ValueError: sequences of different or wrong length, non-finite numbers, or std <= 0.
    """
    try:
        mean, std = (tuple(float(v) for v in part) for part in value)
    except (TypeError, ValueError):
        raise TypeError(f"`{name}` must be {other}(mean, std), each a sequence of numbers, got {value!r}") from None
    wrong = len(mean) != len(std) or not mean or (channels is not None and len(mean) != channels)
    if wrong or not all(map(math.isfinite, mean + std)) or min(std) <= 0:
        length = f"of {channels} values each" if channels else "of equal length"
        raise ValueError(f"`{name}` must be {other}(mean, std) {length}, finite, with std > 0, got {value!r}")
    return mean, std


def check_int(name: str, value: Any, low: int) -> None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise TypeError(f"`{name}` must be an int or None, got {value!r}")
    if value is not None and value < low:
        raise ValueError(f"`{name}` must be at least {low}, got {value}")
