"""Images on disk, for the command line: found in folders, read, resized; each problem is reported in one sentence."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets.folder import has_file_allowed_extension
from torchvision.transforms import v2

from .decode import Decoded, Note, decoded, opened
from .layouts import FOREIGN, SUFFIXES, normal_below, normal_beside, suffixes
from .messages import UserError

Size = tuple[int] | tuple[int, int]  # the shorter side, or (H, W)
LARGEST = 2**26  # pixels of a resized image: a long and narrow one would grow without bound


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Named files, and images of folders and their subfolders, sorted, as torchvision's `ImageFolder` finds them, without
    hidden files and folders.

    Raises:
        UserError: no images, or a folder of a data set that has defects or masks as well.
    """
    files: list[Path] = []
    for path in paths:
        if os.path.isdir(path):
            _check_normal(path, normal_beside(str(path)))
            files += sorted(map(Path, _images_below(str(path))))
        elif os.path.isfile(path):
            files.append(path)
        else:
            raise UserError(f"`images` must be files or folders that exist, got {path}")
    if not files:
        raise UserError(f"no images found in {', '.join(map(str, paths))}: looked for {suffixes()}")
    return files


def image_keys(paths: Sequence[Path], files: Sequence[Path]) -> list[str]:
    """The path of each file below the folder `paths`, or below the one that holds them all, with slashes.

    Keys are the same wherever that folder lies, and do not depend on its other files.
    """
    named = [Path(os.path.abspath(path)) for path in paths]
    folders = [(path if path.is_dir() else path.parent).parts for path in named]
    above = [*(len(set(parts)) == 1 for parts in zip(*folders, strict=False)), False].index(False)  # parts that all share
    return ["/".join(Path(os.path.abspath(file)).parts[above:]) for file in files]


def _check_normal(path: str | Path, normal: str | None) -> None:
    if normal is not None:
        raise UserError(f"`images` must be normal images alone, got {path} with defects or masks; name {normal}")


def _images_below(root: str) -> Iterator[str]:
    """Links are followed, except to a folder above them, which would never end."""
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
                if os.path.isdir(path) or has_file_allowed_extension(path, SUFFIXES):
                    _note_skipped(path, "hidden, or not of the data set")
                continue
            if os.path.isdir(path):
                waiting.append((path, above | {real}))
            # A broken link is kept, so that it is reported when it is read; reading a pipe would never end.
            elif has_file_allowed_extension(path, SUFFIXES) and (os.path.isfile(path) or not os.path.exists(path)):
                yield path


def _upright(file: Image.Image) -> Image.Image:
    return decoded(file).image


def load_image(path: Path, size: Size, decode: Callable[[Image.Image], Image.Image] = _upright) -> Image.Image | None:
    """RGB after `v2.Resize(size)`, as in training; None, and a note, if the file is not an image or would be too large."""
    try:
        with opened(path) as file:
            image = decode(file)
        width, height = _resized(image, size)
        if width * height <= LARGEST:
            resized: Image.Image = v2.Resize(size)(image)
            return resized
        reason = f"it would be resized to {width} x {height} pixels, and {LARGEST} are the most"
    except Exception as error:  # Pillow's decoders raise any type for a broken file
        reason = _reason(error)
    _note_skipped(path, reason)
    return None


def _reason(error: Exception) -> str:
    cut = ": the file is truncated" if "truncated" in str(error).lower() else ""
    return f"not a readable image ({type(error).__name__}{cut})"


def _resized(image: Image.Image, size: Size) -> tuple[int, int]:
    """Width and height of the resized image, rounded as in `v2.Resize`."""
    if len(size) == 2:
        return size[1], size[0]
    shorter = min(image.size)
    return int(size[0] * image.width / shorter), int(size[0] * image.height / shorter)


def _note_skipped(path: str | Path, reason: str) -> None:
    print(f"skipped {path}: {reason}", file=sys.stderr)


class ImageFiles(Dataset[Any]):
    """RGB images as `Resize(size)` gives them; a file that cannot be read is noted and gives an empty batch.

    Attributes:
        outcomes: uint8 [len(files)], in memory shared with loader workers: 0 not tried, 1 read, 2 skipped.
        notes: bool [len(files), len(Note)], shared as well: notes of the decoder.
    """

    def __init__(self, files: Sequence[Path], size: Size, decode: Callable[[Image.Image], Decoded] = decoded) -> None:
        self.files, self.size, self.decode = list(files), size, decode
        self.outcomes = torch.zeros(len(self.files), dtype=torch.uint8).share_memory_()  # type: ignore[no-untyped-call]
        self.notes = torch.zeros(len(self.files), len(Note), dtype=torch.bool).share_memory_()  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Image.Image | Tensor:
        def noted(file: Image.Image) -> Image.Image:
            result = self.decode(file)
            self.notes[index] = torch.tensor([note in result.notes for note in Note])
            return result.image

        image = load_image(self.files[index], self.size, noted)
        self.outcomes[index] = 2 if image is None else 1
        return torch.zeros(0, 3, 2, 2) if image is None else image

    def print_notes(self) -> None:
        """Print every note once, with the number of its images and the first one."""
        for note, which in zip(Note, self.notes.T, strict=True):
            if which.any():
                first = self.files[int(which.nonzero()[0])]
                print(f"warning: {note.value} ({int(which.sum())} of {len(self)} images, first {first})", file=sys.stderr)
