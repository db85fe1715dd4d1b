"""The contact sheet: the input, the choices and the output of SaliencySwap, one row per image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from PIL import Image, ImageDraw
from torch import Tensor

from ..arguments import checked_int
from ..images import ImageLike, image_leaves, image_size
from ..regions.roi import sample_leaves
from .advice import advise
from .lettering import clipped, width_of, wrapped, write
from .panels import GAP, PAGE, clusters
from .settings import settings_in_words
from .steps import region_steps, swap_steps

if TYPE_CHECKING:
    from ..transform import SaliencySwap

INK, FAINT = (34, 36, 40), (105, 109, 115)
MARGIN = 24
LEVELS_NAMED = "Patches of the same digit change places; the digit is the level of their region"
Item = TypeVar("Item")


class Row(NamedTuple):
    """The pictures of one row, in the order of the columns, and the text above it."""

    cells: list[Image.Image]
    name: str
    note: str
    verdict: str
    several: bool  # pairs, so that their names have digits


def contact_sheet(
    images: Sequence[ImageLike],
    swap: SaliencySwap,
    *,
    names: Sequence[str] | None = None,
    caption: str | None = None,
    cell: int = 192,
) -> Image.Image:
    """A picture of how `swap` treats images: original, a map per level, clusters, patch pair, negative, mask. The
    text above a row says how much of the frame the regions cover, and whether patches of this size fit into them.

    Randomness comes from torch's global generator, image by image: seed it to reproduce the sheet.

    Args:
        images: single images as `swap` takes them, PIL or tensor [C, H, W], or samples with one; sizes may differ.
        swap: a `SaliencySwap`; its saliency, clustering and settings are shown.
        names: one per image, printed above its row.
        caption: a line under the title; by default the settings of `swap`, in words.
        cell: longer side of a picture on the sheet in pixels, at least 64.

    Returns:
        An RGB image.

    Raises:
        ValueError: no images, a different number of names, a cell too small to read, or errors of `swap`.
        TypeError: errors of `swap`.

    >>> import torch, cutswap_transforms
    >>> sheet = contact_sheet([torch.rand(3, 40, 60)], cutswap_transforms.SaliencySwap(), cell=64)
    >>> sheet.mode, sheet.width > 9 * 64
    ('RGB', True)
    """
    if not len(images):
        raise ValueError("`images` must hold at least one image, got none")
    names = [f"image {i}" for i in range(len(images))] if names is None else names
    if len(names) != len(images):
        raise ValueError(f"`names` must be one per image ({len(images)}), got {len(names)}")
    if cell < 64:
        raise ValueError(f"`cell` must be at least 64 pixels, got {cell}")
    rows, headings = [], [("", "")]
    for image, name in zip(images, names, strict=True):
        row, headings = _row(image, swap, name, cell)
        rows.append(row)
    return _page(rows, headings, settings_in_words(swap) if caption is None else caption, cell)


def overview(images: Sequence[ImageLike], swap: SaliencySwap, rows: int) -> Image.Image:
    """The sheet of at most `rows` images, evenly spaced and named by their place; the caption says how many there are."""
    shown, places = spread(images, rows), spread(range(len(images)), rows)
    caption = "; ".join([settings_in_words(swap), *count_in_words(len(shown), len(images), "see rows")])
    return contact_sheet(shown, swap, names=[f"image {i}" for i in places], caption=caption)


def count_in_words(shown: int, found: int, reason: str) -> list[str]:
    """How many of the images are shown, if some are left out.

    >>> count_in_words(8, 15, "see rows"), count_in_words(8, 8, "see rows")
    (['8 of 15 images, see rows'], [])
    """
    return [f"{shown} of {found} images, {reason}"] if shown < found else []


def spread(items: Sequence[Item], limit: int) -> list[Item]:
    """At most `limit` items, evenly spaced, so that every part of a sorted folder is shown.

    Raises:
        TypeError: one image instead of a sequence.
        ValueError: a limit below 1.

    >>> spread("abcdefgh", 3)
    ['a', 'c', 'f']
    """
    if not hasattr(items, "__len__") or isinstance(items, Mapping) or (isinstance(items, Tensor) and items.ndim != 4):
        raise TypeError(f"`images` must be a sequence of images or a batch, got one {type(items).__name__}; pass [image]")
    count = min(checked_int("rows", limit, 1), len(items))
    return [items[i * len(items) // count] for i in range(count)]


# ---------------------------------------- one row


def _row(sample: object, swap: SaliencySwap, name: str, cell: int) -> tuple[Row, list[tuple[str, str]]]:
    """The row of an image, and the column headings."""
    steps = region_steps(sample, swap, cell)
    leaves = sample_leaves(sample, swap.roi)
    image = image_leaves(leaves)[0]
    drawn = swap_steps(image, swap, swap.make_params(leaves), steps)
    made = [steps.cells[pair.level] for pair in drawn.pairs]
    panels = [
        steps.original,
        *steps.maps,
        clusters(steps.photo, made or steps.cells[:1]),
        drawn.boxes,
        drawn.negative,
        drawn.mask,
    ]
    levels = [(f"level {i}", f"{w} x {h} map") for i, (h, w) in enumerate(steps.sizes)]
    chosen = (f"{swap.grid} x {swap.grid} cells", "orange: salient region"), ("patch pair", "A and B change places")
    original = ("original", "" if swap.roi is None else "dim: outside the roi")
    headings = [original, *levels, *chosen, ("negative", ""), ("mask", "")]
    swaps = ", ".join(f"{p.width} x {p.height} on level {p.level}" for p in drawn.pairs) or "nothing"
    height, width = image_size(image)
    advice = advise(steps, swap, (height, width))
    verdict = " ".join(advice.sentences) + (f" As an argument: scale={advice.scale}." if advice.scale else "")
    return Row(panels, name, f"image {width} x {height}, swapped {swaps}", verdict, len(drawn.pairs) > 1), headings


# ---------------------------------------- the page


def _page(rows: list[Row], headings: list[tuple[str, str]], caption: str, cell: int) -> Image.Image:
    """Title, caption, headings and rows, each row as high as its text and pictures."""
    text = max(12, min(18, round(cell / 12)))
    width = 2 * MARGIN + max(len(row.cells) for row in rows) * (cell + GAP) - GAP
    captions = [caption, *([LEVELS_NAMED] if any(row.several for row in rows) else [])]
    head = [line for part in captions for line in wrapped(part, width - 2 * MARGIN, text)]
    columns = [_heading(heading, cell, text) for heading in headings]
    top = MARGIN + text * 2 + (len(head) + max(map(len, columns))) * (text + 6) + 20
    texts = [_row_text(row, width - 2 * MARGIN, text - 1) for row in rows]
    above = [12 + len(lines) * (text + 4) for lines in texts]
    heights = [room + max(c.height for c in row.cells) + GAP + 8 for row, room in zip(rows, above, strict=True)]
    page = Image.new("RGB", (width, top + sum(heights) + MARGIN - GAP), PAGE)
    draw = ImageDraw.Draw(page)
    _write_head(draw, columns, head, top, text, cell)
    for row, lines, room, height in zip(rows, texts, above, heights, strict=True):
        draw.line((MARGIN, top + 2, width - MARGIN, top + 2), (224, 225, 222))
        for i, (left, right) in enumerate(lines):
            write(draw, (MARGIN, top + 6 + i * (text + 4)), left, FAINT if i else INK, text - 1)
            write(draw, (width - MARGIN, top + 6 + i * (text + 4)), right, FAINT, text - 1, "ra")
        for column, panel in enumerate(row.cells):
            page.paste(panel, (MARGIN + column * (cell + GAP) + (cell - panel.width) // 2, top + room))
        top += height
    return page


def _heading(heading: tuple[str, str], cell: int, text: int) -> list[tuple[str, bool]]:
    """The lines above a column, no wider than it, and whether each belongs to the note."""
    name, note = heading
    lines = [(line, False) for line in wrapped(name, cell, text)]
    return lines + [(line, True) for line in wrapped(note, cell, text * 0.85) if note]


def _row_text(row: Row, width: float, text: int) -> list[tuple[str, str]]:
    """Lines above a row, left and right: name and note, beside each other if both fit, and the verdict."""
    beside = width_of(row.name, text) + 2 * text + width_of(row.note, text) <= width
    below = [] if beside else wrapped(row.note, width, text)
    first = (clipped(row.name, width, text), row.note if beside else "")
    return [first, *((line, "") for line in [*below, *wrapped(row.verdict, width, text)])]


def _write_head(
    draw: ImageDraw.ImageDraw, columns: list[list[tuple[str, bool]]], head: list[str], end: int, text: int, cell: int
) -> None:
    """Title, caption and the headings of the columns, above the row of pixels `end`."""
    write(draw, (MARGIN, MARGIN), "Saliency-guided patch swaps", INK, text * 1.5)
    for i, line in enumerate(head):
        write(draw, (MARGIN, MARGIN + text * 2 + 4 + i * (text + 6)), line, FAINT, text)
    start = end - 4 - max(map(len, columns)) * (text + 6)
    for column, lines in enumerate(columns):
        x = MARGIN + column * (cell + GAP) + cell / 2
        for i, (line, note) in enumerate(lines):
            write(draw, (x, start + i * (text + 6)), line, FAINT if note else INK, text * (0.85 if note else 1), "ma")
