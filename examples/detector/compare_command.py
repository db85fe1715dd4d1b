"""`compare`: a grid of conditions x categories x seeds, fitted and measured; `grid_tables` makes the tables.

A condition is the name of the negatives, optionally with options of `fit` for this condition; options that this command does
not know are passed to all conditions. Finished fits are kept: the same command resumes where it was stopped, and more
conditions or seeds can be added.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import multiprocessing
import os
import platform
import re
import shlex
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from augment import Negative, OtsuObject
from data import Category, DataError, add_arguments, categories_from, decode, decode_masks
from data_files import check_outside
from torch import Tensor
from varied_swap import describe_swaps

from cutswap_transforms import SaliencySwap
from cutswap_transforms.seeds import own_seed

from .evaluate_command import image_auroc, metrics
from .fit_command import SMALLEST, read
from .fitting import prepared, weighed
from .folders import CHECKPOINT, read_json, resume, write
from .grid_tables import READINGS, Cell, Key, is_cell, write_report
from .model import PART
from .options import add_fit, explanation, negatives_of, settle
from .pictures import save_sheet
from .tables import percent
from .tuning import own_randomness

# The settings that a base depends on if nothing is tuned.
BASE = ("features", "size", "white", "skip_unreadable", "seed", "densities", "data")
CONDITIONS = ("none", "random-swap", "object-swap", "cutpaste", "scar", "saliency-swap")
Task = tuple[argparse.Namespace, Category, Path]


def add_compare(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "All other options are those of fit."
    add_arguments(parser)
    parser.add_argument("--out", type=Path, default=Path("runs/compare"), help="folder (default runs/compare)")
    parser.add_argument(
        "--conditions",
        nargs="+",
        default=list(CONDITIONS),
        metavar="CONDITION",
        help='negatives and options of fit, as "saliency-swap --steps 200"',
    )
    parser.add_argument("--against", default="random-swap", metavar="CONDITION", help="what the others are compared with")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="SEED")
    parser.add_argument("--jobs", type=int, default=1, help="fits at a time")


def run_compare(args: argparse.Namespace) -> int:
    if args.jobs < 1:
        raise DataError(f"`jobs` must be 1 or more, got {args.jobs}")
    if min(args.seeds) < 0 or len(set(args.seeds)) < len(args.seeds):
        raise DataError(f"`seeds` must be 0 or more, and differ, got {args.seeds}")
    settings = {condition: settings_of(condition, args) for condition in args.conditions}
    categories = categories_from(args)
    check_outside(args.out, [sample.path for category in categories for sample in category.samples])
    tasks = tasks_of(args, settings, categories)
    cells, failures = run_grid(tasks, args.jobs)
    if cells:
        command = shlex.join(["detect.py", *args.command_line])
        note = f"`{command}`\n\n{machine()}, {args.jobs} at a time; {time.strftime('%Y-%m-%d')}."
        print(f"\n{write_report(args.out, cells, args.against, note)}\nin {args.out}")
        draw_strips(args.out, settings, tasks)
    if failures:
        raise SystemExit("error: " + "\n".join([f"{len(failures)} fits failed", *failures]))
    return 0


def settings_of(condition: str, args: argparse.Namespace) -> argparse.Namespace:
    """A condition's own options come last, so they win."""
    try:
        own = shlex.split(condition)
    except ValueError as error:
        raise DataError(f"`conditions` must be names of negatives and options, got {condition!r}: {error}") from error
    shared = [option for option in own if option.split("=")[0] in ("--out", "--seed", "--seeds")]
    if shared or not own:
        raise DataError(f"`conditions` must leave {' and '.join(shared) or 'nothing'} to the whole grid, got {condition!r}")
    parser = argparse.ArgumentParser(prog="detect.py compare", allow_abbrev=False, usage="see detect.py fit --help")
    add_fit(parser)
    found = parser.parse_args([*args.others, "--no-progress", "--logger", "none", "--negatives", *own])
    found.white, found.skip_unreadable = args.white, args.skip_unreadable
    settle(found)
    return found


