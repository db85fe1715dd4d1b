"""Shared by the commands: their arguments, the swap that these describe, and one-line messages."""

from __future__ import annotations

import argparse
import importlib
import math
import sys
import textwrap
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import LayerCAMExtractor, SaliencySwap
from ..regions.roi import Roi
from .decode import decoded, read_mask
from .files import ImageFiles, UserError, suffixes

STATUS = "exit status: 0 done; 1 work was lost on the way; 2 the request could not be met; 130 stopped by Ctrl-C"
LARGEST_SIZE = 8192  # its square is the largest image allowed


class HelpWithDefaults(argparse.ArgumentDefaultsHelpFormatter):
    """Help that shows the default of an argument, if any, as typed."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help if action.default is None else super()._get_help_string(action)
        several = isinstance(action.default, tuple)
        return text.replace("%(default)s", " ".join(map(str, action.default))) if text and several else text


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


def image_files(args: argparse.Namespace, files: Sequence[Path]) -> ImageFiles:
    """The images as `add_size` and `add_white` describe them."""
    return ImageFiles(files, args.size, partial(decoded, white=args.white))


class _OneOrTwo(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: Any = None) -> None:
        if len(values) > 2:
            parser.error(f"argument --size: must be S or H W, got {len(values)} numbers; put the images before it")
        setattr(namespace, self.dest, tuple(values))


def size_text(size: tuple[int, ...]) -> str:
    """Sizes are printed as width x height, as in image viewers, unlike the order of the options."""
    return f"shorter side {size[0]} px" if len(size) == 1 else f"{size[1]} x {size[0]} px (width x height)"


def make_swap(args: argparse.Namespace, **arguments: Any) -> SaliencySwap:
    try:
        return SaliencySwap(_saliency(args), args.clustering, levels=args.levels, roi=read_roi(args.roi), **arguments)
    except (ImportError, OSError, TypeError, ValueError) as error:  # the messages of the library are good enough
        raise UserError(one_line(error)) from None


def _saliency(args: argparse.Namespace) -> Any:
    if args.net is not None:
        if (args.model, args.weights) != ("tiny", "DEFAULT"):
            raise UserError(f"`--net` must stand without `--model` and `--weights`, got {args.net!r} beside them")
        made = _made(args.net)
        if hasattr(made, "native_maps"):
            return made
        if not isinstance(made, nn.Module):
            raise UserError(
                f"`--net` must name a function that returns an nn.Module, {args.net} returned {type(made).__name__}"
            )
        return LayerCAMExtractor(made, mean_std=None)
    try:
        return LayerCAMExtractor(args.model, weights=None if args.weights.lower() == "none" else args.weights)
    except Exception as error:  # a file of weights may contain anything
        reason = one_line(error)
        if isinstance(error, (ImportError, OSError, TypeError, ValueError)) and reason.startswith("`"):
            raise UserError(reason) from None
        name = type(error).__name__
        raise UserError(f"`--weights` must be weights of {args.model}, got {args.weights!r} ({name}: {reason})") from None


def _made(spec: str) -> Any:
    """The result of the function that `--net` names."""
    wanted = f"`--net` must be MODULE:FACTORY, a function without arguments that returns an nn.Module, got {spec!r}"
    module, _, name = spec.partition(":")
    if not module or not name:
        raise UserError(wanted)
    try:
        return getattr(importlib.import_module(module), name)()
    except (Exception, SystemExit) as error:  # user code may raise anything
        raise UserError(f"{wanted} ({type(error).__name__}: {one_line(error)})") from None


def read_roi(path: Path | None) -> Roi | None:
    """The mask of `--roi`.

    Raises:
        UserError: a file that cannot be read, or a mask that is false everywhere.
    """
    try:
        return None if path is None else Roi(read_mask(path))
    except Exception as error:  # Pillow's decoders raise any type for a broken file
        reason = one_line(error)
        reason = reason if isinstance(error, ValueError) else f"{type(error).__name__}: {reason}"
        raise UserError(f"`--roi` must be the picture of a mask, got {path} ({reason})") from None


def check_device(device: str) -> None:
    try:
        torch.zeros(1, device=device).tolist()  # reading it back fails on "meta"
    except Exception as error:  # the type of error depends on the device
        raise UserError(f"`--device` must be cpu or what torch can use here, got {device!r} ({one_line(error)})") from None


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


def tell_unchanged(names: Sequence[str]) -> None:
    """Report negatives that equal their image: they still have a mask, which matters for training."""
    if names:
        listed = ", ".join(names[:3]) + " ..." * (len(names) > 3)
        print(
            f"unchanged: {len(names)} negatives equal their image, whose patches have the same pixels: {listed}",
            file=sys.stderr,
        )


def one_line(error: BaseException) -> str:
    """The message of an error; from a loader worker, which adds its traceback, the last line."""
    text = str(error).strip()
    text = text.splitlines()[-1] if "Traceback (most recent call last)" in text else text
    return textwrap.shorten(text, 600, placeholder=" ...") or type(error).__name__
