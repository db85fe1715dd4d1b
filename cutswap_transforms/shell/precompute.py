"""`precompute FOLDER --size S --cache DIR` fills a cache of salient regions."""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from typing import cast

from ..cache.store import RegionCache
from ..ranks import rank_and_world
from ..transform import SaliencySwap
from .decode import as_image_folder
from .files import ImageFiles, find_images
from .messages import UserError, one_line
from .resolve import check_device, make_swap


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
        images.print_notes()
    skipped = int((images.outcomes == 2).sum())
    if skipped and not (images.outcomes == 1).any():
        raise UserError(f"none of the {skipped} images tried could be read")
    kept = f"{len(swap.cache)} kept" + (f"; {skipped} files skipped" if skipped else "")
    rank, world = rank_and_world()
    by = f" by rank {rank} of {world}" if world > 1 else ""
    print(f"{args.cache}: regions of {count} images computed{by} in {time.perf_counter() - begin:.1f} s, {kept}")


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
