"""Moves the objects of a data set from their plain ground to wood, cloth, tiles or brushed metal.

    python examples/lay_on_ground.py FOLDER OUT --ground wood

On a plain ground a threshold finds the object; on a textured one it takes a net. FOLDER is a category in MVTec AD's layout.
Every image gets its own ground, drawn by `make_samples.py` with a seed from the image's name, and the object casts a shadow on
it. Objects and defects keep their position and their pixels; the masks of the defects are copied. OUT/object_mask has the masks
of the objects, each under its image's path. Everything is rotated by EXIF. OUT appears only when it is complete.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from data import DataError, Sample, read_mvtec
from make_samples import SCENES, Scene, steel
from PIL import Image
from pixels import is_turned, read_truth
from sample_studio import Array, Picture, Surface, photograph, resized
from scipy import ndimage

from cutswap_transforms.shell.arguments import positive
from cutswap_transforms.shell.decode import Note, decoded, opened

GROUNDS = {name: SCENES[name] for name in ("wood", "cloth", "tiles")} | {"metal": Scene(steel)}
TOLERANCE = 0.05  # share of the border with dust, shadows or uneven light
LEAST = 40  # smallest contrast of an object with its ground, of 255
EDGE = 3  # pixels on each side of the outline in which object and ground may mix


def cut_out(image: Picture, tolerance: float = TOLERANCE) -> tuple[Array, Array]:
    """The matte of the object on a plain ground, float32 [H, W] in [0, 1], and the ground's color, [3].

    The ground is the border's median. Pixels that differ from it by more than a quarter of the greatest difference belong to
    the object; its holes are filled and specks of dust are dropped. A share `tolerance` of the border may differ as much. A
    pixel on the outline is a mixture of the ground and the nearest color well inside.
    """
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    ground = np.median(border, 0).astype(np.float32)
    off = np.abs(image - ground).max(2)
    contrast = np.quantile(off, 0.99)
    found = off > contrast / 4
    uneven = np.mean(np.abs(border - ground).max(1) > contrast / 4)
    if contrast < LEAST or uneven > tolerance:
        raise ValueError(
            f"must show an object that stands out from a plain border, got a contrast of {contrast:.0f} of 255 ({LEAST} is the "
            f"least) and {uneven:.1%} of the border unlike the rest ({tolerance:.1%} is the most, see --tolerance); "
            "--skip leaves such images out"
        )
    parts, _ = ndimage.label(found)
    sizes = np.bincount(parts.ravel())[1:]
    solid = ndimage.binary_fill_holes(np.isin(parts, 1 + np.flatnonzero(sizes >= sizes.max() / 20)))
    depth = ndimage.distance_transform_edt(solid) - ndimage.distance_transform_edt(~solid)  # pixels from the outline
    y, x = ndimage.distance_transform_edt(depth <= EDGE + 1, return_distances=False, return_indices=True)
    full = image[y, x] - ground
    share = ((image - ground) * full).sum(2) / np.maximum((full**2).sum(2), 1)
    return np.where(depth > EDGE, 1, np.where(depth < -EDGE, 0, share.clip(0, 1))).astype(np.float32), ground


def lay(image: Picture, ground: str, seed: int, tolerance: float = TOLERANCE) -> tuple[Picture, Picture]:
    """uint8 [H, W, 3] on a ground drawn from `seed`, and the object's mask, uint8 {0, 255} [H, W]."""
    matte, old = cut_out(image, tolerance)
    height, width = matte.shape
    side = max(height, width)
    inside = np.pad(matte > 0.99, ((0, side - height), (0, side - width)))  # no slope where the matte is thin
    depth = ndimage.distance_transform_edt(inside) / side
    rise = np.minimum(depth.max(), 0.12) * np.sqrt(1 - (1 - depth / depth.max()) ** 2)  # shaped like a lens with a round rim
    rng = np.random.default_rng([seed, zlib.crc32(ground.encode())])
    surface: Surface = GROUNDS[ground].surface(rng, side)
    surface.height += resized(rise, surface.height.shape)
    new = photograph(surface, rng)[:height, :width]
    here = matte[..., None]
    laid = np.where(here > 0, image + (1 - here) * (new - old), new)  # removes the old ground from mixed pixels, too
    return (laid.clip(0, 255) + 0.5).astype(np.uint8), (matte > 0.5).astype(np.uint8) * 255


