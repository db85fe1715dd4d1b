"""A DataLoader over PNG files, with and without SaliencySwap: images per second, and private memory per worker.

    python benchmarks/loader.py [--quick] [--rounds N] [--out FOLDER]

Files of 256 px, and of 1024 px with Resize(256), which the script draws into a temporary folder; 0, 1 and 2 workers; no
augmentation, SaliencySwap without a cache, and with a folder that `precompute` filled. Workers persist, every loader runs
through its files once before it is timed, and a round times one epoch of each: without workers by processor time, else by
wall clock. The main process also uses part of a core. Memory is the private memory of a worker (USS): Private_* of
/proc/self/smaps_rollup.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _entries import entries, entry_bytes
from _harness import Case, Figure, Timing, measure, quartiles, speed_ratio
from _images import write_files
from _report import Result, bar_plot, run_alone
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from cutswap_transforms import SaliencySwap

BATCH = 8
SWAPS = ("none", "cached", "uncached")
MARGIN = 4096


class Files(Dataset[Tensor]):
    """PNG files as uint8 [3, 256, 256], after the given transform of PIL images."""

    def __init__(self, paths: Sequence[Path], transform: Callable[[Any], Any]) -> None:
        self.paths, self.transform = list(paths), transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        with Image.open(self.paths[index]) as file:
            found: Tensor = self.transform(file.convert("RGB"))
        return found


class LastIsMemory(Files):
    """The same, but the last item is the worker's private memory in bytes."""

    def __getitem__(self, index: int) -> Tensor:
        return torch.tensor(private_memory()) if index == len(self) - 1 else super().__getitem__(index).sum()


def private_memory() -> int:
    """Bytes that this process shares with no other; 0 if the system does not report them."""
    path = Path("/proc/self/smaps_rollup")
    lines = path.read_text(encoding="ascii").splitlines() if path.exists() else []
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


def fill_memory_cache(_: int) -> None:
    """Fill the memory cache of a worker up to its limit with entries of the size of those of "tiny"."""
    cache, size, number, before = SaliencySwap()._finder.store, entry_bytes(), 0, -1
    while cache.size > before:
        before = cache.size
        cache.put(entries(range(number, number + 1000), size))
        number += 1000
    if cache.size < cache.limit - MARGIN:
        raise RuntimeError(f"the memory cache holds {cache.size} of {cache.limit} bytes")


def context(workers: int, method: str | None = None) -> Any:
    methods = multiprocessing.get_all_start_methods()
    return multiprocessing.get_context(method or ("fork" if "fork" in methods else None)) if workers else None


def loader(files: Dataset[Tensor], workers: int) -> DataLoader[Tensor]:
    return DataLoader(
        files, BATCH, num_workers=workers, persistent_workers=workers > 0, multiprocessing_context=context(workers)
    )


def epoch(batches: DataLoader[Tensor]) -> None:
    for _ in batches:
        pass


def transform(resize: bool, swap: SaliencySwap | None) -> v2.Compose:
    steps = [v2.Resize(256)] if resize else []
    return v2.Compose([*steps, *([swap] if swap else []), v2.PILToTensor()])


def speed(result: Result, paths: Sequence[Path], size: int, cache: Path, args: argparse.Namespace) -> list[Timing]:
    """Interleaved epochs of all loaders over the files of one size."""
    resize = size != 256
    swaps = {"none": None, "cached": SaliencySwap(cache=cache), "uncached": SaliencySwap(cache=None)}
    swaps["cached"].precompute(Files(paths, v2.Compose(transform(resize, None).transforms[:-1] or [v2.Identity()])))
    workers = (0, 1) if args.quick else (0, 1, 2)
    loaders = {(n, s): loader(Files(paths, transform(resize, swaps[s])), n) for n in workers for s in SWAPS}

    def name(n: int, swap: str) -> str:
        return f"{n} workers, {swap}"

    cases = {n: [Case(name(n, s), partial(epoch, loaders[n, s]), len(paths)) for s in SWAPS] for n in workers}
    rounds = args.rounds or (2 if args.quick else 5)
    timings = measure(cases.pop(0), rounds=rounds, min_time=0.0)
    timings |= measure([c for group in cases.values() for c in group], rounds=rounds, min_time=0.0, clock=time.perf_counter)
    title = f"DataLoader over PNG files of {size} px{' with Resize(256)' if resize else ''}"
    rows = [["", "images/s", "IQR", "x none"]]
    for n, s in loaders:
        t = timings[name(n, s)]
        ratio = speed_ratio(t, timings[name(n, "none")])
        rows.append([t.name, f"{t.rate:,.1f}", f"{t.spread:.0%}{' !' * t.unstable}", f"{ratio.value:.3f}"])
        result.figures[f"{s}_over_none_{size}px_{n}_workers"] = ratio
    result.tables[title] = rows
    if 2 in workers:
        for s in SWAPS:
            figure = speed_ratio(timings[name(2, s)], timings[name(1, s)])
            result.figures[f"two_over_one_worker_{s}_{size}px"] = figure
    shown = [Timing(f"{size} px, {t.name}", t.samples) for t in timings.values()]
    result.keep({t.name: t for t in shown})
    return shown


def memory(result: Result, paths: Sequence[Path], args: argparse.Namespace) -> None:
    """The memory that SaliencySwap() with a full cache adds to a worker, with fork and spawn."""
    methods = [m for m in ("fork", "spawn") if m in multiprocessing.get_all_start_methods()][: 1 if args.quick else 2]
    rows = [["private memory of a worker, MB", "without", "SaliencySwap(), full cache", "added"]]
    for method in methods:
        samples: dict[str, list[int]] = {"without": [], "with": []}
        for _ in range(1 if args.quick or method == "spawn" else 3):
            for label, found in samples.items():
                files = LastIsMemory(paths, transform(False, SaliencySwap() if label == "with" else None))
                init = fill_memory_cache if label == "with" else None
                batches = DataLoader(files, 1, num_workers=1, worker_init_fn=init, multiprocessing_context=context(1, method))
                found.append(int([int(x) for x in batches][-1]))
        added = [(w - wo) / 2**20 for w, wo in zip(samples["with"], samples["without"], strict=True)]
        middle = sorted(added)[len(added) // 2]
        result.figures[f"memory_added_mb_{method}"] = Figure(middle, *quartiles(added))
        columns = [sorted(s)[len(s) // 2] / 2**20 for s in samples.values()]
        rows.append([method, *(f"{c:.1f}" for c in columns), f"{middle:.1f}"])
    result.tables["One worker after its files, memory cache filled to its 16 MB"] = rows
    worst = max((result.figures[f"memory_added_mb_{m}"] for m in methods), key=lambda f: f.value)
    if private_memory():
        result.figures["memory_added_mb"] = worst
    else:
        result.notes.append("This system does not tell private memory: no figure.")


def run(args: argparse.Namespace) -> Result:
    small, large = (8, 4) if args.quick else (160, 32)
    result = Result("loader", {"files_256": small, "files_1024": large, "batch": BATCH})
    bars = []
    with tempfile.TemporaryDirectory() as folder:
        for size, count in ((256, small), (1024, large)):
            paths = write_files(Path(folder) / str(size), count, size)
            bars += speed(result, paths, size, Path(folder) / f"cache{size}", args)
        memory(result, sorted((Path(folder) / "256").iterdir())[:32], args)
    bar_plot(args.out / "loader.png", "DataLoader over PNG files", bars, rates=True)
    return result


if __name__ == "__main__":
    sys.exit(run_alone(__doc__, run))
