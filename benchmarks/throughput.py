"""Images per second on one core at 256x256 RGB: SaliencySwap without and with its cache, and other augmentations.

    python benchmarks/throughput.py [--quick] [--rounds N] [--out FOLDER]

Decoded pictures are in memory, outputs are new images of the same kind. "filled cache" is the memory cache after every
picture was seen once. Each kind of image is timed in its own interleaved run, so ratios are valid within a kind. Rows of
SaliencySwap make one swap, as the others make one paste; "levels=all" is the default, which makes three smaller swaps.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import torch
from _harness import Case, cycle, measure, speed_ratio
from _images import as_kind, pictures
from _peers import CutPaste, CutPasteScar, RandomSwap, perlin
from _report import Result, bar_plot, run_alone
from torchvision.transforms import v2

from cutswap_transforms import SaliencySwap

BATCH = 16


def cases(kind: str, images: Sequence[Any], folder: str) -> list[Case]:
    """SaliencySwap and its peers on single images of one kind, and on batches if they are tensors."""
    uncached, cached = (SaliencySwap(levels="random", cache=cache) for cache in (None, "memory"))
    augmentations = {
        "CutPaste": CutPaste(),
        "CutPaste-Scar": CutPasteScar(),
        "RandomErasing": v2.RandomErasing(p=1.0),
        "random swap": RandomSwap(),
        "SaliencySwap, filled cache": cached,
        "SaliencySwap, filled cache, levels=all": SaliencySwap(),
        "SaliencySwap, folder read once": SaliencySwap(levels="random", cache=folder),
        "SaliencySwap, cache=None": uncached,
    }
    noise = perlin() if kind == "float" else None
    if noise is not None:
        augmentations["Perlin (anomalib)"] = noise
    found = [Case(name, cycle(call, images), variants=len(images)) for name, call in augmentations.items()]
    if kind != "PIL":
        batch = torch.stack(list(images)[:BATCH])
        for name, swap in (("filled cache", cached), ("cache=None", uncached)):
            found.append(Case(f"SaliencySwap, {name}, batch of {BATCH}", cycle(swap, [batch]), images=len(batch)))
    return found


def run(args: argparse.Namespace) -> Result:
    rounds = args.rounds or (2 if args.quick else 9)
    size, count, min_time = (64, 2, 0.0) if args.quick else (256, BATCH, 0.15)
    result = Result("throughput", {"rounds": rounds, "size": size, "images": count, "min_time": min_time})
    torch.manual_seed(0)
    shown = pictures(count, size)
    bars = []
    for kind in ("PIL", "uint8", "float"):
        with tempfile.TemporaryDirectory() as folder:
            timings = measure(cases(kind, [as_kind(kind, p) for p in shown], folder), rounds=rounds, min_time=min_time)
        result.add_rates(f"One core, {size}x{size} RGB, {kind}", timings.values(), timings["CutPaste"])
        result.keep({f"{kind}: {name}": t for name, t in timings.items()})
        bars += [type(t)(f"{kind}: {t.name}", t.samples) for t in timings.values()]
        for label, name in (("cached", "filled cache"), ("uncached", "cache=None")):
            ours = timings[f"SaliencySwap, {name}"]
            result.figures[f"{label}_over_cutpaste_{kind}"] = speed_ratio(ours, timings["CutPaste"])
        read_once = timings["SaliencySwap, folder read once"]
        result.figures[f"folder_over_memory_{kind}"] = speed_ratio(read_once, timings["SaliencySwap, filled cache"])
    if perlin() is None:
        result.notes.append("Perlin noise is left out: anomalib is not installed.")
    bar_plot(args.out / "throughput.png", f"Augmentations, one core, {size}x{size} RGB", bars, rates=True)
    return result


if __name__ == "__main__":
    sys.exit(run_alone(__doc__, run))
