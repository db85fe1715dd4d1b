"""The files of a data set: which of them count, where they may lie, what they hold.

Data come from others. So a file is opened only if it is a regular one, and only if it lies, links resolved, below a folder that
the command line names: neither a table nor a link in the data has the rest of the disk read.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
# What archives and disks add beside the data, often with small copies of the images.
SYSTEM = {"__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"}


class DataError(ValueError):
    """The data are not as they should be; the message says what to do."""


def is_hidden(name: str) -> bool:
    """Not part of the data: hidden files and folders, as `.ipynb_checkpoints`, and those of the system."""
    return name.startswith(".") or name in SYSTEM


def subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if os.path.isdir(p) and not is_hidden(p.name))


def named_as_images(folder: Path) -> list[Path]:
    """Whatever has the suffix of an image, sorted."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not is_hidden(p.name))


def images_in(folder: Path) -> list[Path]:
    """The images of one folder, sorted; links to nowhere among them, so that they are named when they are read.

    Raises:
        DataError: a folder, a pipe or a device with the name of an image.
    """
    found = named_as_images(folder)
    strange = [path.name for path in found if os.path.exists(path) and not os.path.isfile(path)]
    if strange:
        raise DataError(f"`data` must hold images as regular files, got {', '.join(strange[:5])} in {str(folder)!r}")
    return found


def images_below(root: Path, rule: str) -> list[Path]:
    """The images of a folder and of all below it, sorted; what has the name of an image and is no folder is one.

    Links to folders are followed; each folder is read once, and by its own name where it has one.

    Raises:
        DataError: a folder or an image lies outside of `root`, in the words of `rule`.
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
    """All files lie, links resolved, below one of the folders that the user has named; these may be links themselves."""
    real = {Path(os.path.realpath(root)) for root in roots}
    for path in paths:
        if real.isdisjoint(Path(os.path.realpath(path)).parents):
            raise DataError(
                f"{rule}, got {str(path)!r}, which lies outside of {str(roots[0])!r}; "
                "copy it there, or name the folder that holds it: that one may be a link, what is in it may not lead out"
            )


def check_outside(out: Path, paths: Iterable[Path]) -> None:
    """What is written never lies beside the images that are read, nor below them, links resolved."""
    real = Path(os.path.realpath(out))
    folders = {name for path in paths for name in (os.path.realpath(path.parent), os.path.dirname(os.path.realpath(path)))}
    for folder in sorted(map(Path, folders)):
        if folder in (real, *real.parents):
            raise DataError(f"`out` must lie outside of the images, got {str(out)!r} in {str(folder)!r}")


def regular(path: Path) -> Path:
    """The path itself. Anything but a regular file is never opened: a pipe or a device would be read for ever.

    Raises:
        OSError: there is nothing.
        ValueError: something else.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        raise ValueError(f"it must be a regular file, got {'a folder' if stat.S_ISDIR(mode) else 'a pipe or a device'}")
    return path


def content(path: Path) -> str:
    """A digest of the bytes of a file; of one that cannot be read, a word: it is told when it is decoded."""
    digest = hashlib.blake2b(digest_size=8)
    try:
        with regular(path).open("rb") as stream:
            while part := stream.read(2**20):
                digest.update(part)
    except (OSError, ValueError):
        return "unreadable"
    return digest.hexdigest()