def tasks_of(
    args: argparse.Namespace, settings: dict[str, argparse.Namespace], categories: Sequence[Category]
) -> dict[Key, Task]:
    names = [folder_name(condition) for condition in settings]
    if len(set(names)) < len(names) or args.against not in settings:
        raise DataError(f"`conditions` must differ and hold {args.against!r}, got {list(settings)}; see --against")
    return {
        (condition, c.name, seed): (
            argparse.Namespace(**vars(own) | {"seed": seed}),
            c,
            args.out / folder_name(condition) / f"{c.name}-seed{seed}",
        )
        for seed in args.seeds
        for c in categories
        for condition, own in settings.items()  # last, so that neighbors can have a base in common
    }


def folder_name(condition: str) -> str:
    return re.sub(r"[^\w.,-]+", "_", condition.replace("--", "")).strip("_")


# ---- the grid --------------------------------------------------------------------------------------------------------


def run_grid(tasks: dict[Key, Task], jobs: int) -> tuple[dict[Key, Cell], list[str]]:
    """Results in the order of the tasks, and error messages: a fit that fails does not stop the others."""
    cells, failures = {}, []
    for count, (key, outcome) in enumerate(outcomes(tasks, jobs), 1):
        name = f"{key[0]}, {key[1]}, seed {key[2]}"
        if isinstance(outcome, BaseException):
            failures.append(f"{name}: {explanation(outcome) or f'{type(outcome).__name__}: {outcome}'}")
            print(f"[{count}/{len(tasks)}] {name}: failed", flush=True)
        else:
            cells[key] = outcome
            told = ", ".join(f"{r} {percent(outcome[r]['image_auroc'])} / {percent(outcome[r]['ap'])}" for r in READINGS)
            print(f"[{count}/{len(tasks)}] {name}: {told}, {outcome['seconds']} s", flush=True)
    return {key: cells[key] for key in tasks if key in cells}, failures


