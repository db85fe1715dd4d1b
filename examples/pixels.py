"""Images and masks of the examples' data: decoded as the package's commands do, squares in the end."""

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
    """uint8 [3, size, size], decoded as the package's commands do, squashed to a square with antialiasing.

    An image with a side below `smallest` is refused. Deep images, of 16 bits or floats, become 8 bits: `white`, by default
    65535, becomes 255. Without it, an image is refused whose white would be a guess: floats, values beyond 16 bits, and
    cameras of 12 bits or less in files of 16. What else surprises, as transparency, is a warning, once per process.
    """
    with opened(path) as file:
        if min(file.size) < smallest:
            raise ValueError(f"its sides must be {smallest} px or more, got {file.width} x {file.height}")
        image, notes, top = decoded(file, white)
    if Note.NOT_FINITE in notes:
        raise ValueError("its values must be finite, got NaN or infinite ones")
    if Note.FLOATS in notes or Note.STRETCHED in notes or (Note.NARROW in notes and top < 4096):
        raise ValueError(f"deep grays up to {top:g}: pass --white, the value of white (4095 for 12 bits, 1 for shares)")
    for note in notes:
        warnings.warn(note.value, stacklevel=1)  # one place and one text: Python shows it once
    return pil_to_tensor(image.resize((size, size), Image.Resampling.BILINEAR))


def read_mask(path: Path, size: int, photograph: Path | None = None, doubt: Callable[[str], Any] = warnings.warn) -> Tensor:
    """uint8 {0, 1} [size, size]: what `read_truth` finds, resized to the nearest pixel. `doubt` is told what looks wrong."""
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
    """bool [H, W], True where a mask marks a defect; what is transparent marks nothing.

    Any value above 0 does, so label maps do, and palettes by their colors. Lossy files have rings around every edge: there
    it takes half of white. A mask is turned by its own EXIF. One that has the sides of its `photograph` as stored, before
    EXIF turned that by a quarter, is turned with it.
    """
    truth: Array = read_whole_mask(path)
    upright, turn = _sides_of(photograph) if photograph else (None, None)
    if upright is None or turn is None or _same_aspect(truth.shape[::-1], upright):
        return truth
    fits = _same_aspect(truth.shape, upright)
    return np.asarray(Image.fromarray(truth).transpose(turn)) if fits else truth


def is_turned(path: Path) -> bool:
    """Whether EXIF asks to turn or mirror what is stored."""
    with opened(path) as file:
        return file.getexif().get(ORIENTATION, 1) not in (0, 1)


def _sides_of(photograph: Path) -> tuple[Sides | None, Image.Transpose | None]:
    """The sides of an upright photograph, and the turn by a quarter that makes it upright; without decoding it."""
    try:
        with opened(photograph) as image:
            tags = getattr(image, "tag_v2", {})  # of TIFF, whose sides Pillow may have exchanged
            width, height = tags.get(256, image.width), tags.get(257, image.height)
            turn = QUARTER_TURNS.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # a photograph that cannot be read is told where it is read
        return None, None
    return ((height, width) if turn is not None else (width, height)), turn


def _same_aspect(ours: tuple[int, ...], theirs: tuple[int, ...]) -> bool:
    """Up to a pixel of rounding of each side of the smaller one."""
    (a, b), (c, d) = ours, theirs
    return abs(a * d - b * c) <= max(a + b, c + d)
