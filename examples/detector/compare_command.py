"""`compare`: a grid of conditions x categories x seeds, fitted and measured; differences in pairs.

A condition is the name of the negatives, with options of `fit` for it alone where wanted; options that this command does
not know itself go to all conditions. What is finished is kept: the same command goes on where it was stopped, and more
conditions or seeds can be added. Differences are paired: same category and seed, so the same split, draws and first weights.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import platform
import re
import shlex
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from augment import OtsuObject
from data import Category, DataError, add_arguments, categories_from, decode, decode_masks
from matplotlib.figure import Figure
from scipy.stats import t as student_t
from torch import Tensor
from varied_swap import describe_swaps

from cutswap_transforms import SaliencySwap
from cutswap_transforms._random import own_seed

from .evaluate_command import METRICS, image_auroc, metrics
from .fit_command import SMALLEST, read
from .fitting import fit
from .model import PART, Detector
from .options import add_fit, explanation, negatives_of, resume, settle, write
from .pictures import save_sheet
from .tables import markdown, mean_and_deviation, percent, unique
from .tuning import own_randomness

CONDITIONS = ("none", "random-swap", "object-swap", "cutpaste", "scar", "saliency-swap")
READINGS = ("mean", "fused")  # of one detector: equal weights, and its own

Cell = dict[str, Any]  # what one fit leaves: readings, singles, seconds, settings
Key = tuple[str, str, int]  # condition, category, seed
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
    tasks = tasks_of(args, settings, categories_from(args))
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
        for condition, own in settings.items()
        for c in categories
    }


def folder_name(condition: str) -> str:
    return re.sub(r"[^\w.,-]+", "_", condition.replace("--", "")).strip("_")


# ---- the grid --------------------------------------------------------------------------------------------------------


def run_grid(tasks: dict[Key, Task], jobs: int) -> tuple[dict[Key, Cell], list[str]]:
    """Results in the order of the tasks, and complaints: a fit that fails does not stop the others."""
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
    """One fit and its scores, in a folder; a finished one is read, an interrupted one goes on."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    args, category, folder = task
    settings = resume(args, category, folder, ["result.json"])
    note = folder / "result.json"
    if note.exists():
        return json.loads(note.read_text(encoding="utf-8"))
    began = time.perf_counter()
    images, _ = read(args, category)
    negatives = negatives_of(args)  # before the seed is set: a net of the user's may draw its weights
    detector = fit(args, images, negatives, folder, settings)
    seconds = round(time.perf_counter() - began, 1)
    cell: Cell = {"category": category.name, "seed": args.seed, "seconds": seconds, "settings": settings}
    cell |= measured(detector, args, category)
    if negatives and isinstance(negatives[0], SaliencySwap):
        with own_randomness(0, args.seed):
            cell |= describe_swaps(negatives[0], images, OtsuObject())
    write(note, cell)
    (folder / "checkpoint.ckpt").unlink(missing_ok=True)  # a grid of them would fill the disk
    return cell


@torch.inference_mode()
def measured(detector: Detector, args: argparse.Namespace, category: Category) -> Cell:
    """Both readings, and the image AUROC of each map alone."""
    images, samples = decode(category.test, args.size, args.skip_unreadable, args.white, SMALLEST)
    masks = decode_masks(samples, args.size)
    maps = torch.cat([detector.maps(part) for part in images.split(PART)])  # [N, K, S / 4, S / 4]
    equal = torch.full_like(detector.weights, 1 / len(detector.weights))
    found: Cell = {"weights": [round(w, 3) for w in detector.weights.tolist()], "alignment": detector.about["alignment"]}
    for name, weights in (("mean", equal), ("fused", detector.weights)):
        heat = torch.einsum("nkhw,k->nhw", maps, weights)
        found[name] = metrics(detector.reduced(heat), at_full_size(heat, args.size), samples, masks)
    bad = np.array([sample.defect is not None for sample in samples])
    names = [f"{kind} {detector.features.strides[level]}" for kind, level in detector.named_maps]
    found["single"] = {n: image_auroc(bad, detector.reduced(maps[:, k])) for k, n in enumerate(names)}
    return found


def at_full_size(heat: Tensor, size: int) -> Tensor:
    return torch.nn.functional.interpolate(heat[:, None], (size, size), mode="bilinear")[:, 0]


# ---- what comes out --------------------------------------------------------------------------------------------------


