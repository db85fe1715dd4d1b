"""Images on disk, for the command line: found in folders, read as RGB, refused in one sentence."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS, has_file_allowed_extension
from torchvision.transforms import v2

from .layouts import FOREIGN, normal_below, normal_beside

Size = tuple[int] | tuple[int, int]  # the shorter side, or (H, W)
LARGEST = 2**26  # pixels of an image once it is resized: a long and narrow one would grow without bound


class UserError(Exception):
    """Ends the command with a sentence in place of a traceback; `status` is its exit status."""

    def __init__(self, sentence: str, status: int = 2) -> None:
        super().__init__(sentence)
        self.status = status


def suffixes() -> str:
    return ", ".join(f"*{suffix}" for suffix in IMG_EXTENSIONS)


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Files as they are named, folders searched in depth and sorted: what torchvision's `ImageFolder` finds in them, without
    hidden files and folders.

    Raises:
        UserError: nothing to be found, or a folder of a data set that holds defects and masks as well.
    """
    found: list[Path] = []
    for path in paths:
        if os.path.isdir(path):
            _check_normal(path, normal_beside(str(path)))
            found += sorted(map(Path, _images_below(str(path))))
        elif os.path.isfile(path):
            found.append(path)
        else:
            raise UserError(f"`images` must be files or folders that exist, got {path}")
    if not found:
        raise UserError(f"no images found in {', '.join(map(str, paths))}: looked for {suffixes()}")
    return found


def _check_normal(path: str | Path, normal: str | None) -> None:
    if normal is not None:
        raise UserError(f"`images` must be normal images alone, got {path} with defects or masks; name {normal}")


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
        _check_normal(folder, normal_below(folder))
        for name in names:
            path = os.path.join(folder, name)
            if name.startswith(".") or name in FOREIGN:
                if os.path.isdir(path) or has_file_allowed_extension(path, IMG_EXTENSIONS):
                    _note_skipped(path, "hidden, or not of the data set")
                continue
            if os.path.isdir(path):
                waiting.append((path, above | {real}))
            # A link to nowhere is kept, so that it is named when it is read; a pipe would be read for ever.
            elif has_file_allowed_extension(path, IMG_EXTENSIONS) and (os.path.isfile(path) or not os.path.exists(path)):
                yield path


def load_image(path: Path, size: Size) -> Image.Image | None:
    """RGB, upright, resized; None, and a note, if the file is no image or would become too large."""
    image = _decoded(path, size, lambda file: _rgb(ImageOps.exif_transpose(file)))
    return image and image.resize(_resized(image, size), Image.Resampling.LANCZOS)


def _decoded(path: Path, size: Size, decode: Callable[[Image.Image], Image.Image]) -> Image.Image | None:
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            raise OSError("not a regular file")  # a pipe would be read for ever
        with Image.open(path) as file:
            image = decode(file)
        width, height = _resized(image, size)
        if width * height <= LARGEST:
            return image
        reason = f"it would be resized to {width} x {height} pixels, and {LARGEST} are the most"
    except Exception as error:  # Pillow passes on whatever its decoders meet in a broken file
        reason = f"not a readable image ({type(error).__name__})"
    _note_skipped(path, reason)
    return None


def _resized(image: Image.Image, size: Size) -> tuple[int, int]:
    """Width and height once the image is resized."""
    if len(size) == 2:
        return size[1], size[0]
    scale = size[0] / min(image.size)
    return round(image.width * scale), round(image.height * scale)


def _note_skipped(path: str | Path, reason: str) -> None:
    print(f"skipped {path}: {reason}", file=sys.stderr)


def _rgb(image: Image.Image) -> Image.Image:
    """Any mode as RGB: 16 bits keep their high byte, wider numbers are stretched over their own range."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        values = np.asarray(image, np.float64)
        finite = values[np.isfinite(values)]
        low, high = finite.min(), finite.max()
        values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
        scaled = (values - low) * (255 / (high - low) if high > low else 0)
        return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")
    return image.convert("RGBA").convert("RGB") if image.mode == "P" else image.convert("RGB")


class ImageFiles(Dataset[Any]):
    """RGB images as `Resize(size)` gives them; what cannot be read is noted and comes as an empty batch.

    Attributes:
        outcomes: uint8 [len(files)], in memory that loader workers share: 0 not tried, 1 read, 2 skipped.
    """

    def __init__(self, files: Sequence[Path], size: Size) -> None:
        self.files, self.size, self.resize = list(files), size, v2.Resize(size)
        self.outcomes = torch.zeros(len(self.files), dtype=torch.uint8).share_memory_()  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Image.Image | Tensor:
        image = _decoded(self.files[index], self.size, lambda file: file.convert("RGB"))
        self.outcomes[index] = 2 if image is None else 1
        resized: Image.Image | Tensor = torch.zeros(0, 3, 2, 2) if image is None else self.resize(image)
        return resized
