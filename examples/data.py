"""Reads anomaly-detection data: MVTec AD's layout, VisA's `1cls.csv`, anomalib's `Folder`, magnetic tiles, the toy set.

A `Category` lists its files without reading them. `decode` reads all images of a list at once, as squares, so that unreadable
ones are known before training begins. In memory, an image of 256 px takes 0.2 MB.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from data_files import SUFFIXES, DataError, check_inside, content, images_in, regular, subfolders
from pixels import read_image, read_mask
from torch import Tensor


@dataclass(frozen=True)
class Sample:
    path: Path
    defect: str | None = None  # None: a normal image
    mask: Path | None = None

    def __post_init__(self) -> None:
        if self.defect is not None:
            _check_part("a defect's name is that of its folder", self.defect)


@dataclass(frozen=True)
class Category:
    name: str
    train: list[Sample]  # all normal
    test: list[Sample]

    def __post_init__(self) -> None:
        _check_part("a category's name becomes that of a folder", self.name)

    @property
    def samples(self) -> list[Sample]:
        return [*self.train, *self.test]

    def digest(self) -> str:
        """A digest of the names, kinds and contents of all images and masks, but not of their folder."""
        known = hashlib.blake2b(self.name.encode(), digest_size=8)
        for sample in self.samples:
            about = [(*path.parts[-2:], content(path)) if path else None for path in (sample.path, sample.mask)]
            known.update(repr((about, sample.defect)).encode())
        return f"{len(self.train)} + {len(self.test)} images, {known.hexdigest()}"


def _check_part(why: str, name: str) -> None:
    if not name.strip(" .") or not name.isprintable() or set(name) & set("/\\:") or len(name.encode()) > 200:
        raise DataError(f"{why}: it must be one part of a path, printable, of at most 200 bytes, got {name[:200]!r}")


# ---- folders ---------------------------------------------------------------------------------------------------------


def _check_folder(folder: Path) -> None:
    if folder.is_file():
        raise DataError(f"`data` must be 'toy' or a folder, got the file {str(folder)!r}; name the folder that it is in")
    if not folder.is_dir():
        raise DataError(f"`data` must be 'toy' or a folder, got {str(folder)!r}, which does not exist")


def read_categories(folder: Path, names: Sequence[str] = (), option: str = "--categories") -> list[Category]:
    """All categories of a folder, or those named: VisA where there is a 1cls.csv, magnetic tiles where there is MT_Free,
    else MVTec layout.

    The folder may be a category itself or hold one category per subfolder. `option` is the name for error messages.
    """
    _check_folder(folder)
    table = next((t for t in (folder / "1cls.csv", folder / "split_csv" / "1cls.csv") if t.is_file()), None)
    if table:
        return read_visa(table, folder, names, option)
    if (folder / "MT_Free").is_dir():
        return _named([read_magnetic_tiles(folder)], names, option)
    if (folder / "train").is_dir():
        return _named([read_mvtec(folder)], names, option)
    found = [sub for sub in subfolders(folder) if (sub / "train").is_dir()]
    if not found:
        raise DataError(
            "`data` must hold train/good (MVTec layout), a folder per category with it, or VisA's 1cls.csv, "
            f"got {str(folder)!r} with {_listing(folder)}; "
            "for anomalib's Folder layout, fit takes the folder of normal images, evaluate and compare take --normal-dir and "
            "--abnormal-dir"
        )
    _check_names(names, [sub.name for sub in found], option)
    return [read_mvtec(sub, folder) for sub in found if not names or sub.name in names]


def read_mvtec(folder: Path, root: Path | None = None, tested: bool = True) -> Category:
    """train/good, test/<defect>, ground_truth/<defect>/<stem>_mask.png (or <stem>.png); test/good is normal.

    `root` is the data folder, if it is another: links may lead to files inside it. Without `tested`, no test images are needed.
    """
    name = folder.name if root else folder.resolve().name  # a link inside `root` keeps its own name
    root = root or folder
    if not (folder / "train" / "good").is_dir():
        listing = _listing(folder / "train")
        raise DataError(f"`data` must hold the normal images in train/good, got {str(folder / 'train')!r} with {listing}")
    train = [Sample(path) for path in list_images(folder / "train" / "good")]
    others = [sub.name for sub in subfolders(folder / "train") if sub.name != "good" and images_in(sub)]
    if others:
        raise DataError(
            f"`data` must hold normal images alone in train, got {str(folder / 'train')!r} with {', '.join(others)}; "
            "defects belong in test/<defect>"
        )
    if not tested and not (folder / "test").is_dir():
        _check_inside(train, root)
        return Category(name, train, [])
    if not (folder / "test").is_dir():
        raise DataError(f"`data` must hold test/<defect> and test/good, got {str(folder)!r} with {_listing(folder)}")
    test: list[Sample] = []
    for sub in subfolders(folder / "test"):
        masks = _masks_by_stem(folder / "ground_truth" / sub.name)
        defect = None if sub.name == "good" else sub.name
        test += [Sample(path, defect, masks.get(path.stem)) for path in list_images(sub)]
    if not test:
        raise DataError(f"`data` must hold test/<defect> and test/good, got {str(folder / 'test')!r} without folders")
    _check_inside([*train, *test], root)
    return Category(name, train, test)


def read_normal(folder: Path, names: Sequence[str] = ()) -> Category:
    """The normal images of one category, in any layout that `read_categories` knows, or of a folder with nothing else.

    If the folder itself has no images, they may be in a subfolder `good`. Test images are left out.
    """
    _check_folder(folder)
    if (folder / "train").is_dir():
        found = _named([read_mvtec(folder, tested=False)], names, "--category")
    elif images_in(folder) or (folder / "good").is_dir():
        found = _named([_read_plain(folder)], names, "--category")
    elif not any(subfolders(folder)) and not (folder / "1cls.csv").is_file():
        raise DataError(
            f"`data` must hold images of good parts ({' '.join(SUFFIXES)}), got {str(folder)!r} with {_listing(folder)}"
        )
    else:
        found = read_categories(folder, names, "--category")
    if len(found) > 1:
        listing = ", ".join(category.name for category in found)
        raise DataError(f"`data` must hold one category, got {len(found)}: name one of {listing} with --category")
    return Category(found[0].name, found[0].train, [])


def _read_plain(folder: Path) -> Category:
    inner = folder if images_in(folder) else folder / "good"
    samples = [Sample(path) for path in list_images(inner)]
    _check_inside(samples, folder)
    return Category(folder.resolve().name, samples, [])


def read_visa(table: Path, root: Path, names: Sequence[str] = (), option: str = "--categories") -> list[Category]:
    """VisA's `1cls.csv`: columns object, split, label, image, mask; paths count from `root`."""
    check_inside([table], [root])
    samples: dict[str, dict[str, list[Sample]]] = {}
    for row in _visa_rows(table):
        defect = None if row["label"] == "normal" else row["label"]
        sample = Sample(root / row["image"], defect, root / row["mask"] if row["mask"] else None)
        samples.setdefault(row["object"], {"train": [], "test": []})[row["split"]].append(sample)
    _check_inside([s for parts in samples.values() for part in parts.values() for s in part], root)
    for name, parts in samples.items():
        if not parts["train"] or not parts["test"]:
            raise DataError(f"`1cls.csv` must list training and test images of every object, got none of one kind for {name!r}")
        if any(s.defect for s in parts["train"]):
            raise DataError(f"`1cls.csv` must list normal images only as training images, got anomalies for {name!r}")
    return _named([Category(name, parts["train"], parts["test"]) for name, parts in sorted(samples.items())], names, option)


