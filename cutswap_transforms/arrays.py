"""NumPy arrays and torch tensors under one name: library and dtype conversion."""

from __future__ import annotations

from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

WIDE_DEVICES = ("cpu", "cuda")  # others may lack float64: no Apple GPU has it, some Intel GPUs do


Array = TypeVar("Array", Tensor, npt.NDArray[Any])  # all arrays of one call come from the same library


def library(x: Tensor | npt.NDArray[Any]) -> ModuleType:
    """The module, numpy or torch, whose functions take the array."""
    return torch if isinstance(x, Tensor) else np


def as_dtype(x: Array, kind: str) -> Array:
    """The array with the dtype of that name."""
    return x.to(getattr(torch, kind)) if isinstance(x, Tensor) else x.astype(kind, copy=False)


def widened(x: Array) -> Array:
    """The array as float64, or float32 on devices that may lack float64."""
    wide = not isinstance(x, Tensor) or x.device.type in WIDE_DEVICES
    return as_dtype(x, "float64" if wide else "float32")
