"""Command line: `python -m cutswap_transforms preview FOLDER` draws a contact sheet of negatives, and
`python -m cutswap_transforms precompute FOLDER --size S --cache DIR` fills a cache of salient regions."""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
import textwrap
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from . import LayerCAMExtractor, SaliencySwap
from ._files import ImageFiles, UserError, find_images, load_image, suffixes
from .preview.sheet import contact_sheet, spread

STATUS = "exit status: 0 done; 1 work was lost on the way; 2 the request could not be met; 130 stopped by Ctrl-C"
LARGEST_SIZE = 8192  # a square of it has as many pixels as an image may have
LARGEST_COLUMN = 2**24  # pixels of one column of the sheet, which has about nine


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status, as `STATUS` says."""
    parser = argparse.ArgumentParser(
        prog="python -m cutswap_transforms", description="Saliency-guided patch swaps.", epilog=STATUS
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (_add_preview, _add_precompute):  # a new command is one more function here
        add(commands)
    args = parser.parse_args(argv)
    try:
        args.run(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    except MemoryError:
        print("error: out of memory: lower --size first, then --cell, --limit or --batch-size", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        print(f"stopped: {str(stop) or 'nothing was written'}", file=sys.stderr)
        return 130
    return 0


# ---------------------------------------- preview


def _add_preview(commands: Any) -> None:
    parser = commands.add_parser(
        "preview",
        help="draw a contact sheet: original, saliency maps, clusters, patch pair, negative, mask",
        description="Draws one row per image: original, a saliency map per level, clusters, the patch pair, the "
        "negative and its mask. Prints the sheet's path and how many images per second were augmented.",
        epilog=STATUS,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("images", nargs="+", type=Path, help=f"image files, or folders searched for {suffixes()}")
    parser.add_argument("--out", "--output", type=Path, default=Path("contact_sheet.png"), help="the picture to write")
    parser.add_argument(
        "--size", type=_whole(32, LARGEST_SIZE), default=256, help="shorter side, in pixels, of the images that are swapped"
    )
    parser.add_argument("--limit", type=_whole(1, 1000), default=8, help="rows at most, spread evenly over the images found")
    parser.add_argument("--seed", type=_whole(-(2**63), 2**64 - 1), default=0, help="of the random swaps")
    parser.add_argument("--cell", type=_whole(64, 2048), default=192, help="longer side of the pictures on the sheet")
    parser.add_argument(
        "--scale", type=float, nargs=2, metavar=("LOW", "HIGH"), default=(0.002, 0.03), help="patch area / image area"
    )
    _add_guidance(parser)
    parser.set_defaults(run=preview)


def preview(args: argparse.Namespace) -> None:
    """Write the sheet; print its path and the throughput."""
    found = find_images(args.images)
    _check_sheet(args, found)
    shown = spread(found, args.limit)
    loaded = [(path, image) for path in shown if (image := load_image(path, args.size)) is not None]
    if not loaded:
        raise UserError(f"none of the {len(shown)} images tried could be read")
    swap = _swap(args, scale=tuple(args.scale))
    torch.manual_seed(args.seed)
    images = [image for _, image in loaded]
    caption = (
        f"model={args.model}, weights={args.weights}, clustering={args.clustering}, levels={args.levels}, "
        f"scale={tuple(args.scale)}, seed={args.seed}; shorter side {args.size} px"
    )
    _save(contact_sheet(images, swap, names=[path.name for path, _ in loaded], caption=caption, cell=args.cell), args.out)
    print(args.out)
    try:
        rate = images_per_second(images, _swap(args, scale=tuple(args.scale), cache=None))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{args.out} is written, the images per second are not measured") from None
    print(
        f"{rate:.0f} images per second (one at a time, {torch.get_num_threads()} threads, no cache, short side {args.size} px)"
    )


def _check_sheet(args: argparse.Namespace, found: Sequence[Path]) -> None:
    """What would be noticed only after the work, or never."""
    _format(args.out)
    if os.path.exists(args.out) and any(os.path.exists(path) and os.path.samefile(path, args.out) for path in found):
        raise UserError(f"`--out` must not be one of the images, which it would overwrite, got {args.out}; name another file")
    rows = min(args.limit, len(found))
    if rows * args.cell**2 > LARGEST_COLUMN:
        raise UserError(
            f"`--limit` and `--cell` must make a sheet of at most {LARGEST_COLUMN} pixels in a column, got {rows} rows of "
            f"{args.cell} x {args.cell}; lower one of them"
        )


def _format(out: Path) -> str:
    """Pillow's name of the format that the suffix asks for."""
    name = Image.registered_extensions().get(out.suffix.lower(), "")
    if name not in Image.SAVE:
        raise UserError(f"`--out` must be a path that can be written, with an image suffix, got {out}")
    return name


def _save(sheet: Image.Image, out: Path) -> None:
    content = io.BytesIO()  # what stands at the path stays whole until the sheet is encoded
    try:
        sheet.save(content, _format(out))
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(content.getvalue())
    except Exception as error:  # Pillow's writers, too, have many
        raise UserError(
            f"`--out` must be a path that can be written, with an image suffix, got {out} ({_one_line(error)})"
        ) from None


def _add_guidance(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="tiny", help="tiny (embedded) or a torchvision classification model")
    parser.add_argument("--weights", default="DEFAULT", help="name of torchvision weights, path to a state_dict, or none")
    parser.add_argument("--clustering", default="kmeans", help="kmeans, sklearn or opencv")
    parser.add_argument("--levels", type=_levels, default="auto", help="auto, random, all or indices such as 0,2")


