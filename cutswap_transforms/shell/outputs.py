"""What the commands write: outside the folders of images, and each file whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image

from .messages import UserError


def check_outside(
    name: str,
    out: Path,
    folders: Iterable[Path],
    paths: Sequence[Path],
    found: Sequence[Path],
    depth: int | None = None,
) -> None:
    """Refuse output where a search for images would find it, or that would be among images; links are resolved.

    Args:
        name: that of the argument `out`.
        folders: where files will be written.
        paths: the images and folders that the user named.
        found: the images found there.
        depth: images so deep in `folders` are refused: 1 for those directly in them, None for all.

    Raises:
        UserError: `folders` are inside of searched ones, or hold images.
    """
    written = {Path(os.path.realpath(folder)) for folder in folders}
    above = {folder for path in written for folder in (path, *path.parents)}
    named = {path.parent for path in paths if not path.is_dir()}
    searched = [*paths, *sorted({path.parent for path in found} - named)]
    holding = [*searched, *sorted(named), *sorted({Path(os.path.realpath(path)).parent for path in found})]
    wrong = [path for path in searched if Path(os.path.realpath(path)) in above]
    wrong += [path for path in holding if written & _upwards(path, depth)]
    if wrong:
        raise UserError(f"`{name}` must be outside the folders of the images, got {out} beside {wrong[0]}; name another folder")


def _upwards(path: Path, depth: int | None) -> set[Path]:
    """The path and the folders above it, links resolved; `depth` of them."""
    real = Path(os.path.realpath(path))
    return set([real, *real.parents][:depth])


def save_image(image: Image.Image, path: Path, kind: str = "PNG") -> None:
    """Write an image file, in the format that Pillow calls `kind`."""
    write_whole(path, lambda draft: image.save(draft, kind))


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Write the whole file or nothing. Only a killed process leaves a draft, with a name of its own on any machine."""
    draft = path.with_name(f".{path.name}.{os.urandom(4).hex()}.draft")
    try:
        write(draft)
        os.replace(draft, path)
    except BaseException:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
