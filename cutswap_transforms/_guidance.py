"""The deterministic half: an image's salient regions, from saliency maps and clusters or from the cache.

Everything here depends on the image and the settings alone and draws nothing, so it can be kept, batched and moved to a
device; what is random comes after it, in `_saliency_swap`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from . import functional as F
from ._images import MeanStd, image_tensor, net_input, pil_array
from ._region_cache import MEMORY, MemoryCache, RegionCache, content_key, pack
from .clustering import resolve_clustering
from .saliency import LayerCAMExtractor

_MOST_LEVELS = 255  # an entry of the cache counts them in one byte
_VERSION = "regions-2"  # enters every key: raise it when the same settings come to give other regions


class SaliencySource(Protocol):
    """What a `saliency` object offers: raw maps, one tensor [N, h_l, w_l] per level."""

    def native_maps(self, images: Tensor, /) -> list[Tensor]: ...


class CallableSaliency:
    """A function as a source: images [N, 3, H, W] in [0, 1] -> [N, L, h, w] or a list of [N, h_l, w_l]."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        self.function = function
        self.fingerprint = getattr(function, "fingerprint", None)

    def native_maps(self, images: Tensor, /) -> list[Tensor]:
        found = self.function(images.float() / 255 if images.dtype == torch.uint8 else images)
        return list(found.unbind(1)) if isinstance(found, Tensor) and found.ndim == 4 else found

    def __repr__(self) -> str:
        return repr(self.function)


class Guidance:
    """Saliency source, clustering and cache of one transform.

    Args:
        saliency, clustering, cache, normalized: as in `SaliencySwap`.
        fused: cluster one fused map instead of every level.
    """

    def __init__(self, saliency: Any, clustering: Any, cache: Any, *, fused: bool, normalized: MeanStd | None) -> None:
        self.saliency, self.clustering = _resolve_saliency(saliency), resolve_clustering(clustering)
        self.fused, self.normalized = fused, normalized
        self.cache = _resolve_cache(cache)
        if isinstance(self.cache, RegionCache) and self._described() is None:
            raise ValueError(
                f"`cache` in a folder must know what makes the regions, got {self._undescribed()} without a string "
                "attribute `fingerprint`; give it one that changes whenever its results do, or pass cache='memory'"
            )
        known = isinstance(self.saliency, LayerCAMExtractor)
        self.num_levels: int | None = len(self.saliency.layers) if known else None  # type: ignore[attr-defined]
        self._settings: bytes | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_settings": None}  # a token of this process means nothing in another one

    @property
    def settings(self) -> bytes:
        """32 bytes for all that the regions depend on; of sources that do not tell, a token of this process."""
        if self._settings is None:
            described = self._described()
            self._settings = os.urandom(32) if described is None else hashlib.sha256(described.encode()).digest()
        return self._settings

    def _described(self) -> str | None:
        parts = [getattr(x, "fingerprint", None) for x in (self.saliency, self.clustering)]
        return repr((_VERSION, *parts, self.fused, self.normalized)) if all(isinstance(p, str) for p in parts) else None

    def _undescribed(self) -> str:
        named = {"`saliency`": self.saliency, "`clustering`": self.clustering}
        return " and ".join(n for n, x in named.items() if not isinstance(getattr(x, "fingerprint", None), str))

    def native_maps(self, images: Tensor) -> list[Tensor]:
        """The source's maps, checked: a non-empty list of float32 [N, h_l, w_l] on the images' device."""
        shown = images if isinstance(self.saliency, LayerCAMExtractor) else images.clone()  # others may work in place
        maps = _checked_maps(self.saliency.native_maps(shown), images)
        self.num_levels = len(maps)
        return maps

    def regions(self, images: Tensor) -> list[Tensor]:
        """bool [N, h_l, w_l] per level, or of the fused map alone, for net inputs [N, 3, H, W]; not from the cache."""
        maps = self.native_maps(images)
        return F.salient_regions([F.fuse_maps(maps)] if self.fused else maps, self.clustering)

    def entries(self, image: Any, wanted: Sequence[int]) -> list[bytes]:
        """Packed regions of the wanted images of a leaf on the CPU, looked up where they are known."""
        if self.cache is None:
            return self.computed(_rows(image_tensor(image), wanted))
        keys = self._keys(image, wanted)
        found = [self.cache.get(key) for key in keys]
        missing = [j for j, entry in enumerate(found) if entry is None]
        if missing:
            new = self.computed(_rows(image_tensor(image), [wanted[j] for j in missing]))
            self.cache.put(zip((keys[j] for j in missing), new, strict=True))
            for j, entry in zip(missing, new, strict=True):
                found[j] = entry
        return cast(list[bytes], found)

    def _keys(self, image: Any, wanted: Sequence[int]) -> list[bytes]:
        if isinstance(image, Tensor):
            pixels = _batched(image_tensor(image))
            return [content_key(self.settings, pixels[i]) for i in wanted]
        return [content_key(self.settings, pil_array(image))]

    def computed(self, pixels: Tensor) -> list[bytes]:
        """Packed regions of images [N, C, H, W], on any device."""
        return pack([r.cpu().numpy() for r in self.regions(net_input(pixels, self.normalized))])


