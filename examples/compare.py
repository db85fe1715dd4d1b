"""Compares ways to make negatives: a grid of conditions x categories x seeds, each trained by `train_ssl.py`.

    python examples/compare.py --data toy --out runs/compare
    python examples/compare.py --data mvtec --categories pill --seeds 0 1 2 --jobs 2 --out runs/pill \\
        --conditions none random-swap cutpaste saliency-swap "saliency-swap --levels all" --against random-swap

A condition is an augmentation, with options of `train_ssl.py` for it alone where wanted; options that this program does
not know itself go to all conditions. Finished trainings are kept: the same command goes on where it was stopped, and
more conditions or seeds can be added. Differences are paired: same category, same seed, so same images in the same order
and same initial weights.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import platform
import re
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import train_ssl
from data import Category, DataError, categories_from, decode
from matplotlib.figure import Figure
from report import Cell, markdown, mean_and_deviation, percent, save_sheet, unique
from scipy.stats import t as student_t
from training import explained_errors, explanation, make_negatives_of, write

CONDITIONS = ("none", "random-swap", "object-swap", "cutpaste", "scar", "saliency-swap")
Key = tuple[str, str, int]  # condition, category, seed
Task = tuple[argparse.Namespace, Category, int, Path]


def settings_of(condition: str, common: Sequence[str]) -> argparse.Namespace:
    """A condition's own options come last, so they win."""
    own = shlex.split(condition)
    shared = [option for option in own if option.split("=")[0] in ("--out", "--seeds")]
    if shared:
        raise DataError(f"`conditions` must leave {' and '.join(shared)} to the whole grid, got {condition!r}")
    return train_ssl.parse([*common, "--augmentation", *own])


def folder_name(condition: str) -> str:
    return re.sub(r"[^\w.,-]+", "_", condition.replace("--", "")).strip("_")


# ---- the grid ----------------------------------------------------------------------------------------------------------


def run_grid(tasks: dict[Key, Task], jobs: int) -> tuple[dict[Key, Cell], list[str]]:
    """Results in the order of the tasks, and complaints: a training that fails does not stop the others."""
    cells, failures = {}, []
    for count, (key, outcome) in enumerate(outcomes(tasks, jobs), 1):
        name = f"{key[0]}, {key[1]}, seed {key[2]}"
        if isinstance(outcome, BaseException):
            failures.append(f"{name}: {explanation(outcome) or f'{type(outcome).__name__}: {outcome}'}")
            print(f"[{count}/{len(tasks)}] {name}: failed", flush=True)
        else:
            cells[key] = outcome
            print(f"[{count}/{len(tasks)}] {name}: {percent(outcome['auroc'])}, {outcome['seconds']} s", flush=True)
    return {key: cells[key] for key in tasks if key in cells}, failures


def outcomes(tasks: dict[Key, Task], jobs: int) -> Iterator[tuple[Key, Cell | BaseException]]:
    """As they come; with one job, in this process."""
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
    for key in lost:  # a process that is killed takes along all that wait: each gets one of its own
        with processes(1) as pool:
            future = pool.submit(run_task, tasks[key])
            yield key, future.exception() or future.result()


def run_task(task: Task) -> Cell:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    return train_ssl.run_cell(*task)


# ---- what comes out ----------------------------------------------------------------------------------------------------


