"""`score`: scores, p-values, verdicts and heat maps of new images."""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from data import Sample, attempt, read_image
from data_files import SUFFIXES, DataError, images_below, regular
from torch import Tensor
from tqdm import tqdm

from .fit_command import SMALLEST
from .folders import fresh
from .model import PART, Detector
from .options import check_rate, check_white
from .pictures import heat_picture, save_gallery, to_pil

COLUMNS = ("file", "score", "p_value", "verdict")
OURS = ("scores.csv", "summary.png", "heatmaps")
WORST = 16
# A spreadsheet takes a cell that begins like this for a formula; the last four are the full-width forms.
FORMULA = (*"=+-@\t\r\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
TOLD = 20  # most unreadable files that are named on the screen


@dataclass
class Row:
    """A line of scores.csv; without a score if the image could not be read."""

    file: str
    score: float | None = None
    p_value: float | None = None
    defective: bool = False

    def cells(self) -> list[str]:
        file = f"./{self.file}" if self.file.startswith(FORMULA) else self.file  # the same path
        if self.score is None:
            return [file, "", "", ""]
        return [file, f"{self.score:.6g}", f"{self.p_value:.6g}", verdict(self.defective)]


def verdict(defective: bool) -> str:
    return "defect" if defective else "good"


def run_score(args: argparse.Namespace) -> int:
    check_rate(args)
    check_white(args)
    detector = Detector.load(args.run, args.features)
    files = named_files(args.images, args.out)
    prepare(args.out)
    rows: list[Row] = []
    worst: list[tuple[float, str, Tensor]] = []
    faults: list[str] = []
    for row, picture in tqdm(scored(detector, files, args, faults), total=len(files), disable=not args.progress, unit="image"):
        rows.append(row)
        if picture is None:
            continue
        if args.heat_maps == "all" or (args.heat_maps == "defects" and row.defective):
            path = args.out / "heatmaps" / picture_name(row.file)
            path.parent.mkdir(parents=True, exist_ok=True)
            to_pil(picture).save(path)
        worst.append((row.score or 0.0, row.file, picture))
        worst = sorted(worst, key=lambda entry: -entry[0])[:WORST]
    write_rows(args.out / "scores.csv", rows, args.sort)
    draw_summary(args.out / "summary.png", rows, worst)
    for fault in faults[:TOLD]:
        print(f"could not be read: {fault}", file=sys.stderr)
    if len(faults) > TOLD:
        print(f"could not be read: {len(faults) - TOLD} more, which have no score in scores.csv", file=sys.stderr)
    done = [row for row in rows if row.score is not None]
    count, rate = sum(row.defective for row in done), detector.rate(args.false_alarms)
    limit = detector.threshold(args.false_alarms)
    print(f"{count} of {len(done)} images are defects: scores above {limit:.2f}, at {rate:.3g} false alarms")
    if rate > args.false_alarms:
        kept = len(detector.normal_scores)
        print(f"({args.false_alarms:g} cannot be promised with {kept} images held out: see report.md of the run)")
    print(f"in {args.out}: {', '.join(name for name in OURS if (args.out / name).exists())}")
    return 1 if faults else 0


def named_files(named: Sequence[Path], out: Path) -> list[tuple[str, Path]]:
    """(name, path) of every image: relative to the given folder, with the folder's name if several were given."""
    found: list[tuple[str, Path]] = []
    for path in named:
        if path.is_dir():
            if is_within(out, path):
                raise DataError(f"`out` must be outside the images, got {str(out)!r} in {str(path)!r}")
            inside = images_below(path, "`images` must be folders that hold their images themselves")
            if not inside:
                raise DataError(f"`images` must be images ({' '.join(SUFFIXES)}) or folders of them, got none in {str(path)!r}")
            if any("ground_truth" in (*path.resolve().parts[-2:], *p.relative_to(path).parts) for p in inside):
                raise DataError(f"`images` must not be masks, got {str(path)!r} with ground_truth; name the folder test")
            prefix = f"{path.resolve().name}/" if len(named) > 1 else ""
            found += [(prefix + p.relative_to(path).as_posix(), p) for p in inside]
        elif path.is_file():
            found.append((path.name, path))
        else:
            what = "is neither" if os.path.lexists(path) else "does not exist"
            raise DataError(f"`images` must be images or folders of them, got {str(path)!r}, which {what}")
    ours = [str(path) for _, path in found if is_within(path, out)]
    if ours:
        raise DataError(f"`out` must be outside the images, got {str(out)!r}, which holds {ours[0]!r}")
    names = [name for name, _ in found]
    if len(set(names)) < len(names):
        again = next(name for name in names if names.count(name) > 1)
        raise DataError(f"`images` must differ in their names, got {again!r} twice: name a folder that holds them all")
    return found


def is_within(path: Path, folder: Path) -> bool:
    """Whether the path is the folder or inside it, links resolved."""
    real = Path(os.path.realpath(path))
    return Path(os.path.realpath(folder)) in (real, *real.parents)


def prepare(out: Path) -> None:
    """Make the folder, or remove the results of an earlier `score` in it."""
    if out.exists() and not out.is_dir():
        raise DataError(f"`out` must be a folder, got the file {str(out)!r}")
    there = [p.name for p in out.iterdir() if p.name not in (*OURS, "scores.part")] if out.exists() else []
    if there:
        raise DataError(
            f"`out` must be new, empty or of an earlier `score`, got {str(out)!r} with {', '.join(sorted(there)[:5])}"
        )
    out.mkdir(parents=True, exist_ok=True)
    fresh(out / "scores.part").touch()  # fails before any work if the folder cannot be written
    for path in (out / name for name in OURS):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            fresh(path)


def scored(
    detector: Detector, files: Sequence[tuple[str, Path]], args: argparse.Namespace, faults: list[str]
) -> Iterator[tuple[Row, Tensor | None]]:
    """A row and its heat map beside the image, in the images' order; in parts, to limit memory."""
    limit = detector.threshold(args.false_alarms)
    white = args.white if args.white is not None else detector.about.get("white")
    for start in range(0, len(files), PART):
        part = files[start : start + PART]
        samples = [Sample(path) for _, path in part]
        read = attempt(lambda s: read_image(regular(s.path), detector.size, white, SMALLEST), samples)
        images = [image for image in read if isinstance(image, Tensor)]
        results = iter(results_of(detector, images, args.false_alarms))
        for (name, path), image in zip(part, read, strict=True):
            if isinstance(image, Exception):
                faults.append(f"{path} ({image})")
                yield Row(name), None
                continue
            score, p_value, defective, heat = next(results)
            yield Row(name, score, p_value, defective), heat_picture(image, heat, limit)


def results_of(detector: Detector, images: Sequence[Tensor], rate: float) -> list[tuple[float, float, bool, Tensor]]:
    if not images:
        return []
    scores, heat = detector(torch.stack(list(images)))
    values, defective = detector.p_values(scores), detector.verdicts(scores, rate)
    return list(zip(scores.tolist(), values.tolist(), defective.tolist(), heat, strict=True))


def picture_name(file: str) -> str:
    """The image's own name and .png; if that is too long for a file name, its end and a checksum."""
    folder, slash, name = f"{file}.png".rpartition("/")
    raw = name.encode("utf-8", "surrogateescape")
    if len(raw) > 255:
        name = f"{zlib.crc32(raw):08x}-{raw[-200:].decode('utf-8', 'ignore')}"
    return folder + slash + name


def write_rows(path: Path, rows: Sequence[Row], by_score: bool) -> None:
    """In the order of the files, or by score, the highest first and unreadable images last."""
    if by_score:
        rows = sorted(rows, key=lambda row: (row.score is None, -(row.score or 0.0), row.file))
    draft = fresh(path.with_suffix(".part"))
    with draft.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream:  # names that are not UTF-8
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        writer.writerows(row.cells() for row in rows)
    draft.replace(path)


def draw_summary(path: Path, rows: Sequence[Row], worst: Sequence[tuple[float, str, Tensor]]) -> None:
    if not worst:
        return
    known = {row.file: row for row in rows}
    tiles = []
    for score, name, picture in worst:
        row = known[name]
        factor = max(0.75, 320 / picture.shape[2])  # captions need some room
        half = F.interpolate(picture[None].float(), scale_factor=factor, mode="area")[0].to(torch.uint8)
        tiles.append((f"{name}\nscore {score:.2f}, p {row.p_value:.3f}: {verdict(row.defective)}", half))
    save_gallery(tiles, path)
