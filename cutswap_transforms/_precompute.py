"""Filling the cache ahead of the training: read, skip what is known, compute the rest in batches."""

from __future__ import annotations

import importlib
import logging
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sized
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, Dataset, Subset

from ._guidance import Guidance
from ._images import check_sample, image_leaves, image_tensor
from ._region_cache import RegionCache, content_key

_log = logging.getLogger("cutswap_transforms")
_LOG_EVERY = 10.0  # seconds
_WAITING = 4  # batches of images of unequal size


def precompute(
    guidance: Guidance, dataset: Dataset[Any], batch_size: int, num_workers: int, device: torch.device | str | None
) -> int:
    """See `SaliencySwap.precompute`."""
    cache = guidance.cache
    if cache is None or (isinstance(cache, RegionCache) and cache.read_only):
        raise ValueError(f"`cache` must be writable to be filled, got {cache!r}; pass cache=FOLDER to SaliencySwap")
    if not isinstance(dataset, Sized):
        raise TypeError(f"`dataset` must be a map-style data set with a length, got {type(dataset).__name__}")
    mine = _share_of_this_rank(dataset)
    own = torch.Generator()  # of the loader, which would draw a seed from the global one
    loader = DataLoader(
        mine, batch_size=batch_size, num_workers=num_workers, collate_fn=_Keys(guidance.settings), generator=own
    )
    waiting: dict[tuple[Any, ...], list[tuple[bytes, Tensor]]] = defaultdict(list)
    done = 0
    for batch in _progress(loader, len(cast(Sized, mine))):
        unknown = set(cache.missing([key for key, _ in batch]))
        for key, pixels in batch:
            if key in unknown:
                unknown.discard(key)  # the same image twice
                kind = (pixels.dtype, *pixels.shape)
                group = waiting[kind]
                group.append((key, pixels))
                if len(group) == batch_size:
                    done += _flush(guidance, group, device)
        # Images of many sizes must not pile up in memory, nor stay unstored.
        while sum(map(len, waiting.values())) > _WAITING * batch_size:
            done += _flush(guidance, max(waiting.values(), key=len), device)
    return done + sum(_flush(guidance, group, device) for group in waiting.values())


def _flush(guidance: Guidance, group: list[tuple[bytes, Tensor]], device: torch.device | str | None) -> int:
    """Compute and store a group of images of one size, and empty it."""
    if not group or guidance.cache is None:
        return 0
    entries = guidance.computed(torch.stack([pixels for _, pixels in group]).to(device or "cpu"))
    guidance.cache.put(zip((key for key, _ in group), entries, strict=True))
    count = len(group)
    group.clear()
    return count


class _Keys:
    """Collate function: the guiding image of every sample and its key, made where the image was read."""

    def __init__(self, settings: bytes) -> None:
        self.settings = settings

    def __call__(self, samples: list[Any]) -> list[tuple[bytes, Tensor]]:
        found = []
        for sample in samples:
            leaves = tree_leaves(sample)
            check_sample(leaves)
            pixels = image_tensor(image_leaves(leaves)[0])
            images = pixels if pixels.ndim == 4 else pixels[None]
            found += [(content_key(self.settings, image), image) for image in images]
        return found


def _share_of_this_rank(dataset: Any) -> Dataset[Any]:
    """Every world-size-th sample from the rank on, by the process group or by torchrun's environment."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    else:
        told = "RANK" in os.environ and "WORLD_SIZE" in os.environ  # one alone says nothing about shares
        rank, world = (int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])) if told else (0, 1)
    return dataset if world == 1 else Subset(dataset, range(rank, len(dataset), world))


def _progress(batches: Iterable[list[tuple[bytes, Tensor]]], total: int) -> Iterator[list[tuple[bytes, Tensor]]]:
    """The batches, with tqdm's bar where it is installed, else with a log line every ten seconds."""
    try:
        bar = importlib.import_module("tqdm.auto").tqdm(total=total, desc="salient regions", unit="image")
    except ImportError:
        bar = _LogLines(total)
    with bar:
        for batch in batches:
            yield batch
            bar.update(len(batch))


class _LogLines:
    def __init__(self, total: int) -> None:
        self.total, self.count, self.begin = total, 0, time.monotonic()
        self.last = self.begin

    def __enter__(self) -> _LogLines:
        return self

    def __exit__(self, *error: object) -> None:
        self._say()

    def update(self, count: int) -> None:
        self.count += count
        if time.monotonic() - self.last >= _LOG_EVERY:
            self.last = time.monotonic()
            self._say()

    def _say(self) -> None:
        rate = self.count / max(time.monotonic() - self.begin, 1e-9)
        _log.info("salient regions: %d of %d images, %.0f images/s", self.count, self.total, rate)
