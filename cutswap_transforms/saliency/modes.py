"""What a process keeps is made in the usual way, whatever mode the caller is in when it is made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import _disable_current_modes

CPU = torch.device("cpu")


@contextmanager
def real_tensors(device: torch.device = CPU) -> Iterator[None]:
    """No fake tensors, none of inference mode, and `device` as the default one."""
    with _disable_current_modes(), torch.inference_mode(False), device:
        yield


@contextmanager
def autograd_allowed(device: torch.device = CPU) -> Iterator[None]:
    """Real tensors, and gradients as usual."""
    with real_tensors(device), torch.enable_grad(), torch.autocast("cpu", enabled=False):
        yield


@contextmanager
def construction() -> Iterator[None]:
    """Real tensors, float32 by default: the numbers that a generator draws depend on the dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with real_tensors():
            yield
    finally:
        torch.set_default_dtype(before)
