"""Arrays of NumPy or torch by one name: their library and their dtypes."""

from __future__ import annotations

from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

WIDE_DEVICES = ("cpu", "cuda")  # of the others not all have float64: Apple's have none, Intel's some


Array = TypeVar("Array", Tensor, npt.NDArray[Any])  # all of a call are of one library


def library(x: Tensor | npt.NDArray[Any]) -> ModuleType:
    """numpy or torch, whose functions take the array."""
    return torch if isinstance(x, Tensor) else np


def as_dtype(x: Array, kind: str) -> Array:
    """An array of NumPy or torch with the dtype of that name."""
    return x.to(getattr(torch, kind)) if isinstance(x, Tensor) else x.astype(kind, copy=False)


def widened(x: Array) -> Array:
    """An array as float64, on devices that may have none as float32."""
    wide = not isinstance(x, Tensor) or x.device.type in WIDE_DEVICES
    return as_dtype(x, "float64" if wide else "float32")
