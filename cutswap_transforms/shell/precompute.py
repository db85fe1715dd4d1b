"""`precompute FOLDER --size S --cache DIR` fills a cache of salient regions."""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from pathlib import Path
from typing import Any, cast

from .. import RegionCache, SaliencySwap
from .arguments import STATUS, HelpWithDefaults, add_guidance, add_images, add_size, check_device, make_swap, one_line, whole
from .decode import as_image_folder
from .files import ImageFiles, UserError, find_images


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "precompute",
        help="fill a cache with the salient regions of a folder's images",
        description="Fills DIR with the regions that Compose([Resize(S), SaliencySwap(cache=DIR)]) looks up for the RGB "
        "images of a folder, as torchvision's ImageFolder reads them. Can be stopped and started again; under torchrun "
        "each process takes its share.",
        epilog=STATUS,
        formatter_class=HelpWithDefaults,
    )
    add_images(parser)
    add_size(parser, 2)
    parser.add_argument("--cache", type=Path, required=True, help="the folder to fill")
    parser.add_argument("--batch-size", type=whole(1, 65_536), default=64, help="images per pass of the net")
    parser.add_argument("--num-workers", type=whole(0, 1024), default=0, help="processes that read and decode")
    parser.add_argument("--device", default="cpu", help="where the net runs, such as cuda")
    add_guidance(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Fill the cache; print the numbers of images computed and kept."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # progress if tqdm is not installed
    images = ImageFiles(find_images(args.images), args.size, as_image_folder)
    check_device(args.device)
    swap = make_swap(args, cache=args.cache)
    begin = time.perf_counter()
    try:
        count = _fill(swap, images, args)
    finally:
        images.tell()
    skipped = int((images.outcomes == 2).sum())
    if skipped and not (images.outcomes == 1).any():
        raise UserError(f"none of the {skipped} images tried could be read")
    kept = f"{len(swap.cache)} kept" + (f"; {skipped} files skipped" if skipped else "")
    print(f"{args.cache}: regions of {count} images computed in {time.perf_counter() - begin:.1f} s, {kept}")


def _fill(swap: SaliencySwap, images: ImageFiles, args: argparse.Namespace) -> int:
    """The number of images computed. If it ends early, finished images stay in the cache."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "`cache` ", RuntimeWarning)  # without storage the computation is useless
        try:
            len(swap.cache)  # opens it
        except RuntimeWarning as fault:
            raise UserError(f"`--cache` must be a folder that can be written, got {args.cache} ({_cause(fault)})") from None
        try:
            return swap.precompute(images, args.batch_size, args.num_workers, args.device)
        except ValueError as error:
            raise UserError(one_line(error)) from None
        except (MemoryError, OSError, RuntimeError, RuntimeWarning) as fault:
            raise UserError(f"{_cause(fault)}; {_kept(swap)}", 1) from None
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_kept(swap)) from None


def _cause(fault: Exception) -> str:
    """One line; for a warning of the cache, which has advice for training, the error behind it."""
    return one_line(fault.__context__ if isinstance(fault, Warning) and fault.__context__ else fault)


def _kept(swap: SaliencySwap) -> str:
    cache = cast(RegionCache, swap.cache)
    return f"the regions of {len(cache)} images are kept in {cache.folder}, the same command goes on from there"
