"""The tables of `compare`: figures and paired differences.

Differences are paired: same category and seed, so the same split, draws and initial weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from scipy.stats import t as student_t

from .evaluate_command import METRICS
from .folders import fresh, write
from .tables import markdown, mean_and_deviation, percent, unique

READINGS = ("mean", "fused")  # of one detector: with equal weights, and with its learned ones

Cell = dict[str, Any]  # the results of one fit: readings, singles, seconds, settings
Key = tuple[str, str, int]  # condition, category, seed


def is_cell(cell: Any) -> bool:
    """Whether it has everything the tables need; figures are shares, or None if undefined."""
    try:
        shares = [cell[reading][metric] for reading in READINGS for metric in METRICS]
        shares += cell["single"].values()
        swaps = [cell[name] for name in ("on_object", "faint", "change")] if "faint" in cell else []
        numbers = [*(share for share in shares if share is not None), *swaps, cell["seconds"]]
        return all(type(x) in (int, float) for x in numbers) and all(x is None or 0 <= x <= 1 for x in shares)
    except (AttributeError, LookupError, TypeError):
        return False


def interval(differences: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """Mean and Student's t interval around it; the interval is NaN for fewer than two values."""
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
    """Differences by seed of (condition, reading); over all categories (None), of their mean, for seeds with all of them."""
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
    fresh(out / "table.md").write_text(text, encoding="utf-8")
    write(out / "results.json", [{"condition": key[0], **cell} for key, cell in cells.items()])
    return text


def _means(cells: dict[Key, Cell], row: tuple[str, str], metric: str, categories: Sequence[str]) -> Iterator[str]:
    for category in categories:
        values = [cell[row[1]][metric] for key, cell in cells.items() if key[:2] == (row[0], category)]
        mean, deviation = mean_and_deviation(values)
        yield f"{percent(mean)} ± {'-' if deviation is None else percent(deviation)} ({len(values)})"


def _best_single(cells: dict[Key, Cell], condition: str, category: str) -> str:
    """The map that is best in the mean over seeds: chosen on the test set, so only for orientation."""
    found = [cell["single"] for key, cell in cells.items() if key[:2] == (condition, category)]
    means = {name: mean_and_deviation([s.get(name) for s in found])[0] for name in (found[0] if found else {})}
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
    with matplotlib.rc_context({"text.parse_math": False}):  # names may contain dollar signs
        _draw_differences(rows, against).savefig(fresh(path), dpi=100)


def _draw_differences(rows: dict[str, dict[str, tuple[float, float, float]]], against: str) -> Figure:
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
    return figure
