"""Arguments -> what they describe: images, swap, saliency net, region of interest, device."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..regions.roi import Roi
from ..saliency import LayerCAMExtractor
from ..transform import SaliencySwap
from .decode import decoded, read_mask
from .files import ImageFiles
from .messages import UserError, one_line


def image_files(args: argparse.Namespace, files: Sequence[Path]) -> ImageFiles:
    """The images as `add_size` and `add_white` describe them."""
    return ImageFiles(files, args.size, partial(decoded, white=args.white))


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
