"""What the trainers share: draws by number, the loop of Lightning, folders that can be resumed, the command line."""

from __future__ import annotations

import argparse
import contextlib
import json
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from augment import AUGMENTATIONS, Negative, make_negatives
from data import Category, DataError
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from report import Cell
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from cutswap_transforms import KMeans, SaliencySwap

EPOCH = 100  # steps between checkpoints
LOGGERS: dict[str, Any] = {"csv": CSVLogger, "tensorboard": TensorBoardLogger}
# What a training depends on; the other arguments only say where and how it runs.
COMMON_SETTINGS = (
    *("skip_unreadable", "white", "size", "steps", "batch", "optimizer", "lr", "weight_decay", "precision"),
    *("augmentation", "saliency", "saliency_size", "levels", "grid", "clusters", "saliency_weight", "color", "union"),
    *("scale", "rule", "feather", "jitter"),
)


# ---- what is drawn --------------------------------------------------------------------------------------------------


class Draws(Sampler[tuple[int, int]]):
    """(number of the draw, index of the image) for the steps of one epoch, for one process of `world`.

    The images come in one random order after the other. Numbers run through the whole training, so that it makes no
    difference where it was interrupted, nor how many workers there are.
    """

    def __init__(self, images: int, seed: int, steps: range, batch: int, rank: int = 0, world: int = 1) -> None:
        self.images, self.seed, self.world = images, seed, world
        self.numbers = range(steps.start * batch + rank, steps.stop * batch, world)

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order, known = [], -1
        for number in self.numbers:
            turn, place = divmod(number, self.images)
            if turn != known:
                order = np.random.default_rng([self.seed, turn]).permutation(self.images).tolist()
                known = turn
            yield number, order[place]


