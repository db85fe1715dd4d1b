"""From normal images to a detector: split, tune, estimate, weigh, calibrate."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from augment import Negative, with_mask
from data import DataError
from torch import Tensor

from .calibration import promised_rate
from .densities import KINDS, Density
from .fusion import Alignment, drawn_towards_mean, learnt_weights
from .model import PART, Detector, levels_of, pairs_of, rounded
from .networks import Features
from .tuning import own_randomness, tune

FEWEST = 20  # normal images
KEPT = 10  # fewest images held out for calibration
NEGATIVES = 400  # on which weights are learned
CELLS = 1000  # most unaltered cells of each negative


@dataclass(frozen=True)
class Split:
    """Indices of the normal images: `fit` for tuning and densities, `weigh` for scales and weights, `kept` for calibration."""

    fit: Tensor
    weigh: Tensor
    kept: Tensor


def split(count: int, seed: int) -> Split:
    """A fifth, at least ten, is held out; a fifth of the others, at least five, is for the weights."""
    if count < FEWEST:
        raise DataError(f"`data` must hold {FEWEST} normal images or more, got {count}")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    kept = max(KEPT, count // 5)
    weigh = max(KEPT // 2, (count - kept) // 5)
    return Split(order[kept + weigh :], order[kept : kept + weigh], order[:kept])


@dataclass(frozen=True)
class Base:
    """A detector before its weights: unless negatives have tuned the net, it is the same for all of them.

    Attributes:
        images: uint8 [N, 3, S, S], normal.
        parts: of these images.
        first: has not seen the images of `parts.weigh`; for learning weights on them.
        final: has seen them; its maps have equal weights.
        alignment: the share of the features' variance that the place in the image explains.
    """

    images: Tensor
    parts: Split
    first: Detector
    final: Detector
    alignment: float


def fit(
    args: argparse.Namespace, images: Tensor, negatives: Sequence[Negative], folder: Path, about: dict[str, Any]
) -> Detector:
    """uint8 [N, 3, S, S] -> the calibrated detector. `folder` is for checkpoints, so that training can be resumed."""
    return weighed(prepared(args, images, negatives, folder), args, negatives, about)


def prepared(args: argparse.Namespace, images: Tensor, negatives: Sequence[Negative], folder: Path) -> Base:
    """Tune the net on negatives if the arguments say so, and estimate the densities."""
    parts = split(len(images), args.seed)
    features = Features(args.features, args.size)
    if args.steps:
        tune(args, args.seed, features, images[parts.fit], negatives, folder)
    features.cpu().requires_grad_(False).eval()  # densities need float64, which not every device has; takes seconds
    if not all(torch.isfinite(x).all() for x in features(images[:1].float() / 255)):
        raise DataError(f"`lr` must be low enough that features stay finite, got {args.lr:g}")
    return estimated(features, args.densities, images, parts, args.seed)


@torch.inference_mode()
def estimated(features: Features, kinds: Sequence[str], images: Tensor, parts: Split, seed: int) -> Base:
    """Fit densities, normalize their maps on other images, then add those images to the densities."""
    count = len(parts.fit) + len(parts.weigh)
    levels = levels_of(kinds, len(features.layers))
    densities = [KINDS[kind](count, seed) for kind, _ in pairs_of(kinds, len(features.layers))]
    alignments = [Alignment() for _ in features.layers]
    _update(densities, levels, alignments, features, images[parts.fit])
    first = Detector(features, _finished(densities), kinds, {})
    normal = torch.cat([first.maps(part) for part in images[parts.weigh].split(PART)])
    spread, centre = torch.std_mean(normal, (0, 2, 3))
    first.centre, first.spread = centre, spread.clamp(min=1e-6)
    alignment = sum(a.share for a in alignments) / len(alignments)
    _update(densities, levels, alignments, features, images[parts.weigh])
    final = Detector(features, _finished(densities), kinds, {})
    final.centre, final.spread, final.weights = first.centre, first.spread, torch.full((len(levels),), 1 / len(levels))
    return Base(images, parts, first, rounded(final), alignment)


@torch.inference_mode()
def weighed(base: Base, args: argparse.Namespace, negatives: Sequence[Negative], about: dict[str, Any]) -> Detector:
    """A calibrated detector with the net and the densities of the base; its weights are learned if the arguments say so."""
    final, weights = base.final, base.final.weights
    if args.fusion == "negatives" and negatives and len(weights) > 1:
        cells = negative_cells(base.first, base.images[base.parts.weigh], negatives, args.seed)
        weights = drawn_towards_mean(learnt_weights(*cells), base.alignment)
    detector = Detector(final.features, list(final.densities), final.kinds, {"alignment": round(base.alignment, 3)} | about)
    detector.centre, detector.spread, detector.weights = final.centre, final.spread, weights
    calibrate(detector.eval(), base.images[base.parts.kept])
    return detector


def _update(
    densities: Sequence[Density], levels: Sequence[int], alignments: Sequence[Alignment], features: Features, images: Tensor
) -> None:
    for part in images.split(PART):
        found = features(part.float() / 255)
        for alignment, x in zip(alignments, found, strict=True):
            alignment.update(x)
        for density, level in zip(densities, levels, strict=True):
            density.update(found[level])


def _finished(densities: Sequence[Density]) -> list[Density]:
    """Finished copies, so that more images can be added to the originals."""
    copies = [copy.deepcopy(density) for density in densities]
    for density in copies:
        density.finish()
    return copies


def made_of(images: Tensor, negatives: Sequence[Negative], seed: int, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """`count` negatives, cycling through the images, in parts: uint8 [n, 3, S, S] and their masks [n, 1, S, S]."""
    for start in range(0, count, PART):
        made = []
        for number in range(start, min(start + PART, count)):
            with own_randomness(number, seed):
                made.append(with_mask(negatives[number % len(negatives)], images[number % len(images)]))
        yield torch.stack([image for image, _ in made]), torch.stack([mask for _, mask in made])


def negative_cells(detector: Detector, images: Tensor, negatives: Sequence[Negative], seed: int) -> tuple[Tensor, Tensor]:
    """Values [M, K] of cells of negatives, and which are altered [M]. Cells on a mask's outline are left out."""
    random = torch.Generator().manual_seed(seed)
    values, altered = [], []
    for changed, masks in made_of(images, negatives, seed, min(NEGATIVES, 4 * len(images))):
        maps = detector.maps(changed)
        share = F.adaptive_avg_pool2d(masks.float(), maps.shape[2:])[:, 0]
        cells = maps.permute(0, 2, 3, 1)
        chance = CELLS * len(changed) / max(1, int((share == 0).sum()))
        some = torch.rand(share.shape, generator=random) < chance
        for chosen, is_altered in ((share > 0.5, True), ((share == 0) & some, False)):
            values.append(cells[chosen])
            altered.append(torch.full((len(values[-1]),), is_altered))
    return torch.cat(values), torch.cat(altered)


