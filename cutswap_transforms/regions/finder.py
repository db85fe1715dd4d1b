"""The deterministic half of the method: an image's salient regions, computed or looked up.

Everything here depends on the image and the settings alone and draws nothing, so it can be cached, batched and moved to
a device. What is random comes after it, in `draw`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import PIL.Image
import torch
from torch import Tensor

from .._arguments import GRIDS, MeanStd, checked_int
from .._images import eight_bits, pil_array, pil_order
from ..saliency.layer_cam import LayerCAMExtractor
from ..saliency.source import native_maps, own_fingerprint, resolve_saliency
from .cells import Guidance, guide
from .choose import checked_region
from .clustering import BATCHED, resolve_clustering
from .entry import content_key, pack, unpack
from .memory import Memory, shared_memory
from .store import RegionCache

_VERSION = "regions-4"  # enters every key: raise it when the same settings come to give other regions


class RegionFinder:
    """`finder(image) -> Guidance`: regions bool [N, L, G, G] and spread; NumPy arrays on the host, tensors on a device.

    Args:
        saliency, clustering, grid, region, cache, normalized: as in `SaliencySwap`.

    Attributes:
        cache: the argument, resolved: "memory", a `RegionCache` or None.
        num_levels: L; None for a source of the user's that was not called yet, whatever the cache says.
    """

    def __init__(self, saliency: Any, clustering: Any, grid: int, region: str, cache: Any, normalized: MeanStd | None) -> None:
        self.saliency, self.clustering = resolve_saliency(saliency), resolve_clustering(clustering)
        self.grid, self.normalized = checked_int("grid", grid, *GRIDS), normalized
        # `KMeans(union=False)`, deprecated, keeps its meaning for one version.
        self.region = "top" if getattr(self.clustering, "top_alone", False) else checked_region(region)
        self.cache = _resolved_cache(cache)
        if isinstance(self.cache, RegionCache) and self._described() is None:
            raise ValueError(
                f"`cache` in a folder must know what makes the regions, got {self._undescribed()} without a string "
                "attribute `fingerprint`; give it one that changes whenever its results do, or pass cache='memory'"
            )
        known = type(self.saliency) is LayerCAMExtractor
        self.num_levels: int | None = len(self.saliency.layers) if known else None  # type: ignore[attr-defined]
        self._prepare()

    def _prepare(self) -> None:
        described = self._described()
        # Sources without a fingerprint get a random key per process, so nothing that they make is ever mistaken.
        self.settings = os.urandom(32) if described is None else hashlib.sha256(described.encode()).digest()
        shared = shared_memory(self.settings) if self.cache == "memory" else self.cache
        self.store = cast(Memory | RegionCache | None, shared)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("settings", "store")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._prepare()

    def __call__(self, image: Any, rows: Sequence[int] | None = None, inside: Tensor | None = None) -> Guidance:
        """The regions and the spread of an image leaf or batch; on the host of the given rows of the batch alone.

        Args:
            inside: bool [N or 1, G * G], the cells of the region of interest.
        """
        if isinstance(image, Tensor) and image.device.type != "cpu":
            return self.compute(eight_bits(image, self.normalized), inside)
        if self.store is None or self.normalized is not None or isinstance(image, Tensor):
            seen = eight_bits(image, self.normalized)
            if rows is not None and len(rows) < len(seen):
                seen, inside = seen[list(rows)], inside if inside is None or len(inside) == 1 else inside[list(rows)]
            if self.store is None:
                return _arrays(self.compute(seen, inside))
            return self._looked_up(list(pil_order(seen)), inside)
        return self._looked_up([pil_array(cast(PIL.Image.Image, image))], inside)

    def compute(self, images: Tensor, inside: Tensor | None = None) -> Guidance:
        """Tensors for images uint8 [N, 3, H, W] on any device; nothing is looked up.

        Raises:
            ValueError: the source returns another number of maps than before.
        """
        maps = native_maps(self.saliency, images)
        if self.num_levels not in (None, len(maps)):
            raise ValueError(
                f"`saliency` must return one number of maps for all images, got {len(maps)} after {self.num_levels}"
            )
        self.num_levels = len(maps)
        return guide(maps, images, self.clustering, self.grid, self.region, inside)

    def fill(self, keys: Sequence[bytes], images: Tensor, inside: Tensor | None = None) -> None:
        """Compute the regions of images uint8 [N, 3, H, W] and store them under the keys."""
        if self.store is not None:
            self.store.put(zip(keys, pack(*_arrays(self.compute(images, inside))), strict=True))

    def _looked_up(self, arrays: Sequence[npt.NDArray[np.uint8]], inside: Tensor | None) -> Guidance:
        """Of images uint8 [H, W, 3] of one size; what the store lacks is computed in one batch and stored."""
        store = cast(Memory | RegionCache, self.store)
        cells = [None] * len(arrays) if inside is None else inside.expand(len(arrays), -1).numpy()
        keys = [content_key(self.settings, a, c) for a, c in zip(arrays, cells, strict=True)]
        entries = [store.get(key) for key in keys]
        found = [None if entry is None else unpack(entry, self.grid, self.num_levels) for entry in entries]
        counts = {len(entry[0]) for entry in found if entry is not None}
        if len(counts) > 1:
            found[0] = None  # the source must say which number of levels is right
        missing = [j for j, entry in enumerate(found) if entry is None]
        if missing:
            images = torch.from_numpy(np.stack([arrays[j] for j in missing])).permute(0, 3, 1, 2)
            new = _arrays(self.compute(images, inside if inside is None or len(inside) == 1 else inside[missing]))
            store.put(zip((keys[j] for j in missing), pack(*new), strict=True))
            if counts - {self.num_levels}:
                return self._looked_up(arrays, inside)  # now entries of another number are missing too
            for j, region, even in zip(missing, *new, strict=True):
                found[j] = (region, even)
        regions, spread = zip(*cast(list[tuple[Any, int]], found), strict=True)
        return Guidance(np.stack(regions) if len(regions) > 1 else regions[0][None], np.array(spread, np.uint8))

    def _described(self) -> str | None:
        parts = [_fingerprint(x) for x in (self.saliency, self.clustering)]
        return repr((_VERSION, *parts, self.grid, self.region)) if all(isinstance(p, str) for p in parts) else None

    def _undescribed(self) -> str:
        named = {"`saliency`": self.saliency, "`clustering`": self.clustering}
        return " and ".join(n for n, x in named.items() if not isinstance(_fingerprint(x), str))


def _arrays(found: Guidance) -> Guidance:
    return Guidance(*(x.cpu().numpy() for x in found))


def _fingerprint(source: Any) -> Any:
    return source.fingerprint if type(source) in BATCHED else own_fingerprint(source)


def _resolved_cache(cache: Any) -> Any:
    if cache is None or cache == "memory" or isinstance(cache, RegionCache):
        return cache
    if isinstance(cache, (str, os.PathLike)) and os.fspath(cache):
        return RegionCache(cache)
    got = repr(cache) if isinstance(cache, str) else type(cache).__name__
    raise TypeError(f"`cache` must be 'memory', a folder, a RegionCache or None, got {got}")