def outcomes(tasks: dict[Key, Task], jobs: int) -> Iterator[tuple[Key, Cell | BaseException]]:
    """In order of completion; with one job, in this process."""
    if jobs == 1:
        for key, task in tasks.items():
            try:
                yield key, run_task(task)
            except Exception as error:
                yield key, error
        return
    threads = max(1, (os.cpu_count() or 1) // jobs)  # more would only make the jobs wait for each other
    spawn = multiprocessing.get_context("spawn")  # threads of the net and the GPU do not survive a fork
    processes = partial(ProcessPoolExecutor, mp_context=spawn, initializer=torch.set_num_threads, initargs=(threads,))
    lost = []
    with processes(jobs) as pool:
        waiting = {pool.submit(run_task, task): key for key, task in tasks.items()}
        for future in as_completed(waiting):
            if isinstance(future.exception(), BrokenProcessPool):
                lost.append(waiting[future])
            else:
                yield waiting[future], future.exception() or future.result()
    for key in lost:  # a killed process breaks the pool for all pending tasks: run each in its own
        with processes(1) as pool:
            future = pool.submit(run_task, tasks[key])
            yield key, future.exception() or future.result()


class Common:
    """What the conditions of one category and seed have in common unless they tune the net: the base and its test maps."""

    def __init__(self, args: argparse.Namespace, category: Category, negatives: Sequence[Negative], folder: Path) -> None:
        self.base = prepared(args, read(args, category)[0], negatives, folder)
        images, self.samples = decode(category.test, args.size, args.skip_unreadable, args.white, SMALLEST)
        self.masks = decode_masks(self.samples, args.size)
        with torch.inference_mode():
            self.maps = torch.cat([self.base.final.maps(part) for part in images.split(PART)])  # [N, K, S / 4, S / 4]

    def metrics(self, weights: Tensor) -> Cell:
        heat, final = torch.einsum("nkhw,k->nhw", self.maps, weights), self.base.final
        return metrics(final.reduced(heat), at_full_size(heat, final.size), self.samples, self.masks)

    @functools.cached_property
    def plain(self) -> Cell:
        """The metrics with equal weights, and the image AUROC of each map alone."""
        final, bad = self.base.final, np.array([sample.defect is not None for sample in self.samples])
        names = [f"{kind} {final.features.strides[level]}" for kind, level in final.named_maps]
        single = {n: image_auroc(bad, final.reduced(self.maps[:, k])) for k, n in enumerate(names)}
        return {"mean": self.metrics(final.weights), "single": single}


_last: dict[str, Common] = {}  # at most one, by the settings that it depends on


def common(
    args: argparse.Namespace, category: Category, negatives: Sequence[Negative], folder: Path, settings: dict[str, Any]
) -> Common:
    """That of the task before, if it serves."""
    if args.steps:
        return Common(args, category, negatives, folder)
    key = json.dumps([settings[name] for name in BASE])
    if key not in _last:
        _last.clear()  # before the next one is made: each holds all images
        _last[key] = Common(args, category, negatives, folder)
    return _last[key]


def run_task(task: Task) -> Cell:
    """One fit and its scores, in a folder; a finished one is read, an interrupted one is resumed."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    args, category, folder = task
    settings = resume(args, category, folder, ["result.json"])
    note = folder / "result.json"
    if os.path.lexists(note):
        return finished(note, settings)
    began = time.perf_counter()
    negatives = negatives_of(args)  # before the seed is set: a user's net may draw its weights
    shared = common(args, category, negatives, folder, settings)
    detector = weighed(shared.base, args, negatives, settings)
    weights = [round(w, 3) for w in detector.weights.tolist()]
    cell: Cell = {"category": category.name, "seed": args.seed, "settings": settings, "weights": weights}
    cell |= {"alignment": detector.about["alignment"], **shared.plain, "fused": shared.metrics(detector.weights)}
    if negatives and isinstance(negatives[0], SaliencySwap):
        with own_randomness(0, args.seed):
            cell |= describe_swaps(negatives[0], shared.base.images, OtsuObject())
    cell["seconds"] = round(time.perf_counter() - began, 1)
    write(note, cell)
    (folder / CHECKPOINT).unlink(missing_ok=True)  # a grid of them would fill the disk
    return cell


def finished(note: Path, settings: dict[str, Any]) -> Cell:
    try:
        cell = read_json(note)
        if not is_cell(cell) or cell["settings"] != settings:
            raise ValueError("it is not the result of this fit")
        return cell
    except (OSError, ValueError) as error:
        raise DataError(
            f"`out` must be new or hold whole results, got {str(note)!r}, which is damaged ({error}): remove it to fit again"
        ) from error


def at_full_size(heat: Tensor, size: int) -> Tensor:
    return torch.nn.functional.interpolate(heat[:, None], (size, size), mode="bilinear")[:, 0]


# ---- pictures ---------------------------------------------------------------------------------------------------------


def draw_strips(out: Path, settings: dict[str, argparse.Namespace], tasks: dict[Key, Task], columns: int = 8) -> None:
    """A sheet per category: the same normal images in the first row, and the negatives of each condition below."""
    for category in {task[1].name: task[1] for task in tasks.values()}.values():
        own = next(iter(settings.values()))
        images, _ = decode(category.train[:columns], own.size, own.skip_unreadable, own.white)
        rows = [("normal", list(images))]
        for condition, args in settings.items():
            with own_seed(0):
                rows += [(condition, [negative(x) for x in images]) for negative in negatives_of(args)]
        save_sheet(rows, out / f"negatives-{category.name}.png")


def machine() -> str:
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{platform.machine()}, {os.cpu_count()} cores{gpu}, torch {torch.__version__}"
