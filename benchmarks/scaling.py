"""How time and memory grow: with the side of the image, the size of the batch and the number of cache entries.

    python benchmarks/scaling.py [--quick] [--rounds N] [--out FOLDER] [--entries 1000000]

Prints the slope of log(time) over log(size): 2 for the side means proportional to the number of pixels, 1 for the
batch means that batches save nothing, 0 means no growth. Memory is the rise of resident memory during the call.
`--entries N` measures instead one cache of N entries: size on disk, time to open, look-up in the file, and the private memory
of a process that has looked up 20 000 of them, which it keeps.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from _entries import entries, entry_bytes, key
from _harness import Case, Figure, Timing, cycle, measure, one_thread, slope
from _images import as_kind, batch, pictures
from _report import Result, finish, line_plot, parser
from torch import Tensor

from cutswap_transforms import RegionCache, SaliencySwap

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
) -> Curves:
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


class Filled(NamedTuple):
    """A cache with many entries, opened anew, and what that took."""

    cache: RegionCache
    wanted: list[bytes]  # keys to look up
    written: float  # seconds
    opened: list[float]  # seconds of each opening with the first look-up
    size: int  # bytes on disk

    def case(self, name: str) -> Case:
        # `_read`, because `_get` looks up the same key in memory the second time.
        return Case(name, cycle(self.cache._read, self.wanted), variants=len(self.wanted))

    def close(self) -> None:
        lost = self.cache.missing(self.wanted)
        self.cache.close()
        if lost:
            raise RuntimeError(f"{len(lost)} of the entries were not found")


def filled(folder: Path, count: int, look_ups: int = LOOK_UPS) -> Filled:
    size, cache, begin = entry_bytes(), RegionCache(folder), time.perf_counter()
    for first in range(0, count, 4096):
        cache._put(entries(range(first, min(first + 4096, count)), size))
    cache.close()
    written = time.perf_counter() - begin
    opening = [opened(folder) for _ in range(10)]
    on_disk = sum(file.stat().st_size for file in folder.iterdir())
    return Filled(RegionCache(folder), some_keys(count, look_ups), written, opening, on_disk)


def opened(folder: Path) -> float:
    """Seconds to open the cache and make the first look-up."""
    begin = time.perf_counter()
    cache = RegionCache(folder)
    cache._get(key(0))
    cache.close()
    return time.perf_counter() - begin


def some_keys(count: int, look_ups: int = LOOK_UPS) -> list[bytes]:
    """At most `look_ups` keys, spread over all, in random order."""
    return sorted(map(key, range(0, count, max(1, count // look_ups))), key=lambda k: k[::-1])[:look_ups]


def by_entries(result: Result, args: argparse.Namespace) -> Curves:
    counts = (100, 400) if args.quick else (100, 1_000, 10_000, 100_000)
    with tempfile.TemporaryDirectory() as root:
        caches = [filled(Path(root) / str(count), count, 1000) for count in counts]
        cases = [found.case(f"look-up in {count} entries") for count, found in zip(counts, caches, strict=True)]
        timings = measure(cases, rounds=_rounds(args), min_time=0.0 if args.quick else 0.02)
        for found in caches:
            found.close()
    opening = [statistics.median(found.opened[1:]) for found in caches]
    rows = [["entries", "look-up, us", "IQR", "open, ms", "MB on disk"]]
    for count, t, seconds, found in zip(counts, timings.values(), opening, caches, strict=True):
        spread = f"{t.spread:.0%}{' !' * t.unstable}"
        rows.append([f"{count:,}", f"{t.median * 1e6:.1f}", spread, f"{seconds * 1e3:.1f}", f"{found.size / 1e6:.2f}"])
    look_up, growth = slope(counts, [t.median for t in timings.values()]), slope(counts, [found.size for found in caches])
    rows.append(["slope", f"{look_up:.2f}", "", f"{slope(counts, opening):.2f}", f"{growth:.2f}"])
    result.tables[f"RegionCache, entries of {entry_bytes()} bytes, the file in the page cache"] = rows
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
assert not cache.misses
print(private_memory() - before)
"""


def large_cache(count: int, args: argparse.Namespace) -> Result:
    """The measurement of `--entries`: one cache with very many entries."""
    result = Result("entries", {"entries": count, "entry_bytes": entry_bytes()})
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "cache"
        found = filled(folder, count)
        timings = measure([found.case("look-up")], rounds=_rounds(args), min_time=0.0)
        found.close()
        probe = [sys.executable, "-c", MEMORY_PROBE, str(Path(__file__).parent), str(folder), str(count)]
        done = subprocess.run(probe, capture_output=True, text=True, check=True)
    first, again = found.opened[0], statistics.median(found.opened[1:])
    result.tables[f"RegionCache of {count:,} entries of {entry_bytes()} bytes, the file in the page cache"] = [
        ["", "value"],
        ["written, s", f"{found.written:.1f}"],
        ["MB on disk", f"{found.size / 1e6:,.0f}"],
        ["opened and read once, ms, the first time", f"{first * 1e3:.1f}"],
        ["opened and read once, ms", f"{again * 1e3:.1f}"],
        [f"look-up of {len(found.wanted):,} spread keys, us", f"{timings['look-up'].median * 1e6:.1f}"],
        ["private memory after them, MB", f"{int(done.stdout) / 2**20:.1f}"],
    ]
    result.keep(timings)
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
