"""The picture of a patch pair: two boxes, an arrow between them, and their names, which never cover each other."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from ..draw import PatchPair
from .lettering import write
from .panels import Color

BOX_A, BOX_B = (255, 176, 0), (0, 205, 225)
FINE = 3  # supersampling: Pillow's lines are not anti-aliased
SMALL = 96  # pixels; on smaller pictures the names are smaller, too, but at least
LEAST = 0.7  # of their size
Box = tuple[float, float, float, float]  # left, top, right, bottom
Floats = npt.NDArray[np.float64]


def boxes(photo: Image.Image, pairs: list[PatchPair], size: tuple[int, int]) -> Image.Image:
    """Both patches of every pair, joined by a double arrow; named by level if there are several pairs.

    Args:
        size: (H, W) of the image that the pairs are in.
    """
    dimmed = Image.blend(photo, Image.new("RGB", photo.size, "black"), 0.25)
    big = dimmed.resize((photo.width * FINE, photo.height * FINE), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(big)
    sy, sx = big.height / size[0], big.width / size[1]
    drawn: list[tuple[Box, Color, str]] = []
    for pair in pairs:
        h, w = pair.height * sy, pair.width * sx
        a = (pair.left_a * sx, pair.top_a * sy, pair.left_a * sx + w, pair.top_a * sy + h)
        b = (pair.left_b * sx, pair.top_b * sy, pair.left_b * sx + w, pair.top_b * sy + h)
        _arrow(draw, a, b)
        for box, color, letter in ((a, BOX_A, "A"), (b, BOX_B, "B")):
            draw.rectangle(_grown(box, 2 * FINE), outline="black", width=FINE)
            draw.rectangle(_grown(box, FINE), outline=color, width=2 * FINE)
            drawn.append((box, color, letter + (str(pair.level) if len(pairs) > 1 else "")))
    _tags(draw, drawn, big.size)
    return big.reduce(FINE)


def _grown(box: Box, by: float) -> Box:
    return box[0] - by, box[1] - by, box[2] + by, box[3] + by


def _arrow(draw: ImageDraw.ImageDraw, a: Box, b: Box) -> None:
    """An arrow from box to box, along the line between their centers."""
    (ax, ay), (bx, by) = [((box[0] + box[2]) / 2, (box[1] + box[3]) / 2) for box in (a, b)]
    dx, dy = bx - ax, by - ay
    inside = min((a[2] - a[0]) / 2 / (abs(dx) + 1e-9), (a[3] - a[1]) / 2 / (abs(dy) + 1e-9))
    length = math.hypot(dx, dy) * (1 - 2 * inside)
    if length < 6 * FINE:  # no room between the boxes
        return
    pad = 3 * FINE / math.hypot(dx, dy)
    start, end = inside + pad, 1 - inside - pad
    line = (ax + dx * start, ay + dy * start, ax + dx * end, ay + dy * end)
    for color, width in (("black", 4 * FINE), ("white", 2 * FINE)):
        draw.line(line, fill=color, width=width)
    head, angle = min(7.0 * FINE, length / 2), math.atan2(dy, dx)
    for x, y, turn in ((line[2], line[3], math.pi), (line[0], line[1], 0.0)):
        wings = [(x + head * math.cos(angle + turn + t), y + head * math.sin(angle + turn + t)) for t in (-0.5, 0.5)]
        draw.polygon([(x, y), *wings], fill="white", outline="black")


# ---------------------------------------- names


def _tags(draw: ImageDraw.ImageDraw, drawn: Sequence[tuple[Box, Color, str]], picture: tuple[int, int]) -> None:
    """The name of every box on its color. They are drawn last, so that no box hides one."""
    unit = FINE * min(1.0, max(LEAST, max(picture) / FINE / SMALL))
    around = [_grown(box, 2 * FINE) for box, _, _ in drawn]
    tags = tag_spots(around, [((8 + 6 * len(name)) * unit, 14 * unit) for _, _, name in drawn], picture)
    for tag, box, (_, color, _) in zip(tags, around, drawn, strict=True):
        _lead(draw, tag, box, color)
    for (left, top, right, bottom), (_, color, name) in zip(tags, drawn, strict=True):
        draw.rectangle((left, top, right, bottom), fill=color)
        write(draw, ((left + right) / 2, (top + bottom) / 2), name, "black", 11 * unit, "mm")


def tag_spots(boxes: Sequence[Box], sizes: Sequence[tuple[float, float]], picture: tuple[int, int]) -> list[Box]:
    """A place inside the picture for each box's tag: apart from the tags before it and near its box, best at the upper left
    corner, and where it hides little of any box.

    Args:
        boxes: with the width of their lines.
        sizes: (width, height) of the tags.
        picture: (width, height).
    """
    tags: list[Box] = []
    for box, (width, height) in zip(boxes, sizes, strict=True):
        x: Floats = np.arange(0, max(picture[0] - width - 1, 0) + 1, FINE, dtype=np.float64)
        y: Floats = np.arange(0, max(picture[1] - height - 1, 0) + 1, FINE, dtype=np.float64)
        apart = [_grown(tag, FINE) for tag in tags]
        gap = np.hypot(_gap(x, width, box[0], box[2]), _gap(y, height, box[1], box[3])[:, None])
        corner = np.hypot(x - box[0], (y + height - box[1])[:, None])
        # In heights of a tag. A hidden box costs more than a tag some way off, and a hidden tag more than anything else.
        hidden = (1e4 * _covered(x, width, y, height, apart) + 8 * _covered(x, width, y, height, boxes)) / (width * height)
        cost = hidden + (gap + 0.1 * corner) / height
        row, column = divmod(int(cost.argmin()), len(x))
        tags.append((float(x[column]), float(y[row]), float(x[column] + width), float(y[row] + height)))
    return tags


def _gap(start: Floats, length: float, low: float, high: float) -> Floats:
    """The distance of intervals [start, start + length] from [low, high]."""
    return np.maximum(0, np.maximum(low - start - length, start - high))


def _covered(x: Floats, width: float, y: Floats, height: float, boxes: Sequence[Box]) -> Floats:
    """How much of the boxes a tag at each (y, x) covers, in pixels: [len(y), len(x)]."""
    left, top, right, bottom = np.array(boxes, dtype=np.float64).reshape(-1, 4).T[:, :, None]  # each [boxes, 1]
    across = np.clip(np.minimum(x + width, right) - np.maximum(x, left), 0, None)
    down = np.clip(np.minimum(y + height, bottom) - np.maximum(y, top), 0, None)
    area: Floats = down.T @ across
    return area


def _lead(draw: ImageDraw.ImageDraw, tag: Box, box: Box, color: Color) -> None:
    """A line from the box to a tag that does not touch it."""
    x, y = (tag[0] + tag[2]) / 2, (tag[1] + tag[3]) / 2
    near = min(max(x, box[0]), box[2]), min(max(y, box[1]), box[3])
    if math.hypot(_apart(tag[0], tag[2], box[0], box[2]), _apart(tag[1], tag[3], box[1], box[3])) > 2 * FINE:
        for shade, width in (("black", 3 * FINE), (color, FINE)):
            draw.line((x, y, *near), fill=shade, width=width)


def _apart(low: float, high: float, other_low: float, other_high: float) -> float:
    return max(0.0, other_low - high, low - other_high)
