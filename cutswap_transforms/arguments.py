"""Checks of constructor arguments: each returns the argument in canonical form or raises an error."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from numbers import Integral, Real

import numpy as np
import torch
from torch import Tensor

MeanStd = tuple[Sequence[float], Sequence[float]]
GRIDS = (2, 255)  # a cache entry stores the grid size in one byte


def scalar(value: object) -> object:
    """A NumPy or torch number, or an array of no dimensions, as a Python number; anything else unchanged."""
    return value.item() if isinstance(value, (np.generic, np.ndarray, Tensor)) and value.ndim == 0 else value


def checked_int(name: str, value: object, low: int | None = None, high: int | None = None, kind: str = "an int") -> int:
    """A Python, NumPy or torch integer as an int. Messages use `kind` for what the argument may be."""
    number = scalar(value)
    if isinstance(number, bool) or not isinstance(number, Integral):
        raise TypeError(f"`{name}` must be {kind}, got {value!r}")
    number = int(number)
    if low is not None and high is not None and not low <= number <= high:
        raise ValueError(f"`{name}` must be in [{low}, {high}], got {value!r}")
    if low is not None and number < low:
        raise ValueError(f"`{name}` must be at least {low}, got {value!r}")
    return number


def checked_number(name: str, value: object, kind: str = "a number") -> float:
    """A Python, NumPy or torch real number as a float."""
    number = scalar(value)
    if isinstance(number, bool) or not isinstance(number, Real):
        raise TypeError(f"`{name}` must be {kind}, got {value!r}")
    return float(number)


def checked_bool(name: str, value: object) -> bool:
    flag = scalar(value)
    if not isinstance(flag, bool):
        raise TypeError(f"`{name}` must be True or False, got {value!r}")
    return flag


def _ordered(values: object) -> Iterable[object]:
    """A sequence or an array [n]. Text and unordered collections are refused.

    Raises:
        TypeError: any other value.
    """
    if isinstance(values, (str, bytes, Mapping, Set)) or not isinstance(values, Iterable):
        raise TypeError
    return values


def _numbers(values: object) -> tuple[float, ...]:
    return tuple(checked_number("", v) for v in _ordered(values))


def checked_range(name: str, value: object, top: float) -> tuple[float, float]:
    try:
        low, high = _numbers(value)
    except (TypeError, ValueError):
        raise TypeError(f"`{name}` must be two numbers (low, high), got {value!r}") from None
    if not 0 < low <= high <= top or high == float("inf"):
        bound = f"0 < low <= high <= {top:g}" if top < float("inf") else "0 < low <= high"
        raise ValueError(f"`{name}` must be {bound}, got {value!r}")
    return low, high


def checked_size(name: str, value: object) -> tuple[int, int]:
    try:
        height, width = (checked_int(name, v, 0) for v in _ordered(value))
    except (TypeError, ValueError):
        raise TypeError(f"`{name}` must be two integers (H, W), got {value!r}") from None
    return height, width


def check_tensor(name: str, value: object, shape: str, rank: int) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"`{name}` must be a tensor {shape}, got {type(value).__name__}")
    if value.ndim != rank:
        raise ValueError(f"`{name}` must have shape {shape}, got {list(value.shape)}")


def check_masks(name: str, value: Tensor, count: int, size: tuple[int, int]) -> None:
    """Accept one mask for each of `count` images of (H, W) = `size`, or one for all."""
    shape = f"bool [{count} or 1, {size[0]}, {size[1]}]"
    check_tensor(name, value, shape, 3)
    if value.shape[0] not in (1, count) or tuple(value.shape[1:]) != tuple(size) or value.dtype != torch.bool:
        raise ValueError(f"`{name}` must be {shape}, got {value.dtype} {list(value.shape)}")


def checked_probability(p: object) -> float:
    number = checked_number("p", p, "a number in [0, 1]")
    if not 0 <= number <= 1:
        raise ValueError(f"`p` must be a number in [0, 1], got {p!r}")
    return number


def checked_levels(levels: object) -> str | tuple[int, ...]:
    if isinstance(levels, str):
        if levels not in ("all", "random"):
            raise ValueError(f"`levels` must be 'all', 'random' or indices, got {levels!r}")
        return levels
    several = isinstance(levels, (Sequence, np.ndarray, Tensor)) and scalar(levels) is levels
    indices = [scalar(i) for i in (_ordered(levels) if several else (levels,))]
    whole = [int(i) for i in indices if isinstance(i, Integral) and not isinstance(i, bool)]
    if not whole or len(whole) < len(indices) or len(set(whole)) < len(whole):
        raise ValueError(f"`levels` must be 'all', 'random' or distinct indices, got {levels!r}")
    return tuple(whole)


def checked_mean_std(
    name: str, value: object, channels: int | None = None, other: str = ""
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) as tuples of numbers. Messages use `other` for what else the argument may be.

    Raises:
        TypeError: not two sequences of numbers.
        ValueError: sequences of different or wrong length, non-finite numbers, or std <= 0.
    """
    try:
        mean, std = map(_numbers, _ordered(value))
    except (TypeError, ValueError):
        raise TypeError(f"`{name}` must be {other}(mean, std), each a sequence of numbers, got {value!r}") from None
    wrong = len(mean) != len(std) or not mean or (channels is not None and len(mean) != channels)
    if wrong or not all(map(math.isfinite, mean + std)) or min(std) <= 0:
        length = f"of {channels} values each" if channels else "of equal length"
        raise ValueError(f"`{name}` must be {other}(mean, std) {length}, finite, with std > 0, got {value!r}")
    return mean, std
