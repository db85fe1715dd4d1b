"""What a run leaves to look at: tables in Markdown, ROC curves, histograms, sheets of images, heat maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from sklearn.metrics import roc_curve
from torch import Tensor

LABEL = 72, 14  # pixels that the names of a sheet's rows and columns take

Cell = dict[str, Any]  # what one training leaves: category, seed, auroc, defects, scores, seconds, ...


def percent(value: float | None) -> str:
    return "undefined" if value is None else f"{100 * value:.1f}"


def mean_and_deviation(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Over those that are defined; the standard deviation (n - 1) needs two."""
    known = [v for v in values if v is not None]
    mean = float(np.mean(known)) if known else None
    return mean, float(np.std(known, ddof=1)) if len(known) > 1 else None


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def table(cells: Sequence[Cell], score: str = "auroc") -> str:
    """Categories down, seeds across, mean and standard deviation over seeds; the last row is the mean of the categories."""
    categories, seeds = unique(c["category"] for c in cells), unique(c["seed"] for c in cells)
    found = {(c["category"], c["seed"]): c[score] for c in cells}
    values = {name: [found.get((name, seed)) for seed in seeds] for name in categories}
    if len(categories) > 1:
        whole = all(v is not None for row in values.values() for v in row)
        values["mean"] = [float(np.mean([row[i] for row in values.values()])) if whole else None for i in range(len(seeds))]
    rows = []
    for name, row in values.items():
        mean, deviation = mean_and_deviation(row)
        rows.append([name, *map(percent, row), percent(mean), "-" if deviation is None else percent(deviation)])
    return markdown(["category", *(f"seed {s}" for s in seeds), "mean", "sd"], rows)


def unique(items: Any) -> list[Any]:
    return list(dict.fromkeys(items))


# ---- figures -----------------------------------------------------------------------------------------------------------


def _panels(names: Sequence[str]) -> tuple[Figure, dict[str, Any]]:
    columns = min(4, len(names))
    lines = -(-len(names) // columns)
    figure = Figure(figsize=(3.2 * columns, 3 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    for axis, name in zip(axes, names, strict=False):
        axis.set_title(name)
    return figure, dict(zip(names, axes, strict=False))


def draw_roc(cells: Sequence[Cell], path: Path) -> None:
    """One panel per category, one curve per seed."""
    figure, axes = _panels(unique(c["category"] for c in cells))
    for cell in cells:
        axis = axes[cell["category"]]
        axis.set(xlabel="false positive rate", ylabel="true positive rate", aspect="equal")
        if cell["auroc"] is None:
            axis.text(0.5, 0.5, "undefined: one class only", ha="center")
            continue
        x, y, _ = roc_curve(np.array(cell["defects"]) != "good", cell["scores"])
        axis.plot(x, y, label=f"seed {cell['seed']}: {percent(cell['auroc'])}")
        axis.legend(fontsize="small", loc="lower right")
    figure.savefig(path, dpi=100)


def draw_histograms(cells: Sequence[Cell], path: Path) -> None:
    """Scores of the first seed, good against defective."""
    first = {c["category"]: c for c in reversed(cells)}
    figure, axes = _panels(list(first))
    for name, cell in first.items():
        scores, defective = np.array(cell["scores"]), np.array(cell["defects"]) != "good"
        bins = np.histogram_bin_edges(scores, 30).tolist()
        for part, label in ((~defective, "good"), (defective, "defect")):
            axes[name].hist(scores[part], bins, alpha=0.6, label=label)
        axes[name].set(xlabel="anomaly score", ylabel="test images")
        axes[name].legend(fontsize="small")
    figure.savefig(path, dpi=100)


def save_sheet(rows: Sequence[tuple[str, Sequence[Tensor]]], path: Path, columns: Sequence[str] = (), gap: int = 2) -> None:
    """Named rows of uint8 images [3, H, W] of one size, or masks [H, W], as a grid; names of columns above."""
    h, w = rows[0][1][0].shape[-2:]
    left, top = LABEL[0], LABEL[1] if columns else 0
    sheet = Image.new("RGB", (left + len(rows[0][1]) * (w + gap), top + len(rows) * (h + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    for j, name in enumerate(columns):
        shown = next(name[:n] for n in range(len(name), -1, -1) if draw.textlength(name[:n]) < w)
        draw.text((left + j * (w + gap), 1), shown, "black")
    for i, (name, images) in enumerate(rows):
        draw.text((2, top + i * (h + gap)), name.replace(" ", "\n"), "black")
        for j, x in enumerate(images):
            tile = x.expand(3, -1, -1) * (1 if x.ndim == 3 else 255)
            sheet.paste(Image.fromarray(tile.permute(1, 2, 0).numpy()), (left + j * (w + gap), top + i * (h + gap)))
    sheet.save(path)


def overlay(image: Tensor, heat: Tensor) -> Tensor:
    """A heat map [H, W] in [0, 1] over uint8 [3, H, W]."""
    colours = matplotlib.colormaps["inferno"](heat.clamp(0, 1).numpy())[..., :3] * 255
    return (0.5 * image + 0.5 * torch.from_numpy(colours).permute(2, 0, 1)).to(torch.uint8)
