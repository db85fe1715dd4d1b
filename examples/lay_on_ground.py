"""Takes the objects of a data set off their plain ground and lays them on wood, cloth, tiles or brushed metal.

    python examples/lay_on_ground.py FOLDER OUT --ground wood

On a plain ground a threshold finds the object; on a textured one it does not, and a net has to see it. FOLDER is a
category in MVTec AD's layout. Every image gets a ground of its own, drawn from the image's name by `make_samples.py`, on
which the object casts a shadow. Objects and defects stay where they are and keep their pixels; the defects' masks are
copied. OUT/object_mask holds the masks of the objects, each under its image's path.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from data import DataError, read_mvtec
from make_samples import SCENES, Scene, steel
from PIL import Image
from sample_studio import Array, Picture, Surface, photograph, resized
from scipy import ndimage

GROUNDS = {name: SCENES[name] for name in ("wood", "cloth", "tiles")} | {"metal": Scene(steel)}
EDGE = 3  # pixels on each side of the outline in which object and ground may mix


def cut_out(image: Picture) -> tuple[Array, Array]:
    """The matte of what lies on a plain ground, float32 [H, W] in [0, 1], and the ground's colour, [3].

    The ground is the border's median. What differs from it by a quarter of the greatest difference belongs to the object,
    holes included, specks of dust not. Along the outline a pixel mixes the ground with the nearest colour well inside.
    """
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    ground = np.median(border, 0).astype(np.float32)
    off = np.abs(image - ground).max(2)
    contrast = np.quantile(off, 0.99)
    found = off > contrast / 4
    if contrast < 40 or np.mean(np.abs(border - ground).max(1) > contrast / 4) > 0.05:
        raise ValueError(f"must show an object that stands out from a plain border, got a contrast of {contrast:.0f} of 255")
    parts, _ = ndimage.label(found)
    sizes = np.bincount(parts.ravel())[1:]
    solid = ndimage.binary_fill_holes(np.isin(parts, 1 + np.flatnonzero(sizes >= sizes.max() / 20)))
    depth = ndimage.distance_transform_edt(solid) - ndimage.distance_transform_edt(~solid)  # pixels from the outline
    y, x = ndimage.distance_transform_edt(depth <= EDGE + 1, return_distances=False, return_indices=True)
    full = image[y, x] - ground
    share = ((image - ground) * full).sum(2) / np.maximum((full**2).sum(2), 1)
    return np.where(depth > EDGE, 1, np.where(depth < -EDGE, 0, share.clip(0, 1))).astype(np.float32), ground


def lay(image: Picture, ground: str, seed: int) -> tuple[Picture, Picture]:
    """uint8 [H, W, 3] on a ground drawn from `seed`, and the object's mask, uint8 {0, 255} [H, W]."""
    matte, old = cut_out(image)
    height, width = matte.shape
    side = max(height, width)
    inside = np.pad(matte > 0.99, ((0, side - height), (0, side - width)))  # its flank must not show where the matte is thin
    depth = ndimage.distance_transform_edt(inside) / side
    rise = np.minimum(depth.max(), 0.12) * np.sqrt(1 - (1 - depth / depth.max()) ** 2)  # a lens with a round rim
    rng = np.random.default_rng([seed, zlib.crc32(ground.encode())])
    surface: Surface = GROUNDS[ground].surface(rng, side)
    surface.height += resized(rise, surface.height.shape)
    new = photograph(surface, rng)[:height, :width]
    here = matte[..., None]
    laid = np.where(here > 0, image + (1 - here) * (new - old), new)  # the old ground goes from the mixed pixels too
    return (laid.clip(0, 255) + 0.5).astype(np.uint8), (matte > 0.5).astype(np.uint8) * 255


def lay_category(folder: Path, out: Path, ground: str) -> int:
    """Every image of `folder` on its own ground; how many there are."""
    category = read_mvtec(folder)
    if out.exists() and any(out.iterdir()):
        raise DataError(f"`out` must be a new or empty folder, got {str(out)!r}")
    samples = [*category.train, *category.test]
    for sample in samples:
        name = sample.path.relative_to(folder)
        try:
            with Image.open(sample.path) as picture:
                laid, mask = lay(np.asarray(picture.convert("RGB"), np.float32), ground, zlib.crc32(name.as_posix().encode()))
        except (OSError, ValueError) as error:
            raise DataError(f"every image {error}: {str(sample.path)!r}") from error
        for pixels, path in ((laid, out / name), (mask, out / "object_mask" / name)):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path.with_suffix(".png"))
    if (folder / "ground_truth").is_dir():
        shutil.copytree(folder / "ground_truth", out / "ground_truth")
    return len(samples)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="a category: train/good, test/<defect>, ground_truth/<defect>")
    parser.add_argument("out", type=Path, help="a new folder")
    parser.add_argument("--ground", choices=list(GROUNDS), default="wood", help=f"{', '.join(GROUNDS)} (default wood)")
    args = parser.parse_args(argv)
    try:
        count = lay_category(args.folder, args.out, args.ground)
    except DataError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{count} pictures on {args.ground} in {args.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
