"""`export FOLDER OUT --count N --seed S --size H W` writes negatives and their masks as files.

Requirements:

- the result depends only on the images, the settings and the seed: every negative has its own seed, so neither the
  number of processes nor an interruption changes it;
- a stopped run can continue: a negative is done when its line is in `pairs.jsonl`, which is written after its pictures;
- the images are read, never written: OUT must not contain any of them, with links resolved.
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

from ..cache.precompute import progress
from ..draw import PatchPair
from ..seeds import own_seed
from ..swap import empty_mask, swaps_made
from ..transform import SaliencySwap
from .files import ImageFiles, find_images
from .messages import UserError, one_line, tell_unchanged
from .outputs import check_outside, save_image
from .resolve import image_files, make_swap
from .resume import FOLDERS, PairLines, open_out

SETTINGS = ("size", "white", "seed", "model", "weights", "clustering", "levels", "scale")


def run(args: argparse.Namespace) -> None:
    """Write the missing negatives; print the number of negatives."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # progress if tqdm is not installed
    images = image_files(args, find_images(args.images))
    _check_outside(args, images.files)
    swap = make_swap(args, scale=tuple(args.scale))
    with open_out(args.out, _settings(args, images.files, swap)) as stream:
        _export(Negatives(images, swap, args.out, args.seed), PairLines(stream), args)


def _export(work: Negatives, lines: PairLines, args: argparse.Namespace) -> None:
    try:
        lines.load(args.out, work.line, work.pictures)
        before = len(lines.done)
        _write(work, lines, args)
        lines.settle()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_kept(args.out, lines)) from None
    except (MemoryError, OSError, RuntimeError) as error:
        raise UserError(f"{one_line(error)}; {_kept(args.out, lines)}", 1) from None
    except ValueError as error:  # no room for patches inside `--roi`
        raise UserError(one_line(error)) from None
    finally:
        work.images.print_notes()
    if not lines.done:
        raise UserError(f"none of the {len(work.images)} images tried could be read")
    print(f"{args.out}: {len(lines.done)} negatives, {len(lines.done) - before} of them new")
    tell_unchanged(lines.unchanged)


def _kept(out: Path, lines: PairLines) -> str:
    return f"{len(lines.done)} negatives are in {out}, the same command goes on from there"


def _check_outside(args: argparse.Namespace, found: list[Path]) -> None:
    folders = (args.out, *(args.out / name for name in FOLDERS))
    try:
        check_outside("OUT", args.out, folders, args.images, found)
    except ValueError as error:  # a NUL byte
        raise UserError(f"`OUT` must be a folder that can be written, got {str(args.out)!r} ({error})") from None


def _settings(args: argparse.Namespace, files: list[Path], swap: SaliencySwap) -> dict[str, Any]:
    """All that the results depend on: arguments, settings of the regions, and images."""
    listed = hashlib.blake2b(repr([_stamp(path) for path in files]).encode(), digest_size=8).hexdigest()
    regions = swap._finder.settings.hex()[:16]  # includes the contents of weights
    roi = getattr(swap.roi, "fingerprint", None)  # by the contents of the mask, not its name
    return {name: getattr(args, name) for name in SETTINGS} | {"roi": roi, "regions": regions, "images": listed}


def _stamp(path: Path) -> tuple[bytes, int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return os.fsencode(path), 0, 0
    return os.fsencode(path), status.st_size, status.st_mtime_ns


def _write(work: Negatives, lines: PairLines, args: argparse.Namespace) -> None:
    """Write the first `count` negatives, in rounds, because unreadable images show up on the way."""
    upto, bad, count = args.count, set[int](), len(work.images)
    while len(lines.done) < args.count and len(bad) < count:
        work.numbers = [i for i in range(upto) if i not in lines.done and i % count not in bad]
        own = torch.Generator()  # the loader would draw a seed from the global generator
        loader = DataLoader(work, batch_size=None, num_workers=min(args.num_workers, len(work)), generator=own)
        for batch in progress(([line] for line in loader), len(work), "negatives") if work.numbers else ():
            if batch[0]:
                lines.add(batch[0])
        bad = set((work.images.outcomes == 2).nonzero().flatten().tolist())
        upto += args.count - len(lines.done)


class Negatives(Dataset[str]):
    """Writes negatives as a data set, so that a loader does it in parallel: an item is the line of one, "" if it failed."""

    def __init__(self, images: ImageFiles, swap: SaliencySwap, out: Path, seed: int) -> None:
        self.images, self.swap, self.out, self.seed = images, swap, out, seed
        self.numbers: list[int] = []

    def __len__(self) -> int:
        return len(self.numbers)

    def line(self, number: int) -> dict[str, str]:
        """The file names in the line of a negative."""
        which = number % len(self.images)
        return {"file": f"{number:06d}_{self._part(which)}.png", "image": str(self.images.files[which])}

    def pictures(self, number: int) -> dict[str, str]:
        """Names of the files written for a negative, by folder; the first one of an image includes the image."""
        which, file = number % len(self.images), self.line(number)["file"]
        normal = {"normal": f"{which:06d}_{self._part(which)}.png"} if number == which else {}
        return {**normal, "swap": file, "mask": file}

    def _part(self, which: int) -> str:
        return os.fsencode(self.images.files[which].stem)[:160].decode("utf-8", "ignore")  # file names have at most 255 bytes

    def __getitem__(self, index: int) -> str:
        number = self.numbers[index]
        image = self.images[number % len(self.images)]
        if not isinstance(image, Image.Image):
            return ""
        with own_seed(_seed_of(self.seed, number)):
            params = self.swap.make_params([image])
        negative, mask = self.swap.transform(image, params), self.swap.transform(empty_mask(image), params)
        made = {"normal": image, "swap": negative, "mask": tvf.to_pil_image(mask * 255)}
        for folder, name in self.pictures(number).items():
            save_image(made[folder], self.out / folder / name)
        pairs = [PatchPair(*row)._asdict() for row in params["pairs"][0][swaps_made(params["pairs"][0])].tolist()]
        changed = negative.tobytes() != image.tobytes()
        return json.dumps({"number": number, **self.line(number), "pairs": pairs, "changed": changed})


def _seed_of(seed: int, number: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed} {number}".encode(), digest_size=8).digest(), "little") >> 1
