"""Standard modes for building long-lived objects, independent of the modes of the caller."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

CPU = torch.device("cpu")
ATEN = torch.ops.aten
NORMS = {  # norms by the statistics of their input, and the index of the argument that says so
    ATEN.native_group_norm.default: None,
    ATEN.native_group_norm_backward.default: None,
    ATEN.native_batch_norm.default: 5,
    ATEN.native_batch_norm_backward.default: 7,
}


class ExactNorms(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Group norms, and batch norms by the statistics of the batch, get contiguous tensors.

    In channels_last torch's CPU kernels subtract large numbers: if the mean is a thousand times the spread, no digit of a
    group norm is right, and a batch norm loses one and a half digits."""

    def __torch_dispatch__(
        self, func: OpOverload, types: Iterable[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        at = NORMS.get(func)
        if func in NORMS and (at is None or args[at]):
            args = [a.contiguous() if isinstance(a, Tensor) else a for a in args]
        return func(*args, **(kwargs or {}))


@contextmanager
def real_tensors(device: torch.device = CPU) -> Iterator[None]:
    """No fake tensors, no inference mode, and `device` as the default device."""
    with _disable_current_modes(), torch.inference_mode(False), device:
        yield


@contextmanager
def autograd_allowed(device: torch.device = CPU) -> Iterator[None]:
    """Real tensors, with gradients enabled."""
    with real_tensors(device), torch.enable_grad(), torch.autocast("cpu", enabled=False):
        yield


def without_autocast(device: str) -> AbstractContextManager[Any]:
    """Disable autocast on a device type, if it is enabled there."""
    enabled = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if enabled else nullcontext()


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
