"""The output folder of `export --shards`: tar files, as the package `webdataset` writes and reads them.

- A shard is written beside its place and renamed, so one that is there is whole. What a kill leaves is written again.
- Headers have no time and no owner, so the same negatives are the same bytes.
- Every shard belongs to one rank. `export.lock` is held by all ranks together, or by one process without ranks.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image
from torch.utils.data import Dataset

from .messages import UserError
from .negatives import Negatives
from .outputs import write_whole
from .resume import Busy, check_settings, locked, remove_drafts, writable

Sample = dict[str, Any]


def check_installed() -> None:
    try:
        importlib.import_module("webdataset")
    except ImportError:
        raise UserError('`--shards` needs webdataset: pip install "cutswap-transforms[webdataset]"') from None


def shards_of(out: Path, count: int, shards: int) -> dict[Path, range]:
    """The path of each shard and the numbers of its negatives, which follow each other."""
    return {out / f"shard-{k:06d}.tar": range(k * count // shards, (k + 1) * count // shards) for k in range(shards)}


def whole(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


@contextlib.contextmanager
def open_shards(out: Path, settings: dict[str, Any], shared: bool = False) -> Iterator[None]:
    """The folder, created if missing, locked; without drafts of killed processes if this is the only one.

    Raises:
        UserError: a folder with other settings, in use by another export, or not writable.
    """
    with contextlib.ExitStack() as stack:
        with writable(out, settings, out / "export.lock", *out.glob("shard-*.tar")):
            out.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(out / "export.lock", out, shared))
            check_settings(out, settings, not any(out.glob("shard-*.tar")))
            if not shared:
                remove_drafts(out)
        yield


def write_shard(path: Path, count: int, samples: Iterator[Sample]) -> list[str]:
    """Write the next `count` samples; the names of negatives that equal their image."""
    unchanged = []

    def write(draft: Path) -> None:
        from webdataset import TarWriter

        with open(draft, "wb") as file, TarWriter(file, user="", group="", encoder=False, mtime=0) as tar:
            for sample in islice(samples, count):
                tar.write(sample)
                if not json.loads(sample["json"])["changed"]:
                    unchanged.append(f"{sample['__key__']}.png")

    write_whole(path, write)
    return unchanged


def finish(out: Path, settings: dict[str, Any], shards: Iterable[Path]) -> None:
    """Remove the drafts of killed ranks once all shards are there, unless another rank still writes."""
    if all(map(whole, shards)):
        with contextlib.suppress(Busy), open_shards(out, settings):
            pass


class Samples(Dataset[Sample]):
    """The negatives as samples of WebDataset; one without entries if no image can be read."""

    def __init__(self, work: Negatives) -> None:
        self.work = work

    def __getitem__(self, number: int) -> Sample:
        made = self.work.make(number)
        if made is None:
            return {}
        told = {"number": number, "image": str(self.work.images.files[made.which]), **made.told}
        pictures = {"png": _png(made.swap), "mask.png": _png(made.mask)}
        return {"__key__": f"{number:09d}", **pictures, "json": json.dumps(told).encode()}


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()
