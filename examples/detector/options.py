"""Shared by the commands of `detect.py`: options, and errors as one sentence."""

from __future__ import annotations

import argparse
import contextlib
import errno
import math
import sys
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch
from augment import AUGMENTATIONS, SWAPS, Negative, make_negatives
from data import DataError

from cutswap_transforms import KMeans
from cutswap_transforms.shell.messages import UserError
from cutswap_transforms.shell.resolve import read_roi

from .densities import KINDS
from .tuning import LOGGERS, LOSSES

# As in the paper: a classifier's pooled features and one Gaussian.
PRESETS = {"paper": {"loss": "image", "densities": ["pooled"], "fusion": "mean", "steps": 300, "batch": 16, "size": 160}}
DEFAULTS = {"loss": "both", "densities": ["place", "neighbours"], "fusion": "negatives", "steps": 0, "batch": 12, "size": 256}


# Errors that a user can fix: permissions, paths, names, disk space.
UNWRITABLE = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOENT, errno.EEXIST, errno.ENOTDIR),
    *(errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP),
}


def add_fit(parser: argparse.ArgumentParser) -> None:
    """The options that determine the detector."""
    group = parser.add_argument_group("detector")
    group.add_argument(
        "--features",
        default="tiny",
        metavar="NET",
        help="tiny (default), efficientnet-lite0, torchvision's, module:factory",
    )
    group.add_argument("--size", type=int, help="images become squares of this side (default 256)")
    group.add_argument("--densities", nargs="+", choices=list(KINDS), metavar="KIND", help="place neighbours (default); pooled")
    group.add_argument("--fusion", choices=("negatives", "mean"), help="weights: learned on negatives (default), equal")
    group.add_argument("--preset", choices=list(PRESETS), help="paper: a classifier's pooled features and one Gaussian")
    group.add_argument("--seed", type=int, default=0)
    group = parser.add_argument_group("fine-tuning")
    group.add_argument("--steps", type=int, help="of the optimizer; 0 (default) leaves the features as they are, 200 is enough")
    group.add_argument("--batch", type=int, help="normal images per step, each beside a negative (default 12)")
    group.add_argument("--loss", choices=LOSSES, help="which images are altered, which cells, or both (default)")
    group.add_argument("--tune-from", type=int, default=8, metavar="STRIDE", help="finer stages stay as they are (default 8)")
    group.add_argument("--lr", type=float, default=1e-4, help="at the start of the cosine (default 0.0001)")
    group.add_argument("--weight-decay", type=float, default=0.0)
    add_negatives(parser)
    add_machine(parser)


