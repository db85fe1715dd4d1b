"""Pictures of a detector's results: sheets of images, heat maps with a contour, histograms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .folders import fresh

LABEL = 96  # width in pixels of the names of a sheet's rows
GAP = 4
FONT = ImageFont.load_default(size=13)
CONTOUR = (0, 255, 255)


def heat_picture(image: Tensor, heat: Tensor, threshold: float) -> Tensor:
    """uint8 [3, H, 2 W]: the image with a contour where the heat exceeds the threshold | the heat over the image.

    Args:
        image: uint8 [3, H, W].
        heat: float [H, W]. All pictures of a detector have the same scale: the threshold is in its middle, 0 at its dark end.
    """
    share = (heat / (2 * threshold)).clamp(0, 1) if threshold > 0 else torch.zeros_like(heat)
    colours = torch.from_numpy(matplotlib.colormaps["inferno"](share.numpy())[..., :3] * 255).permute(2, 0, 1)
    over = (0.45 * image + 0.55 * colours).to(torch.uint8)
    line = outline(heat > threshold)
    marked, over = (torch.where(line, torch.tensor(CONTOUR, dtype=torch.uint8)[:, None, None], x) for x in (image, over))
    return torch.cat((marked, over), 2)


def outline(region: Tensor) -> Tensor:
    """bool [H, W] -> the pixels just outside of the region."""
    grown = F.max_pool2d(region.float()[None, None], 3, 1, 1)[0, 0] > 0
    return grown & ~region


def save_sheet(rows: Sequence[tuple[str, Sequence[Tensor]]], path: Path) -> None:
    """Named rows of uint8 images [3, H, W] of one size as a grid."""
    h, w = rows[0][1][0].shape[-2:]
    count = max(len(images) for _, images in rows)
    sheet = Image.new("RGB", (LABEL + count * (w + GAP), len(rows) * (h + GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (name, images) in enumerate(rows):
        draw.text((4, i * (h + GAP) + 2), name.replace(" ", "\n"), "black", font=FONT)
        for j, x in enumerate(images):
            sheet.paste(to_pil(x), (LABEL + j * (w + GAP), i * (h + GAP)))
    sheet.save(fresh(path))


def save_gallery(tiles: Sequence[tuple[str, Tensor]], path: Path, columns: int = 4) -> None:
    """Tiles uint8 [3, H, W] of one size, each with text below it."""
    h, w = tiles[0][1].shape[-2:]
    lines = max(text.count("\n") + 1 for text, _ in tiles)
    columns = min(columns, len(tiles))
    step = h + 17 * lines + 2 * GAP
    sheet = Image.new("RGB", (columns * (w + GAP) + GAP, -(-len(tiles) // columns) * step + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (text, x) in enumerate(tiles):
        left, top = GAP + i % columns * (w + GAP), GAP + i // columns * step
        sheet.paste(to_pil(x), (left, top))
        for k, line in enumerate(text.split("\n")):
            draw.text((left, top + h + 2 + 17 * k), shortened(draw, line, w), "black", font=FONT)
    sheet.save(fresh(path))


def shortened(draw: ImageDraw.ImageDraw, text: str, width: int) -> str:
    """The end of a text that is too long: the end of a path says more than its beginning."""
    text = text.encode("utf-8", "replace").decode()  # names that are not UTF-8
    while draw.textlength(text, font=FONT) > width and len(text) > 4:
        text = "..." + text.lstrip(".")[1:]
    return text


def to_pil(x: Tensor) -> Image.Image:
    return Image.fromarray(x.permute(1, 2, 0).contiguous().numpy())


def draw_histograms(groups: dict[str, Sequence[float]], limit: float, path: Path, title: str) -> None:
    """Scores of each group, on a logarithmic axis if possible, and the threshold between the verdicts."""
    values = np.concatenate([np.asarray(v, float) for v in groups.values()])
    logarithmic = bool(values.min() > 0)
    low, high = values.min(), max(values.max(), values.min() + 1e-6)
    bins = np.geomspace(low, high, 41) if logarithmic else np.linspace(low, high, 41)
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axis = figure.subplots()
    for label, scores in groups.items():
        axis.hist(scores, bins.tolist(), alpha=0.6, label=f"{label} ({len(scores)})")
    if np.isfinite(limit) and (limit > 0 or not logarithmic):
        axis.axvline(limit, color="black", linestyle="--", linewidth=1, label="above: defect")
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set(xlabel="anomaly score", ylabel="images", title=title, xscale="log" if logarithmic else "linear")
    for which in (axis.xaxis.set_major_formatter, axis.xaxis.set_minor_formatter):
        which(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axis.legend(fontsize="small", loc="upper right")  # "best" warns where it takes long
    figure.savefig(fresh(path), dpi=110)
