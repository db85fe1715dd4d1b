"""A detector of the visitor's good parts and its scores of other images, all by the functions of `detect.py`."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cutswap_transforms import SaliencySwap

from .images import Photo, RefusedImage, squared
from .seeding import generator

if TYPE_CHECKING:  # these imports take seconds, so they wait for the first fit
    from detector.model import Detector

SHOWN = 24  # most images that are kept with their heat maps, those with the highest scores
SMALLEST = 32  # pixels of an image's shorter side, as for `detect.py`


@dataclass(frozen=True)
class Scored:
    """An image and its score; the highest ones have the picture uint8 [3, S, S] and the heat map float [S, S] as well."""

    name: str
    score: float
    image: Tensor | None = None
    heat: Tensor | None = None


@dataclass
class Trial:
    """A fitted detector and what it was tried on.

    Attributes:
        count: of the good parts.
        kept: the good parts that nothing was fitted on, the highest score first.
        negatives: scores [M] of negatives of these.
        judged: other images, the highest score first.
        dropped: the names of all images that there were.
    """

    detector: Detector
    count: int
    seconds: float
    kept: list[Scored]
    negatives: Tensor
    judged: list[Scored] = field(default_factory=list)
    dropped: tuple[str, ...] = ()

    def judge(self, photos: Iterable[Photo]) -> list[str]:
        """Score other images. Returns sentences on those that could not be scored."""
        images, names, faults = _squares(photos, self.detector.size)
        self.judged = _scored(self.detector, images, names)
        return faults

    def are_defects(self, scored: Sequence[Scored], rate: float) -> list[bool]:
        return self.detector.verdicts(torch.tensor([one.score for one in scored]), rate).tolist()

    def table(self, rate: float) -> bytes:
        """`scores.csv`, as `detect.py score --sort` writes it."""
        from detector.score_command import Row, write_rows

        scores = torch.tensor([one.score for one in self.judged])
        verdicts = zip(self.judged, self.detector.p_values(scores).tolist(), self.are_defects(self.judged, rate), strict=True)
        rows = [Row(one.name, one.score, p_value, defective) for one, p_value, defective in verdicts]
        return _written("scores.csv", lambda path: write_rows(path, rows, by_score=True))

    def file(self) -> bytes:
        """`detector.safetensors`, for `detect.py score`."""
        return _written("detector.safetensors", self.detector.save)


def fitted(photos: Sequence[Photo], swap: SaliencySwap) -> tuple[Trial, list[str]]:
    """The detector that `detect.py fit` makes by default, weighed by negatives of `swap`; sentences on unused images.

    Raises:
        DataError: too few images, or all the same.
    """
    from detector.fit_command import check_normal
    from detector.fitting import fit, scored_negatives, split

    began, args = time.perf_counter(), _arguments()
    split(len(photos), args.seed)  # fails before reading if there are too few
    images, names, faults = _squares(photos, args.size)
    check_normal(images, args.seed)
    about = {"features": args.features, "size": args.size, "negatives": args.negatives, "seed": args.seed}
    kept = split(len(images), args.seed).kept
    with generator:
        detector = fit(args, images, [swap], Path(), about)
        negatives = scored_negatives(detector, images[kept], [swap], args.seed)[1]
    normal = _scored(detector, images[kept], [names[i] for i in kept])
    trial = Trial(detector, len(images), time.perf_counter() - began, normal, negatives)
    trial.dropped = tuple(photo.name for photo in photos)
    return trial, faults


def _arguments() -> argparse.Namespace:
    """The defaults of `detect.py fit`."""
    from data import add_decoding
    from detector.options import add_fit, settle

    parser = argparse.ArgumentParser()
    add_decoding(parser)
    add_fit(parser)
    args = parser.parse_args([])
    settle(args)
    return args


def _squares(photos: Iterable[Photo], size: int) -> tuple[Tensor, list[str], list[str]]:
    """uint8 [N, 3, S, S], the names of these images, and sentences on the others."""
    images, names, faults = [], [], []
    for photo in photos:
        try:
            images.append(squared(photo, size, SMALLEST))
            names.append(photo.name)
        except RefusedImage as error:
            faults.append(str(error))
    return torch.stack(images) if images else torch.zeros(0, 3, size, size, dtype=torch.uint8), names, faults


def _scored(detector: Detector, images: Tensor, names: Sequence[str]) -> list[Scored]:
    scores, heat = detector(images)
    order = scores.argsort(descending=True).tolist()
    shown = {i: (images[i], heat[i].clone()) for i in order[:SHOWN]}  # a view would keep the heat maps of all images
    return [Scored(names[i], float(scores[i]), *shown.get(i, ())) for i in order]


def _written(name: str, write: Callable[[Path], object]) -> bytes:
    """The content of a file that can only be written to a path."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        write(path)
        return path.read_bytes()
