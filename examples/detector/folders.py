"""The folder of a run: files are complete, nothing is written through a link, and only the same command resumes a run."""

from __future__ import annotations

import argparse
import json
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data import Category, DataError
from data_files import regular
from lightning.pytorch.utilities import rank_zero_only

CHECKPOINT = "checkpoint.ckpt"
# The arguments that a detector depends on; the others only say where and how it is fitted.
SETTINGS = (
    *("features", "size", "white", "skip_unreadable", "seed", "steps", "batch", "lr", "weight_decay", "tune_from", "loss"),
    *("precision", "densities", "fusion", "negatives", "saliency", "saliency_size", "levels", "grid", "clusters"),
    *("saliency_weight", "color", "region", "scale", "rule", "feather", "jitter"),
)


def fresh(path: Path) -> Path:
    """The path, after removing what is there: writing to a pipe would block forever, to a link would change another file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    return path


@rank_zero_only
def write(path: Path, content: Any) -> None:
    draft = fresh(path.with_suffix(".part"))  # a file that exists is complete
    draft.write_text(json.dumps(content, indent=1), encoding="utf-8")
    draft.replace(path)


def read_json(path: Path) -> Any:
    """Read what `write` has written.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not such a file.
    """
    try:
        return json.loads(regular(path).read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def resume(args: argparse.Namespace, category: Category, folder: Path, results: Sequence[str]) -> dict[str, Any]:
    """The settings of the run; an earlier run in the folder must have the same settings and data.

    The names and contents of all data files are compared; of a `module:factory`, only the name.
    """
    found = {name: getattr(args, name) for name in SETTINGS} | {"data": category.digest()}
    settings = json.loads(json.dumps(found | {"roi": args.roi and args.roi.fingerprint}))
    note = folder / "settings.json"
    if any(os.path.lexists(folder / name) for name in (*results, CHECKPOINT)):  # otherwise it never began
        try:
            there = read_json(note)
            differing = [f"{k}: {str(there.get(k))[:80]} there, {v} now" for k, v in settings.items() if there.get(k) != v]
        except (OSError, ValueError, AttributeError) as error:
            raise DataError(
                f"`out` must be new or hold a run, got {str(note)!r}, which is damaged ({error}): remove the folder"
            ) from error
        if differing:
            raise DataError(
                f"`out` must be new or hold the same run, got {str(folder)!r} with {'; '.join(differing)} "
                "(of data, names and contents are compared); take another folder, or remove that one"
            )
    write(note, settings)
    return settings


def checkpoint_in(folder: Path) -> Path | None:
    """The checkpoint to resume from, if there is one.

    Raises:
        DataError: it is damaged. torch does not check the checksums in its files.
    """
    path = folder / CHECKPOINT
    if not os.path.lexists(path):
        return None
    try:
        with zipfile.ZipFile(regular(path)) as archive:
            damaged = archive.testzip()
    except Exception as error:  # the module raises anything on a file that is not an archive
        raise damaged_checkpoint(path, error) from error
    if damaged:
        raise damaged_checkpoint(path, f"wrong checksum of {damaged}")
    return path


def damaged_checkpoint(path: Path, reason: object) -> DataError:
    first = (str(reason) or type(reason).__name__).splitlines()[0]
    return DataError(f"`out` must be new or hold a run, got {str(path)!r}, which is damaged ({first}): remove it")