@dataclass
class Laying:
    """The options for a category, and the images that were skipped or need a warning."""

    ground: str
    white: float | None = None
    tolerance: float = TOLERANCE
    skip: bool = False
    skipped: list[str] = field(default_factory=list)
    notes: dict[Note, Path] = field(default_factory=dict)  # the first image with each note

    def write(self, sample: Sample, folder: Path, out: Path) -> bool:
        """Write the picture, the object's mask and the defect's; False if the image was skipped."""
        name = sample.path.relative_to(folder)
        try:
            with opened(sample.path) as file:
                image, notes, _ = decoded(file, self.white)
            seed = zlib.crc32(name.as_posix().encode())
            laid, mask = lay(np.asarray(image, np.float32), self.ground, seed, self.tolerance)
            truth = _turned_mask(sample)
        except Exception as error:  # Pillow's decoders raise anything on a broken file
            if not self.skip:
                raise DataError(f"every image {error}: {str(sample.path)!r}") from error
            self.skipped.append(f"{sample.path} ({error})")
            return False
        for note in notes:
            self.notes.setdefault(note, sample.path)
        _save(laid, (out / name).with_suffix(".png"))
        _save(mask, (out / "object_mask" / name).with_suffix(".png"))
        if sample.mask:
            path = out / sample.mask.relative_to(folder)
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(sample.mask, path) if truth is None else _save(truth, path.with_suffix(".png"))
        return True


def _save(pixels: Picture, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def _turned_mask(sample: Sample) -> Picture | None:
    """The upright mask as {0, 255} if EXIF rotates it or its photograph; None if the file can be copied."""
    if sample.mask and (is_turned(sample.mask) or is_turned(sample.path)):
        return read_truth(sample.mask, sample.path).astype(np.uint8) * 255
    return None


def lay_category(folder: Path, out: Path, laying: Laying) -> int:
    """Lay every image of `folder` on its own ground; returns their number. A failure leaves nothing at `out`."""
    category = read_mvtec(folder)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"`out` must be a new or empty folder, got {str(out)!r}")
    out = out.resolve()
    draft = out.with_name(f".{out.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)  # left by a killed run
    try:
        draft.mkdir(parents=True)
        train, test = ([laying.write(s, folder, draft) for s in samples] for samples in (category.train, category.test))
        if not any(train):
            raise DataError(f"`folder` must hold images in train/good that can be laid, got none: {laying.skipped[0]}")
        if out.exists():
            out.rmdir()
        draft.rename(out)
    except OSError as error:
        raise DataError(f"`out` must be a folder that can be written, got {str(out)!r} ({error})") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return sum(train) + sum(test)


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"must be a share from 0 to 1, got {text!r}")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="a category: train/good, test/<defect>, ground_truth/<defect>")
    parser.add_argument("out", type=Path, help="a new folder")
    parser.add_argument("--ground", choices=list(GROUNDS), default="wood", help=f"{', '.join(GROUNDS)} (default wood)")
    parser.add_argument(
        "--white", type=positive, help="value of white in 16-bit and float images (default 65535; 1 for floats)"
    )
    parser.add_argument(
        "--tolerance", type=_share, default=TOLERANCE, help=f"share of the border that may be uneven (default {TOLERANCE})"
    )
    parser.add_argument("--skip", action="store_true", help="leave out images that cannot be read or laid, and name them")
    args = parser.parse_args(argv)
    laying = Laying(args.ground, args.white, args.tolerance, args.skip)
    try:
        count = lay_category(args.folder, args.out, laying)
    except DataError as error:
        print(error, file=sys.stderr)
        return 2
    for told in laying.skipped:
        print(f"skipped {told}", file=sys.stderr)
    for note, first in laying.notes.items():
        print(f"warning: {note.value} (first {first})", file=sys.stderr)
    print(f"{count} pictures on {args.ground} in {args.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
