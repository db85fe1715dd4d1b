"""Saliency sources: what the argument `saliency` may be, and the check of its maps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor

from .layer_cam import LayerCAMExtractor

MOST_LEVELS = 255  # a cache entry stores the number in one byte


Levels: TypeAlias = list[Tensor] | tuple[Tensor, ...]  # one map [N, h_l, w_l] per level, fine to coarse


class SaliencySource(Protocol):
    """An object with `native_maps`: images uint8 [N, 3, H, W] -> one map [N, h_l, w_l] per level, fine to coarse."""

    def native_maps(self, images: Tensor, /) -> Levels: ...


SaliencyFunction: TypeAlias = Callable[[Tensor], Tensor | Levels]  # float32 [N, 3, H, W] in [0, 1] -> [N, L, h, w] or levels
SaliencyLike: TypeAlias = str | SaliencySource | SaliencyFunction


class CallableSaliency:
    """A function as a saliency source: images float32 [N, 3, H, W] in [0, 1] -> [N, L, h, w] or a list of [N, h_l, w_l]."""

    def __init__(self, function: SaliencyFunction) -> None:
        self.function, self.fingerprint = function, own_fingerprint(function)

    def native_maps(self, images: Tensor, /) -> Levels:
        maps = self.function(images.float() / 255)
        return list(maps.unbind(1)) if isinstance(maps, Tensor) and maps.ndim == 4 else cast(Levels, maps)

    def __repr__(self) -> str:
        return repr(self.function)


def own_fingerprint(source: object) -> object:
    """The attribute `fingerprint` of an object or of its own class, else None. An inherited one does not count: it
    describes what the base class computes, not the subclass."""
    own = "fingerprint" in getattr(source, "__dict__", {}) or "fingerprint" in vars(type(source))
    return getattr(source, "fingerprint") if own else None  # noqa: B009


def resolve_saliency(saliency: SaliencyLike) -> SaliencySource:
    """The source that the argument specifies: a model's name, an object with `native_maps` or a callable.

    Raises:
        TypeError: the argument is none of these.
        ValueError: an unknown model name.
    """
    if isinstance(saliency, str):
        return LayerCAMExtractor(saliency)
    if isinstance(saliency, type):
        raise TypeError(f"`saliency` must be an object, got the class {saliency.__name__}; pass {saliency.__name__}()")
    if hasattr(saliency, "native_maps"):
        return saliency
    if callable(saliency):
        return CallableSaliency(saliency)
    raise TypeError(
        "`saliency` must be a model's name, an object with native_maps or a callable images -> maps, "
        f"got {type(saliency).__name__}"
    )


def native_maps(source: SaliencySource, images: Tensor) -> list[Tensor]:
    """The maps of a saliency source for images uint8 [N, 3, H, W], checked: float32 [N, h_l, w_l] on the images' device.

    Raises:
        ValueError: maps of another type or shape, or more than 255 per image.
    """
    # A user's source may work in place, so it gets a copy.
    shown = images if type(source) is LayerCAMExtractor else images.clone()
    maps, n = cast(Any, source.native_maps(shown)), len(images)
    listed = isinstance(maps, (list, tuple))
    if not listed or not maps or not all(_is_map(m, n) for m in maps):
        wrong = next((m for m in maps if not _is_map(m, n)), None) if listed else maps
        shapes = f"[{', '.join(map(_shape, maps))}]" if listed else _shape(maps)
        raise ValueError(
            f"`saliency` must return a tensor [N, L, h, w] or a list of tensors [N, h, w] for N = {n} images, "
            f"got {shapes}; {_remedy(wrong, n)}"
        )
    if len(maps) > MOST_LEVELS:
        raise ValueError(f"`saliency` must return at most {MOST_LEVELS} maps per image, got {len(maps)}")
    return [m.detach().to(device=images.device, dtype=torch.float32) for m in maps]


def _is_map(found: object, n: int) -> bool:
    return isinstance(found, Tensor) and found.ndim == 3 and found.shape[0] == n and found[0].numel() > 0


def _shape(found: object) -> str:
    if isinstance(found, Tensor):
        return str(tuple(found.shape))
    kind = f"{type(found).__module__}.{type(found).__name__}".removeprefix("builtins.")
    return f"{kind} of shape {tuple(found.shape)}" if hasattr(found, "shape") else kind


def _remedy(found: object, n: int) -> str:
    if isinstance(found, np.ndarray):
        return "convert it by torch.from_numpy(array)"
    if isinstance(found, Tensor) and found.ndim == 3 and len(found) == n:
        return "maps[:, None] is one level of maps [N, h, w]"
    return "wrap a classifier as LayerCAMExtractor(model)"
