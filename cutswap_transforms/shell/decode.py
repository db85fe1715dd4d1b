"""One way from an image file to 8-bit RGB, and from that of a mask to what it marks, for every command, example and page.

Requirements:

- upright by EXIF; what is transparent lies on white; palettes, 1 bit, gray, CMYK and YCbCr by their colors;
- deep values (16 or 32 bits, floats) are scaled, never clipped at 255: `white` becomes 255. Where it is not given, white is
  65535 for integers, 1 for floats in [0, 1]; what does not fit is stretched over the image's own range;
- what may surprise is noted, as kinds: a command of a thousand images says each sentence once.
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
    """What may surprise in a decoded image, in a sentence."""

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
    top: float = 255.0  # the greatest finite value in the file, at the depth of the file


def opened(path: str | os.PathLike[str]) -> Image.Image:
    """Pillow's image of a regular file, not decoded yet: a pipe or a device would be read for ever.

    Raises:
        ValueError: not a regular file.
        OSError: not there, not readable, or no image.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError("not a regular file")
    image = Image.open(path)
    image.filename = ""  # with it, Pillow 13 maps plain TIFFs into memory by their upright sides, which garbles turned ones
    return image


def read_mask(path: str | os.PathLike[str]) -> npt.NDArray[np.bool_]:
    """bool [H, W] of a mask's file, as `picture_mask` reads it, turned by its own EXIF. Errors as `opened` and `decoded`."""
    with opened(path) as file:
        return picture_mask(file, upright=True)


def decoded(image: Image.Image, white: float | None = None) -> Decoded:
    """An image as `Image.open` gives it, of any mode, as upright 8-bit RGB; `image` itself is only loaded.

    Args:
        white: the value of white in images deeper than 8 bits; others do not need it.

    Raises:
        Exception: whatever Pillow's decoders meet in a broken file.
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
    """What `torchvision.datasets.ImageFolder` makes of an image: RGB by Pillow's conversion, EXIF and transparency ignored."""
    found = image.convert("RGB")
    if is_deep(image):
        lost = ~np.isin(np.asarray(image), np.arange(256))
        return Decoded(found, (Note.LOADER_CLIPS,) if lost.any() else ())
    return Decoded(found)


def is_deep(image: Image.Image) -> bool:
    """True for gray of more than 8 bits, which `convert("RGB")` would clip at 255."""
    return image.mode[0] in "IF"


def has_deep_colors(image: Image.Image) -> bool:
    """True for colors of 16 bits, of which Pillow reads the high byte alone; to be asked before the image is loaded."""
    return not is_deep(image) and any(re.search(";16[BLN]", str(tile[3])) for tile in getattr(image, "tile", ()))


def _from_deep(image: Image.Image, white: float | None) -> Decoded:
    values = np.asarray(image, np.float64)
    deep = _scaled(values, white, floats=image.mode == "F")
    pixels, notes = deep.values, deep.notes
    key = image.info.get("transparency")  # of a 16-bit PNG: the gray that is transparent
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
