"""How time and memory grow: with the side of the image, the size of the batch and the number of cache entries.

    python benchmarks/scaling.py [--quick] [--rounds N] [--out FOLDER] [--entries 1000000]

Prints the slope of log(time) over log(size): 2 for the side means proportional to the number of pixels, 1 for the
batch means that batches save nothing, 0 means no growth. Memory is the rise of resident memory during the call.
`--entries N` measures instead one cache of N entries of the size of ResNet-18's at 224: size on disk, time to open,
look-up, and the private memory of a process that has looked up 20 000 of them.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import hashlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from _harness import Case, Figure, Timing, cycle, measure, one_thread, slope
from _images import as_kind, batch, pictures
from _report import Result, finish, line_plot, parser
from torch import Tensor

from cutswap_transforms import RegionCache, SaliencySwap

GRIDS = (56 * 56, 28 * 28, 14 * 14, 7 * 7)  # cells of ResNet-18's four levels at 224
ENTRY_BYTES = 1 + 4 * len(GRIDS) + sum(-(-cells // 8) for cells in GRIDS)
LOOK_UPS = 20_000


# ---- memory -------------------------------------------------------------------------------------------------------


def peak_memory(call: Callable[[], object]) -> float:
    """MB by which the resident memory rises during a call; NaN if the system does not report it."""
    reset = Path("/proc/self/clear_refs")
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        reset.write_text("5", encoding="ascii")  # resets the high-water mark
    except (OSError, AttributeError):
        return float("nan")
    before = _status("VmRSS")
    call()
    return max(0.0, (_status("VmHWM") - before) / 1024)


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


# ---- image and batch ----------------------------------------------------------------------------------------------


CACHES = {"filled cache": "memory", "cache=None": None}
Curves = dict[str, tuple[Sequence[float], Sequence[float]]]


def by_side(result: Result, args: argparse.Namespace) -> Curves:
    base = pictures(1 if args.quick else 4)
    sides = (64, 128) if args.quick else (64, 128, 256, 512, 1024)
    inputs = {side: [as_kind("uint8", p.resize((side, side))) for p in base] for side in sides}
    return _grown(result, args, "side", "{} px", inputs)


def by_batch(result: Result, args: argparse.Namespace) -> Curves:
    images = batch(pictures(2 if args.quick else 14))
    sizes = (1, 2) if args.quick else (1, 2, 4, 8, 16, 32, 64)
    inputs = {n: [images[torch.arange(n) % len(images)]] for n in sizes}
    return _grown(result, args, "batch", "batch of {}", inputs)


def _grown(result: Result, args: argparse.Namespace, what: str, name: str, inputs: dict[int, list[Tensor]]) -> Curves:
    """Time and memory of a swap for inputs of several sizes, with a filled cache and without one."""
    cases, memory = [], {}
    for size, images in inputs.items():
        for label, cache in CACHES.items():
            call = cycle(SaliencySwap(cache=cache), images)
            cases.append(Case(f"{label}, {name.format(size)}", call, variants=len(images)))
            call()
            memory[label, size] = peak_memory(call)
    timings = measure(cases, rounds=_rounds(args), min_time=0.0 if args.quick else 0.05)
    by_label = {label: [timings[f"{label}, {name.format(size)}"] for size in inputs] for label in CACHES}
    memories = {label: [memory[label, size] for size in inputs] for label in CACHES}
    return _tell(result, what, tuple(inputs), by_label, memories, timings)


def _tell(
    result: Result,
    what: str,
    sizes: Sequence[int],
    found: dict[str, list[Timing]],
    memory: dict[str, list[float]],
    timings: dict[str, Timing],
) -> dict[str, tuple[Sequence[float], Sequence[float]]]:
    rows = [[what, *(f"{label}: {unit}" for label in found for unit in ("us", "IQR", "MB"))]]
    for i, size in enumerate(sizes):
        cells: list[str] = []
        for label, ts in found.items():
            cells += [f"{ts[i].median * 1e6:,.0f}", f"{ts[i].spread:.0%}{' !' * ts[i].unstable}", f"{memory[label][i]:.1f}"]
        rows.append([str(size), *cells])
    last = ["slope"]
    for label, ts in found.items():
        exponent = slope(sizes, [t.median for t in ts])
        result.figures[f"slope_{what}_{label}"] = Figure(exponent, exponent, exponent)
        last += [f"{exponent:.2f}", "", ""]
    result.tables[f"Time per call and memory, 3 channels, uint8, by {what}"] = [*rows, last]
    result.keep(timings)
    return {label: (sizes, [t.median * 1e6 for t in ts]) for label, ts in found.items()}


# ---- the cache on disk --------------------------------------------------------------------------------------------


def keys(count: int) -> Iterator[bytes]:
    """Keys of 24 bytes like the transform's: a prefix for the settings, then pseudorandom bytes."""
    return (b"settings" + hashlib.md5(b"%d" % i, usedforsecurity=False).digest() for i in range(count))


def filled(folder: Path, count: int) -> float:
    """Write `count` entries; returns the seconds it took."""
    cache, begin = RegionCache(folder), time.perf_counter()
    entry = bytes(ENTRY_BYTES)
    pending: list[tuple[bytes, bytes]] = []
    for key in keys(count):
        pending.append((key, entry))
        if len(pending) == 4096:
            cache._put(pending)
            pending = []
    cache._put(pending)
    cache.close()
    return time.perf_counter() - begin


