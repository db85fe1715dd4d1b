"""The files of a data set: which ones count, where they may be, and what they contain.

Data may come from others. So a file is opened only if it is a regular file and, with links resolved, inside a folder given on
the command line: neither a table nor a link in the data can make the program read the rest of the disk.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
# Folders that archives and file systems add, often with small copies of the images.
SYSTEM = {"__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"}


class DataError(ValueError):
    """The data cannot be used as they are; the message says what to do."""


def is_hidden(name: str) -> bool:
    """Not part of the data: hidden files and folders such as `.ipynb_checkpoints`, and system ones."""
    return name.startswith(".") or name in SYSTEM


def subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if os.path.isdir(p) and not is_hidden(p.name))


def named_as_images(folder: Path) -> list[Path]:
    """Everything with the suffix of an image, sorted."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not is_hidden(p.name))


def images_in(folder: Path) -> list[Path]:
    """The images of one folder, sorted, including broken links, which are reported when they are read.

    Raises:
        DataError: a folder, a pipe or a device with the name of an image.
    """
    found = named_as_images(folder)
    strange = [path.name for path in found if os.path.exists(path) and not os.path.isfile(path)]
    if strange:
        raise DataError(f"`data` must hold images as regular files, got {', '.join(strange[:5])} in {str(folder)!r}")
    return found


def images_below(root: Path, rule: str) -> list[Path]:
    """The images of a folder and all its subfolders, sorted: whatever has the suffix of an image and is not a folder.

    Links to folders are followed; each folder is read once, under its own name if it is inside `root`.

    Raises:
        DataError: a folder or an image is outside of `root`; the message begins with `rule`.
    """
    found: list[Path] = []
    seen: set[str] = set()
    waiting = deque([root])
    while waiting:
        folder = waiting.popleft()
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        if folder is not root:
            check_inside([folder], [root], rule)
        found += [path for path in named_as_images(folder) if not os.path.isdir(path)]
        for sub in subfolders(folder):
            (waiting.append if sub.is_symlink() else waiting.appendleft)(sub)
    check_inside(found, [root], rule)
    return sorted(found)


def check_inside(
    paths: Iterable[Path], roots: Sequence[Path], rule: str = "`data` must hold its images and masks itself"
) -> None:
    """With links resolved, all files are inside one of the folders given by the user; these may be links themselves."""
    real = {Path(os.path.realpath(root)) for root in roots}
    for path in paths:
        if real.isdisjoint(Path(os.path.realpath(path)).parents):
            raise DataError(
                f"{rule}, got {str(path)!r}, which lies outside of {str(roots[0])!r}; "
                "copy it there, or name the folder that holds it: that one may be a link, what is in it may not lead out"
            )


def check_outside(out: Path, paths: Iterable[Path]) -> None:
    """With links resolved, the output is never in a folder of input images, nor below one."""
    real = Path(os.path.realpath(out))
    folders = {name for path in paths for name in (os.path.realpath(path.parent), os.path.dirname(os.path.realpath(path)))}
    for folder in sorted(map(Path, folders)):
        if folder in (real, *real.parents):
            raise DataError(f"`out` must be outside the images, got {str(out)!r} in {str(folder)!r}")


def regular(path: Path) -> Path:
    """The path itself. Only regular files are opened: reading a pipe or a device could block forever.

    Raises:
        OSError: there is no such file.
        ValueError: it is not a regular file.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        raise ValueError(f"it must be a regular file, got {'a folder' if stat.S_ISDIR(mode) else 'a pipe or a device'}")
    return path


def content(path: Path) -> str:
    """A digest of a file's bytes, or "unreadable": the error is reported when the file is decoded."""
    digest = hashlib.blake2b(digest_size=8)
    try:
        with regular(path).open("rb") as stream:
            while part := stream.read(2**20):
                digest.update(part)
    except (OSError, ValueError):
        return "unreadable"
    return digest.hexdigest()
