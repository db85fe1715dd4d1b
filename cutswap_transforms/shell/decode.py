"""One way to decode image files to 8-bit RGB, and mask files to masks, for every command, example and page.

Requirements:

- upright by EXIF; transparent pixels become white; palettes, 1 bit, gray, CMYK and YCbCr by their colors;
- deep values (16 or 32 bits, floats) are scaled, never clipped at 255: `white` becomes 255. By default, white is 65535
  for integers, 1 for floats in [0, 1]; other values are stretched over the image's own range;
- surprises are reported as `Note` members: a command with a thousand images prints each sentence once.
"""

from __future__ import annotations

import enum
import os
import re
import stat
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from ..regions.roi import picture_mask

FULL = 65535.0  # white of 16 bits


class Note(enum.Enum):
    """Possible surprises in a decoded image, one sentence each."""

    TRANSPARENT = "transparency is laid on white"
    NARROW = (
        "the values use less than a sixteenth of their range, so few grays are left; "
        "if white is lower, pass it as --white (4095 for cameras of 12 bits)"
    )
    FLOATS = "floats are taken for shares of white, from 0 to 1; if white is another value, pass it as --white"
    STRETCHED = "values beyond 16 bits, or beyond 0 to 1, are stretched over each image's own range; pass white as --white"
    CLIPPED = "values below 0 or above --white are clipped"
    NOT_FINITE = "NaN and negative infinity become black, infinity white"
    LOADER_CLIPS = (
        "ImageFolder's loader, which is followed here, clips 16-bit and float grays at 255 and drops fractions, so training "
        "sees them white or black; make them 8 bits first (`export` and `preview` do)"
    )


class Decoded(NamedTuple):
    image: Image.Image  # RGB, upright
    notes: tuple[Note, ...] = ()
    top: float = 255.0  # the largest finite value in the file, unscaled


def opened(path: str | os.PathLike[str]) -> Image.Image:
    """Pillow's image of a regular file, not decoded yet. Reading a pipe or a device would never end.

    Raises:
        ValueError: not a regular file.
        OSError: missing, not readable, or not an image.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError("not a regular file")
    image = Image.open(path)
    image.filename = ""  # with a name, Pillow 13 memory-maps plain TIFFs with upright sides, which garbles rotated ones
    return image


def read_mask(path: str | os.PathLike[str]) -> npt.NDArray[np.bool_]:
    """bool [H, W] of a mask file, as `picture_mask` reads it, rotated by its EXIF. Errors as `opened` and `decoded`."""
    with opened(path) as file:
        return picture_mask(file, upright=True)


def decoded(image: Image.Image, white: float | None = None) -> Decoded:
    """An image from `Image.open`, of any mode, as upright 8-bit RGB; `image` itself is only loaded.

    Args:
        white: the value of white in images deeper than 8 bits; others do not need it.

    Raises:
        Exception: any error of Pillow's decoders for a broken file.
    """
    high_byte = has_deep_colors(image)
    image = ImageOps.exif_transpose(image)
    if is_deep(image):
        return _from_deep(image, white)
    clear = image.has_transparency_data
    pixels = image.convert("RGBA" if clear else "RGB")
    notes: tuple[Note, ...] = ()
    top = 255.0
    if high_byte:
        values = np.array(pixels)
        deep = _scaled(values[..., :3] * (FULL / 255), white)
        values[..., :3], notes, top = deep.values, deep.notes, deep.top
        pixels = Image.fromarray(values)
    if clear and np.asarray(pixels)[..., 3].min() < 255:
        notes = (Note.TRANSPARENT, *notes)
        pixels = Image.alpha_composite(Image.new("RGBA", pixels.size, "white"), pixels)
    return Decoded(pixels.convert("RGB"), notes, top)


def as_image_folder(image: Image.Image) -> Decoded:
    """An image as in `torchvision.datasets.ImageFolder`: RGB by Pillow's conversion, EXIF and transparency ignored."""
    rgb = image.convert("RGB")
    if is_deep(image):
        lost = ~np.isin(np.asarray(image), np.arange(256))
        return Decoded(rgb, (Note.LOADER_CLIPS,) if lost.any() else ())
    return Decoded(rgb)


def is_deep(image: Image.Image) -> bool:
    """True for gray of more than 8 bits, which `convert("RGB")` would clip at 255."""
    return image.mode[0] in "IF"


def has_deep_colors(image: Image.Image) -> bool:
    """True for colors of 16 bits, of which Pillow reads only the high byte. Call it before the image is loaded."""
    return not is_deep(image) and any(re.search(";16[BLN]", str(tile[3])) for tile in getattr(image, "tile", ()))


def _from_deep(image: Image.Image, white: float | None) -> Decoded:
    values = np.asarray(image, np.float64)
    deep = _scaled(values, white, floats=image.mode == "F")
    pixels, notes = deep.values, deep.notes
    key = image.info.get("transparency")  # the transparent gray of a 16-bit PNG
    if isinstance(key, int) and (values == key).any():
        pixels, notes = np.where(values == key, np.uint8(255), pixels), (Note.TRANSPARENT, *notes)
    return Decoded(Image.fromarray(pixels).convert("RGB"), notes, deep.top)


class _Scaled(NamedTuple):
    values: npt.NDArray[np.uint8]
    notes: tuple[Note, ...]
    top: float


def _scaled(values: npt.NDArray[np.float64], white: float | None, floats: bool = False) -> _Scaled:
    """Values of any range as 8 bits."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    notes = [Note.NOT_FINITE] if finite.size < values.size else []
    black, top = 0.0, white or (1.0 if floats else FULL)
    if white:
        notes += [Note.CLIPPED] if low < 0 or high > white else []
    elif low < 0 or high > top:
        notes, black, top = [*notes, Note.STRETCHED], low, high
    else:
        notes += [Note.FLOATS] if floats else []
        notes += [Note.NARROW] if (high - low) * 16 < top else []
    values = np.nan_to_num(values, nan=black, posinf=top, neginf=black)
    span = (top - black) or 1.0  # a flat image is black
    return _Scaled(((values - black) * (255 / span) + 0.5).clip(0, 255).astype(np.uint8), tuple(notes), high)