def opened(folder: Path) -> float:
    """Seconds to open the cache and make the first look-up."""
    begin = time.perf_counter()
    cache = RegionCache(folder)
    cache._get(next(keys(1)))
    cache.close()
    return time.perf_counter() - begin


def some_keys(count: int) -> list[bytes]:
    """At most LOOK_UPS keys, spread over all, in random order."""
    step = max(1, count // LOOK_UPS)
    return sorted((k for i, k in enumerate(keys(count)) if i % step == 0), key=lambda k: k[::-1])[:LOOK_UPS]


def by_entries(result: Result, args: argparse.Namespace) -> dict[str, tuple[Sequence[float], Sequence[float]]]:
    counts = (100, 400) if args.quick else (100, 1_000, 10_000, 100_000)
    with tempfile.TemporaryDirectory() as root:
        caches, cases, sizes, opening = [], [], [], []
        for count in counts:
            folder = Path(root) / str(count)
            filled(folder, count)
            opening.append(statistics.median(opened(folder) for _ in range(5)))
            sizes.append(sum(f.stat().st_size for f in folder.iterdir()))
            caches.append(RegionCache(folder))
            wanted = some_keys(count)[:1000]
            cases.append(Case(f"look-up in {count} entries", cycle(caches[-1].get, wanted), variants=len(wanted)))
        timings = measure(cases, rounds=_rounds(args), min_time=0.0 if args.quick else 0.02)
        for cache in caches:
            if cache.misses:
                raise RuntimeError(f"{cache.misses} of the entries were not found")
            cache.close()
    rows = [["entries", "look-up, us", "IQR", "open, ms", "MB on disk"]]
    for count, t, seconds, size in zip(counts, timings.values(), opening, sizes, strict=True):
        spread = f"{t.spread:.0%}{' !' * t.unstable}"
        rows.append([f"{count:,}", f"{t.median * 1e6:.1f}", spread, f"{seconds * 1e3:.1f}", f"{size / 1e6:.2f}"])
    look_up, growth = slope(counts, [t.median for t in timings.values()]), slope(counts, sizes)
    rows.append(["slope", f"{look_up:.2f}", "", f"{slope(counts, opening):.2f}", f"{growth:.2f}"])
    result.tables[f"RegionCache, entries of {ENTRY_BYTES} bytes, the file in the page cache"] = rows
    result.figures["slope_entries_lookup"] = Figure(look_up, look_up, look_up)
    result.keep(timings)
    return {"look-up": (counts, [t.median * 1e6 for t in timings.values()])}


MEMORY_PROBE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from loader import private_memory
from scaling import some_keys
from cutswap_transforms import RegionCache
wanted = some_keys(int(sys.argv[3]))
cache = RegionCache(sys.argv[2])
before = private_memory()
for key in wanted:
    cache._get(key)
print(private_memory() - before, cache.misses)
"""


def large_cache(count: int, args: argparse.Namespace) -> Result:
    """The measurement of `--entries`: one cache with very many entries."""
    result = Result("entries", {"entries": count, "entry_bytes": ENTRY_BYTES})
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "cache"
        seconds = filled(folder, count)
        size = sum(f.stat().st_size for f in folder.iterdir())
        first, again = opened(folder), statistics.median(opened(folder) for _ in range(9))
        cache, wanted = RegionCache(folder), some_keys(count)
        timing = measure([Case("look-up", cycle(cache.get, wanted), variants=len(wanted))], rounds=_rounds(args), min_time=0.0)[
            "look-up"
        ]
        misses = cache.misses
        cache.close()
        probe = [sys.executable, "-c", MEMORY_PROBE, str(Path(__file__).parent), str(folder), str(count)]
        done = subprocess.run(probe, capture_output=True, text=True, check=True)
        grown, missed = (int(v) for v in done.stdout.split())
    if misses or missed:
        raise RuntimeError(f"{misses + missed} of the entries were not found")
    result.tables[f"RegionCache of {count:,} entries of {ENTRY_BYTES} bytes, the file in the page cache"] = [
        ["", "value"],
        ["written, s", f"{seconds:.1f}"],
        ["MB on disk", f"{size / 1e6:,.0f}"],
        ["opened and read once, ms, the first time", f"{first * 1e3:.1f}"],
        ["opened and read once, ms", f"{again * 1e3:.1f}"],
        [f"look-up of {len(wanted):,} spread keys, us", f"{timing.median * 1e6:.1f}"],
        ["private memory after them, MB", f"{grown / 2**20:.1f}"],
    ]
    result.keep({"look-up": timing})
    return result


# ---- all ----------------------------------------------------------------------------------------------------------


def _rounds(args: argparse.Namespace) -> int:
    return int(args.rounds or (2 if args.quick else 7))


def run(args: argparse.Namespace) -> Result:
    result = Result("scaling", {"rounds": _rounds(args)})
    torch.manual_seed(0)
    panels = {"side, px": by_side(result, args), "batch": by_batch(result, args), "cache entries": by_entries(result, args)}
    line_plot(args.out / "scaling.png", "Microseconds per call, one thread", panels)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    found = parser(__doc__)
    found.add_argument("--entries", type=int, help="measure one cache of so many entries instead, such as 1000000")
    args = found.parse_args(argv)
    one_thread()
    return finish(large_cache(args.entries, args) if args.entries else run(args), args.out)


if __name__ == "__main__":
    sys.exit(main())
