"""Command line: `python -m cutswap_transforms preview FOLDER` draws a contact sheet of negatives, and
`python -m cutswap_transforms precompute FOLDER --size S --cache DIR` fills a cache of salient regions."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from . import LayerCAMExtractor, SaliencySwap
from ._files import ImageFiles, UserError, find_images, load_image, suffixes
from .preview.sheet import contact_sheet, spread


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0 when it succeeded, 2 when the request could not be met."""
    parser = argparse.ArgumentParser(prog="python -m cutswap_transforms", description="Saliency-guided patch swaps.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (_add_preview, _add_precompute):  # a new command is one more function here
        add(commands)
    args = parser.parse_args(argv)
    try:
        args.run(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


# ---------------------------------------- preview


def _add_preview(commands: Any) -> None:
    parser = commands.add_parser(
        "preview",
        help="draw a contact sheet: original, saliency maps, clusters, patch pair, negative, mask",
        description="Draws one row per image: original, a saliency map per level, clusters, the patch pair, the "
        "negative and its mask. Prints the sheet's path and how many images per second were augmented.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("images", nargs="+", type=Path, help=f"image files, or folders searched for {suffixes()}")
    parser.add_argument("--out", "--output", type=Path, default=Path("contact_sheet.png"), help="the picture to write")
    parser.add_argument(
        "--size", type=_at_least(32), default=256, help="shorter side, in pixels, of the images that are swapped"
    )
    parser.add_argument("--limit", type=_at_least(1), default=8, help="rows at most, spread evenly over the images found")
    parser.add_argument("--seed", type=int, default=0, help="of the random swaps")
    parser.add_argument("--cell", type=_at_least(64), default=192, help="longer side of the pictures on the sheet")
    parser.add_argument(
        "--scale", type=float, nargs=2, metavar=("LOW", "HIGH"), default=(0.002, 0.03), help="patch area / image area"
    )
    _add_guidance(parser)
    parser.set_defaults(run=preview)


def preview(args: argparse.Namespace) -> None:
    """Write the sheet; print its path and the throughput."""
    found = spread(find_images(args.images), args.limit)
    loaded = [(path, image) for path in found if (image := load_image(path, args.size)) is not None]
    if not loaded:
        raise UserError(f"none of the {len(found)} images tried could be read")
    swap = _swap(args, scale=tuple(args.scale))
    torch.manual_seed(args.seed)
    images = [image for _, image in loaded]
    caption = (
        f"model={args.model}, weights={args.weights}, clustering={args.clustering}, levels={args.levels}, "
        f"scale={tuple(args.scale)}, seed={args.seed}; shorter side {args.size} px"
    )
    sheet = contact_sheet(images, swap, names=[path.name for path, _ in loaded], caption=caption, cell=args.cell)
    try:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(args.out)
    except (OSError, ValueError) as error:  # Pillow: an unknown suffix is a ValueError
        raise UserError(f"`--out` must be a path that can be written, with an image suffix, got {args.out} ({error})") from None
    print(args.out)
    rate = images_per_second(images, _swap(args, scale=tuple(args.scale), cache=None))
    print(
        f"{rate:.0f} images per second (one at a time, {torch.get_num_threads()} threads, no cache, short side {args.size} px)"
    )


def _add_guidance(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="tiny", help="tiny (embedded) or a torchvision classification model")
    parser.add_argument("--weights", default="DEFAULT", help="name of torchvision weights, path to a state_dict, or none")
    parser.add_argument("--clustering", default="kmeans", help="kmeans, sklearn or opencv")
    parser.add_argument("--levels", type=_levels, default="auto", help="auto, random, all or indices such as 0,2")


def _swap(args: argparse.Namespace, **arguments: Any) -> SaliencySwap:
    weights = None if args.weights.lower() == "none" else args.weights
    try:
        saliency = LayerCAMExtractor(args.model, weights=weights)
        return SaliencySwap(saliency, args.clustering, levels=args.levels, **arguments)
    except (ImportError, OSError, TypeError, ValueError) as error:  # the library's own sentences are good enough
        raise UserError(str(error)) from None


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
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("images", nargs="+", type=Path, help=f"image files, or folders searched for {suffixes()}")
    parser.add_argument("--size", type=_at_least(2), required=True, help="the S of Resize(S)")
    parser.add_argument("--cache", type=Path, required=True, help="the folder to fill")
    parser.add_argument("--batch-size", type=_at_least(1), default=64, help="images per pass of the net")
    parser.add_argument("--num-workers", type=_at_least(0), default=0, help="processes that read and decode")
    parser.add_argument("--device", default="cpu", help="where the net runs, such as cuda")
    _add_guidance(parser)
    parser.set_defaults(run=precompute)


def precompute(args: argparse.Namespace) -> None:
    """Fill the cache; print how many images were computed and kept."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # the progress where tqdm is not installed
    files = find_images(args.images)
    swap = _swap(args, cache=args.cache)
    begin = time.perf_counter()
    try:
        count = swap.precompute(ImageFiles(files, args.size), args.batch_size, args.num_workers, args.device)
    except (AssertionError, RuntimeError) as error:  # torch without CUDA asserts
        raise UserError(str(error)) from None
    if count and not len(swap.cache):
        raise UserError(f"`--cache` must be a folder that can be written, {args.cache} kept nothing")
    print(f"{args.cache}: regions of {count} images computed in {time.perf_counter() - begin:.1f} s, {len(swap.cache)} kept")


# ---------------------------------------- arguments


def _at_least(low: int) -> Any:
    def number(text: str) -> int:
        if not text.isdigit() or int(text) < low:
            raise argparse.ArgumentTypeError(f"must be an integer of at least {low}, got {text!r}")
        return int(text)

    return number


def _levels(text: str) -> str | tuple[int, ...]:
    parts = text.split(",")
    return tuple(map(int, parts)) if all(part.strip().lstrip("-").isdigit() for part in parts) else text


if __name__ == "__main__":
    raise SystemExit(main())