def interval(differences: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """Mean and the interval of Student's t around it; without an interval (NaN) for less than two."""
    values = np.asarray(differences, float)
    if len(values) < 2:
        return (float(values.mean()) if len(values) else float("nan")), float("nan"), float("nan")
    half = float(student_t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)
    return float(values.mean()), float(values.mean()) - half, float(values.mean()) + half


def value_of(cell: Cell | None, reading: str, metric: str) -> float | None:
    return None if cell is None else cell[reading][metric]


def paired(
    cells: dict[Key, Cell], one: tuple[str, str], other: tuple[str, str], metric: str, category: str | None
) -> list[float]:
    """Differences by seed of (condition, reading); over all categories (None), of their mean, for seeds that have them all."""
    names = unique(key[1] for key in cells) if category is None else [category]
    found = []
    for seed in unique(key[2] for key in cells):
        pairs = [[value_of(cells.get((c, name, seed)), r, metric) for c, r in (one, other)] for name in names]
        if all(None not in pair for pair in pairs):
            found.append(float(np.mean([a - b for a, b in pairs])))  # type: ignore[operator]
    return found


def write_report(out: Path, cells: dict[Key, Cell], against: str, note: str) -> str:
    conditions, categories = unique(k[0] for k in cells), unique(k[1] for k in cells)
    rows = [(c, r) for c in conditions for r in READINGS]
    text = f"{note}\n\nIn percent: mean over seeds, standard deviation, number of seeds.\n"
    for metric, title in METRICS.items():
        head = ["condition", "maps", *categories]
        text += f"\n{title}\n\n" + markdown(head, [[*row, *_means(cells, row, metric, categories)] for row in rows])
    text += "\nBest single map, image AUROC\n\n"
    text += markdown(
        ["condition", *categories], [[c, *(_best_single(cells, c, name) for name in categories)] for c in conditions]
    )
    scopes = {name: name for name in categories} | ({"all": None} if len(categories) > 1 else {})
    differences = {}
    for metric in ("image_auroc", "ap"):
        part = {
            f"{c}, {r}": {s: interval(paired(cells, (c, r), (against, "fused"), metric, n)) for s, n in scopes.items()}
            for c, r in rows
            if (c, r) != (against, "fused")
        }
        text += f"\nPoints of {METRICS[metric]} above {against}, fused, paired by seed: mean and 95 % interval\n\n"
        text += markdown(["condition", *scopes], [[c, *map(_points, row.values())] for c, row in part.items()])
        differences[METRICS[metric]] = part
    draw_differences(differences["image AUROC"], f"{against}, fused", out / "differences.png")
    text += swap_table(cells, conditions)
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.md").write_text(text, encoding="utf-8")
    write(out / "results.json", [{"condition": key[0], **cell} for key, cell in cells.items()])
    return text


def _means(cells: dict[Key, Cell], row: tuple[str, str], metric: str, categories: Sequence[str]) -> Iterator[str]:
    for category in categories:
        values = [cell[row[1]][metric] for key, cell in cells.items() if key[:2] == (row[0], category)]
        mean, deviation = mean_and_deviation(values)
        yield f"{percent(mean)} ± {'-' if deviation is None else percent(deviation)} ({len(values)})"


def _best_single(cells: dict[Key, Cell], condition: str, category: str) -> str:
    """The map that is best in the mean over seeds: chosen on the test set, so for scale only."""
    found = [cell["single"] for key, cell in cells.items() if key[:2] == (condition, category)]
    means = {name: mean_and_deviation([s[name] for s in found])[0] for name in (found[0] if found else {})}
    known = {name: mean for name, mean in means.items() if mean is not None}
    if not known:
        return "-"
    best = max(known, key=lambda name: known[name])
    return f"{percent(known[best])} ({best})"


def swap_table(cells: dict[Key, Cell], conditions: Iterable[str]) -> str:
    seen = {c: [cell for key, cell in cells.items() if key[0] == c and "faint" in cell] for c in conditions}
    rows = []
    for c, found in seen.items():
        if found:
            on_object, faint, change = (float(np.mean([cell[k] for cell in found])) for k in ("on_object", "faint", "change"))
            rows.append([c, percent(on_object), percent(faint), f"{change:.1f}"])
    if not rows:
        return ""
    title = "Share of the patches on Otsu's object, of swaps that change less than 2 of 255 levels, and the mean change"
    return f"\n{title}\n\n" + markdown(["condition", "on the object", "faint", "change"], rows)


def _points(found: tuple[float, float, float]) -> str:
    mean, low, high = (100 * x for x in found)
    return "-" if np.isnan(mean) else f"{mean:+.1f}" if np.isnan(low) else f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"


def draw_differences(rows: dict[str, dict[str, tuple[float, float, float]]], against: str, path: Path) -> None:
    if not rows:
        return
    scopes = list(next(iter(rows.values())))
    figure = Figure(figsize=(3 + 3 * len(scopes), 1 + 0.4 * len(rows)), layout="constrained")
    for axis, scope in zip(figure.subplots(1, len(scopes), sharey=True, squeeze=False)[0], scopes, strict=True):
        for i, row in enumerate(rows.values()):
            mean, low, high = (100 * x for x in row[scope])
            axis.plot([low, high], [i, i], color="tab:blue")
            axis.plot([mean], [i], "o", color="tab:blue")
        axis.axvline(0, color="grey", linewidth=0.8)
        axis.set(title=scope, xlabel=f"image AUROC, points above\n{against}", yticks=range(len(rows)), yticklabels=list(rows))
        axis.set_ylim(len(rows) - 0.5, -0.5)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def draw_strips(out: Path, settings: dict[str, argparse.Namespace], tasks: dict[Key, Task], columns: int = 8) -> None:
    """A sheet per category: the same normal images in the first row, and what each condition makes of them below."""
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
