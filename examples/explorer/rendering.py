"""Pictures for the page: panels side by side in one file, so that one request loads all of them, and their HTML."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

from PIL import Image

EDGE = 2  # pixels by which a panel's border is extended, so that its neighbor does not bleed into it


class Figure(NamedTuple):
    """The caption of a picture, its alternative text, and what a click does."""

    caption: str
    alt: str
    sets: str = ""  # what a click sets, "name=value"
    chosen: bool = False
    link: str = ""  # that a click opens
    kind: str = ""  # a class in the style sheet


def strip(panels: Sequence[Image.Image]) -> bytes:
    """JPEG of panels of one size, side by side, each with its border extended by `EDGE` pixels on both sides."""
    width, height = panels[0].size
    step = width + 2 * EDGE
    sheet = Image.new("RGB", (step * len(panels), height))
    for k, panel in enumerate(panels):
        for left, x in ((0, k * step), (width - 1, k * step + EDGE + width)):
            sheet.paste(panel.crop((left, 0, left + 1, height)).resize((EDGE, height)), (x, 0))
        sheet.paste(panel, (k * step + EDGE, 0))
    return _encoded(sheet, "JPEG", quality=90, subsampling=0)


def png(image: Image.Image) -> bytes:
    return _encoded(image, "PNG", compress_level=3)


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def thumbnail(image: Image.Image, side: int) -> Image.Image:
    """The image reduced by an integer factor, which is fastest; its longer side is from `side` to less than 2 `side`."""
    return image.reduce(max(1, max(image.size) // side))


def figures(url: str, size: tuple[int, int], items: Sequence[Figure], kind: str) -> str:
    """The figures of the strip at `url`, each a window on its panel of (width, height) pixels."""
    parts = []
    for k, item in enumerate(items):
        step = 100 * (size[0] + 2 * EDGE) / size[0]
        at = f"width:{step * len(items):.4f}%;margin-left:{-step * k - 100 * EDGE / size[0]:.4f}%"
        picture = f'<img src="{url}" alt="{html.escape(item.alt)}" style="{at}" draggable="false">'
        window = f'<span class="window" style="aspect-ratio:{size[0]}/{size[1]}">{picture}</span>'
        caption = html.escape(item.caption)
        if item.link:
            window = f'<a href="{item.link}" target="_blank" title="open in full size">{window}</a>'
        if not item.sets:
            parts.append(f'<figure class="{item.kind}">{window}<figcaption>{caption}</figcaption></figure>')
        else:
            pressed = str(item.chosen).lower()
            parts.append(f'<button type="button" data-set="{item.sets}" aria-pressed="{pressed}">{window}{caption}</button>')
    return f'<div class="figures {kind}">{"".join(parts)}</div>'


def paragraphs(lines: Sequence[str], kind: str) -> str:
    return "".join(f'<p class="{kind}">{html.escape(line)}</p>' for line in lines)