def _visa_rows(table: Path) -> list[dict[str, str]]:
    """The rows, each with all columns that are needed; only the mask may be empty."""
    try:
        text = table.read_text(encoding="utf-8-sig")  # with or without the byte order mark that spreadsheets write
        if "\0" in text:
            raise ValueError("it holds NUL bytes")
        reader = csv.DictReader(io.StringIO(text, newline=""))
        rows = [(reader.line_num, row) for row in reader]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"`1cls.csv` must be a table in UTF-8, got {str(table)!r} ({error})") from error
    wanted = ("image", "label", "mask", "object", "split")
    rule = f"`1cls.csv` must have rows with the columns {', '.join(wanted)}, got"
    lacking = [name for name in wanted if name not in (reader.fieldnames or ())]
    if lacking or not rows:
        raise DataError(f"{rule} {str(table)!r} without {', '.join(lacking) or 'rows'}")
    for line, row in rows:
        lacking = [name for name in wanted if not (row[name] or (name == "mask" and row[name] == ""))]
        if lacking:
            raise DataError(f"{rule} line {line} of {str(table)!r} without {', '.join(lacking)}")
        if row["split"] not in ("train", "test"):
            raise DataError(
                f"`1cls.csv` must have `split` train or test, got {row['split']!r} in line {line} of {str(table)!r}"
            )
    return [row for _, row in rows]


def _check_inside(samples: Sequence[Sample], *roots: Path) -> None:
    check_inside((path for sample in samples for path in (sample.path, sample.mask) if path), roots)


