"""`export FOLDER OUT --count N --seed S --size H W` writes negatives and their masks as files.

Requirements:

- the result depends on the images, the settings and the seed alone: every negative has a seed of its own, so neither the
  number of processes nor an interruption changes it;
- a run that was stopped goes on: a negative counts when its line is in `pairs.jsonl`, which is written after its pictures;
- the images are read, never written: OUT must not hold any of them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as tvf

from .. import SaliencySwap
from .._random import own_seed
from ..draw import PatchPair
from ..regions.precompute import progress
from ..transform import empty_mask
from .arguments import STATUS, add_guidance, add_images, add_scale, add_size, make_swap, one_line, whole
from .files import ImageFiles, UserError, find_images

FOLDERS = ("normal", "swap", "mask")
SETTINGS = ("size", "seed", "model", "weights", "clustering", "levels", "scale")


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "export",
        help="write negatives with their masks as files",
        description="Writes OUT/normal, OUT/swap and OUT/mask, which anomalib's Folder reads as normal_dir, "
        "abnormal_dir and mask_dir, and OUT/pairs.jsonl: one line per negative with its image, levels and boxes. The images "
        "are taken in turn. Can be stopped and started again; the result does not depend on the number of workers.",
        epilog=STATUS,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_images(parser)
    parser.add_argument("out", type=Path, help="the folder to write, new or of the same settings")
    parser.add_argument("--count", type=whole(1, 10**7), required=True, help="number of negatives")
    add_size(parser, 2)
    parser.add_argument("--seed", type=whole(0, 2**32 - 1), default=0, help="of the random swaps")
    parser.add_argument("--num-workers", type=whole(0, 1024), default=os.cpu_count() or 1, help="processes")
    add_scale(parser)
    add_guidance(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Write what is missing; print how many negatives there are."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # the progress where tqdm is not installed
    _check_apart(args.images, args.out)
    images = ImageFiles(find_images(args.images), args.size)
    swap = make_swap(args, scale=tuple(args.scale))
    done = _begin(args, images.files)
    before = len(done)
    try:
        _write(Negatives(images, swap, args.out, args.seed), done, args)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_kept(args.out, done)) from None
    except (MemoryError, OSError, RuntimeError) as error:
        raise UserError(f"{one_line(error)}; {_kept(args.out, done)}", 1) from None
    if not done:
        raise UserError(f"none of the {len(images)} images tried could be read")
    print(f"{args.out}: {len(done)} negatives, {len(done) - before} of them new")


def _kept(out: Path, done: set[int]) -> str:
    return f"{len(done)} negatives are in {out}, the same command goes on from there"


def _check_apart(paths: list[Path], out: Path) -> None:
    for path in paths:
        given, target = os.path.realpath(path), os.path.realpath(out)
        if os.path.commonpath((given, target)) in (given, target):
            raise UserError(f"`OUT` must lie apart from the images, got {out} beside {path}; name another folder")


def _write(work: Negatives, done: set[int], args: argparse.Namespace) -> None:
    """The first numbers whose images can be read: rounds, because it shows on the way which cannot. Adds to `done`."""
    upto, bad, count = args.count, set[int](), len(work.images)
    with open(args.out / "pairs.jsonl", "a", encoding="utf-8") as lines:
        while len(done) < args.count and len(bad) < count:
            work.numbers = [i for i in range(upto) if i not in done and i % count not in bad]
            own = torch.Generator()  # the loader would draw a seed from the global generator
            loader = DataLoader(work, batch_size=None, num_workers=min(args.num_workers, len(work)), generator=own)
            for found in progress(([line] for line in loader), len(work), "negatives") if work.numbers else ():
                if found[0]:
                    lines.write(found[0] + "\n")
                    lines.flush()
                    done.add(json.loads(found[0])["number"])
            bad = set((work.images.outcomes == 2).nonzero().flatten().tolist())
            upto += args.count - len(done)


def _begin(args: argparse.Namespace, files: list[Path]) -> set[int]:
    """Make the folders; the numbers of the negatives that are there."""
    listed = hashlib.blake2b(b"\n".join(map(os.fsencode, files)), digest_size=8).hexdigest()
    settings = json.dumps({name: getattr(args, name) for name in SETTINGS} | {"images": listed}, default=str)
    note = args.out / "settings.json"
    try:
        for name in FOLDERS:
            (args.out / name).mkdir(parents=True, exist_ok=True)
        if note.exists() and note.read_text(encoding="utf-8") != settings:
            raise UserError(
                f"`OUT` must be new or of the same settings and images, got {args.out} of {note.read_text(encoding='utf-8')}"
            )
        note.write_text(settings, encoding="utf-8")
        return _done(args.out / "pairs.jsonl")
    except OSError as error:
        raise UserError(f"`OUT` must be a folder that can be written, got {args.out} ({error})") from None


def _done(path: Path) -> set[int]:
    """What the lines tell; a last one that was cut off in the middle is taken away."""
    if not path.exists():
        return set()
    content = path.read_bytes()
    lines = content[: content.rfind(b"\n") + 1]
    if len(lines) < len(content):
        path.write_bytes(lines)
    return {json.loads(line)["number"] for line in lines.splitlines()}


class Negatives(Dataset[str]):
    """Writing as a data set, so that a loader does it in parallel: an item is the line of a negative, "" if it failed."""

    def __init__(self, images: ImageFiles, swap: SaliencySwap, out: Path, seed: int) -> None:
        self.images, self.swap, self.out, self.seed = images, swap, out, seed
        self.numbers: list[int] = []

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> str:
        number = self.numbers[index]
        which = number % len(self.images)
        image = self.images[which]
        if not isinstance(image, Image.Image):
            return ""
        with own_seed(_seed_of(self.seed, number)):
            params = self.swap.make_params([image])
        part = os.fsencode(self.images.files[which].stem)[:160].decode("utf-8", "ignore")  # a name has 255 bytes at most
        stem = f"{which:06d}_{part}"
        name = f"{number:06d}_{part}.png"
        mask = self.swap.transform(empty_mask(image), params)
        if number == which:
            _save(image, self.out / "normal" / f"{stem}.png")
        _save(self.swap.transform(image, params), self.out / "swap" / name)
        _save(tvf.to_pil_image(mask * 255), self.out / "mask" / name)
        pairs = [PatchPair(*row)._asdict() for row in params["pairs"][0].tolist() if row[5]]
        return json.dumps({"number": number, "file": name, "image": str(self.images.files[which]), "pairs": pairs})


def _seed_of(seed: int, number: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed} {number}".encode(), digest_size=8).digest(), "little") >> 1


def _save(image: Image.Image, path: Path) -> None:
    """All of the file or nothing: a killed run leaves a draft, which the next one writes over."""
    draft = path.with_name(f".{path.name}.draft")
    image.save(draft, "PNG")
    os.replace(draft, path)
