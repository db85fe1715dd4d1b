"""Images and masks of the examples' data: decoded as by the package's commands, resized to squares."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from cutswap_transforms.shell.decode import Note, decoded, opened
from cutswap_transforms.shell.decode import read_mask as read_whole_mask

Array = np.ndarray[Any, Any]
Sides = tuple[int, int]  # width, height

ORIENTATION = 0x0112  # of EXIF
QUARTER_TURNS = {
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(path: Path, size: int, white: float | None = None, smallest: int = 1) -> Tensor:
    """The square of the image in a regular file; see `square`."""
    with opened(path) as file:
        return square(file, size, white, smallest)


def square(file: Image.Image, size: int, white: float | None = None, smallest: int = 1) -> Tensor:
    """uint8 [3, size, size] of an image from `Image.open`, decoded as by the package's commands, resized with antialiasing.

    An image with a side below `smallest` is refused. 16-bit and float images are scaled to 8 bits: `white`, by default
    65535, becomes 255. Without it, images of unknown white are refused: floats, values beyond 16 bits, and 16-bit files of
    cameras with 12 bits or less. Other surprises, such as transparency, cause a warning, once per process.
    """
    if min(file.size) < smallest:
        raise ValueError(f"its sides must be {smallest} px or more, got {file.width} x {file.height}")
    image, notes, top = decoded(file, white)
    if Note.NOT_FINITE in notes:
        raise ValueError("its values must be finite, got NaN or infinite ones")
    if Note.FLOATS in notes or Note.STRETCHED in notes or (Note.NARROW in notes and top < 4096):
        raise ValueError(f"deep grays up to {top:g}: pass --white, the value of white (4095 for 12 bits, 1 for shares)")
    for note in notes:
        warnings.warn(note.value, stacklevel=1)  # same place and text, so Python shows it once
    return pil_to_tensor(image.resize((size, size), Image.Resampling.BILINEAR))


def read_mask(path: Path, size: int, photograph: Path | None = None, doubt: Callable[[str], Any] = warnings.warn) -> Tensor:
    """uint8 {0, 1} [size, size]: the mask of `read_truth`, nearest-neighbor resized. `doubt` is called if it looks wrong."""
    truth = read_truth(path, photograph)
    if truth.mean() > 0.5:
        doubt(f"{path} marks {truth.mean():.0%} of its image as a defect: it may be inverted")
    upright = _sides_of(photograph)[0] if photograph else None
    if upright and not _same_aspect(truth.shape[::-1], upright):
        sides = [f"{width} x {height} px" for width, height in (truth.shape[::-1], upright)]
        doubt(f"{path} of {sides[0]} is of another aspect than its image of {sides[1]}")
    picture = Image.fromarray(truth.astype(np.uint8)).resize((size, size), Image.Resampling.NEAREST)
    return torch.from_numpy(np.array(picture))


def read_truth(path: Path, photograph: Path | None = None) -> Array:
    """bool [H, W], True where a mask marks a defect; transparent pixels mark nothing.

    Any value above 0 marks a defect, so label maps work; in palettes the color counts. Lossy files have rings around every
    edge, so there the limit is half of white. A mask is rotated by its own EXIF. If EXIF rotates the `photograph` by a quarter
    turn, a mask with the sides of the stored photograph is rotated with it.
    """
    truth: Array = read_whole_mask(path)
    upright, turn = _sides_of(photograph) if photograph else (None, None)
    if upright is None or turn is None or _same_aspect(truth.shape[::-1], upright):
        return truth
    fits = _same_aspect(truth.shape, upright)
    return np.asarray(Image.fromarray(truth).transpose(turn)) if fits else truth


def is_turned(path: Path) -> bool:
    """Whether EXIF rotates or mirrors the stored image."""
    with opened(path) as file:
        return file.getexif().get(ORIENTATION, 1) not in (0, 1)


def _sides_of(photograph: Path) -> tuple[Sides | None, Image.Transpose | None]:
    """The sides of the upright photograph, and the quarter turn that makes it upright; without decoding it."""
    try:
        with opened(photograph) as image:
            tags = getattr(image, "tag_v2", {})  # of TIFF, whose sides Pillow may have swapped
            width, height = tags.get(256, image.width), tags.get(257, image.height)
            turn = QUARTER_TURNS.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # an unreadable photograph is reported when it is read
        return None, None
    return ((height, width) if turn is not None else (width, height)), turn


def _same_aspect(ours: tuple[int, ...], theirs: tuple[int, ...]) -> bool:
    """Equal up to rounding each side of the smaller one by a pixel."""
    (a, b), (c, d) = ours, theirs
    return abs(a * d - b * c) <= max(a + b, c + d)
