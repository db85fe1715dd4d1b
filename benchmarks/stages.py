"""Where the time of one swap goes: every stage from the image to the mask, in microseconds per image of 256x256 uint8.

    python benchmarks/stages.py [--quick] [--rounds N] [--out FOLDER]

A cache hit saves the first half (prepare to pack) and costs hash and look-up. The last table has lower bounds: the time
to hash the bytes and to copy the image. "gradient" and "the rest" are differences, taken per round. The stages are not
public functions, so this script imports private ones.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import torch
from _harness import Case, Timing, cycle, difference, measure
from _images import as_kind, pictures
from _report import Result, bar_plot, run_alone
from torch import Tensor

from cutswap_transforms import KMeans, LayerCAMExtractor, RegionCache, SaliencySwap, functional
from cutswap_transforms.cache.entry import content_key, pack, unpack
from cutswap_transforms.draw import HEAD, NUMBERS, first_pairs
from cutswap_transforms.images import eight_bits, net_input, pil_array, pil_order
from cutswap_transforms.regions.cells import cluster_cells, make_cells, pick_regions
from cutswap_transforms.saliency import tiny

GRID = SaliencySwap().grid
Calls = dict[str, Callable[[], object]]


def guidance_cases(images: Sequence[Tensor], mark: str) -> list[Case]:
    """Image -> regions, for batches [N, 3, H, W]: what a cache hit saves. Forward alone is timed to separate the gradient."""
    cam, net, kmeans = LayerCAMExtractor(), tiny.load("DEFAULT"), KMeans()
    levels = range(len(cam.layers))
    prepared = [cam._prepared(net_input(x)) for x in images]
    with torch.no_grad():
        maps = [net.maps(x, levels) for x in prepared]
    cells = [make_cells(m, x, GRID) for m, x in zip(maps, images, strict=True)]
    labels = [cluster_cells(c, kmeans) for c in cells]
    regions = [
        pick_regions(c, *found, "salient").reshape(len(x), -1, GRID, GRID)
        for c, found, x in zip(cells, labels, images, strict=True)
    ]

    def without_grad(call: Callable[[Any], object]) -> Callable[[Any], object]:
        return torch.no_grad()(call)

    stages: dict[str, tuple[Callable[[Any], object], Sequence[Any]]] = {
        "prepare": (without_grad(lambda x: cam._prepared(net_input(x))), images),
        "forward": (without_grad(net.forward), prepared),
        "forward and gradient": (without_grad(lambda x: net.maps(x, levels)), prepared),
        "cells": (lambda pair: make_cells(*pair, GRID), list(zip(maps, images, strict=True))),
        "k-means": (lambda c: cluster_cells(c, kmeans), cells),
        "region": (lambda pair: pick_regions(pair[0], *pair[1], "salient"), list(zip(cells, labels, strict=True))),
        "pack": (pack, regions),
    }
    n = len(images[0])
    return [Case(name + mark, cycle(call, data), n, len(data)) for name, (call, data) in stages.items()]


def swap_cases(images: Sequence[Tensor], shown: Sequence[Any], folder: str) -> list[Case]:
    """Regions -> swapped image, with the cost of a cache hit, the total, and the lower bounds."""
    swap = SaliencySwap(levels="random")
    keys = [content_key(swap._finder.settings, pil_array(x)) for x in shown]
    on_disk = SaliencySwap(levels="random", cache=_filled(folder, swap, keys, images))
    calls = _hits(swap, on_disk, keys, images, shown) | _draws_and_swaps(swap, images, shown)
    calls |= _wholes(swap, on_disk, images, shown) | _floors(images, shown)
    return [Case(name, call, variants=len(images)) for name, call in calls.items()]


def _filled(folder: str, swap: SaliencySwap, keys: Sequence[bytes], images: Sequence[Tensor]) -> RegionCache:
    """A folder with the regions of the images, which fills the memory cache of the swap, too."""
    cache = RegionCache(folder)
    cache._put(zip(keys, [pack(swap._finder(x))[0] for x in images], strict=True))
    cache.close()
    return RegionCache(folder)


def _over(call: Callable[..., object], *columns: Sequence[Any]) -> Callable[[], object]:
    return cycle(lambda row: call(*row), list(zip(*columns, strict=True)))


def _hits(
    swap: SaliencySwap, on_disk: SaliencySwap, keys: Sequence[bytes], images: Sequence[Tensor], shown: Sequence[Any]
) -> Calls:
    finder = swap._finder
    return {
        "hash, tensor": _over(lambda x: content_key(finder.settings, pil_order(eight_bits(x))[0]), images),
        "hash, PIL": _over(lambda x: content_key(finder.settings, pil_array(x)), shown),
        "look-up, memory": _over(lambda k: unpack(finder.store.get(k), GRID), keys),
        "look-up, folder": _over(lambda k: unpack(on_disk.cache._get(k), GRID), keys),
    }


def _draws_and_swaps(swap: SaliencySwap, images: Sequence[Tensor], shown: Sequence[Any]) -> Calls:
    size = (images[0].shape[-2], images[0].shape[-1])
    regions = [swap._finder(x)[0] for x in images]
    numbers = [torch.rand(HEAD + NUMBERS).tolist() for _ in images]
    params = [swap.make_params([x]) for x in images]
    pairs = [p["pairs"] for p in params]
    return {
        "sampling": _over(lambda r, u: first_pairs(r, u, [0], size, swap.scale, swap.ratio), regions, numbers),
        "swap, tensor": _over(functional.swap_patches, images, pairs),
        "swap, PIL": _over(swap.transform, shown, params),
        "mask": _over(lambda p: functional.patch_mask(p, size), pairs),
    }


def _wholes(swap: SaliencySwap, on_disk: SaliencySwap, images: Sequence[Tensor], shown: Sequence[Any]) -> Calls:
    marking, uncached = SaliencySwap(levels="random", return_mask=True), SaliencySwap(levels="random", cache=None)
    return {
        "whole, tensor, filled cache": _over(swap, images),
        "whole, PIL, filled cache": _over(swap, shown),
        "whole, PIL, filled folder": _over(on_disk, shown),
        "whole, tensor, filled cache, with mask": _over(marking, images),
        "whole, tensor, cache=None": _over(uncached, images),
        "whole, PIL, cache=None": _over(uncached, shown),
    }


def _floors(images: Sequence[Tensor], shown: Sequence[Any]) -> Calls:
    return {
        "floor: sha256 of the bytes": _over(lambda x: hashlib.sha256(x.data).digest(), [x.numpy() for x in images]),
        "floor: PIL to bytes": _over(lambda x: x.tobytes(), shown),
        "floor: copy of a tensor": _over(lambda x: x.clone(), images),
        "floor: copy of a PIL image": _over(lambda x: x.copy(), shown),
        "floor: torch.rand and a dispatch": _over(lambda x: torch.rand(1, 202), images),
    }


def gradient(timings: dict[str, Timing], mark: str) -> dict[str, Timing]:
    """The stages in the order of the data, the gradient as forward and gradient minus forward."""
    both = timings.pop("forward and gradient" + mark)
    found = {name: t for name, t in timings.items() if name.endswith(mark)}
    order = ["prepare", "forward", "gradient", "cells", "k-means", "region", "pack"]
    found["gradient" + mark] = difference("gradient" + mark, both, found["forward" + mark])
    return {name + mark: found[name + mark] for name in order}


def run(args: argparse.Namespace) -> Result:
    rounds = args.rounds or (2 if args.quick else 9)
    size, count, many, min_time = (64, 2, 2, 0.0) if args.quick else (256, 14, 16, 0.05)
    result = Result("stages", {"rounds": rounds, "size": size, "images": count, "batch": many, "min_time": min_time})
    torch.manual_seed(0)
    shown = pictures(count, size)
    images = [as_kind("uint8", p) for p in shown]
    batches = [torch.stack(images)[torch.arange(i, i + many) % count] for i in range(2)]
    mark = f", batch of {many}"
    with tempfile.TemporaryDirectory() as folder:
        cases = guidance_cases([x[None] for x in images], "") + guidance_cases(batches, mark)
        timings = measure(cases + swap_cases(images, shown, folder), rounds=rounds, min_time=min_time)
    one = gradient({n: t for n, t in timings.items() if not n.endswith(mark)}, "")
    batch = gradient({n: t for n, t in timings.items() if n.endswith(mark)}, mark)
    second = {n: t for n, t in timings.items() if n.startswith(("hash", "look-up", "sampling", "swap", "mask"))}
    whole = {n: t for n, t in timings.items() if n.startswith("whole")}
    floor = {n: t for n, t in timings.items() if n.startswith("floor")}
    result.add_times(f"Image to regions, {size}x{size} uint8: what a cache hit saves", [*one.values(), *batch.values()])
    result.add_times("Regions to swapped image, and what a cache hit costs", second.values())
    result.add_times("The whole transform", whole.values())
    result.add_times("Floors", floor.values())
    result.keep(timings | one | batch)
    result.notes += [_rest(one, second, whole)]
    title = f"Stages, {size}x{size} uint8, one thread"
    bar_plot(args.out / "stages.png", title, [*one.values(), *second.values()], rates=False)
    return result


def _rest(one: dict[str, Timing], second: dict[str, Timing], whole: dict[str, Timing]) -> str:
    """The time of the transform beyond its stages: dispatch, checks, PIL and torch calls."""

    def total(names: Sequence[str], stages: dict[str, Timing]) -> float:
        return sum(stages[n].median for n in names) * 1e6

    hit = total(("hash, PIL", "look-up, memory", "sampling", "swap, PIL"), second)
    miss = total(tuple(one), one) + total(("sampling", "swap, PIL"), second)
    cached, uncached = (whole[f"whole, PIL, {n}"].median * 1e6 for n in ("filled cache", "cache=None"))
    return (
        f"Of a PIL image's {cached:,.0f} us with a filled cache, hash, look-up, sampling and swap take {hit:,.0f}; the rest, "
        f"{cached - hit:,.0f}, is the transform around them. Without a cache: {uncached:,.0f}, of which stages {miss:,.0f}."
    )


if __name__ == "__main__":
    sys.exit(run_alone(__doc__, run))
