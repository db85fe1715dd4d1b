"""Fine-tuning of the features on normal images and negatives: which image is altered, and which of its cells.

Lightning runs the loop. Random draws depend only on the seed and the number of the draw, so the number of workers or processes
and interruptions change nothing. Batch norms were folded, so their statistics do not change.
"""

from __future__ import annotations

import argparse
import contextlib
import pickle
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from augment import Negative, with_mask
from data import DataError
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm import tqdm

from cutswap_transforms import SaliencySwap
from cutswap_transforms.seeds import own_seed

from .folders import CHECKPOINT, checkpoint_in, damaged_checkpoint
from .networks import Features

EPOCH = 50  # steps between checkpoints
LOGGERS: dict[str, Any] = {"csv": CSVLogger, "tensorboard": TensorBoardLogger}
LOSSES = ("both", "image", "cells")
# Lightning's errors on a checkpoint with other content.
FOREIGN = (AttributeError, EOFError, LookupError, RuntimeError, TypeError, ValueError, pickle.UnpicklingError)


# ---- random draws ----------------------------------------------------------------------------------------------------


class Draws(Sampler[tuple[int, int]]):
    """(number of the draw, index of the image) for the steps of one epoch, for one process of `world`.

    The images come in one random order after the other. Numbers run through the whole training, so that interruptions and the
    number of workers make no difference.
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


def own_randomness(number: int, seed: int) -> contextlib.AbstractContextManager[None]:
    """Draws inside, on the CPU, depend only on both arguments; afterwards all generators are restored.

    Not by `functional.negative_seed`: all recorded results were drawn with these seeds.
    """
    return own_seed(number * 1_000_003 + seed)


class MaskedViews(Dataset[tuple[Tensor, Tensor]]):
    """([normal, negative] uint8 [2, 3, S, S], the negative's mask uint8 [1, S, S]) of an image."""

    def __init__(self, images: Tensor, negatives: Sequence[Negative], seed: int) -> None:
        self.images, self.negatives, self.seed = images, negatives, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: tuple[int, int]) -> tuple[Tensor, Tensor]:
        number, index = draw
        image = self.images[index]
        with own_randomness(number, self.seed):
            negative, mask = with_mask(self.negatives[number % len(self.negatives)], image)
        return torch.stack((image, negative)), mask


# ---- heads and losses -------------------------------------------------------------------------------------------------


