"""What a clustering is, the table of names, and the way from a user's argument to a backend."""

from __future__ import annotations

import copy
import difflib
import functools
import importlib
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from ._kmeans import QuantileKMeans, as_rows


class ClusteringBackend(Protocol):
    """A callable from points, float32 Tensor ``[P, D]``, to integer labels ``[P]``; -1 is noise.

    Points are saliency values in [0, 1], one column; with an attribute ``position = True`` three: ``(value, y, x)``.
    With an attribute ``batched = True`` a backend is given ``[M, P, D]`` and returns ``[M, P]``. With a string
    attribute ``fingerprint``, which must say all that its labels depend on, results may be kept on disk.
    """

    def __call__(self, points: Tensor, /) -> Tensor: ...


class ResolvedBackend(Protocol):
    """What :func:`resolve_clustering` returns: takes ``[P, D]`` and ``[M, P, D]`` with points that are not finite."""

    @property
    def position(self) -> bool: ...

    @property
    def fingerprint(self) -> str | None: ...

    def __call__(self, points: Tensor, /) -> Tensor: ...


_FACTORIES: dict[str, Callable[[], object]] = {}


def register_clustering(name: str, factory: Callable[[], object]) -> None:
    """Make ``clustering=name`` mean `factory()`.

    Args:
        name: a name not used before.
        factory: makes a :class:`ClusteringBackend` or an object with ``fit_predict``; called at each use of the name.

    Raises:
        TypeError: if `name` is not a str or `factory` cannot be called.
        ValueError: if `name` is registered already.
    """
    if not isinstance(name, str):
        raise TypeError(f"`name` must be a str, got {name!r}")
    if not callable(factory):
        raise TypeError(f"`factory` must be callable without arguments, got {factory!r}")
    if name in _FACTORIES:
        raise ValueError(f"`name` must be new, got {name!r}; registered are {', '.join(_FACTORIES)}")
    _FACTORIES[name] = factory


def clustering_names() -> tuple[str, ...]:
    """Names that ``clustering=`` takes, in the order of their registration."""
    return tuple(_FACTORIES)


def resolve_clustering(spec: object) -> ResolvedBackend:
    """Turn the `clustering` argument into a backend that keeps the contract of :class:`ResolvedBackend`.

    Args:
        spec: a registered name, a :class:`ClusteringBackend`, or an object with ``fit_predict`` such as ``DBSCAN()``,
            which is given float32 NumPy points and is itself never fitted: each call fits a copy.

    Raises:
        TypeError: if `spec` is none of these.
        ValueError: if the name is unknown.
        ImportError: if the backend of that name needs an extra that is missing.
    """
    if isinstance(spec, str):
        return _as_backend(_factory(spec)())
    return _as_backend(spec)


def _factory(name: str) -> Callable[[], object]:
    if name in _FACTORIES:
        return _FACTORIES[name]
    near = difflib.get_close_matches(name, _FACTORIES)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise ValueError(f"`clustering` must be one of {', '.join(map(repr, _FACTORIES))}, got {name!r}{hint}")


def _as_backend(source: object) -> ResolvedBackend:
    if isinstance(source, type):
        name = source.__name__
        raise TypeError(f"`clustering` must be an object, got the class {name}; pass {name}()")
    if isinstance(source, QuantileKMeans | CheckedBackend):
        return source
    if not callable(source) and not hasattr(source, "fit_predict"):
        raise TypeError(f"`clustering` must be a name, a callable or an object with `fit_predict`, got {source!r}")
    own = getattr(source, "fingerprint", None)
    return CheckedBackend(source, own if isinstance(own, str) else None)


@dataclass(frozen=True)
class CheckedBackend:
    """A user's callable or ``fit_predict`` object: sees finite points only, and its labels are checked."""

    source: Any
    fingerprint: str | None

    batched: ClassVar[bool] = True

    def __repr__(self) -> str:
        return repr(self.source)

    @property
    def position(self) -> bool:
        """Whether the source asks for points ``(value, y, x)``."""
        return bool(getattr(self.source, "position", False))

    def __call__(self, points: Tensor) -> Tensor:
        """Label points ``[P, D]`` or ``[M, P, D]``: int64 ``[P]`` or ``[M, P]``, -1 for noise and where not finite."""
        rows = as_rows(points)
        finite = rows.isfinite().all(-1)  # [M, P]
        labels = torch.full(finite.shape, -1, device=rows.device)
        if getattr(self.source, "batched", False) and rows.numel():  # it sees the points that are not finite as well
            labels = torch.where(finite, self._labels(rows), labels)
        else:
            for row, keep, label in zip(rows, finite, labels, strict=True):
                kept = row[keep]
                if len(kept):
                    label[keep] = self._labels(kept)
        return labels.reshape(points.shape[:-1])

    def _labels(self, points: Tensor) -> Tensor:
        if callable(self.source):
            found = self.source(points)
        else:
            with one_thread_in_workers():
                found = copy.deepcopy(self.source).fit_predict(points.cpu().numpy())
        array = found if isinstance(found, Tensor) else np.asarray(found)
        if not isinstance(array, Tensor) and array.dtype.kind not in "biu":
            raise TypeError(f"`clustering` must return integer labels, got {array.dtype} from {self.source!r}")
        labels = torch.as_tensor(array, device=points.device)
        if labels.is_floating_point() or labels.is_complex():
            raise TypeError(f"`clustering` must return integer labels, got {labels.dtype} from {self.source!r}")
        if labels.shape != points.shape[:-1]:
            shapes = f"shape {tuple(points.shape[:-1])}, got {tuple(labels.shape)}"
            raise ValueError(f"`clustering` must return one label per point, {shapes} from {self.source!r}")
        return labels.to(torch.int64).clamp(min=-1)


def one_thread_in_workers() -> AbstractContextManager[Any]:
    """Hold OpenMP and BLAS to one thread in a DataLoader worker: workers are parallel already, and GNU OpenMP may hang
    in a forked child whose parent has used it."""
    if get_worker_info() is None or "sklearn" not in sys.modules:
        return nullcontext()
    limit: AbstractContextManager[Any] = _thread_pools().limit(limits=1)
    return limit


@functools.cache
def _thread_pools() -> Any:
    """Found once per process, which takes milliseconds; threadpoolctl comes with scikit-learn."""
    return importlib.import_module("threadpoolctl").ThreadpoolController()