def read_parts(
    root: Path, normal: str, abnormal: Sequence[str], normal_test: str | None = None, masks: Sequence[str] = ()
) -> Category:
    """anomalib's `Folder`, with the names of its folders. Without normal test images, every fifth normal image is held out.

    A defect's mask has its image's name (any suffix, `_mask` allowed); one mask folder is for all defects, or each has its own.
    """
    train = [Sample(path) for path in list_images(root / normal)]
    if normal_test is None:
        train, held_out = [s for i, s in enumerate(train) if i % 5], train[::5]
    else:
        held_out = [Sample(path) for path in list_images(root / normal_test)]
    if not train:
        raise DataError(f"`normal_dir` must hold two images or more to split off test images, got {len(held_out)}")
    if masks and len(masks) not in (1, len(abnormal)):
        raise DataError(f"`mask_dir` must name one folder or one for each of {list(abnormal)}, got {list(masks)}")
    test = held_out
    for i, part in enumerate(abnormal):
        found = _masks_by_stem(root / masks[i % len(masks)]) if masks else {}
        test = test + [Sample(path, Path(part).name, found.get(path.stem)) for path in list_images(root / part)]
    _check_inside([*train, *test], root, *(root / part for part in (normal, normal_test or normal, *abnormal, *masks)))
    return Category(root.resolve().name, train, test)


