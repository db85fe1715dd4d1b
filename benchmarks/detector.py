"""The example detector: time to fit, time to score beside the plain forward pass, memory, size of its file.

    python benchmarks/detector.py [--quick] [--rounds N] [--out FOLDER]

Scoring is timed on pictures in memory, compared with the net alone up to its last map. Each fit runs in its own process with
one thread, on 209 drawn pictures, as many as MVTec AD has good bottles; its seconds are processor time, so other programs
matter only through the cache. "2 000 of 1000 px" are files of that size, copies of a few pictures.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from _harness import Case, Figure, measure, speed_ratio
from _images import batch, pictures, write_files
from _report import Result, run_alone

EXAMPLES = Path(__file__).parents[1] / "examples"
sys.path.insert(0, str(EXAMPLES))  # before this folder, where `detector` is this script

from detector.efficientnet import PACKAGE  # noqa: E402
from detector.model import FILE, Detector  # noqa: E402

IMAGES, LARGE, TUNED = 209, (2000, 1000), 200
# Runs `python detect.py ...`, then reports its own time and memory.
MEASURED = """
import json, resource, sys
sys.path.insert(0, sys.argv[1])
import detect
detect.main(sys.argv[2:])
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([used.ru_utime + used.ru_stime, used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)]))
"""


def nets() -> list[str]:
    """The nets whose weights are available."""
    return ["tiny", *(["efficientnet-lite0"] if importlib.util.find_spec(PACKAGE) else [])]


def detect(*arguments: object) -> tuple[float, float]:
    """Processor time in seconds, imports included, and peak resident memory in MB of one command."""
    command = [sys.executable, "-c", MEASURED, str(EXAMPLES), *map(str, arguments), "--no-progress"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    seconds, size = json.loads(done.stdout.splitlines()[-1])
    return seconds, size / 1e6


def time_scoring(result: Result, runs: dict[str, Path], rounds: int, count: int, min_time: float) -> None:
    """Per net: the plain forward pass and the whole detector, on a batch in memory."""
    for net, folder in runs.items():
        detector = Detector.load(folder)
        images = batch(pictures(count, detector.size))
        floats = images.float() / 255

        def forward(detector: Detector = detector, floats: torch.Tensor = floats) -> object:
            with torch.inference_mode():
                return detector.features.raw(floats)

        def score(detector: Detector = detector, images: torch.Tensor = images) -> object:
            return detector(images)

        cases = [Case(f"{net}: forward pass", forward, count), Case(f"{net}: detector", score, count)]
        timings = measure(cases, rounds=rounds, min_time=min_time)
        plain, whole = timings.values()
        result.add_times(f"{net}, scoring in memory, one core", timings.values())
        result.keep(timings)
        ratio = speed_ratio(plain, whole)
        result.figures[f"{net}_scoring_over_forward"] = ratio
        result.notes.append(
            f"{net}: scoring takes {ratio.value:.2f} times the forward pass ({ratio.low:.2f} to {ratio.high:.2f})."
        )


def run(args: argparse.Namespace) -> Result:
    count, size, steps = (24, 64, 2) if args.quick else (IMAGES, 256, TUNED)
    large = (24, 80) if args.quick else LARGE
    result = Result("detector", {"images": count, "size": size, "steps": steps, "large": large})
    rows = [["", "fit, s", "peak, MB", "file, MB", "score from files, images/s"]]
    with tempfile.TemporaryDirectory() as temporary:
        root, runs = Path(temporary), {}
        write_files(root / "parts", count, size)
        for net in nets():
            for tuned in (0, steps):
                out = root / f"{net}-{tuned}"
                fit = ("fit", root / "parts", "--out", out, "--features", net, "--size", size, "--steps", tuned)
                seconds, peak = detect(*fit, "--accelerator", "cpu", "--logger", "none")
                nothing, _ = detect("score", out, root / "parts/0000.png", "--out", root / "one", "--heat-maps", "none")
                spent, _ = detect("score", out, root / "parts", "--out", root / "all", "--heat-maps", "none")
                rate, weight = (count - 1) / max(spent - nothing, 1e-9), (out / FILE).stat().st_size / 1e6
                rows.append([f"{net}, {tuned} steps", f"{seconds:.0f}", f"{peak:.0f}", f"{weight:.1f}", f"{rate:.0f}"])
                for name, value in (("fit", seconds), ("peak", peak), ("file", weight), ("rate", rate)):
                    result.figures[f"{net}_{tuned}_{name}"] = Figure(value, value, value)
            runs[net] = root / f"{net}-0"
        first = write_files(root / "few", min(20, large[0]), large[1])
        (root / "large").mkdir()
        for i in range(large[0]):
            os.link(first[i % len(first)], root / "large" / f"{i:05d}.png")
        seconds, peak = detect("fit", root / "large", "--out", root / "run", "--size", size)
        rows.append([f"tiny, {large[0]} of {large[1]} px", f"{seconds:.0f}", f"{peak:.0f}", "", ""])
        result.figures["large_peak"] = Figure(peak, peak, peak)
        result.tables["Fit and score, one thread, seconds of the processor"] = rows
        scored = (args.rounds or (2 if args.quick else 7), 2 if args.quick else 16, 0.0 if args.quick else 0.5)
        time_scoring(result, runs, *scored)
    return result


if __name__ == "__main__":
    sys.exit(run_alone(__doc__, run))
