"""Trains a net that marks defects pixel by pixel: every negative comes with its exact mask, so no defect is needed.

    python examples/train_localizer.py --data toy --out runs/localizer
    python examples/train_localizer.py --data mvtec --categories pill --seeds 0 1 2 --out runs/pill-pixels

A small encoder-decoder sees normal images, whose mask is empty, and negatives. On the test set it is scored by pixel AUROC
and average precision (torchmetrics) and by AUPRO, the area under the per-region overlap up to a false positive rate of
0.3, divided by 0.3 (pyaupro); images by the mean of their highest thousandth of pixels. As in `train_ssl.py` the last
step counts, and the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from augment import Negative, with_mask
from data import Category, DataError, add_arguments, categories_from, decode, decode_masks
from detector import IMAGENET, TinyBackbone, area_under_roc
from lightning.pytorch.utilities import rank_zero_only
from pyaupro import PerRegionOverlap, auc_compute
from report import Cell, overlay, save_sheet, table
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchmetrics.functional.classification import binary_auroc, binary_average_precision
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

SCORES = {"pixel_auroc": "pixel AUROC", "pixel_ap": "pixel AP", "aupro": "AUPRO (FPR <= 0.3)", "auroc": "image AUROC"}


class EncoderDecoder(nn.Module):
    """float images [N, 3, H, W] in [0, 1] -> logits [N, H, W] of a defect in each pixel.

    The encoder is the package's saliency net. The decoder goes back up from its four stages to half the image's resolution,
    where it looks at the image once more.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.encoder = TinyBackbone()
        channels = [stage[0].out_channels for stage in self.encoder.stages]
        self.sides = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.joins = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in channels)
        self.fine = nn.Conv2d(3, width // 2, 5, stride=2, padding=2)
        self.last = nn.Sequential(nn.Conv2d(width + width // 2, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 1, 1))
        self.register_buffer("mean", torch.tensor(IMAGENET[0])[:, None, None])
        self.register_buffer("std", torch.tensor(IMAGENET[1])[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        images = (images - self.mean) / self.std
        stages = self.encoder.maps(images)
        x = torch.zeros_like(self.sides[-1](stages[-1]))
        for stage, side, join in zip(stages[::-1], list(self.sides)[::-1], list(self.joins)[::-1], strict=True):
            x = F.interpolate(x, stage.shape[2:], mode="bilinear") + side(stage)
            x = x + F.relu(join(x))
        fine = F.relu(self.fine(images))
        x = F.interpolate(x, fine.shape[2:], mode="bilinear")
        x = self.last(torch.cat((x, fine), 1))
        return F.interpolate(x, images.shape[2:], mode="bilinear")[:, 0]


class MaskedViews(Dataset[tuple[Tensor, Tensor]]):
    """([normal, negative] uint8 [2, 3, H, W], their masks [2, 1, H, W]); randomness follows from the draw's number."""

    def __init__(self, images: Tensor, negatives: Sequence[Negative], seed: int) -> None:
        self.images, self.negatives, self.seed = images, negatives, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: tuple[int, int]) -> tuple[Tensor, Tensor]:
        number, index = draw
        image = self.images[index]
        with own_randomness(number, self.seed):
            negative, mask = with_mask(self.negatives[number % len(self.negatives)], image)
        return torch.stack((image, negative)), torch.stack((torch.zeros_like(mask), mask))


class Localizer(L.LightningModule):
    def __init__(self, args: argparse.Namespace, seed: int, images: Tensor, negatives: Sequence[Negative]) -> None:
        super().__init__()
        self.args, self.seed, self.images, self.negatives = args, seed, images, negatives
        self.net = EncoderDecoder()

    def train_dataloader(self) -> DataLoader[Any]:
        return epoch_loader(self.trainer, self.args, MaskedViews(self.images, self.negatives, self.seed), self.seed)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        images, masks = (x.flatten(0, 1) for x in batch)
        logits, masks = self.net(images.float() / 255), masks[:, 0].float()
        loss = F.binary_cross_entropy_with_logits(logits, masks) + dice_loss(logits, masks)
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        return cosine(self.args, self.parameters())


def dice_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """1 - the overlap of the whole batch: small regions count although most pixels are normal."""
    found = logits.sigmoid()
    return 1 - (2 * (found * masks).sum() + 1) / (found.sum() + masks.sum() + 1)


@torch.inference_mode()
def heat_maps(net: nn.Module, images: Tensor, device: Any, batch: int) -> Tensor:
    """float [N, H, W] in [0, 1]."""
    return torch.cat([net(part.to(device).float() / 255).sigmoid().cpu() for part in images.split(batch)])


def pixel_scores(maps: Tensor, masks: Tensor) -> dict[str, float | None]:
    """maps float [N, H, W], masks {0, 1} [N, H, W]. None where no pixel is defective or all are."""
    if not 0 < masks.sum() < masks.numel():
        return dict.fromkeys(("pixel_auroc", "pixel_ap", "aupro"))
    overlap = PerRegionOverlap()
    overlap.update(maps, masks)
    flat, truth = maps.flatten(), masks.flatten().long()
    found = (binary_auroc(flat, truth), binary_average_precision(flat, truth), auc_compute(*overlap.compute(), limit=0.3))
    return dict(zip(("pixel_auroc", "pixel_ap", "aupro"), map(float, found), strict=True))


def run_cell(args: argparse.Namespace, category: Category, seed: int, folder: Path) -> Cell:
    """One training and its scores, in `folder`."""
    settings, cell = resume(args, COMMON_SETTINGS, category, folder)
    if cell:
        return cell
    began = time.perf_counter()
    images, _ = decode(category.train, args.size, args.skip_unreadable, args.white)
    test, samples = decode(category.test, args.size, args.skip_unreadable, args.white)
    masks = decode_masks(samples, args.size)
    negatives = make_negatives_of(args)  # before the seed is set: a net of the user's may draw its weights
    L.seed_everything(seed, verbose=False)
    module, trainer = Localizer(args, seed, images, negatives), make_trainer(args, folder)
    if args.workers:
        precompute(module.negatives, images)
    fit(trainer, module, folder)
    device = trainer.strategy.root_device
    maps = heat_maps(module.net.to(device).eval(), test, device, 2 * args.batch)
    highest = maps.flatten(1).topk(max(1, maps[0].numel() // 1000)).values.mean(1).double().numpy()
    cell = {"category": category.name, "seed": seed, "augmentation": args.augmentation, **pixel_scores(maps, masks)}
    cell |= {"auroc": area_under_roc(np.array([s.defect is not None for s in samples]), highest)}
    cell |= {"seconds": round(time.perf_counter() - began, 1), "settings": settings}
    first = {sample.defect: i for i, sample in reversed(list(enumerate(samples)))}
    shown = sorted(first.values())[:8]
    rows = [("image", test[shown]), ("truth", masks[shown]), ("found", [overlay(test[i], maps[i]) for i in shown])]
    rank_zero_only(save_sheet)(rows, folder / "heatmaps.png", [samples[i].defect or "good" for i in shown])
    write(folder / "result.json", cell)
    return cell


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    add_arguments(parser)
    parser.add_argument("--out", type=Path, default=Path("runs/localizer"), help="folder (default runs/localizer)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="SEED")
    add_negatives(parser)
    group = parser.add_argument_group("optimiser")
    group.add_argument("--optimizer", choices=("adam", "sgd"), default="adam")
    group.add_argument("--lr", type=float, default=1e-3, help="at the start of the cosine (default 0.001)")
    group.add_argument("--weight-decay", type=float, default=0.0)
    group.add_argument("--steps", type=int, default=300)
    group.add_argument("--batch", type=int, default=8, help="normal images per step, each beside a negative (default 8)")
    group.add_argument("--size", type=int, default=160, help="images become squares of this side (default 160)")
    add_machine(parser)
    args = parser.parse_args(argv)
    if args.augmentation == "none":
        raise DataError("`augmentation` must make negatives to learn from, got 'none'")
    check_common(args)
    return args


def run(args: argparse.Namespace) -> list[Cell]:
    categories = categories_from(args)
    cells = [run_cell(args, c, seed, args.out / f"{c.name}-seed{seed}") for c in categories for seed in args.seeds]
    report(args, cells)
    return cells


@rank_zero_only
def report(args: argparse.Namespace, cells: list[Cell]) -> None:
    write(args.out / "results.json", cells)
    text = f"In percent, {args.augmentation}, after {args.steps} steps.\n"
    for score, title in SCORES.items():
        text += f"\n{title}\n\n{table(cells, score)}"
    (args.out / "table.md").write_text(text)
    print(f"{text}\nin {args.out}")


def main(argv: Sequence[str] | None = None) -> int:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with explained_errors():
        run(parse(argv))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
