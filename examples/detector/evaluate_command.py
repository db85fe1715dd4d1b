"""`evaluate`: how well a detector finds the defects of a test set."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from data import Category, DataError, Sample, categories_from, decode, decode_masks
from data_files import check_outside
from pyaupro import PerRegionOverlap, auc_compute
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

from .fit_command import SMALLEST
from .folders import write
from .model import Detector
from .options import check_rate, check_white
from .pictures import draw_histograms, heat_picture, save_gallery
from .score_command import verdict
from .tables import markdown, percent

METRICS = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "ap": "pixel AP", "aupro": "AUPRO"}
SHOWN = 8  # heat maps of each group


def run_evaluate(args: argparse.Namespace) -> int:
    check_rate(args)
    check_white(args)
    detector = Detector.load(args.run, args.features)
    categories = categories_from(args)
    if len(categories) > 1:
        raise DataError(f"`data` must hold one category, got {', '.join(c.name for c in categories)}: see --categories")
    (category,) = categories
    out = args.run if args.run.is_dir() else args.run.parent
    check_outside(out, [sample.path for sample in category.samples])
    white = args.white if args.white is not None else detector.about.get("white")
    images, samples = decode(category.test, detector.size, args.skip_unreadable, white, SMALLEST)
    scores, heat = detector(images)
    result = metrics(scores, heat, samples, masks_of(samples, detector.size))
    rows = rows_of(detector, category, samples, scores, args.false_alarms)
    print(markdown(["category", *METRICS.values()], [[category.name, *(percent(result[name]) for name in METRICS)]]))
    print(caught(rows, detector.rate(args.false_alarms)))
    about = {"category": category.name, "data": category.digest(), "false_alarms": detector.rate(args.false_alarms)}
    write(out / "evaluation.json", {**result, **about, "images": rows})
    draw(out, detector, images, heat, rows, args.false_alarms)
    print(f"in {out}: evaluation.json, histogram.png, heatmaps.png")
    return 0


def masks_of(samples: Sequence[Sample], size: int) -> Tensor | None:
    """None, with a message, if defects have no masks: then pixels cannot be scored."""
    try:
        return decode_masks(samples, size)
    except DataError as error:
        print(f"no pixel scores: {error}", file=sys.stderr)
        return None


def metrics(scores: Tensor, heat: Tensor, samples: Sequence[Sample], masks: Tensor | None) -> dict[str, float | None]:
    """Metrics in [0, 1]; None if a class is missing, because the metric is then undefined."""
    defective = np.array([sample.defect is not None for sample in samples])
    if not 0 < defective.sum() < len(defective):
        print(f"image AUROC is undefined: all {len(samples)} test images are {verdict(defective[0])}", file=sys.stderr)
    return {"image_auroc": image_auroc(defective, scores), **pixel_metrics(heat, masks)}


def image_auroc(defective: np.ndarray, scores: Tensor) -> float | None:
    return float(roc_auc_score(defective, scores.numpy())) if 0 < defective.sum() < len(defective) else None


def pixel_metrics(heat: Tensor, masks: Tensor | None) -> dict[str, float | None]:
    """heat float [N, H, W], masks {0, 1} [N, H, W]; AUPRO up to a false positive rate of 0.3, divided by 0.3."""
    if masks is None or not 0 < masks.sum() < masks.numel():
        return dict.fromkeys(("pixel_auroc", "ap", "aupro"))
    low, high = heat.min(), heat.max()
    unit = (heat - low) / (high - low).clamp(min=1e-12)  # the libraries require [0, 1]; only ranks matter
    overlap = PerRegionOverlap()
    overlap.update(unit, masks)
    flat, truth = unit.flatten(), masks.flatten().long()
    found = (binary_auroc(flat, truth), binary_average_precision(flat, truth), auc_compute(*overlap.compute(), limit=0.3))
    return dict(zip(("pixel_auroc", "ap", "aupro"), map(float, found), strict=True))


def rows_of(
    detector: Detector, category: Category, samples: Sequence[Sample], scores: Tensor, rate: float
) -> list[dict[str, Any]]:
    values, defective = detector.p_values(scores), detector.verdicts(scores, rate)
    return [
        {
            "file": "/".join(sample.path.parts[-2:]),
            "defect": sample.defect,
            "score": float(f"{score:.6g}"),
            "p_value": float(f"{p:.6g}"),
            "verdict": verdict(bool(found)),
        }
        for sample, score, p, found in zip(samples, scores.tolist(), values.tolist(), defective, strict=True)
    ]


def caught(rows: Sequence[dict[str, Any]], rate: float) -> str:
    bad = [row for row in rows if row["defect"]]
    good = [row for row in rows if not row["defect"]]
    found, wrong = (sum(row["verdict"] == "defect" for row in part) for part in (bad, good))
    return f"at {rate:.3g} false alarms: {found} of {len(bad)} defects found, {wrong} of {len(good)} good images called defects"


def draw(out: Any, detector: Detector, images: Tensor, heat: Tensor, rows: Sequence[dict[str, Any]], rate: float) -> None:
    """Histogram of the scores; heat maps of the highest scores, the missed defects and the false alarms."""
    groups = {
        "held-out good images": detector.normal_scores.tolist(),
        "good": [row["score"] for row in rows if not row["defect"]],
        "defects": [row["score"] for row in rows if row["defect"]],
    }
    limit = detector.threshold(rate)
    draw_histograms(
        {k: v for k, v in groups.items() if v},
        limit,
        out / "histogram.png",
        f"{detector.features.spec}, {len(rows)} test images",
    )
    order = sorted(range(len(rows)), key=lambda i: -rows[i]["score"])
    kinds = {
        "highest": order,
        "missed": [i for i in order[::-1] if rows[i]["defect"] and rows[i]["verdict"] == "good"],
        "false alarm": [i for i in order if not rows[i]["defect"] and rows[i]["verdict"] == "defect"],
    }
    tiles = []
    for kind, chosen in kinds.items():
        for i in chosen[:SHOWN]:
            text = f"{kind}: {rows[i]['file']}\nscore {rows[i]['score']:.2f}, p {rows[i]['p_value']:.3f}"
            tiles.append((text, heat_picture(images[i], heat[i], limit)))
    save_gallery(tiles, out / "heatmaps.png", columns=4)