def _swap(args: argparse.Namespace, **arguments: Any) -> SaliencySwap:
    try:
        return SaliencySwap(_saliency(args), args.clustering, levels=args.levels, **arguments)
    except (ImportError, OSError, TypeError, ValueError) as error:  # the library's own sentences are good enough
        raise UserError(_one_line(error)) from None


def _saliency(args: argparse.Namespace) -> LayerCAMExtractor:
    try:
        return LayerCAMExtractor(args.model, weights=None if args.weights.lower() == "none" else args.weights)
    except Exception as error:  # a file of weights may hold anything
        reason = _one_line(error)
        if isinstance(error, (ImportError, OSError, TypeError, ValueError)) and reason.startswith("`"):
            raise UserError(reason) from None
        name = type(error).__name__
        raise UserError(f"`--weights` must be weights of {args.model}, got {args.weights!r} ({name}: {reason})") from None


def images_per_second(images: Sequence[Image.Image], swap: SaliencySwap, seconds: float = 1.0) -> float:
    """Augmented images per second over about `seconds`, decoded beforehand, one image per call."""
    swap(images[0])  # warm-up
    begin, done = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        swap(images[done % len(images)])
        done += 1
    return done / (time.perf_counter() - begin)


# ---------------------------------------- precompute


def _add_precompute(commands: Any) -> None:
    parser = commands.add_parser(
        "precompute",
        help="fill a cache with the salient regions of a folder's images",
        description="Fills DIR with the regions that Compose([Resize(S), SaliencySwap(cache=DIR)]) looks up for the RGB "
        "images of a folder, as torchvision's ImageFolder reads them. Can be stopped and started again; under torchrun "
        "each process takes its share.",
        epilog=STATUS,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("images", nargs="+", type=Path, help=f"image files, or folders searched for {suffixes()}")
    parser.add_argument("--size", type=_whole(2, LARGEST_SIZE), required=True, help="the S of Resize(S)")
    parser.add_argument("--cache", type=Path, required=True, help="the folder to fill")
    parser.add_argument("--batch-size", type=_whole(1, 65_536), default=64, help="images per pass of the net")
    parser.add_argument("--num-workers", type=_whole(0, 1024), default=0, help="processes that read and decode")
    parser.add_argument("--device", default="cpu", help="where the net runs, such as cuda")
    _add_guidance(parser)
    parser.set_defaults(run=precompute)


def precompute(args: argparse.Namespace) -> None:
    """Fill the cache; print how many images were computed and kept."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # the progress where tqdm is not installed
    images = ImageFiles(find_images(args.images), args.size)
    _check_device(args.device)
    swap = _swap(args, cache=args.cache)
    begin = time.perf_counter()
    count = _fill(swap, images, args)
    skipped = int((images.outcomes == 2).sum())
    if skipped and not (images.outcomes == 1).any():
        raise UserError(f"none of the {skipped} images tried could be read")
    kept = f"{len(swap.cache)} kept" + (f"; {skipped} files skipped" if skipped else "")
    print(f"{args.cache}: regions of {count} images computed in {time.perf_counter() - begin:.1f} s, {kept}")


def _fill(swap: SaliencySwap, images: ImageFiles, args: argparse.Namespace) -> int:
    """The number of images computed. Whatever ends it early leaves the finished ones in the cache."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "`cache` ", RuntimeWarning)  # what cannot be kept need not be computed
        try:
            len(swap.cache)  # opens it
        except RuntimeWarning as fault:
            raise UserError(f"`--cache` must be a folder that can be written, got {args.cache} ({_cause(fault)})") from None
        try:
            return swap.precompute(images, args.batch_size, args.num_workers, args.device)
        except ValueError as error:
            raise UserError(_one_line(error)) from None
        except (MemoryError, OSError, RuntimeError, RuntimeWarning) as fault:
            raise UserError(f"{_cause(fault)}; {_kept(swap)}", 1) from None
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_kept(swap)) from None


def _cause(fault: Exception) -> str:
    """Of the cache's warning, which says what a training does then, the error that it met."""
    return _one_line(fault.__context__ if isinstance(fault, Warning) and fault.__context__ else fault)


def _kept(swap: SaliencySwap) -> str:
    return f"the regions of {len(swap.cache)} images are kept in {swap.cache.folder}, the same command goes on from there"


def _check_device(device: str) -> None:
    try:
        torch.zeros(1, device=device).tolist()  # reading it back is more than "meta" can do
    except Exception as error:  # torch has a kind of error for every kind of device
        raise UserError(f"`--device` must be cpu or what torch can use here, got {device!r} ({_one_line(error)})") from None


# ---------------------------------------- arguments


def _whole(low: int, high: int) -> Any:
    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be an integer from {low} to {high}, got {text[:40]!r}")
        return value

    return number


def _levels(text: str) -> str | tuple[int, ...]:
    try:
        return tuple(map(int, text.split(",")))
    except ValueError:
        return text


def _one_line(error: BaseException) -> str:
    """What it says; of a loader's worker, whose traceback comes along, the last line."""
    text = str(error).strip()
    text = text.splitlines()[-1] if "Traceback (most recent call last)" in text else text
    return textwrap.shorten(text, 600, placeholder=" ...") or type(error).__name__


if __name__ == "__main__":
    raise SystemExit(main())
