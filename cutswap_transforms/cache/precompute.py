"""Fill a cache before training: read, skip stored regions, compute the rest in batches."""

from __future__ import annotations

import functools
import importlib
import inspect
import itertools
import logging
import time
import types
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset, Subset

from ..images import check_sample, eight_bits, image_leaves, pil_order
from ..ranks import rank_and_world
from ..regions.finder import RegionFinder
from ..regions.roi import Roi, inside_of, sample_leaves
from .entry import keys_and_cells
from .memory import Memory
from .store import RegionCache

T = TypeVar("T")
_log = logging.getLogger("cutswap_transforms")
_LOG_EVERY = 10.0  # seconds
_WAITING = 4  # batches of images of unequal size
_MOST_HELD, _MOST_ITEMS = 10_000, 64  # objects searched in a data set, and items in each container
_PLAIN = (str, bytes, int, float, type(None), type, types.ModuleType, torch.Tensor, np.ndarray)

Keyed = tuple[bytes, npt.NDArray[np.uint8], Any]  # key, image [H, W, 3], cells of the region of interest or None


def precompute(
    finder: RegionFinder,
    roi: Roi | str | None,
    dataset: Dataset[Any],
    batch_size: int,
    num_workers: int,
    device: torch.device | str | None,
) -> int:
    """See `SaliencySwap.precompute`."""
    store = finder.store
    if store is None or (isinstance(store, RegionCache) and store.read_only):
        raise ValueError(f"`cache` must be writable to be filled, got {finder.cache!r}; pass cache=FOLDER to SaliencySwap")
    if not isinstance(dataset, Sized):
        raise TypeError(f"`dataset` must be a map-style data set with a length, got {type(dataset).__name__}")
    mine = _share_of_this_rank(dataset)
    own = torch.Generator()  # the loader would draw a seed from the global generator
    loader = DataLoader(mine, batch_size=batch_size, num_workers=num_workers, collate_fn=_Keys(finder, roi), generator=own)
    waiting = _Waiting(finder, store, batch_size, device or "cpu")
    for batch in progress(loader, len(cast(Sized, mine))):
        unknown = set(store.missing([key for key, *_ in batch]))
        for row in batch:
            if row[0] in unknown:
                unknown.discard(row[0])  # the same image twice
                waiting.add(row)
        waiting.relieve()
    waiting.finish()
    return waiting.done


class _Waiting:
    """Images that wait for others of their size, in groups that are computed and stored together."""

    def __init__(self, finder: RegionFinder, store: Memory | RegionCache, batch_size: int, device: torch.device | str) -> None:
        self.finder, self.store, self.batch_size, self.device = finder, store, batch_size, device
        self.groups: dict[tuple[int, ...], list[Keyed]] = defaultdict(list)
        self.done = 0

    def add(self, row: Keyed) -> None:
        group = self.groups[tuple(row[1].shape)]
        group.append(row)
        if len(group) == self.batch_size:
            self._flush(group)

    def relieve(self) -> None:
        """Images of many sizes must not pile up in memory, nor stay unstored."""
        while sum(map(len, self.groups.values())) > _WAITING * self.batch_size:
            self._flush(max(self.groups.values(), key=len))

    def finish(self) -> None:
        for group in self.groups.values():
            if group:
                self._flush(group)

    def _flush(self, group: list[Keyed]) -> None:
        keys, images, cells = zip(*group, strict=True)
        inside = None if cells[0] is None else torch.from_numpy(np.stack(cells)).to(self.device)
        self.finder.fill(keys, torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).to(self.device), inside)
        if isinstance(self.store, RegionCache):
            self.store._check_stored(self.done)
        self.done += len(group)
        group.clear()


def holds(root: object, wanted: Callable[[Any], bool], beyond: type) -> bool:
    """Whether `root` holds a wanted object in attributes, containers, closures or partials, not beyond type `beyond`."""
    waiting, seen = [root], dict[int, object]()  # keeps the objects alive, so that ids are unique
    while waiting and len(seen) < _MOST_HELD:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, (*_PLAIN, beyond)):
            continue
        if wanted(one):
            return True
        seen[id(one)] = one
        waiting += _held(one)
    return False


def _held(one: object) -> list[object]:
    if isinstance(one, dict):
        return list(itertools.islice(one.values(), _MOST_ITEMS))
    if isinstance(one, (list, tuple, set, frozenset)):
        return list(itertools.islice(one, _MOST_ITEMS))
    if isinstance(one, functools.partial):
        return [one.func, one.args, one.keywords]
    if isinstance(one, types.MethodType):
        return [one.__self__, one.__func__]
    if isinstance(one, types.FunctionType):
        named = inspect.getclosurevars(one)
        return [one.__defaults__, one.__kwdefaults__, *named.nonlocals.values(), *named.globals.values()]
    return list(getattr(one, "__dict__", {}).values())


class _Keys:
    """Collate function: the guiding image of every sample and its key, computed where the image is read.

    Images are arrays, not tensors: a worker passes each tensor as an open file, and the number of open files is limited.
    """

    def __init__(self, finder: RegionFinder, roi: Roi | str | None) -> None:
        self.settings, self.normalized, self.grid, self.roi = finder.settings, finder.normalized, finder.grid, roi

    def __call__(self, samples: list[Any]) -> list[Keyed]:
        rows = []
        for sample in samples:
            leaves = sample_leaves(sample, self.roi)
            check_sample(leaves)
            guiding = image_leaves(leaves)[0]
            images = list(pil_order(eight_bits(guiding, self.normalized)))
            inside = inside_of(self.roi, leaves, guiding, self.grid)
            keyed = keys_and_cells(self.settings, images, inside and inside.cells)
            rows += [(key, np.ascontiguousarray(x), cells) for x, (key, cells) in zip(images, keyed, strict=True)]
        return rows


def _share_of_this_rank(dataset: Dataset[Any]) -> Dataset[Any]:
    """Every world-size-th sample starting at the rank.

    A `Subset` may be the share of this rank already, or a training split for all ranks. So its other samples follow:
    they are read, but only computed if no other rank has stored them by then.
    """
    rank, world = rank_and_world()
    if world == 1:
        return dataset
    count = len(cast(Sized, dataset))
    order = [i for first in range(rank, rank + world) for i in range(first % world, count, world)]
    return Subset(dataset, order if isinstance(dataset, Subset) else order[: len(range(rank, count, world))])


def progress(batches: Iterable[list[T]], total: int, what: str = "salient regions") -> Iterator[list[T]]:
    """The batches, with a tqdm bar if tqdm is installed, else with a log line every ten seconds."""
    try:
        bar = importlib.import_module("tqdm.auto").tqdm(total=total, desc=what, unit="image")
    except ImportError:
        bar = _LogLines(total, what)
    with bar:
        for batch in batches:
            yield batch
            bar.update(len(batch))


class _LogLines:
    def __init__(self, total: int, what: str) -> None:
        self.total, self.what, self.count, self.begin = total, what, 0, time.monotonic()
        self.last = self.begin

    def __enter__(self) -> _LogLines:
        return self

    def __exit__(self, *error: object) -> None:
        self._log()

    def update(self, count: int) -> None:
        self.count += count
        if time.monotonic() - self.last >= _LOG_EVERY:
            self.last = time.monotonic()
            self._log()

    def _log(self) -> None:
        rate = self.count / max(time.monotonic() - self.begin, 1e-9)
        _log.info("%s: %d of %d images, %.0f images/s", self.what, self.count, self.total, rate)
