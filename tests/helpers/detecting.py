"""What the tests of the detector share: command lines on small data."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

import detect
from detector.model import FILE, Detector

SMALL = "--size 64 --no-progress"
TRAINED = f"{SMALL} --accelerator cpu --steps 4 --batch 2"


def run(command: str, *paths: object, options: str = "") -> int:
    """`detect.py COMMAND PATHS OPTIONS`."""
    return detect.main([command, *map(str, paths), *shlex.split(options)])


def fit(data: object, out: Path, options: str = SMALL) -> Detector:
    assert run("fit", data, "--out", out, options=options) == 0
    assert (out / FILE).is_file()
    return Detector.load(out)


def fit_arguments(options: str) -> argparse.Namespace:
    """As `fit` has them, settled."""
    from detector.options import settle

    args = detect.make_parser().parse_args(["fit", "nowhere", "--out", "nowhere", *shlex.split(options)])
    settle(args)
    return args
