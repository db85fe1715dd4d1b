"""The deterministic half of the method: an image's salient regions, computed or looked up.

Everything here depends only on the image and the settings, so it can be cached, batched and moved to a device. The
random half is in `draw`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..arguments import GRIDS, MeanStd, checked_int
from ..cache.entry import Regions, keys_and_cells, pack, unpack
from ..cache.memory import Memory, MemoryCache, shared_memory
from ..cache.store import RegionCache
from ..images import ImageLike, eight_bits, pil_array, pil_order
from ..saliency.layer_cam import LayerCAMExtractor
from ..saliency.source import SaliencyLike, SaliencySource, native_maps, own_fingerprint, resolve_saliency
from .cells import find_regions
from .choose import checked_region
from .clustering import Clustering, ClusteringLike, is_built_in, resolve_clustering

_VERSION = "regions-7"  # part of every key: raise it when the same settings give other regions


CacheLike: TypeAlias = str | os.PathLike[str] | RegionCache | MemoryCache | None


class RegionFinder:
    """`finder(image)` -> regions bool [N, L, G, G]: a NumPy array on the host, a tensor on a device.

    Args:
        saliency, clustering, grid, region, cache, normalized: as in `SaliencySwap`.

    Attributes:
        cache: the argument, resolved: a `MemoryCache`, a `RegionCache` or None.
        num_levels: L; None for a user's saliency source before its first call, even if the cache has entries.
    """

    def __init__(
        self,
        saliency: SaliencyLike,
        clustering: ClusteringLike,
        grid: int,
        region: str,
        cache: CacheLike,
        normalized: MeanStd | None,
    ) -> None:
        self.saliency, self.clustering = resolve_saliency(saliency), resolve_clustering(clustering)
        self.grid, self.normalized = checked_int("grid", grid, *GRIDS), normalized
        # `KMeans(union=False)`, deprecated, keeps its meaning for one version.
        self.region = "top" if getattr(self.clustering, "top_alone", False) else checked_region(region)
        self.cache = _resolved_cache(cache)
        if isinstance(self.cache, RegionCache) and self._described() is None:
            raise ValueError(
                f"`cache` in a folder must know what computes the regions, got {self._undescribed()} without a string "
                "attribute `fingerprint`; give it one that changes whenever its results do, or pass cache='memory'"
            )
        known = type(self.saliency) is LayerCAMExtractor
        self.num_levels: int | None = len(self.saliency.layers) if known else None  # type: ignore[attr-defined]
        self._prepare()

    def _prepare(self) -> None:
        described = self._described()
        # Sources without a fingerprint get a random key per process, so their entries are never confused.
        self.settings = os.urandom(32) if described is None else hashlib.sha256(described.encode()).digest()
        if isinstance(self.cache, MemoryCache):
            self.cache.memory = shared_memory(self.settings)

    @property
    def store(self) -> Memory | RegionCache | None:
        """The store of the entries; reading it counts no hits or misses."""
        return self.cache.memory if isinstance(self.cache, MemoryCache) else self.cache

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "settings"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._prepare()

    def __call__(self, image: ImageLike, rows: Sequence[int] | None = None, inside: Tensor | None = None) -> Regions | Tensor:
        """The regions of an image leaf or batch; on the host, only of the given rows of the batch.

        Args:
            inside: bool [N or 1, G * G], the cells of the region of interest.
        """
        if isinstance(image, Tensor) and image.device.type != "cpu":
            return self.compute(eight_bits(image, self.normalized), inside)
        if self.cache is None or self.normalized is not None or isinstance(image, Tensor):
            seen = eight_bits(image, self.normalized)
            if rows is not None and len(rows) < len(seen):
                seen, inside = seen[list(rows)], inside if inside is None or len(inside) == 1 else inside[list(rows)]
            if self.cache is None:
                return cast(Regions, self.compute(seen, inside).numpy())
            return self._looked_up(list(pil_order(seen)), inside)
        return self._looked_up([pil_array(image)], inside)

    def compute(self, images: Tensor, inside: Tensor | None = None) -> Tensor:
        """The regions of images uint8 [N, 3, H, W] on any device, without a look-up.

        Raises:
            ValueError: the source returns another number of maps than before.
        """
        return find_regions(self._maps(images), images, self.clustering, self.grid, self.region, inside)

    def _maps(self, images: Tensor) -> list[Tensor]:
        maps = native_maps(self.saliency, images)
        if self.num_levels not in (None, len(maps)):
            raise ValueError(
                f"`saliency` must return the same number of maps for all images, got {len(maps)} after {self.num_levels}"
            )
        self.num_levels = len(maps)
        return maps

    def fill(self, keys: Sequence[bytes], images: Tensor, inside: Tensor | None = None) -> None:
        """Compute the regions of images uint8 [N, 3, H, W] and store them under the keys."""
        if self.cache is not None:
            self.cache._put(zip(keys, pack(self.compute(images, inside).cpu().numpy()), strict=True))

    def _looked_up(self, arrays: Sequence[npt.NDArray[np.uint8]], inside: Tensor | None) -> Regions:
        """For images uint8 [H, W, 3] of one size; missing regions are computed in one batch and stored."""
        cache = cast(MemoryCache | RegionCache, self.cache)
        keys = [key for key, _ in keys_and_cells(self.settings, arrays, inside)]
        entries = [cache._get(key) for key in keys]
        regions = [None if entry is None else unpack(entry, self.grid, self.num_levels) for entry in entries]

        def renew(wanted: list[int]) -> None:
            images = torch.from_numpy(np.stack([arrays[j] for j in wanted])).permute(0, 3, 1, 2)
            new = self.compute(images, inside if inside is None or len(inside) == 1 else inside[wanted]).numpy()
            cache._put(zip((keys[j] for j in wanted), pack(new), strict=True))
            for j, computed in zip(wanted, new, strict=True):
                regions[j] = computed

        agreed = len({len(known) for known in regions if known is not None}) < 2  # else only the source can decide
        missing = [j for j, known in enumerate(regions) if known is None or not agreed]
        if missing:
            renew(missing)
            stale = [j for j, known in enumerate(regions) if len(cast(Regions, known)) != self.num_levels]
            if stale:
                renew(stale)
        found = cast(list[Regions], regions)
        return np.stack(found) if len(found) > 1 else found[0][None]

    def _described(self) -> str | None:
        parts = [_fingerprint(x) for x in (self.saliency, self.clustering)]
        return repr((_VERSION, *parts, self.grid, self.region)) if all(isinstance(p, str) for p in parts) else None

    def _undescribed(self) -> str:
        named = {"`saliency`": self.saliency, "`clustering`": self.clustering}
        return " and ".join(n for n, x in named.items() if not isinstance(_fingerprint(x), str))


class Lookup:
    """The regions of one image leaf or batch, looked up or computed on demand.

    Args:
        inside: bool [N or 1, G * G], the cells of the region of interest.
    """

    def __init__(self, finder: RegionFinder, image: ImageLike, inside: Tensor | None) -> None:
        self.finder, self.image, self.inside = finder, image, inside
        self.all: Regions | Tensor | None = None

    @property
    def num_levels(self) -> int:
        """L; if not known yet, from the regions of these images."""
        if self.finder.num_levels is not None:
            return self.finder.num_levels
        self.all = self.finder(self.image, None, self.inside)
        return self.all.shape[1]

    def regions(self, rows: Sequence[int] | None = None) -> Regions | Tensor:
        """bool [N, L, G, G]; on the host, only of the given rows of the batch."""
        if self.all is None:
            return self.finder(self.image, rows, self.inside)
        return self.all if rows is None else self.all[list(rows)]


def _fingerprint(source: SaliencySource | Clustering) -> object:
    return source.fingerprint if is_built_in(source) else own_fingerprint(source)


def _resolved_cache(cache: CacheLike) -> MemoryCache | RegionCache | None:
    if cache is None or isinstance(cache, RegionCache):
        return cache
    if isinstance(cache, MemoryCache) or (isinstance(cache, str) and cache == "memory"):
        return MemoryCache()  # one per transform, so that each counts its own look-ups
    if isinstance(cache, (str, os.PathLike)) and os.fspath(cache):
        return RegionCache(cache)
    got = repr(cache) if isinstance(cache, str) else type(cache).__name__
    raise TypeError(f"`cache` must be 'memory', a folder, a RegionCache or None, got {got}")