@contextlib.contextmanager
def own_randomness(number: int, seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(number * 1_000_003 + seed)
        yield


def epoch_loader(trainer: L.Trainer, args: argparse.Namespace, views: Any, seed: int, collate: Any = None) -> DataLoader[Any]:
    """The loader of the steps up to the next checkpoint, for this process."""
    start = min(trainer.global_step, args.steps - 1)  # a training that is through does not need it
    steps = range(start, min(start + EPOCH, args.steps))
    draws = Draws(len(views), seed, steps, args.batch, trainer.global_rank, trainer.world_size)
    return DataLoader(views, args.batch // trainer.world_size, sampler=draws, num_workers=args.workers, collate_fn=collate)


def cosine(args: argparse.Namespace, parameters: Any) -> Any:
    """The optimiser and one fall of the cosine over all steps."""
    if args.optimizer == "sgd":
        optimizer: Any = torch.optim.SGD(parameters, args.lr, momentum=0.9, weight_decay=args.weight_decay)
    else:
        optimizer = torch.optim.Adam(parameters, args.lr, weight_decay=args.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.steps)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def precompute(negatives: Sequence[Negative], images: Tensor) -> None:
    """Salient regions are known before the workers start, so that all of them know them."""
    for swap in negatives:
        if isinstance(swap, SaliencySwap):
            swap.precompute([(image,) for image in images])


def make_negatives_of(args: argparse.Namespace) -> list[Negative]:
    """The negatives that the arguments ask for; what the library refuses is the user's mistake."""
    try:
        return _make_negatives_of(args)
    except (ValueError, OSError) as error:
        raise DataError(str(error)) from error


def _make_negatives_of(args: argparse.Namespace) -> list[Negative]:
    plain = args.rule == "any" and not args.feather and not args.jitter
    return make_negatives(
        args.augmentation,
        args.saliency,
        saliency_size=args.saliency_size,
        kmeans=KMeans(args.clusters, saliency_weight=args.saliency_weight, color=args.color, union=args.union),
        variation=None if plain else {"rule": args.rule, "feather": args.feather, "jitter": args.jitter},
        levels=args.levels,
        scale=tuple(args.scale),
        grid=args.grid,
    )


# ---- the loop -------------------------------------------------------------------------------------------------------


def make_trainer(args: argparse.Namespace, folder: Path) -> L.Trainer:
    try:
        logger = LOGGERS[args.logger](folder, name="log") if args.logger in LOGGERS else False
    except ModuleNotFoundError as error:  # TensorBoard is not part of the extra
        raise DataError(f"`logger` {args.logger!r} needs a package that is not installed: {error}") from error
    keep = ModelCheckpoint(folder, "checkpoint", save_on_train_epoch_end=True, enable_version_counter=False)
    return L.Trainer(
        max_steps=args.steps,
        max_epochs=-1,
        accelerator=args.accelerator,
        devices=args.devices,
        strategy=args.strategy,
        precision=args.precision,
        callbacks=[keep],
        logger=logger,
        reload_dataloaders_every_n_epochs=1,  # each epoch has its own steps
        use_distributed_sampler=False,  # Draws does it, so that two devices see what one would see
        sync_batchnorm=args.accelerator != "cpu" and torch.cuda.is_available(),  # torch has it on GPUs alone
        enable_progress_bar=args.progress,
        enable_model_summary=False,
        log_every_n_steps=min(10, args.steps),
    )


def fit(trainer: L.Trainer, module: L.LightningModule, folder: Path) -> None:
    """Up to the last step, from the checkpoint where there is one."""
    if module.args.batch % trainer.world_size:
        raise DataError(f"`batch` must be divisible by the {trainer.world_size} devices, got {module.args.batch}")
    checkpoint = folder / "checkpoint.ckpt"
    with without_lightnings_advice():
        trainer.fit(module, ckpt_path=checkpoint if checkpoint.exists() else None, weights_only=True)


@contextlib.contextmanager
def without_lightnings_advice() -> Iterator[None]:
    with warnings.catch_warnings():
        # The images lie in memory and a view takes a millisecond, so few workers do.
        warnings.filterwarnings("ignore", "The 'train_dataloader' does not have many workers")
        warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
        warnings.filterwarnings("ignore", "The number of training batches .* is smaller than the logging interval")
        warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated", FutureWarning)  # Lightning 2.6 with torch 2.15
        yield


# ---- folders and faults ---------------------------------------------------------------------------------------------


@rank_zero_only
def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")  # a file that exists is whole
    draft.write_text(json.dumps(content))
    draft.replace(path)


def resume(args: argparse.Namespace, names: Sequence[str], category: Category, folder: Path) -> tuple[dict[str, Any], Cell]:
    """The settings of these names, and the result in `folder` if there is one; settings and data must be those found there."""
    settings = json.loads(json.dumps({name: getattr(args, name) for name in names} | {"data": category.digest()}))
    note, done = folder / "settings.json", folder / "result.json"
    kept = any((folder / name).exists() for name in ("result.json", "checkpoint.ckpt"))  # else it never began
    there = json.loads(note.read_text()) if kept and note.exists() else settings
    differing = [f"{k}: {there.get(k)} there, {v} now" for k, v in settings.items() if there.get(k) != v]
    if differing:
        raise DataError(f"`out` must be new or hold the same run, got {str(folder)!r} with {'; '.join(differing)}")
    write(note, settings)
    return settings, json.loads(done.read_text()) if done.exists() else {}


@contextlib.contextmanager
def explained_errors() -> Iterator[None]:
    """Faults of the user's data and a lack of memory end the program with one sentence."""
    try:
        yield
    except (DataError, MemoryError, RuntimeError) as error:
        sentence = explanation(error)
        if sentence is None:
            raise
        raise SystemExit(f"error: {sentence}") from None


def explanation(error: BaseException) -> str | None:
    """One sentence for faults of the user's data and for a lack of memory; None for what nobody foresaw."""
    if isinstance(error, DataError):
        return str(error)
    if isinstance(error, BrokenProcessPool) or "killed by signal: Killed" in str(error):
        return f"a process was killed, as by a system out of memory: lower --jobs or --workers ({error})"
    signs = ("out of memory", "can't allocate memory", "not enough memory")  # CUDA, Linux, Windows
    if isinstance(error, MemoryError) or any(sign in str(error) for sign in signs):
        return f"out of memory: lower --batch first, then --size; or --workers and --jobs on the host ({error})"
    return None


# ---- command line ---------------------------------------------------------------------------------------------------


def add_negatives(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("negatives")
    names = ", ".join(AUGMENTATIONS)
    group.add_argument("--augmentation", choices=AUGMENTATIONS, default="saliency-swap", metavar="NAME", help=names)
    group.add_argument("--saliency", default="tiny", metavar="NET", help="tiny, random, a torchvision name or module:factory")
    group.add_argument("--saliency-size", type=int, metavar="PX", help="the saliency net's input (default: the net's own)")
    group.add_argument("--levels", type=parse_levels, default="auto", help="auto, random, all, or indices as 0,2")
    group.add_argument("--grid", type=int, default=24, help="cells along each side of an image (default 24)")
    group.add_argument("--clusters", type=int, default=4, help="of the k-means (default 4)")
    group.add_argument("--saliency-weight", type=float, default=0.5, help="of saliency beside colour (default 0.5)")
    group.add_argument("--color", action=argparse.BooleanOptionalAction, default=True, help="cluster by colour as well")
    group.add_argument("--union", action=argparse.BooleanOptionalAction, default=True, help="join the salient clusters")
    group.add_argument("--scale", type=float, nargs=2, default=[0.002, 0.03], metavar=("LOW", "HIGH"), help="area of a patch")
    group.add_argument("--rule", default="any", help="choice among eight pairs: near, far, alike, unlike, visible (ablation)")
    group.add_argument("--feather", type=int, default=0, metavar="PX", help="soften the seams (ablation)")
    group.add_argument("--jitter", type=float, default=0.0, help="of the patches' colours (ablation)")


def add_machine(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("machine")
    group.add_argument("--workers", type=int, default=0, help="of the loader")
    group.add_argument("--accelerator", default="auto", help="cpu, gpu, auto")
    group.add_argument("--devices", type=int, default=1)
    group.add_argument("--strategy", default="auto", help="ddp for several processes")
    group.add_argument("--precision", default="32-true", help="bf16-mixed on a GPU")
    group.add_argument("--logger", choices=(*LOGGERS, "none"), default="csv", help="tensorboard has to be installed")
    group.add_argument("--progress", action=argparse.BooleanOptionalAction, default=True)


def check_common(args: argparse.Namespace) -> None:
    """What argparse does not check."""
    for name in ("steps", "batch", "clusters", "devices"):
        if getattr(args, name) < 1:
            raise DataError(f"`{name}` must be 1 or more, got {getattr(args, name)}")
    if args.size < 32:
        raise DataError(f"`size` must be 32 or more, or the nets see nothing, got {args.size}")
    if min(args.seeds) < 0 or len(set(args.seeds)) < len(args.seeds):
        raise DataError(f"`seeds` must be 0 or more, and differ, got {args.seeds}")
    if args.white is not None and not args.white > 0:
        raise DataError(f"`white` must be above 0, got {args.white}")


def parse_levels(text: str) -> Any:
    if text in ("auto", "random", "all"):
        return text
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be auto, random, all or indices as 0,2, got {text!r}") from None
