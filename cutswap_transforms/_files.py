"""Images on disk, for the command line: found in folders, read as RGB, refused in one sentence."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS, has_file_allowed_extension
from torchvision.transforms import v2

UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what Pillow raises for broken files


class UserError(Exception):
    """A mistake of the user's; the command prints its sentence without a traceback."""


def suffixes() -> str:
    return ", ".join(f"*{suffix}" for suffix in IMG_EXTENSIONS)


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Files as they are named, folders searched in depth and sorted: what torchvision's `ImageFolder` finds in them."""
    found: list[Path] = []
    for path in paths:
        if os.path.isdir(path):
            found += sorted(map(Path, _images_below(str(path))))
        elif os.path.isfile(path):
            found.append(path)
        else:
            raise UserError(f"`images` must be files or folders that exist, got {path}")
    if not found:
        raise UserError(f"no images found in {', '.join(map(str, paths))}: looked for {suffixes()}")
    return found


def _images_below(root: str) -> Iterator[str]:
    """Links are followed, but not one that leads back to a folder above it: it has no end."""
    waiting: list[tuple[str, frozenset[str]]] = [(root, frozenset())]
    while waiting:
        folder, above = waiting.pop()
        real = os.path.realpath(folder)
        if real in above:
            continue
        try:
            names = os.listdir(folder)
        except OSError as error:
            _note_skipped(folder, f"the folder cannot be read ({type(error).__name__})")
            continue
        for path in (os.path.join(folder, name) for name in names):
            if os.path.isdir(path):
                waiting.append((path, above | {real}))
            # A link to nowhere is kept, so that it is named when it is read; a pipe would be read for ever.
            elif has_file_allowed_extension(path, IMG_EXTENSIONS) and (os.path.isfile(path) or not os.path.exists(path)):
                yield path


def load_image(path: Path, size: int) -> Image.Image | None:
    """RGB, upright, shorter side `size`; None, and a note, if the file is no image."""
    try:
        with Image.open(path) as file:
            image = _rgb(ImageOps.exif_transpose(file))
    except UNREADABLE as error:
        _note_skipped(path, f"not a readable image ({type(error).__name__})")
        return None
    scale = size / min(image.size)
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)


def _note_skipped(path: str | Path, reason: str) -> None:
    print(f"skipped {path}: {reason}", file=sys.stderr)


def _rgb(image: Image.Image) -> Image.Image:
    """Any mode as RGB: 16 bits keep their high byte, wider numbers are stretched over their own range."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        values = np.asarray(image, np.float64)
        low, high = values.min(), values.max()
        scaled = (values - low) * (255 / (high - low) if high > low else 0)
        return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")
    return image.convert("RGBA").convert("RGB") if image.mode == "P" else image.convert("RGB")


class ImageFiles(Dataset[Any]):
    """RGB images of one shorter side; what cannot be read is noted and comes as an empty batch."""

    def __init__(self, files: Sequence[Path], size: int) -> None:
        self.files, self.resize = list(files), v2.Resize(size)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Image.Image | Tensor:
        try:
            with Image.open(self.files[index]) as file:
                image = file.convert("RGB")
        except UNREADABLE as error:
            _note_skipped(self.files[index], f"not a readable image ({type(error).__name__})")
            return torch.zeros(0, 3, 2, 2)
        resized: Image.Image = self.resize(image)
        return resized
