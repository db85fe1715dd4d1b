"""`export FOLDER OUT --count N --seed S --size H W` writes negatives and their masks as files.

Requirements:

- the result depends only on the images, the settings and the seed: every negative has its own seed, so the number of
  workers and machines does not change it, nor does an interruption;
- ranks share the images out; together they write what one process would write, and none of it twice;
- a stopped run can continue: a negative is done when its line is written, which is after its pictures;
- the images are read, never written: OUT must not contain any of them, with links resolved.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as tvf

from ..cache.precompute import progress
from ..draw import PatchPair
from ..ranks import rank_and_world
from ..seeds import negative_seed, own_seed
from ..swap import empty_mask, swaps_made
from ..transform import SaliencySwap
from .files import ImageFiles, find_images, image_keys
from .messages import UserError, one_line, tell_unchanged
from .outputs import check_outside, save_image
from .resolve import image_files, make_swap
from .resume import FOLDERS, Names, PairLines, join, open_out

SETTINGS = ("size", "white", "seed", "model", "weights", "clustering", "levels", "scale")


def run(args: argparse.Namespace) -> None:
    """Write the missing negatives of this process's share; print the number of negatives."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # progress if tqdm is not installed
    try:
        rank, world = rank_and_world()
    except ValueError as error:
        raise UserError(str(error)) from None
    images = image_files(args, find_images(args.images))
    _check_outside(args, images.files)
    work = Negatives(images, image_keys(args.images, images.files), make_swap(args, scale=tuple(args.scale)), args)
    settings = _settings(args, work)
    with open_out(args.out, settings, rank, world) as stream:
        _export(work, PairLines(stream), args, rank, world)
    if world > 1:
        join(args.out, settings, work.expected, args.count)


def _export(work: Negatives, lines: PairLines, args: argparse.Namespace, rank: int, world: int) -> None:
    share = [number for number in range(args.count) if number % len(work.images) % world == rank]
    try:
        lines.load(args.out, work.expected)
        before = len(lines.done)
        work.numbers = [number for number in share if number not in lines.done]
        _write(work, lines, args.num_workers)
        lines.settle()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_kept(args.out, lines)) from None
    except (MemoryError, OSError, RuntimeError) as error:
        raise UserError(f"{one_line(error)}; {_kept(args.out, lines)}", 1) from None
    except ValueError as error:  # no room for patches inside `--roi`
        raise UserError(one_line(error)) from None
    finally:
        work.images.print_notes()
    if not lines.done.issuperset(share):
        raise UserError(f"none of the {len(work.images)} images tried could be read")
    count = f"{len(lines.done)} negatives" if world == 1 else f"{len(share)} negatives of rank {rank} of {world}"
    print(f"{args.out}: {count}, {len(lines.done) - before} of them new")
    tell_unchanged(lines.unchanged)


def _kept(out: Path, lines: PairLines) -> str:
    return f"{len(lines.done)} negatives are in {out}, the same command goes on from there"


def _check_outside(args: argparse.Namespace, found: list[Path]) -> None:
    folders = (args.out, *(args.out / name for name in FOLDERS))
    try:
        check_outside("OUT", args.out, folders, args.images, found)
    except ValueError as error:  # a NUL byte
        raise UserError(f"`OUT` must be a folder that can be written, got {str(args.out)!r} ({error})") from None


def _settings(args: argparse.Namespace, work: Negatives) -> dict[str, Any]:
    """All that the results depend on: arguments, settings of the regions, and images."""
    stamps = [(key, *_stamp(path)) for key, path in zip(work.keys, work.images.files, strict=True)]
    listed = hashlib.blake2b(repr(stamps).encode(), digest_size=8).hexdigest()
    regions = work.swap._finder.settings.hex()[:16]  # includes the contents of weights
    roi = getattr(work.swap.roi, "fingerprint", None)  # by the contents of the mask, not its name
    return {name: getattr(args, name) for name in SETTINGS} | {"roi": roi, "regions": regions, "images": listed}


def _stamp(path: Path) -> tuple[bytes, int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return os.fsencode(path), 0, 0
    return os.fsencode(path), status.st_size, status.st_mtime_ns


def _write(work: Negatives, lines: PairLines, num_workers: int) -> None:
    own = torch.Generator()  # the loader would draw a seed from the global generator
    loader = DataLoader(work, batch_size=None, num_workers=min(num_workers, len(work)), generator=own)
    for batch in progress(([line] for line in loader), len(work), "negatives") if work.numbers else ():
        if not batch[0]:  # then no image can be read
            break
        lines.add(batch[0])


class Negatives(Dataset[str]):
    """Writes negatives as a data set, so that a loader does it in parallel: an item is the line of one, "" if it failed.

    The images are taken in turn. One that cannot be read leaves its negatives, and their seeds, to the next image that can,
    so a rank need not know which images of the others can be read.
    """

    def __init__(self, images: ImageFiles, keys: Sequence[str], swap: SaliencySwap, args: argparse.Namespace) -> None:
        self.images, self.keys, self.swap, self.out, self.seed = images, keys, swap, args.out, args.seed
        self.numbers: Sequence[int] = ()
        self._last = args.count - 1
        self._places = {str(path): which for which, path in enumerate(images.files)}

    def __len__(self) -> int:
        return len(self.numbers)

    def expected(self, number: int, image: object) -> Names | None:
        """What the line of a negative names, and its pictures by folder, if it is made of that image; None: no such image."""
        own = number % len(self.images)
        if image == str(self.images.files[own]):
            return self._names(number, own)
        return self._names(number, self._places[image]) if isinstance(image, str) and image in self._places else None

    def _names(self, number: int, which: int) -> Names:
        """The image itself is written once: with the negative of its number or, in place of an image before it, the last."""
        stem = os.fsencode(self.images.files[which].stem)[:160].decode("utf-8", "ignore")  # file names have at most 255 bytes
        file = f"{number:06d}_{stem}.png"
        normal = {"normal": f"{which:06d}_{stem}.png"} if number == min(which, self._last) else {}
        return {"file": file, "image": str(self.images.files[which])}, {**normal, "swap": file, "mask": file}

    def __getitem__(self, index: int) -> str:
        number = self.numbers[index]
        turn, own = divmod(number, len(self.images))
        found = self._readable(own)
        if found is None:
            return ""
        which, image = found
        with own_seed(negative_seed(self.seed, self.keys[own], turn)):
            params = self.swap.make_params([image])
        negative, mask = self.swap.transform(image, params), self.swap.transform(empty_mask(image), params)
        made = {"normal": image, "swap": negative, "mask": tvf.to_pil_image(mask * 255)}
        fields, pictures = self._names(number, which)
        for folder, name in pictures.items():
            save_image(made[folder], self.out / folder / name)
        pairs = [PatchPair(*row)._asdict() for row in params["pairs"][0][swaps_made(params["pairs"][0])].tolist()]
        changed = negative.tobytes() != image.tobytes()
        return json.dumps({"number": number, **fields, "pairs": pairs, "changed": changed})

    def _readable(self, which: int) -> tuple[int, Image.Image] | None:
        """The image of that index or, in a circle, the next one that can be read."""
        outcomes = self.images.outcomes.numpy()  # shared with other workers
        while outcomes[which] == 2 or not isinstance(image := self.images[which], Image.Image):
            left = np.flatnonzero(outcomes != 2)
            if not len(left):
                return None
            which = int(left[np.searchsorted(left, which) % len(left)])
        return which, image
