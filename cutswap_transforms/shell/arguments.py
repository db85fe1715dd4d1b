"""The arguments of each command, without importing torch, which takes seconds that help and version do not need."""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import Any

from .layouts import suffixes
from .messages import STATUS

LARGEST_SIZE = 8192  # its square is the largest image allowed


class HelpWithDefaults(argparse.ArgumentDefaultsHelpFormatter):
    """Help that shows the default of an argument, if any, as typed."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help if action.default is None else super()._get_help_string(action)
        several = isinstance(action.default, tuple)
        return text.replace("%(default)s", " ".join(map(str, action.default))) if text and several else text


def add_preview(commands: Any) -> None:
    parser = _command(
        commands,
        "preview",
        "draw a contact sheet: original, saliency maps, clusters, patch pair, negative, mask",
        "Draws one row per image: original, a saliency map per level, clusters, the patch pair, the "
        "negative and its mask. Prints the sheet's path and how many images per second were augmented.",
    )
    parser.add_argument("--out", "--output", type=Path, default=Path("contact_sheet.png"), help="the picture to write")
    add_size(parser, 32, (256,))
    add_white(parser)
    parser.add_argument("--limit", type=whole(1, 1000), default=8, help="rows at most, spread evenly over the images found")
    parser.add_argument("--seed", type=whole(-(2**63), 2**64 - 1), default=0, help="of the random swaps")
    parser.add_argument("--cell", type=whole(64, 2048), default=192, help="longer side of the pictures on the sheet")
    add_scale(parser)
    add_guidance(parser)


def add_precompute(commands: Any) -> None:
    parser = _command(
        commands,
        "precompute",
        "fill a cache with the salient regions of a folder's images",
        "Fills DIR with the regions that Compose([Resize(S), SaliencySwap(cache=DIR)]) looks up for the RGB "
        "images of a folder, as torchvision's ImageFolder reads them. Can be stopped and started again; under torchrun "
        "or srun each process takes its share.",
    )
    add_size(parser, 2)
    parser.add_argument("--cache", type=Path, required=True, help="the folder to fill")
    parser.add_argument("--batch-size", type=whole(1, 65_536), default=64, help="images per pass of the net")
    parser.add_argument("--num-workers", type=whole(0, 1024), default=0, help="processes that read and decode")
    parser.add_argument("--device", default="cpu", help="where the net runs, such as cuda")
    add_guidance(parser)


def add_export(commands: Any) -> None:
    parser = _command(
        commands,
        "export",
        "write negatives with their masks as files, or as shards for WebDataset",
        "Writes OUT/normal, OUT/swap and OUT/mask, which anomalib's Folder reads as normal_dir, "
        "abnormal_dir and mask_dir, and OUT/pairs.jsonl: one line per negative with its image, levels and boxes. With --shards "
        "it writes tar files instead. The images are taken in turn. Can be stopped and started again; under torchrun or srun "
        "each process takes its share. The result does not depend on the number of workers or processes.",
    )
    parser.add_argument("out", type=Path, help="the folder to write, new or of the same settings")
    parser.add_argument("--count", type=whole(1, 10**9), required=True, help="number of negatives")
    parser.add_argument(
        "--shards",
        type=whole(1, 10**6),
        metavar="K",
        help="write K tar files in place of folders, OUT/shard-000000.tar and so on, of samples with png (the negative), "
        "mask.png and json (image, levels and boxes); needs the package webdataset",
    )
    add_size(parser, 2)
    add_white(parser)
    parser.add_argument("--seed", type=whole(0, 2**32 - 1), default=0, help="of the random swaps")
    parser.add_argument("--num-workers", type=whole(0, 1024), default=os.cpu_count() or 1, help="processes")
    add_scale(parser)
    add_guidance(parser)


def _command(commands: Any, name: str, short: str, description: str) -> argparse.ArgumentParser:
    """The parser of a command that takes images."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=short, description=description, epilog=STATUS, formatter_class=HelpWithDefaults
    )
    add_images(parser)
    return parser


def add_guidance(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="tiny", help="tiny (embedded) or a torchvision classification model")
    parser.add_argument("--weights", default="DEFAULT", help="name of torchvision weights, path to a state_dict, or none")
    parser.add_argument(
        "--net",
        metavar="MODULE:FACTORY",
        help="in place of --model: a function on PYTHONPATH or in this folder that returns your nn.Module, images in [0, 1] -> "
        "logits; or a LayerCAMExtractor",
    )
    parser.add_argument("--clustering", default="kmeans", help="kmeans, sklearn or opencv")
    parser.add_argument("--levels", type=_levels, default="all", help="all, random or indices such as 0,2")
    parser.add_argument(
        "--roi",
        type=Path,
        metavar="FILE",
        help="a mask, not black where images may be swapped, as one for all of them: resized to each (default: everywhere)",
    )


def add_images(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", type=Path, help=f"image files, or folders searched for {suffixes()}")


def add_scale(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--scale", type=float, nargs=2, metavar=("LOW", "HIGH"), default=(0.002, 0.03), help="patch area / image area"
    )


def add_size(parser: argparse.ArgumentParser, low: int, default: tuple[int, ...] | None = None) -> None:
    parser.add_argument(
        "--size",
        type=whole(low, LARGEST_SIZE),
        nargs="+",
        action=_OneOrTwo,
        default=default,
        required=default is None,
        metavar=("S", "W"),
        help="what images are resized to: S pixels of the shorter side, or H W",
    )


def add_white(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(white=None)  # not as the option's default, which --help would print
    parser.add_argument(
        "--white",
        type=positive,
        metavar="VALUE",
        default=argparse.SUPPRESS,
        help="what is white in 16-bit and float images, such as 4095 for cameras of 12 bits (default: 65535, 1 for floats)",
    )


class _OneOrTwo(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: Any = None) -> None:
        if len(values) > 2:
            parser.error(f"argument --size: must be S or H W, got {len(values)} numbers; put the images before it")
        setattr(namespace, self.dest, tuple(values))


def whole(low: int, high: int) -> Any:
    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be an integer from {low} to {high}, got {text[:40]!r}")
        return value

    return number


def positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a finite number above 0, got {text[:40]!r}")
    return value


def _levels(text: str) -> str | tuple[int, ...]:
    try:
        return tuple(map(int, text.split(",")))
    except ValueError:
        return text