def interval(differences: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """Mean and the interval of Student's t around it; without an interval (NaN) for less than two."""
    values = np.asarray(differences, float)
    if len(values) < 2:
        return (float(values.mean()) if len(values) else float("nan")), float("nan"), float("nan")
    half = float(student_t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)
    return float(values.mean()), float(values.mean()) - half, float(values.mean()) + half


def paired(cells: dict[Key, Cell], condition: str, against: str, category: str | None) -> list[float]:
    """Differences of AUROC by seed; over all categories (None), of the categories' mean, for seeds that have them all."""
    names = unique(key[1] for key in cells) if category is None else [category]
    found = []
    for seed in unique(key[2] for key in cells):
        pairs = [[cells.get((c, name, seed), {}).get("auroc") for c in (condition, against)] for name in names]
        if all(None not in pair for pair in pairs):
            found.append(float(np.mean([ours - theirs for ours, theirs in pairs])))
    return found


def write_report(out: Path, cells: dict[Key, Cell], against: str, note: str) -> str:
    conditions, categories = unique(k[0] for k in cells), unique(k[1] for k in cells)
    text = f"{note}\n\nImage AUROC in percent: mean over seeds, standard deviation, number of seeds.\n\n"
    text += markdown(["condition", *categories], list(_score_rows(cells, conditions, categories)))
    if against in conditions and len(conditions) > 1:
        scopes = {name: name for name in categories} | ({"all": None} if len(categories) > 1 else {})
        rows = {c: {s: interval(paired(cells, c, against, n)) for s, n in scopes.items()} for c in conditions if c != against}
        text += f"\nPoints above {against}, paired by seed: mean and its 95 % interval (Student's t).\n\n"
        text += markdown(["condition", *scopes], [[c, *map(_points, row.values())] for c, row in rows.items()])
        draw_differences(rows, against, out / "differences.png")
    seen = {c: [cell for key, cell in cells.items() if key[0] == c and "faint" in cell] for c in conditions}
    if any(seen.values()):
        text += (
            "\nShare of the patches on the object (by Otsu's threshold), of swaps that change less than 2 of 255 levels, "
            "and the mean change.\n\n"
        )
        means = {c: [percent(float(np.mean([x[k] for x in v]))) for k in ("on_object", "faint")] for c, v in seen.items() if v}
        for c, row in means.items():
            row.append(f"{np.mean([x.get('change', np.nan) for x in seen[c]]):.1f}")
        text += markdown(["condition", "on the object", "faint", "change"], [[c, *row] for c, row in means.items()])
    (out / "table.md").write_text(text)
    write(out / "results.json", [{"condition": key[0], **cell} for key, cell in cells.items()])
    return text


def _score_rows(cells: dict[Any, Cell], conditions: Iterable[str], categories: Sequence[str]) -> Iterator[list[str]]:
    for condition in conditions:
        row = [condition]
        for category in categories:
            values = [cell["auroc"] for key, cell in cells.items() if key[:2] == (condition, category)]
            mean, deviation = mean_and_deviation(values)
            row.append(f"{percent(mean)} ± {'-' if deviation is None else percent(deviation)} ({len(values)})")
        yield row


def _points(found: tuple[float, float, float]) -> str:
    mean, low, high = (100 * x for x in found)
    return "-" if np.isnan(mean) else f"{mean:+.1f}" if np.isnan(low) else f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"


def draw_differences(rows: dict[str, dict[str, tuple[float, float, float]]], against: str, path: Path) -> None:
    scopes = list(next(iter(rows.values())))
    figure = Figure(figsize=(2 + 3 * len(scopes), 1 + 0.4 * len(rows)), layout="constrained")
    for axis, scope in zip(figure.subplots(1, len(scopes), sharey=True, squeeze=False)[0], scopes, strict=True):
        for i, row in enumerate(rows.values()):
            mean, low, high = (100 * x for x in row[scope])
            axis.plot([low, high], [i, i], color="tab:blue")
            axis.plot([mean], [i], "o", color="tab:blue")
        axis.axvline(0, color="grey", linewidth=0.8)
        axis.set(title=scope, xlabel=f"points above {against}", yticks=range(len(rows)), yticklabels=list(rows))
        axis.set_ylim(len(rows) - 0.5, -0.5)
    figure.savefig(path, dpi=100)


# ---- command line ------------------------------------------------------------------------------------------------------


def draw_strips(out: Path, settings: dict[str, argparse.Namespace], categories: Iterable[Category], columns: int = 8) -> None:
    """A sheet per category: the same normal images in the first row, and what each condition makes of them below."""
    for category in categories:
        own = next(iter(settings.values()))
        images, _ = decode(category.train[:columns], own.size, own.skip_unreadable, own.white)
        rows = [("normal", list(images))]
        for condition, args in settings.items():
            torch.manual_seed(0)
            rows += [(condition, [negative(x) for x in images]) for negative in make_negatives_of(args)]
        save_sheet(rows, out / f"negatives-{category.name}.png")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], epilog="All other options are those of train_ssl.py.", allow_abbrev=False
    )
    parser.add_argument("--out", type=Path, default=Path("runs/compare"), help="folder (default runs/compare)")
    parser.add_argument("--conditions", nargs="+", default=list(CONDITIONS), metavar="CONDITION", help="see above")
    parser.add_argument("--against", default="random-swap", metavar="CONDITION", help="what the others are compared with")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="SEED")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    args, others = parser.parse_known_args(argv)
    with explained_errors():
        if args.jobs < 1:
            raise DataError(f"`jobs` must be 1 or more, got {args.jobs}")
        seeds, out = map(str, args.seeds), str(args.out / "cells")
        common = [*others, "--seeds", *seeds, "--no-progress", "--no-heat-maps", "--out", out]
        settings = {condition: settings_of(condition, common) for condition in args.conditions}
        categories = {condition: categories_from(own) for condition, own in settings.items()}
        cells, failures = run_grid(tasks_of(args, settings, categories), args.jobs)
    if cells:
        command = shlex.join(["compare.py", *(sys.argv[1:] if argv is None else argv)])
        note = f"`{command}`\n\n{machine()}, {args.jobs} jobs at a time; {time.strftime('%Y-%m-%d')}."
        print(f"\n{write_report(args.out, cells, args.against, note)}\nin {args.out}")
        made = {condition: settings[condition] for condition in unique(key[0] for key in cells)}
        draw_strips(args.out, made, next(iter(categories.values())))
    if failures:
        raise SystemExit("error: " + "\n".join([f"{len(failures)} trainings failed", *failures]))
    return 0


def tasks_of(
    args: argparse.Namespace, settings: dict[str, argparse.Namespace], categories: dict[str, list[Category]]
) -> dict[Key, Task]:
    names = [folder_name(condition) for condition in settings]
    if len(set(names)) < len(names) or args.against not in settings:
        raise DataError(f"`conditions` must differ and hold {args.against!r}, got {list(settings)}; see --against")
    return {
        (condition, c.name, seed): (own, c, seed, args.out / folder_name(condition) / f"{c.name}-seed{seed}")
        for seed in args.seeds
        for condition, own in settings.items()
        for c in categories[condition]
    }


def machine() -> str:
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{platform.machine()}, {os.cpu_count()} cores{gpu}, torch {torch.__version__}"


if __name__ == "__main__":
    raise SystemExit(main())
