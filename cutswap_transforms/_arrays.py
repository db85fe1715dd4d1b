"""Arrays of NumPy or torch by one name: their dtypes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

WIDE_DEVICES = ("cpu", "cuda")  # of the others not all have float64: Apple's have none, Intel's some


def as_dtype(x: Any, kind: str) -> Any:
    """An array of NumPy or torch with the dtype of that name."""
    return x.to(getattr(torch, kind)) if isinstance(x, Tensor) else x.astype(kind, copy=False)


def widened(x: Any) -> Any:
    """An array as float64, on devices that may have none as float32."""
    wide = not isinstance(x, Tensor) or x.device.type in WIDE_DEVICES
    return as_dtype(x, "float64" if wide else "float32")
