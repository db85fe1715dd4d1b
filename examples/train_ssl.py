"""Trains a detector of defects on normal images alone, and says how well it finds the defects of a test set.

    python examples/train_ssl.py --data toy --out runs/toy
    python examples/train_ssl.py --data mvtec --categories pill --backbone resnet18 --seeds 0 1 2 --out runs/pill

A network learns to tell normal images from negatives (2-way), or from two kinds of them (3-way). Then a density is
estimated on its pooled features of the normal training images; what is unlikely under it is a defect. The figures are
those of the last step: nothing is chosen by looking at the test set.

The same command again goes on where it was stopped. Draws depend on the seed alone, not on the number of workers.
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from augment import Negative, OtsuObject, augment_batch
from data import Category, Sample, add_arguments, categories_from, decode
from detector import PAPER, SCORERS, Detector, area_under_roc, score_features
from lightning.pytorch.utilities import rank_zero_only
from report import Cell, draw_histograms, draw_roc, overlay, save_sheet, table
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from training import (
    COMMON_SETTINGS,
    add_machine,
    add_negatives,
    check_common,
    cosine,
    epoch_loader,
    explained_errors,
    fit,
    make_negatives_of,
    make_trainer,
    own_randomness,
    precompute,
    resume,
    write,
)
from varied_swap import describe_swaps

from cutswap_transforms import LayerCAMExtractor, SaliencySwap, SwapViews

# A pretrained net is fine-tuned in minutes; FROM_SCRATCH is the recipe of the CutPaste paper.
FINE_TUNE = {"optimizer": "adam", "size": 160, "batch": 16, "steps": 300}
FROM_SCRATCH = {"optimizer": "sgd", "size": 256, "batch": 32, "steps": 10_000}
OPTIMIZERS = {"adam": {"lr": 1e-4, "weight_decay": 0.0}, "sgd": {"lr": 0.03, "weight_decay": 3e-5}}
SETTINGS = (*COMMON_SETTINGS, "backbone", "weights", "scorer", "augment_on")


# ---- data: views of the normal images, drawn by number ----------------------------------------------------------------


class Views(Dataset[tuple[Tensor, ...]]):
    """(normal, negative, ...) of an image, uint8; everything random in it follows from the number of the draw."""

    def __init__(self, images: Tensor, negatives: Sequence[Negative], seed: int) -> None:
        self.images, self.seed = images, seed
        self.views = SwapViews(*negatives) if negatives else _alone

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: tuple[int, int]) -> tuple[Tensor, ...]:
        number, index = draw
        with own_randomness(number, self.seed):
            return self.views(self.images[index])


def _alone(image: Tensor) -> tuple[Tensor]:
    return (image,)


# ---- training ----------------------------------------------------------------------------------------------------------


class SelfSupervised(L.LightningModule):
    """The classifier of views, and its loader. Lightning does the rest."""

    def __init__(self, args: argparse.Namespace, seed: int, images: Tensor, negatives: list[Negative]) -> None:
        super().__init__()
        self.args, self.seed, self.images, self.negatives = args, seed, images, negatives
        self.detector = Detector(args.backbone, len(negatives) + 1, args.weights, args.size)

    def train_dataloader(self) -> DataLoader[Any]:
        negatives = self.negatives if self.args.augment_on == "workers" else []
        views = Views(self.images, negatives, self.seed)
        return epoch_loader(self.trainer, self.args, views, self.seed, SwapViews.collate)

    def on_train_batch_start(self, *_: Any) -> None:
        """Draws on the device and dropout follow from the step, so that an interruption changes nothing."""
        torch.manual_seed((self.seed * 1_000_003 + self.global_step) * self.trainer.world_size + self.trainer.global_rank)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        images, labels = batch
        if self.args.augment_on == "device":
            n = len(images)
            images = torch.cat([images, *(augment_batch(negative, images) for negative in self.negatives)])
            labels = torch.arange(len(self.negatives) + 1, device=images.device).repeat_interleave(n)
        logits = self.detector(images.float() / 255)
        loss = F.cross_entropy(logits, labels)
        accuracy = (logits.argmax(1) == labels).float().mean()
        self.log_dict({"loss": loss, "accuracy": accuracy}, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        return cosine(self.args, self.parameters())


def train(args: argparse.Namespace, seed: int, images: Tensor, negatives: list[Negative], folder: Path) -> tuple[Detector, Any]:
    """The detector after the last step, and the device on which it lies."""
    L.seed_everything(seed, verbose=False)
    module = SelfSupervised(args, seed, images, negatives)
    trainer = make_trainer(args, folder)
    if args.augmentation != "none":
        if args.workers and args.augment_on == "workers":
            precompute(module.negatives, images)
        fit(trainer, module, folder)
    device = trainer.strategy.root_device
    return module.detector.to(device).eval(), device


# ---- evaluation --------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def pooled_features(detector: Detector, images: Tensor, device: Any, batch: int) -> np.ndarray:
    parts = [detector.features(part.to(device).float() / 255).float().cpu() for part in images.split(batch)]
    return torch.cat(parts).double().numpy()


def run_cell(args: argparse.Namespace, category: Category, seed: int, folder: Path) -> Cell:
    """One training and its scores, in `folder`; a finished one is read, an interrupted one goes on."""
    settings, cell = resume(args, SETTINGS, category, folder)
    if cell:
        return cell
    began = time.perf_counter()
    images, _ = decode(category.train, args.size, args.skip_unreadable, args.white)
    test, samples = decode(category.test, args.size, args.skip_unreadable, args.white)
    negatives = make_negatives_of(args)  # before the seed is set: a net of the user's may draw its weights
    detector, device = train(args, seed, images, negatives, folder)
    normal, tested = (pooled_features(detector, x, device, 2 * args.batch) for x in (images, test))
    scores = score_features(args.scorer, normal, tested)
    defects = [s.defect or "good" for s in samples]
    cell = {"category": category.name, "seed": seed, "augmentation": args.augmentation}
    cell["auroc"] = area_under_roc(np.array(defects) != "good", scores)
    cell |= {"seconds": round(time.perf_counter() - began, 1), "train_images": len(images)}
    cell |= {"settings": settings, "defects": defects, "scores": [float(f"{s:.6g}") for s in scores]}
    if negatives:
        cell |= statistics(negatives[0], images, seed)
    write(folder / "result.json", cell)
    if args.heat_maps and negatives:
        try:
            save_heat_maps(detector, test, samples, args.size, folder / "heatmaps.png")
        except (TypeError, ValueError) as error:  # LayerCAM needs stages of convolutions
            warnings.warn(f"no heat maps of this backbone: {error}; --no-heat-maps leaves them out", stacklevel=2)
    if cell["auroc"] is None:
        print(
            f"{category.name}: AUROC is undefined, all {len(samples)} test images are {'good' if 'good' in defects else 'bad'}"
        )
    return cell


def statistics(swap: Negative, images: Tensor, seed: int) -> dict[str, float]:
    """Where the swaps lie and whether they can be seen, of one negative per training image; nothing for CutPaste."""
    if not isinstance(swap, SaliencySwap):
        return {}
    with own_randomness(0, seed):
        return describe_swaps(swap, images, OtsuObject())


@rank_zero_only
def save_heat_maps(detector: Detector, images: Tensor, samples: Sequence[Sample], size: int, path: Path) -> None:
    """One test image per defect beside what speaks for a negative in it: LayerCAM of that class, the levels' mean."""
    first = {sample.defect: i for i, sample in reversed(list(enumerate(samples))) if sample.defect}
    if not first:
        return
    chosen = sorted(first.values())[:8]
    shown = images[chosen]
    maps = LayerCAMExtractor(detector.cpu(), target=1, mean_std=None, input_size=size)(shown)
    heat = [overlay(x, m) for x, m in zip(shown, maps.mean(1), strict=True)]
    save_sheet([("image", list(shown)), ("seen as negative", heat)], path, [samples[i].defect or "good" for i in chosen])