@torch.inference_mode()
def calibrate(detector: Detector, images: Tensor) -> None:
    """Set the normal scores, of images that nothing was fitted on."""
    detector.normal_scores = detector(images)[0]


def scored_negatives(detector: Detector, images: Tensor, negatives: Sequence[Negative], seed: int) -> tuple[Tensor, Tensor]:
    """Altered areas and scores of negatives, three of each image that nothing was fitted on: float [3 N] both."""
    areas, scores = [], []
    for changed, masks in made_of(images, negatives, seed + 1, 3 * len(images)):
        areas.append(masks.flatten(1).float().mean(1))
        scores.append(detector(changed)[0])
    return torch.cat(areas), torch.cat(scores)


def found_negatives(
    detector: Detector, images: Tensor, negatives: Sequence[Negative], seed: int, rate: float
) -> list[tuple[str, int, float]]:
    """(altered area, number of negatives, share of them that is found) by thirds of area."""
    area, scores = scored_negatives(detector, images, negatives, seed)
    hit = detector.verdicts(scores, rate)
    order = area.argsort()
    rows = []
    for part in order.tensor_split(3):
        low, high = 100 * float(area[part].min()), 100 * float(area[part].max())
        rows.append((f"{low:.1f} to {high:.1f} %", len(part), float(hit[part].float().mean())))
    return rows


def rate_sentence(false_alarms: float, count: int) -> str:
    rate = promised_rate(false_alarms, count)
    if rate > false_alarms:
        return (
            f"{false_alarms:g} false alarms were asked for; {count} held-out images can promise {rate:.3f} at least "
            f"({int(1 / false_alarms + 0.5) - 1} would be needed), so that is the rate."
        )
    return f"At most {rate:g} of new normal images are called defects, on average over calibrations."
