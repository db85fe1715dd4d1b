"""`preview FOLDER` draws a contact sheet of negatives."""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from ..preview.settings import settings_in_words
from ..preview.sheet import contact_sheet, count_in_words, spread
from ..seeds import own_seed
from ..transform import SaliencySwap
from .files import find_images
from .messages import UserError, one_line, size_text, tell_unchanged
from .outputs import check_outside, save_image
from .resolve import image_files, make_swap

LARGEST_COLUMN = 2**24  # pixels of one column of the sheet, which has about nine


def run(args: argparse.Namespace) -> None:
    """Write the sheet; print its path and the throughput."""
    files = find_images(args.images)
    _check_sheet(args, files if args.roi is None else [*files, args.roi])
    swap = make_swap(args, scale=tuple(args.scale))
    check_outside("--out", args.out, [args.out.parent], args.images, files, depth=1)
    shown = spread(files, args.limit)
    images = image_files(args, shown)
    loaded = [(path, image) for i, path in enumerate(shown) if isinstance(image := images[i], Image.Image)]
    images.print_notes()
    if not loaded:
        raise UserError(f"none of the {len(shown)} images tried could be read")
    pictures = [image for _, image in loaded]
    caption = _caption(args, swap, len(loaded), len(files))
    try:
        with own_seed(args.seed):
            sheet = contact_sheet(pictures, swap, names=[path.name for path, _ in loaded], caption=caption, cell=args.cell)
    except ValueError as error:  # no room for patches inside `--roi`
        raise UserError(one_line(error)) from None
    _write(sheet, args.out)
    print(args.out)
    if len(shown) < len(files):
        print(f"{len(shown)} of {len(files)} images, spread evenly over them; more with --limit")
    tell_unchanged(_unchanged(loaded, swap, args.seed))
    try:
        with own_seed(args.seed):
            rate = images_per_second(pictures, make_swap(args, scale=tuple(args.scale), cache=None))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{args.out} is written, the images per second are not measured") from None
    print(f"{rate:.0f} images per second (one at a time, 1 thread, no cache, {size_text(args.size)})")


def _caption(args: argparse.Namespace, swap: SaliencySwap, shown: int, found: int) -> str:
    """The settings, and how many of the images the sheet shows."""
    count = count_in_words(shown, found, "see --limit" if found > args.limit else "the others could not be read")
    source = [f"net {args.net}"] if args.net else []
    return "; ".join([settings_in_words(swap), *source, f"seed {args.seed}", size_text(args.size), *count])


def _check_sheet(args: argparse.Namespace, found: Sequence[Path]) -> None:
    """Check the output arguments before the work starts."""
    _format(args.out)
    if "\0" in str(args.out) or (os.path.exists(args.out) and not os.path.isfile(args.out)):  # a pipe waits for its reader
        raise _unwritable(args.out)
    if os.path.exists(args.out) and any(os.path.exists(path) and os.path.samefile(path, args.out) for path in found):
        raise UserError(f"`--out` must not be one of the images, which it would overwrite, got {args.out}; name another file")
    rows = min(args.limit, len(found))
    if rows * args.cell**2 > LARGEST_COLUMN:
        raise UserError(
            f"`--limit` and `--cell` must make a sheet of at most {LARGEST_COLUMN} pixels in a column, got {rows} rows of "
            f"{args.cell} x {args.cell}; lower one of them"
        )


def _unchanged(loaded: Sequence[tuple[Path, Image.Image]], swap: SaliencySwap, seed: int) -> list[str]:
    """The images that equal their negatives on the sheet, from the same draws."""
    with own_seed(seed):
        return [str(path) for path, image in loaded if swap(image).tobytes() == image.tobytes()]


def _format(out: Path) -> str:
    """Pillow's name for the format of the suffix."""
    name = Image.registered_extensions().get(out.suffix.lower(), "")
    if name not in Image.SAVE:
        raise _unwritable(out)
    return name


def _write(sheet: Image.Image, out: Path) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        save_image(sheet, Path(os.path.realpath(out)), _format(out))  # a link is kept, and its file replaced
    except Exception as error:  # Pillow's writers raise many types
        raise _unwritable(out, f" ({one_line(error)})") from None


def _unwritable(out: Path, reason: str = "") -> UserError:
    return UserError(f"`--out` must be a path that can be written, with an image suffix, got {out}{reason}")


def images_per_second(images: Sequence[Image.Image], swap: SaliencySwap, seconds: float = 1.0) -> float:
    """Augmented images per second, decoded beforehand, one thread, one image per call: the median over about `seconds`.

    With more threads, or as a mean, it would vary with the load of the machine.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        swap(images[0])  # warm-up
        times = [time.perf_counter()]
        while times[-1] - times[0] < seconds:
            swap(images[(len(times) - 1) % len(images)])
            times.append(time.perf_counter())
    finally:
        torch.set_num_threads(threads)
    return 1 / statistics.median(after - before for before, after in itertools.pairwise(times))