def save_negatives(args: argparse.Namespace, categories: Sequence[Category], columns: int = 8, rows: int = 4) -> None:
    """A sheet per category: normal images in the first row, negatives of each below, one block of rows per kind."""
    args.out.mkdir(parents=True, exist_ok=True)
    kinds = make_negatives_of(args)
    for category in categories:
        images, _ = decode(category.train[:columns], args.size, args.skip_unreadable, args.white)
        torch.manual_seed(0)
        made = [(type(kind).__name__, [kind(x) for x in images]) for kind in kinds for _ in range(rows)]
        save_sheet([("normal", list(images)), *made], args.out / f"negatives-{category.name}.png")


# ---- command line ------------------------------------------------------------------------------------------------------


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    add_arguments(parser)
    parser.add_argument("--out", type=Path, default=Path("runs/ssl"), help="folder of the run (default runs/ssl)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="SEED")
    add_negatives(parser)
    parser.add_argument("--augment-on", choices=("workers", "device"), default="workers", help="where negatives are made")
    group = parser.add_argument_group("network and optimiser")
    group.add_argument("--backbone", default="tiny", metavar="NET", help=f"tiny, a torchvision name, module:factory, {PAPER}")
    group.add_argument("--weights", default="DEFAULT", help="torchvision's weights, or none for random ones")
    group.add_argument("--optimizer", choices=list(OPTIMIZERS), help="adam (1e-4); sgd (0.03, momentum 0.9) from scratch")
    group.add_argument("--lr", type=float, help="at the start of the cosine")
    group.add_argument("--weight-decay", type=float)
    group.add_argument("--steps", type=int, help="of the optimiser (300; 10000 from scratch)")
    group.add_argument("--batch", type=int, help="normal images per step, each beside its negatives (16; 32 from scratch)")
    group.add_argument("--size", type=int, help="images become squares of this side (160; 256 from scratch)")
    group.add_argument("--scorer", choices=SCORERS, default="mahalanobis")
    group.add_argument("--heat-maps", action=argparse.BooleanOptionalAction, default=True, help="draw them (a few seconds)")
    add_machine(parser)
    return parser


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments, with the recipe of the backbone where nothing else was said."""
    args = make_parser().parse_args(argv)
    for name, value in (FROM_SCRATCH if args.backbone == PAPER else FINE_TUNE).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    for name, value in OPTIMIZERS[args.optimizer].items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    args.weights = None if args.weights.lower() == "none" else args.weights
    check_common(args)
    return args


def run(args: argparse.Namespace) -> list[Cell]:
    """All categories and seeds, then the table and the figures."""
    categories = categories_from(args)
    if args.augmentation != "none":
        rank_zero_only(save_negatives)(args, categories)
    cells = [run_cell(args, c, seed, args.out / f"{c.name}-seed{seed}") for c in categories for seed in args.seeds]
    report(args, cells)
    return cells


@rank_zero_only
def report(args: argparse.Namespace, cells: list[Cell]) -> None:
    write(args.out / "results.json", cells)
    text = f"Image AUROC in percent, {args.augmentation}, after {args.steps if args.augmentation != 'none' else 0} steps.\n\n"
    text += table(cells)
    (args.out / "table.md").write_text(text)
    draw_roc(cells, args.out / "roc.png")
    draw_histograms(cells, args.out / "histograms.png")
    print(f"{text}\nin {args.out}")


def main(argv: Sequence[str] | None = None) -> int:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with explained_errors():
        run(parse(argv))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
