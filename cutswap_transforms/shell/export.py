"""`export FOLDER OUT --count N --seed S --size H W` writes negatives and their masks as files, or as shards.

Requirements:

- the result depends only on the images, the settings and the seed: every negative has its own seed, so the number of
  workers and machines does not change it, nor does an interruption;
- ranks share the work out; together they write what one process would write, and none of it twice;
- a stopped run can continue: a negative is done when its line is written, which is after its pictures; a shard when it has
  its name;
- the images are read, never written: OUT must not contain any of them, with links resolved.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from ..ranks import rank_and_world
from .files import find_images, image_keys
from .messages import UserError, one_line, tell_unchanged
from .negatives import Negatives
from .outputs import check_outside, save_image
from .resolve import image_files, make_swap
from .resume import FOLDERS, Names, PairLines, join, open_out
from .shards import Samples, check_installed, finish, open_shards, shards_of, whole, write_shard

SETTINGS = ("size", "white", "seed", "model", "weights", "clustering", "levels", "scale")
MOST_FILES = 10**7  # negatives in folders


def run(args: argparse.Namespace) -> None:
    """Write the missing negatives of this process's share; print the number of negatives."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # progress if tqdm is not installed
    try:
        rank, world = rank_and_world()
    except ValueError as error:
        raise UserError(str(error)) from None
    _check_shards(args)
    images = image_files(args, find_images(args.images))
    _check_outside(args, images.files)
    work = Negatives(images, image_keys(args.images, images.files), make_swap(args, scale=tuple(args.scale)), args.seed)
    (_export_shards if args.shards else _export_files)(work, args, rank, world)


def _check_shards(args: argparse.Namespace) -> None:
    if args.shards:
        check_installed()
    if args.shards and args.shards > args.count:
        raise UserError(f"`--shards` must be at most `--count`, {args.count}, got {args.shards}; an empty shard has no use")
    if not args.shards and args.count > MOST_FILES:
        raise UserError(f"`--count` must be at most {MOST_FILES} files, got {args.count}; write shards with `--shards`")


def _export_files(work: Negatives, args: argparse.Namespace, rank: int, world: int) -> None:
    files, settings = Files(work, args.out, args.count), _settings(args, work)
    with open_out(args.out, settings, rank, world) as stream:
        lines = PairLines(stream)
        with _told(work, lambda: f"{len(lines.done)} negatives are in {args.out}"):
            share = [number for number in range(args.count) if number % len(work.images) % world == rank]
            lines.load(args.out, files.expected)
            missing = [number for number in share if number not in lines.done]
            for line in work.each(files, missing, len(missing), args.num_workers):
                lines.add(line)
            lines.settle()
    total = len(lines.done) if world == 1 else len(share)
    print(f"{args.out}: {total} negatives{_of(rank, world)}, {len(missing)} of them new")
    tell_unchanged(lines.unchanged)
    if world > 1:
        join(args.out, settings, files.expected, args.count)


def _export_shards(work: Negatives, args: argparse.Namespace, rank: int, world: int) -> None:
    everything = shards_of(args.out, args.count, args.shards)
    share = dict(islice(everything.items(), rank, None, world))
    settings = _settings(args, work) | {"count": args.count, "shards": args.shards}
    with (
        open_shards(args.out, settings, shared=world > 1),
        _told(work, lambda: f"{sum(map(whole, share))} of {len(share)} shards are in {args.out}"),
    ):
        missing = {path: numbers for path, numbers in share.items() if not whole(path)}
        count = sum(map(len, missing.values()))
        samples = work.each(Samples(work), chain.from_iterable(missing.values()), count, args.num_workers)
        unchanged = [name for path, numbers in missing.items() for name in write_shard(path, len(numbers), samples)]
    total = sum(map(len, share.values()))
    print(f"{args.out}: {total} negatives in {len(share)} shards{_of(rank, world)}, {count} of them new")
    tell_unchanged(unchanged)
    if world > 1:
        finish(args.out, settings, everything)


def _of(rank: int, world: int) -> str:
    return f" of rank {rank} of {world}" if world > 1 else ""


@contextmanager
def _told(work: Negatives, kept: Callable[[], str]) -> Iterator[None]:
    """Every end of the writing as a sentence, with what is kept."""
    then = "the same command goes on from there"
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{kept()}, {then}") from None
    except (MemoryError, OSError, RuntimeError) as error:
        raise UserError(f"{one_line(error)}; {kept()}, {then}", 1) from None
    except ValueError as error:  # no room for patches inside `--roi`
        raise UserError(one_line(error)) from None
    finally:
        work.images.print_notes()


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


class Files(Dataset[str]):
    """Writes the pictures of a negative; an item is the line of its number, "" if no image can be read."""

    def __init__(self, work: Negatives, out: Path, count: int) -> None:
        self.work, self.files, self.out, self._last = work, work.images.files, out, count - 1
        self._places = {str(path): which for which, path in enumerate(self.files)}

    def expected(self, number: int, image: object) -> Names | None:
        """What the line of a negative names, and its pictures by folder, if it is made of that image; None: no such image."""
        own = number % len(self.files)
        if image == str(self.files[own]):
            return self._names(number, own)
        return self._names(number, self._places[image]) if isinstance(image, str) and image in self._places else None

    def _names(self, number: int, which: int) -> Names:
        """The image itself is written once: with the negative of its number or, in place of an image before it, the last."""
        stem = os.fsencode(self.files[which].stem)[:160].decode("utf-8", "ignore")  # file names have at most 255 bytes
        file = f"{number:06d}_{stem}.png"
        normal = {"normal": f"{which:06d}_{stem}.png"} if number == min(which, self._last) else {}
        return {"file": file, "image": str(self.files[which])}, {**normal, "swap": file, "mask": file}

    def __getitem__(self, number: int) -> str:
        made = self.work.make(number)
        if made is None:
            return ""
        fields, pictures = self._names(number, made.which)
        for folder, name in pictures.items():
            save_image(getattr(made, folder), self.out / folder / name)
        return json.dumps({"number": number, **fields, **made.told})