def add_negatives(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("negatives")
    names = ", ".join(AUGMENTATIONS)
    group.add_argument("--negatives", choices=AUGMENTATIONS, default="saliency-swap", metavar="NAME", help=names)
    group.add_argument("--saliency", default="tiny", metavar="NET", help="tiny, random, a torchvision name or module:factory")
    group.add_argument("--saliency-size", type=int, metavar="PX", help="the saliency net's input (default: the net's own)")
    group.add_argument("--levels", type=parse_levels, default="all", help="all, random, or indices as 0,2")
    group.add_argument("--grid", type=int, default=24, help="cells along each side of an image (default 24)")
    group.add_argument("--clusters", type=int, default=4, help="of the k-means (default 4)")
    group.add_argument("--saliency-weight", type=float, default=0.5, help="of saliency beside color (default 0.5)")
    group.add_argument("--color", action=argparse.BooleanOptionalAction, default=True, help="cluster by color as well")
    group.add_argument(
        "--region", choices=("salient", "top"), default="salient", help="the salient clusters (default), or the top one"
    )
    group.add_argument("--roi", type=Path, metavar="FILE", help="a mask for all images: swaps keep to where it is not black")
    group.add_argument("--scale", type=float, nargs=2, default=[0.002, 0.03], metavar=("LOW", "HIGH"), help="area of a patch")
    group.add_argument("--rule", default="any", help="choice among eight pairs: near, far, alike, unlike, visible (ablation)")
    group.add_argument("--feather", type=int, default=0, metavar="PX", help="soften the seams (ablation)")
    group.add_argument("--jitter", type=float, default=0.0, help="of the patches' colors (ablation)")


def add_machine(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("machine")
    group.add_argument("--workers", type=int, default=0, help="of the loader")
    group.add_argument("--accelerator", default="auto", help="cpu, gpu, auto")
    group.add_argument("--devices", type=int, default=1)
    group.add_argument("--strategy", default="auto", help="ddp for several processes")
    group.add_argument("--precision", default="32-true", help="bf16-mixed on a GPU")
    group.add_argument("--logger", choices=(*LOGGERS, "none"), default="csv", help="tensorboard has to be installed")
    add_progress(group)


def add_progress(group: Any) -> None:
    group.add_argument("--progress", action=argparse.BooleanOptionalAction, default=True, help="show a progress bar")


def add_false_alarms(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--false-alarms",
        type=float,
        default=0.01,
        metavar="RATE",
        help="share of good images called defects (0.01)",
    )


def parse_levels(text: str) -> Any:
    if text in ("all", "random"):
        return text
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be all, random or indices as 0,2, got {text!r}") from None


def settle(args: argparse.Namespace) -> None:
    """Fill in missing options, from the preset if there is one, and check what argparse does not."""
    if args.negatives == "none" and args.fusion == "negatives":
        raise DataError("`fusion` must be mean where there are no negatives, got 'negatives'")
    for name, value in (DEFAULTS | PRESETS.get(args.preset or "", {})).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    args.densities = list(dict.fromkeys(args.densities))
    for name, low in {"steps": 0, "batch": 1, "clusters": 1, "devices": 1, "tune_from": 1, "seed": 0, "workers": 0}.items():
        if getattr(args, name) < low:
            raise DataError(f"`{name}` must be {low} or more, got {getattr(args, name)}")
    if args.size < 32:
        raise DataError(f"`size` must be 32 or more, or the nets see nothing, got {args.size}")
    check_white(args)
    if args.seed >= 2**32:
        raise DataError(f"`seed` must be below 2 ** 32, got {args.seed}")
    for name, low in {"lr": 1e-12, "weight_decay": 0.0, "feather": 0, "jitter": 0.0, "saliency_weight": 0.0}.items():
        if not low <= getattr(args, name) < math.inf:
            raise DataError(
                f"`{name}` must be {'above 0' if name == 'lr' else '0 or more'} and finite, got {getattr(args, name)}"
            )
    if "pooled" in args.densities and len(args.densities) > 1:
        raise DataError(f"`densities` must be pooled alone or densities of cells, got {' '.join(args.densities)}")
    if args.steps and args.negatives == "none":
        raise DataError("`negatives` must make negatives to learn from where there are steps, got 'none'")
    if args.negatives == "none":
        args.fusion = "mean"
    settle_roi(args)


def settle_roi(args: argparse.Namespace) -> None:
    """Replace the file of the mask by the mask: settings compare its content, and other processes get it."""
    if args.roi is not None and args.negatives not in SWAPS:
        raise DataError(f"`roi` must go with negatives that keep to it, {', '.join(SWAPS)}, got {args.negatives!r}")
    try:
        args.roi = read_roi(args.roi)
        if args.roi is not None:
            args.roi.at((args.size, args.size), args.grid, torch.device("cpu"))
    except (UserError, ValueError) as error:
        raise DataError(str(error)) from None


def check_white(args: argparse.Namespace) -> None:
    if args.white is not None and not 0 < args.white < math.inf:
        raise DataError(f"`white` must be above 0 and finite, got {args.white}")


def check_rate(args: argparse.Namespace) -> None:
    if not 0 < args.false_alarms < 1:
        raise DataError(f"`false_alarms` must be between 0 and 1, got {args.false_alarms:g}")


def negatives_of(args: argparse.Namespace) -> list[Negative]:
    """The negatives of the arguments; values that the library refuses are reported as the user's mistake."""
    plain = args.rule == "any" and not args.feather and not args.jitter
    try:
        return make_negatives(
            args.negatives,
            args.saliency,
            saliency_size=args.saliency_size,
            kmeans=KMeans(args.clusters, saliency_weight=args.saliency_weight, color=args.color),
            variation=None if plain else {"rule": args.rule, "feather": args.feather, "jitter": args.jitter},
            levels=args.levels,
            scale=tuple(args.scale),
            grid=args.grid,
            region=args.region,
            roi=args.roi,
        )
    except (ValueError, OSError) as error:
        raise DataError(str(error)) from error


# ---- errors ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def explained_errors() -> Iterator[None]:
    """Errors in the user's data, missing packages and a lack of memory end the program with one sentence."""
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted: the same command begins again, and a training goes on from its last checkpoint", file=sys.stderr)
        raise SystemExit(130) from None
    except (DataError, ImportError, MemoryError, OSError, RuntimeError) as error:
        sentence = explanation(error)
        if sentence is None:
            raise
        raise SystemExit(f"error: {sentence}") from None


def explanation(error: BaseException) -> str | None:
    """One sentence for errors in the user's data and for a lack of memory; None for unexpected errors."""
    if isinstance(error, DataError) or (isinstance(error, ImportError) and "pip install" in str(error)):
        return str(error)
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        return f"a file could not be read or written: {error}"
    if isinstance(error, BrokenProcessPool) or "killed by signal: Killed" in str(error):
        return f"a process was killed, as by a system out of memory: lower --jobs or --workers ({error})"
    signs = ("out of memory", "can't allocate memory", "not enough memory")  # CUDA, Linux, Windows
    if isinstance(error, MemoryError) or any(sign in str(error) for sign in signs):
        return f"out of memory: lower --batch first, then --size; or --workers and --jobs on the host ({error})"
    return None
