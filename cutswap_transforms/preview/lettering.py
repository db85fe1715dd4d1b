"""Text on the sheet: typefaces that have its characters, and lines that fit."""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import Any

from PIL import ImageDraw, ImageFont

# Pillow's built-in typeface has ASCII and little else. Files of these names come with Linux, macOS or Windows.
SYSTEM = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "Arial Unicode.ttf",
    "segoeui.ttf",
    "msyh.ttc",
)
Ink = tuple[int, int, int] | str
_MISSING = "\uffff"  # no typeface has it, so it is drawn as the sign for a missing character


def font(size: float) -> Any:
    """Pillow's built-in typeface: no installation, the same everywhere."""
    return _face("", size)


def write(draw: ImageDraw.ImageDraw, spot: tuple[float, float], text: str, color: Ink, size: float, anchor: str = "la") -> None:
    """Draw one line at a spot, to which `anchor` is aligned as in Pillow."""
    shown, face = lettered(text, size)
    draw.text(spot, shown, color, face, anchor=anchor)


def width_of(text: str, size: float) -> float:
    """The width of a line in pixels."""
    shown, face = lettered(text, size)
    return float(face.getlength(shown))


def lettered(text: str, size: float) -> tuple[str, Any]:
    """The line as it can be drawn, and its typeface: the built-in one or, if that lacks characters, the typeface of the
    system that lacks the fewest. A character that it lacks, too, loses its accent or becomes a question mark.
    """
    text = "".join(_visible(c) for c in unicodedata.normalize("NFC", text))  # macOS has accents as characters of their own
    characters, name = set(text), ""
    if not all(_has(name, c) for c in characters):
        names = [name, *(n for n in SYSTEM if _face(n, size) is not None)]
        name = min(names, key=lambda n: sum(not _has(n, c) for c in characters))
    return "".join(c if _has(name, c) else _plain(name, c) for c in text), _face(name, size)


def wrapped(text: str, width: float, size: float) -> list[str]:
    """Lines no longer than `width` pixels, broken between words; a longer word has a line of its own."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and width_of(longer, size) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def clipped(name: str, width: float, size: float) -> str:
    """The name, or as much of its end as fits, because file names differ at the end."""
    start = 0
    while start < len(name) and width_of("..." * (start > 0) + name[start:], size) > width:
        start += 1
    return "..." * (start > 0) + name[start:]


@lru_cache(maxsize=256)
def _face(name: str, size: float) -> Any:
    """A typeface by the name of its file, "" for the built-in one; None if the system has no such file."""
    try:
        return ImageFont.truetype(name, size) if name else ImageFont.load_default(size)
    except OSError:
        return None


@lru_cache(maxsize=4096)
def _has(name: str, character: str) -> bool:
    face = _face(name, 20)
    return bytes(face.getmask(character)) != bytes(face.getmask(_MISSING))


def _visible(character: str) -> str:
    if character.isspace():
        return " "
    return character if character.isprintable() else "?"  # controls, and bytes of a file name that are no text


def _plain(name: str, character: str) -> str:
    parts = [c for c in unicodedata.normalize("NFKD", character) if not unicodedata.combining(c)]
    return "".join(parts) if parts and all(_has(name, c) for c in parts) else "?"
