"""Shared by all benchmarks: timing of competitors, and a description of the machine. `_report` shows and saves results.

`README.md`, "How it is measured", explains the method.
"""

from __future__ import annotations

import gc
import importlib.metadata
import math
import os
import platform
import random
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

Clock = Callable[[], float]

UNSTABLE = 0.15  # an interquartile range above this share of the median is marked
PACKAGES = ("torch", "torchvision", "numpy", "pillow", "opencv-python-headless", "opencv-python", "scikit-learn")
PEERS = ("grad-cam", "torchcam", "captum", "anomalib", "cutswap-transforms")


# ---- timing ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """`call` handles `images` images; `variants` calls go through the data once, so that all images count equally."""

    name: str
    call: Callable[[], object]
    images: int = 1
    variants: int = 1


@dataclass(frozen=True)
class Timing:
    """Seconds per image, one sample per round."""

    name: str
    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def quartiles(self) -> tuple[float, float]:
        return quartiles(self.samples)

    @property
    def spread(self) -> float:
        """Interquartile range as a share of the median."""
        low, high = self.quartiles
        return (high - low) / self.median if self.median else math.inf

    @property
    def unstable(self) -> bool:
        return self.spread > UNSTABLE

    @property
    def rate(self) -> float:
        """Images per second."""
        return 1 / self.median


@dataclass(frozen=True)
class Figure:
    """A number that may have a target, and the quartiles of its rounds."""

    value: float
    low: float
    high: float


def quartiles(samples: Sequence[float]) -> tuple[float, float]:
    """First and third quartile, with linear interpolation."""
    if len(samples) == 1:
        return samples[0], samples[0]
    first, _, third = statistics.quantiles(samples, n=4, method="inclusive")
    return first, third


def measure(
    cases: Sequence[Case], *, rounds: int, min_time: float = 0.05, warm_up: int = 1, clock: Clock = time.process_time
) -> dict[str, Timing]:
    """Time all cases, interleaved: each round gives every case one sample, in an order drawn from a seed.

    Args:
        rounds: samples per case.
        min_time: least seconds per sample; a call is repeated to reach them.
        warm_up: how often each case goes through its data before it is timed.
        clock: processor time of this process; `time.perf_counter` if it waits for workers or a device.
    """
    if len({case.name for case in cases}) < len(cases):
        raise ValueError(f"`cases` must have different names, got {[case.name for case in cases]}")
    samples: dict[str, list[float]] = {case.name: [] for case in cases}
    order, shuffle = list(cases), random.Random(0).shuffle
    gc.collect()
    gc.freeze()  # existing objects need not be scanned before every sample
    try:
        repeats = {case.name: _repeats(case, min_time, warm_up, clock) for case in cases}
        for _ in range(rounds):
            shuffle(order)
            for case in order:
                samples[case.name].append(_sample(case, repeats[case.name], clock))
    finally:
        gc.unfreeze()
    return {case.name: Timing(case.name, tuple(samples[case.name])) for case in cases}


def _repeats(case: Case, min_time: float, warm_up: int, clock: Clock) -> int:
    """Calls per sample: whole passes through the data that take at least `min_time`."""
    for _ in range(warm_up * case.variants):
        case.call()
    once = _sample(case, case.variants, clock) * case.variants * case.images
    return case.variants * max(1, math.ceil(min_time / max(once, 1e-9)))


def _sample(case: Case, repeats: int, clock: Clock) -> float:
    call = case.call
    gc.collect()
    gc.disable()  # like timeit: a collection would hit one case by chance
    try:
        begin = clock()
        for _ in range(repeats):
            call()
        return (clock() - begin) / (repeats * case.images)
    finally:
        gc.enable()


def cycle(call: Callable[[Any], object], items: Sequence[Any]) -> Callable[[], object]:
    """A function without arguments that passes the items to `call` in turn, in a loop."""
    position = -1

    def next_one() -> object:
        nonlocal position
        position = (position + 1) % len(items)
        return call(items[position])

    return next_one


def speed_ratio(fast: Timing, slow: Timing) -> Figure:
    """How many times faster `fast` is: ratio of the medians, quartiles of the per-round ratios."""
    each = [s / f for f, s in zip(fast.samples, slow.samples, strict=True)]
    return Figure(slow.median / fast.median, *quartiles(each))


def difference(name: str, whole: Timing, part: Timing) -> Timing:
    """`whole` minus `part`, per round; never below zero."""
    return Timing(name, tuple(max(0.0, w - p) for w, p in zip(whole.samples, part.samples, strict=True)))


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Slope of the straight line through log(x), log(y): the exponent of growth; NaN where y is not positive."""
    if min(y) <= 0:
        return math.nan
    return statistics.linear_regression([math.log(v) for v in x], [math.log(v) for v in y]).slope


# ---- environment -----------------------------------------------------------------------------------------------


def environment() -> dict[str, Any]:
    """Machine, versions, threads and commit, without the names of host, user or paths."""
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "bf16": cpu_has_bf16(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: v for name in PACKAGES + PEERS if (v := _version(name))},
        "commit": _commit(),
    }


def cpu_model() -> str:
    found = [line for line in _cpu_lines() if line.startswith("model name")]
    return found[0].split(":", 1)[1].strip() if found else platform.processor() or "unknown"


def cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bfloat16 itself: avx512_bf16 or amx_bf16 on x86, bf16 on Arm."""
    flags = {flag for line in _cpu_lines() if line.lower().startswith(("flags", "features")) for flag in line.split()}
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str:
    """Short hash, with a + if the working tree differs."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "none"


def one_thread() -> None:
    """Limit torch and OpenCV to one core; loader workers are the only parallelism that is measured."""
    torch.set_num_threads(1)
    try:
        import cv2
    except ImportError:
        return
    cv2.setNumThreads(1)