def read_magnetic_tiles(folder: Path) -> Category:
    """The magnetic-tile defects of Huang et al. as they are published: MT_<kind>/Imgs with <stem>.jpg and its mask <stem>.png.

    The data set has no split: a seeded random four fifths of the defect-free tiles are for training, as in `RESULTS.md`.
    """
    free = [Sample(path) for path in _photographs(folder / "MT_Free" / "Imgs")]
    chosen = {int(i) for i in np.random.default_rng(0).permutation(len(free))[: len(free) * 4 // 5]}
    test = [s for i, s in enumerate(free) if i not in chosen]
    for sub in subfolders(folder):
        if sub.name.startswith("MT_") and sub.name != "MT_Free":
            defect = sub.name.removeprefix("MT_").lower()
            test += [Sample(path, defect, path.with_suffix(".png")) for path in _photographs(sub / "Imgs")]
    _check_inside([*free, *test], folder)
    return Category("mtd", [s for i, s in enumerate(free) if i in chosen], test)


def _photographs(folder: Path) -> list[Path]:
    return [path for path in list_images(folder) if path.suffix.lower() == ".jpg"]


def list_images(folder: Path) -> list[Path]:
    """The images of one folder, sorted."""
    if not folder.is_dir():
        raise DataError(f"`data` must hold the folder {str(folder)!r}")
    found = images_in(folder)
    if not found:
        raise DataError(f"`data` must hold images ({' '.join(SUFFIXES)}) in every class, got none in {str(folder)!r}")
    return found


def _masks_by_stem(folder: Path) -> dict[str, Path]:
    return {p.stem.removesuffix("_mask"): p for p in images_in(folder)} if folder.is_dir() else {}


def _named(categories: list[Category], names: Sequence[str], option: str = "--categories") -> list[Category]:
    _check_names(names, [c.name for c in categories], option)
    return [c for c in categories if not names or c.name in names]


def _check_names(names: Sequence[str], known: Sequence[str], option: str) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise DataError(f"`{option}` must be among {', '.join(known)}, got {', '.join(unknown)}")


def _listing(folder: Path) -> str:
    names = sorted(p.name for p in folder.iterdir())[:8] if folder.is_dir() else []
    return ", ".join(names) or "nothing in it"


# ---- pixels ----------------------------------------------------------------------------------------------------------


def decode(
    samples: Sequence[Sample], size: int, skip_unreadable: bool = False, white: float | None = None, smallest: int = 1
) -> tuple[Tensor, list[Sample]]:
    """All images as squares, uint8 [N, 3, size, size], and the samples that they belong to.

    Images may differ in size and mode; `white` and `smallest` are for `read_image`. All unreadable images are
    named in one error, or in one warning if they are to be skipped.
    """
    read = attempt(lambda sample: read_image(regular(sample.path), size, white, smallest), samples)
    bad = [f"{s.path} ({error})" for s, error in zip(samples, read, strict=True) if isinstance(error, Exception)]
    if bad and not skip_unreadable:
        raise DataError(
            f"`data` must hold images that can be read, got {len(bad)} that cannot: {'; '.join(bad[:5])}"
            f"{' ...' if len(bad) > 5 else ''}; repair or remove them, or pass --skip-unreadable"
        )
    if bad:
        warnings.warn(f"skipped {len(bad)} images that cannot be read: {'; '.join(bad[:5])}", stacklevel=2)
    kept = [(s, image) for s, image in zip(samples, read, strict=True) if isinstance(image, Tensor)]
    if not kept:
        raise DataError(f"`data` must hold images that can be read, got none among {len(samples)}")
    return torch.stack([image for _, image in kept]), [s for s, _ in kept]


def decode_masks(samples: Sequence[Sample], size: int) -> Tensor:
    """uint8 {0, 1} [N, size, size]; zeros for normal images. A defect without a mask is an error;
    a mask that looks wrong causes a warning."""
    lacking = [str(s.path) for s in samples if s.defect and s.mask is None]
    if lacking:
        raise DataError(
            f"`data` must hold a mask for every defect to score pixels, got {len(lacking)} without, first {lacking[0]!r}; "
            "in MVTec layout it is ground_truth/<defect>/<stem>_mask.png"
        )
    doubts: list[str] = []

    def read_one(sample: Sample) -> Tensor:
        nothing = torch.zeros(size, size, dtype=torch.uint8)
        return read_mask(regular(sample.mask), size, sample.path, doubts.append) if sample.mask else nothing

    read = attempt(read_one, samples)
    bad = [f"{s.mask} ({error})" for s, error in zip(samples, read, strict=True) if isinstance(error, Exception)]
    if bad:
        raise DataError(f"`data` must hold masks that can be read, got {len(bad)} that cannot: {'; '.join(bad[:5])}")
    if doubts:
        more = f"; {len(doubts) - 5} more" if len(doubts) > 5 else ""
        warnings.warn(f"masks to look at: {'; '.join(sorted(doubts)[:5])}{more}", stacklevel=2)
    return torch.stack([mask for mask in read if isinstance(mask, Tensor)])


def attempt(read: Callable[[Sample], Tensor], samples: Sequence[Sample]) -> list[Tensor | Exception]:
    """The result of `read` for each sample, or its exception, on several threads."""

    def one(sample: Sample) -> Tensor | Exception:
        try:
            return read(sample)
        except Exception as error:  # Pillow's decoders raise anything on a broken file
            return error

    with ThreadPoolExecutor() as pool:  # Pillow releases the GIL while it decodes
        return list(pool.map(one, samples))


# ---- command line ----------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser, tested: bool = True) -> None:
    """The arguments that name the data. Without `tested`, normal images of one category are enough."""
    group = parser.add_argument_group("data")
    layouts = "MVTec layout, VisA, magnetic tiles, anomalib Folder, or toy"
    group.add_argument("data", metavar="DATA", help=layouts if tested else f"a folder of images of good parts; or {layouts}")
    group.add_argument(
        "--categories" if tested else "--category", nargs="+" if tested else 1, dest="categories", default=[], metavar="NAME",
        help="some of them (default: all)" if tested else "where DATA holds several",
    )  # fmt: skip
    if tested:
        group.add_argument("--normal-dir", metavar="DIR", help="anomalib Folder: normal images, under DATA")
        group.add_argument("--abnormal-dir", nargs="+", default=[], metavar="DIR", help="anomalib Folder: defects")
        group.add_argument("--normal-test-dir", metavar="DIR", help="anomalib Folder: normal test images (default: a fifth)")
        group.add_argument("--mask-dir", nargs="+", default=[], metavar="DIR", help="anomalib Folder: masks of the defects")
    add_decoding(group)


def add_decoding(group: Any) -> None:
    group.add_argument(
        "--white", type=float, help="value of white in 16-bit and float images (default: that of the run, or 65535)"
    )
    group.add_argument("--skip-unreadable", action="store_true", help="leave out images that cannot be read")


def categories_from(args: argparse.Namespace) -> list[Category]:
    """The categories of the arguments of `add_arguments`. The toy set is drawn on first use and kept beside the results."""
    folder = data_folder(args)
    if not args.normal_dir and (args.abnormal_dir or args.normal_test_dir or args.mask_dir):
        raise DataError("`normal_dir` must be given where the parts of a Folder are named, got none")
    if args.normal_dir:
        parts = read_parts(folder, args.normal_dir, args.abnormal_dir, args.normal_test_dir, args.mask_dir)
        return _named([parts], args.categories)
    return read_categories(folder, args.categories)


def data_folder(args: argparse.Namespace) -> Path:
    if args.data != "toy":
        return Path(args.data)
    from toy import write_toy

    try:
        return write_toy(Path(args.out).parent / "toy")
    except FileExistsError as error:
        raise DataError(str(error)) from error