def _batched(pixels: Tensor) -> Tensor:
    return pixels if pixels.ndim == 4 else pixels[None]


def _rows(pixels: Tensor, wanted: Sequence[int]) -> Tensor:
    pixels = _batched(pixels)
    return pixels[list(wanted)] if len(wanted) < len(pixels) else pixels


def _resolve_saliency(saliency: Any) -> SaliencySource:
    if isinstance(saliency, str):
        return LayerCAMExtractor(saliency)
    if isinstance(saliency, type):
        raise TypeError(f"`saliency` must be an object, got the class {saliency.__name__}; pass {saliency.__name__}()")
    if hasattr(saliency, "native_maps"):
        return cast(SaliencySource, saliency)
    if callable(saliency):
        return CallableSaliency(saliency)
    raise TypeError(
        "`saliency` must be a model's name, an object with native_maps or a callable images -> maps, "
        f"got {type(saliency).__name__}"
    )


def _resolve_cache(cache: Any) -> MemoryCache | RegionCache | None:
    if cache is None or isinstance(cache, RegionCache):
        return cache
    if cache == "memory":
        return MEMORY
    if isinstance(cache, str) and (cache.lower() in ("", "none") or get_close_matches(cache, ["memory"])):
        raise ValueError(
            f"`cache` must be 'memory', a folder, a RegionCache or None, got {cache!r}; a folder of that name is ./{cache}"
        )
    if isinstance(cache, (str, os.PathLike)):
        return RegionCache(cache)
    raise TypeError(f"`cache` must be 'memory', a folder, a RegionCache or None, got {type(cache).__name__}")


def _checked_maps(maps: Any, images: Tensor) -> list[Tensor]:
    n, listed = len(images), isinstance(maps, (list, tuple))
    if not listed or not maps or not all(_is_map(m, n) for m in maps):
        shapes = [_shape(m) for m in maps] if listed else _shape(maps)
        raise ValueError(
            f"`saliency` must return a tensor [N, L, h, w] or a list of tensors [N, h, w] for N = {n} images, "
            f"got {shapes}; a classifier is wrapped as LayerCAMExtractor(model)"
        )
    if len(maps) > _MOST_LEVELS:
        raise ValueError(f"`saliency` must return at most {_MOST_LEVELS} maps per image, got {len(maps)}")
    return [m.detach().to(device=images.device, dtype=torch.float32) for m in maps]


def _is_map(found: Any, n: int) -> bool:
    return isinstance(found, Tensor) and found.ndim == 3 and found.shape[0] == n and found[0].numel() > 0


def _shape(found: Any) -> Any:
    return tuple(found.shape) if hasattr(found, "shape") else type(found).__name__
