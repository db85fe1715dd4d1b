"""`fit`: from a folder of good parts to a folder with a detector and a report on it."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence

from augment import Negative
from data import Category, DataError, Sample, data_folder, decode, read_normal
from data_files import check_outside
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from .fitting import fit, found_negatives, made_of, rate_sentence, split
from .folders import fresh, resume
from .model import FILE, Detector
from .options import check_rate, negatives_of, settle
from .pictures import heat_picture, save_gallery, save_sheet
from .tables import markdown

SMALLEST = 32  # pixels of an image's shorter side


def run_fit(args: argparse.Namespace) -> int:
    began = time.perf_counter()
    settle(args)
    check_rate(args)
    category = read_normal(data_folder(args), args.categories)
    check_outside(args.out, [sample.path for sample in category.train])
    settings = resume(args, category, args.out, [FILE])
    if os.path.lexists(args.out / FILE):
        check_whole(args)
        print(f"already fitted: {args.out / FILE}")
        return 0
    images, samples = read(args, category)
    negatives = negatives_of(args)
    detector = fit(args, images, negatives, args.out, settings)
    finish(args, detector, images, samples, negatives, began)
    return 0


def read(args: argparse.Namespace, category: Category) -> tuple[Tensor, list[Sample]]:
    split(len(category.train), args.seed)  # fails before reading if there are too few images
    images, samples = decode(category.train, args.size, args.skip_unreadable, args.white, SMALLEST)
    check_normal(images, args.seed)
    return images, samples


def check_normal(images: Tensor, seed: int) -> None:
    """uint8 [N, 3, S, S] must be enough images, and not all the same."""
    split(len(images), seed)
    if (images == images[0]).all():
        raise DataError(f"`data` must hold images that differ, got {len(images)} times the same pixels")


def check_whole(args: argparse.Namespace) -> None:
    try:
        Detector.load(args.out, args.features)
    except DataError as error:
        raise DataError(f"{error}; remove {str(args.out / FILE)!r} to fit it again") from error


@rank_zero_only
def finish(
    args: argparse.Namespace,
    detector: Detector,
    images: Tensor,
    samples: Sequence[Sample],
    negatives: Sequence[Negative],
    began: float,
) -> None:
    """Write all files of RUN; the detector is last, so that if it exists, all files do."""
    seconds = time.perf_counter() - began
    text = report(args, detector, images, samples, seconds) + found_text(args, detector, images, negatives)
    fresh(args.out / "report.md").write_text(text, encoding="utf-8")
    save_negatives(args, detector, images, negatives)
    save_kept(args, detector, images, samples)
    detector.save(args.out / FILE)
    print(f"fitted with {len(images)} images in {seconds:.0f} s; see {args.out / 'report.md'}")


def highest_kept(args: argparse.Namespace, detector: Detector, images: Tensor, count: int = 8) -> list[tuple[int, float]]:
    """(index, score) of the held-out images with the highest scores."""
    scores, order = detector.normal_scores.sort(descending=True)
    kept = split(len(images), args.seed).kept
    return [(int(kept[i]), float(score)) for score, i in zip(scores[:count], order[:count], strict=True)]


def save_kept(args: argparse.Namespace, detector: Detector, images: Tensor, samples: Sequence[Sample]) -> None:
    chosen = highest_kept(args, detector, images)
    heat = detector(images[[i for i, _ in chosen]])[1]
    limit = detector.threshold(args.false_alarms)
    pictures = [heat_picture(images[i], h, limit) for (i, _), h in zip(chosen, heat, strict=True)]
    texts = [f"{samples[i].path.name}\nscore {score:.2f}" for i, score in chosen]
    save_gallery(list(zip(texts, pictures, strict=True)), args.out / "kept.png")


def save_negatives(
    args: argparse.Namespace, detector: Detector, images: Tensor, negatives: Sequence[Negative], columns: int = 6
) -> None:
    """Held-out images, a negative of each, and the detector's heat map of it."""
    if not negatives:
        return
    shown = images[split(len(images), args.seed).kept[:columns]]
    changed, masks = next(made_of(shown, negatives, args.seed, len(shown)))
    _, heat = detector(changed)
    limit = detector.threshold(args.false_alarms)
    maps = [heat_picture(x, h, limit).tensor_split(2, 2)[1] for x, h in zip(changed, heat, strict=True)]
    truth = [mask.expand(3, -1, -1) * 255 for mask in masks]
    save_sheet([("normal", shown), ("negative", changed), ("altered", truth), ("heat", maps)], args.out / "negatives.png")


def report(args: argparse.Namespace, detector: Detector, images: Tensor, samples: Sequence[Sample], seconds: float) -> str:
    """A description of the detector and its rate of false alarms."""
    parts = split(len(images), args.seed)
    names = [f"{kind}, stride {detector.features.strides[level]}" for kind, level in detector.named_maps]
    weights = [[name, f"{weight:.2f}"] for name, weight in zip(names, detector.weights.tolist(), strict=True)]
    tuned = f"tuned for {args.steps} steps on {args.negatives}" if args.steps else "not tuned"
    text = f"# Detector of {images.shape[0]} normal images\n\n"
    text += f"Features: {args.features}, {args.size} px, {tuned}. Fitted in {seconds:.0f} s.\n"
    text += f"{len(parts.fit) + len(parts.weigh)} images were fitted on, {len(parts.kept)} were held out to calibrate.\n\n"
    text += f"## False alarms\n\n{rate_sentence(args.false_alarms, len(parts.kept))}\n"
    text += "`score --false-alarms RATE` takes another rate without fitting again.\n\n"
    text += f"Images with a score above {detector.threshold(args.false_alarms):.2f} are then defects.\n\n"
    text += (
        "The held-out images that score highest decide that threshold; `kept.png` shows them. Remove images that do not show "
        "a good part, and fit again. If a good part is just unusual, add more images like it, or choose a higher rate.\n\n"
    )
    highest = [[samples[i].path.name, f"{score:.2f}"] for i, score in highest_kept(args, detector, images)]
    text += markdown(["held-out image", "score"], highest)
    text += "\n## Maps and their weights\n\n"
    text += markdown(["map", "weight"], weights)
    if args.fusion == "negatives":
        share = detector.about["alignment"]
        text += f"\nThe place in the image explains {share:.2f} of the features' variance. "
        text += f"So the weights are {share:.2f} times those learned on negatives and {1 - share:.2f} times equal ones.\n"
    return text


def found_text(args: argparse.Namespace, detector: Detector, images: Tensor, negatives: Sequence[Negative]) -> str:
    """The share of negatives that is found; negatives are not real defects."""
    if not negatives:
        return ""
    kept = images[split(len(images), args.seed).kept]
    rows = found_negatives(detector, kept, negatives, args.seed, args.false_alarms)
    text = f"\n## Negatives that are found\n\nIn held-out images, by {args.negatives}, at that rate. "
    text += "These are synthetic, and larger than many defects: real ones may be easier or harder.\n\n"
    found = [[area, str(count), f"{100 * share:.0f} %"] for area, count, share in rows]
    text += markdown(["altered area", "negatives", "found"], found)
    text += (
        '\n`negatives.png` shows some of them. If they are not on your part, see docs/detector.md, "When it does not work".\n'
    )
    return text