class Heads(nn.Module):
    """Linear in the features: a logit for the image, from the coarsest mean; a logit for each cell of each level."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.image = nn.Linear(widths[-1], 1)
        self.cells = nn.ModuleList(nn.Conv2d(width, 1, 1) for width in widths)

    def loss(self, maps: Sequence[Tensor], masks: Tensor, kind: str, mean: Callable[[Tensor], Tensor] = torch.clone) -> Tensor:
        """Logistic losses. maps: of 2 N images, normal before negative; masks float [N, 1, S, S].

        `mean` averages over the processes: the divisor of a sum must be the same in all of them.
        """
        count = len(masks)
        total = maps[0].new_zeros(())
        if kind != "cells":
            logits = self.image(maps[-1].mean((2, 3)))[:, 0]
            total = total + F.binary_cross_entropy_with_logits(logits, _labels(count, logits))
        if kind != "image":
            losses = [self._cell_loss(head(x)[:, 0], masks, mean) for head, x in zip(self.cells, maps, strict=True)]
            total = total + torch.stack(losses).mean()
        return total

    @staticmethod
    def _cell_loss(logits: Tensor, masks: Tensor, mean: Callable[[Tensor], Tensor]) -> Tensor:
        """Altered and unaltered cells have equal weight; a cell counts as altered by its share of the mask."""
        share = F.adaptive_avg_pool2d(masks, logits.shape[1:])[:, 0]
        share = torch.cat((torch.zeros_like(share), share))
        loss = F.binary_cross_entropy_with_logits(logits, share, reduction="none")
        altered = share / mean(share.sum()).clamp(min=1e-6)
        unaltered = (1 - share) / mean((1 - share).sum())
        return (loss * (altered + unaltered)).sum() / 2


def _labels(count: int, like: Tensor) -> Tensor:
    return torch.cat((like.new_zeros(count), like.new_ones(count)))


class Tuning(L.LightningModule):
    """Features and heads; the heads are discarded after training."""

    def __init__(
        self, args: argparse.Namespace, seed: int, features: Features, images: Tensor, negatives: Sequence[Negative]
    ) -> None:
        super().__init__()
        self.args, self.seed, self.features = args, seed, features
        self.views = MaskedViews(images, negatives, seed)
        self.began = False
        with own_seed(seed):
            self.heads = Heads(features.widths)

    def train_dataloader(self) -> DataLoader[Any]:
        """The loader of the steps up to the next checkpoint, for this process."""
        args, trainer = self.args, self.trainer
        start = min(trainer.global_step, args.steps - 1)  # a finished training does not need it
        steps = range(start, min(start + EPOCH, args.steps))
        draws = Draws(len(self.views), self.seed, steps, args.batch, trainer.global_rank, trainer.world_size)
        return DataLoader(self.views, args.batch // trainer.world_size, sampler=draws, num_workers=args.workers)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        lacking = [name for name in ("loops", "optimizer_states", "lr_schedulers") if not checkpoint.get(name)]
        if lacking:  # Lightning would silently restart these
            raise ValueError(f"it lacks {', '.join(lacking)}")

    def on_train_start(self) -> None:
        self.began = True  # everything in the checkpoint is restored

    def on_train_batch_start(self, *_: Any) -> None:
        """Seed dropout by the step, so that an interruption changes nothing."""
        seed = (self.seed * 1_000_003 + self.global_step) * self.trainer.world_size + self.trainer.global_rank
        torch.default_generator.manual_seed(seed)
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(seed)  # only this process's device

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        self.features.eval()  # also keeps the statistics of batch norms that could not be folded
        views, masks = batch
        images = views.transpose(0, 1).flatten(0, 1)  # all normal ones, then all negatives
        loss = self.heads.loss(
            self.features.raw(images.float() / 255), masks.float(), self.args.loss, self.trainer.strategy.reduce
        )
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        groups = [
            {"params": [p for p in self.features.parameters() if p.requires_grad], "lr": self.args.lr},
            {"params": list(self.heads.parameters()), "lr": self.args.lr * 10},  # they start from random weights
        ]
        optimizer = torch.optim.Adam(groups, weight_decay=self.args.weight_decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.args.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def tune(
    args: argparse.Namespace, seed: int, features: Features, images: Tensor, negatives: Sequence[Negative], folder: Path
) -> None:
    """Train in place up to the last step, from the checkpoint in `folder` if there is one."""
    features.freeze_before(args.tune_from)
    module, trainer = Tuning(args, seed, features, images, negatives), make_trainer(args, folder)
    if args.batch % trainer.world_size:
        raise DataError(f"`batch` must be divisible by the {trainer.world_size} devices, got {args.batch}")
    if args.workers:
        for swap in negatives:
            if isinstance(swap, SaliencySwap):  # compute the salient regions before the workers start
                swap.precompute([(image,) for image in images])
    checkpoint = checkpoint_in(folder)
    try:
        with own_seed(seed), without_lightnings_advice():
            trainer.fit(module, ckpt_path=checkpoint, weights_only=True)
    except SystemExit as error:  # Lightning's reaction to an interrupt
        raise KeyboardInterrupt from error
    except FOREIGN as error:
        if checkpoint is None or module.began or isinstance(error, torch.OutOfMemoryError):
            raise
        raise damaged_checkpoint(checkpoint, error) from error


class StepBar(L.Callback):
    """One bar over all steps: Lightning's own bar counts epochs, whose number is unknown if training ends by steps."""

    def on_train_start(self, trainer: L.Trainer, *_: Any) -> None:
        off = not trainer.is_global_zero
        self.bar = tqdm(total=trainer.max_steps, initial=trainer.global_step, desc="tuning", unit="step", disable=off)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.bar.set_postfix({name: f"{float(x):.3f}" for name, x in trainer.progress_bar_metrics.items()}, refresh=False)
        self.bar.update(trainer.global_step - self.bar.n)

    def on_train_end(self, *_: Any) -> None:
        self.bar.close()

    def on_exception(self, *_: Any) -> None:
        if hasattr(self, "bar"):
            self.bar.close()


def make_trainer(args: argparse.Namespace, folder: Path) -> L.Trainer:
    try:
        logger = LOGGERS[args.logger](folder, name="log") if args.logger in LOGGERS else False
    except ModuleNotFoundError as error:  # TensorBoard is not part of the extra
        raise DataError(f"`logger` {args.logger!r} needs a package that is not installed: {error}") from error
    try:
        return _trainer(args, folder, logger)
    except (ValueError, MisconfigurationException) as error:  # no such strategy, or no such machine
        raise DataError(f"`accelerator`, `devices`, `strategy` and `precision` must fit this machine: {error}") from error


def _trainer(args: argparse.Namespace, folder: Path, logger: Any) -> L.Trainer:
    keep = ModelCheckpoint(folder, Path(CHECKPOINT).stem, save_on_train_epoch_end=True, enable_version_counter=False)
    return L.Trainer(
        max_steps=args.steps,
        max_epochs=-1,
        accelerator=args.accelerator,
        devices=args.devices,
        strategy=args.strategy,
        precision=args.precision,
        callbacks=[keep, *([StepBar()] if args.progress else [])],
        logger=logger,
        reload_dataloaders_every_n_epochs=1,  # each epoch has its own draws
        use_distributed_sampler=False,  # `Draws` does it, so that two devices get the same draws as one
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=min(10, args.steps),
    )


@contextlib.contextmanager
def without_lightnings_advice() -> Iterator[None]:
    with warnings.catch_warnings():
        # The images are in memory and a view takes a millisecond, so few workers are enough.
        warnings.filterwarnings("ignore", "The 'train_dataloader' does not have many workers")
        warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
        warnings.filterwarnings("ignore", "The dirpath has changed")  # RUN was moved: the old path is not used
        warnings.filterwarnings("ignore", "Found .* in eval mode at the start of training")  # on purpose: batch norms are kept
        warnings.filterwarnings("ignore", "The number of training batches .* is smaller than the logging interval")
        warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated", FutureWarning)  # Lightning 2.6 with torch 2.15
        yield
