"""A toy data set for anomaly detection, drawn from seeds: two objects and two textures with subtle defects and their masks.

    python examples/toy.py OUT --size 160

The objects are scenes of `make_samples.py`. A defect edits the surface before lighting, so it gets light, shadow,
blur and noise like everything else. The layout is MVTec AD's.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from make_samples import make_scene
from PIL import Image
from sample_studio import Array, Surface, noise, resized, smooth

CATEGORIES = ("blister", "flange", "tiles", "wood")  # two objects, two textures
VARIANT = 1  # one product each; pose, light and tolerances vary
SCHEMA = 1  # raise it when the same arguments give other pictures


def scratch(surface: Surface, rng: np.random.Generator, y: float, x: float) -> Array:
    """A fine bent line, a groove with bright flanks."""
    _, u, v = surface.frame(y, x, rng.uniform(0, np.pi), 2)
    half, bend = rng.uniform(0.07, 0.15), rng.uniform(-3, 3)
    fine = 0.007 * np.clip(1 - (u / half) ** 2, 0, 1)
    alpha = surface.cover(np.maximum(np.abs(v + bend * u * u) - fine, np.abs(u) - half))
    surface.height -= 0.004 * alpha
    surface.albedo *= 1 + rng.uniform(0.6, 1.2) * alpha[..., None]
    return alpha


def stain(surface: Surface, rng: np.random.Generator, y: float, x: float) -> Array:
    """A faint spot of another tint with a soft, ragged edge."""
    alpha = blob(surface, rng, y, x, rng.uniform(0.045, 0.09), 0.35)
    tint = 1 - rng.uniform(0.35, 0.6) * rng.dirichlet((2, 2, 2)).astype(np.float32) * 2
    surface.albedo *= 1 + (tint - 1) * alpha[..., None]
    return alpha


def dent(surface: Surface, rng: np.random.Generator, y: float, x: float) -> Array:
    """A smooth hollow, visible only by light and reflections."""
    _, u, v = surface.frame(y, x, rng.uniform(0, np.pi), 2)
    reach = rng.uniform(0.035, 0.07)
    alpha = np.exp(-((u / reach) ** 2) - (v / (reach * rng.uniform(0.6, 1))) ** 2)
    surface.height -= reach * rng.uniform(0.35, 0.6) * alpha
    return alpha


def chip(surface: Surface, rng: np.random.Generator, y: float, x: float) -> Array:
    """A small piece has broken off; the material below is rougher and a little darker."""
    alpha = blob(surface, rng, y, x, rng.uniform(0.025, 0.05), 0.12)
    surface.height -= 0.012 * alpha * (1 + 0.2 * noise(rng, surface.size, (60, 60), 2))
    surface.albedo *= 1 - rng.uniform(0.35, 0.6) * alpha[..., None]
    surface.rough += (1 - surface.rough) * alpha
    return alpha


def fibre(surface: Surface, rng: np.random.Generator, y: float, x: float) -> Array:
    """A hair on top: it casts a shadow."""
    _, u, v = surface.frame(y, x, rng.uniform(0, np.pi), 2)
    half, wave = rng.uniform(0.08, 0.16), rng.uniform(0.004, 0.012)
    line = np.abs(v - wave * np.sin(u * rng.uniform(30, 60))) - 0.0055
    alpha = surface.cover(np.maximum(line, np.abs(u) - half))
    surface.height += 0.005 * alpha
    surface.albedo += (rng.uniform(0.1, 0.5) - surface.albedo) * 0.8 * alpha[..., None]
    return alpha


DEFECTS: dict[str, Callable[[Surface, np.random.Generator, float, float], Array]] = {
    edit.__name__: edit for edit in (scratch, stain, dent, chip, fibre)
}


def blob(surface: Surface, rng: np.random.Generator, y: float, x: float, radius: float, softness: float) -> Array:
    """[S, S] in [0, 1]: a ragged spot."""
    _, u, v = surface.frame(y, x, rng.uniform(0, np.pi), 2)
    ragged = np.hypot(u, v * rng.uniform(1, 1.6)) / radius + 0.15 * noise(rng, surface.size, (14, 14), 3)
    return smooth(1 + softness, 1 - softness, ragged)


def make_defective(category: str, seed: int, size: int, defect: str) -> tuple[np.ndarray, np.ndarray]:
    """A picture uint8 [size, size, 3] with one defect somewhere on the object, and its mask uint8 {0, 255} [size, size]."""
    rng = np.random.default_rng([seed, zlib.crc32(f"{category} {defect}".encode())])
    found: list[Array] = []

    def edit(surface: Surface) -> None:
        rows, columns = np.nonzero(resized(surface.mask, (64, 64), Image.Resampling.BOX) > 0.95)
        inside = (rows > 5) & (rows < 58) & (columns > 5) & (columns < 58)
        rows, columns = rows[inside], columns[inside]
        k = rng.integers(len(rows))
        found.append(DEFECTS[defect](surface, rng, (rows[k] + 0.5) / 64, (columns[k] + 0.5) / 64))

    picture = make_scene(category, seed, size, variant=VARIANT, edit=edit)
    mask = resized(found[0].astype(np.float32), (size, size), Image.Resampling.BOX) > 0.25
    return picture, mask.astype(np.uint8) * 255


def write_toy(
    folder: Path,
    size: int = 160,
    train: int = 80,
    good: int = 30,
    per_defect: int = 8,
    categories: Sequence[str] = CATEGORIES,
) -> Path:
    """Write the set into `folder`, unless it is already there. Returns the folder."""
    settings = {"schema": SCHEMA, "size": size, "train": train, "good": good, "per_defect": per_defect}
    settings["categories"] = list(categories)
    note = folder / "toy.json"
    if note.is_file() and json.loads(note.read_text()) == settings:
        return folder
    if folder.exists():
        raise FileExistsError(f"`folder` must be new or hold this toy set, got {str(folder)!r}; remove it to draw it again")
    print(f"drawing the toy set: {len(categories)} categories at {size} px into {folder}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".toy-", dir=folder.parent))  # an interrupted set must not look complete
    try:
        for category in categories:
            _write_category(draft / category, category, size, train, good, per_defect)
        (draft / "toy.json").write_text(json.dumps(settings))
        os.replace(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _write_category(folder: Path, category: str, size: int, train: int, good: int, per_defect: int) -> None:
    parts = [folder / "train" / "good", folder / "test" / "good"]
    parts += [folder / kind / defect for kind in ("test", "ground_truth") for defect in DEFECTS]
    for part in parts:
        part.mkdir(parents=True)
    for i in range(train + good):
        part = parts[0] if i < train else parts[1]
        Image.fromarray(make_scene(category, i, size, variant=VARIANT)).save(part / f"{i:03d}.png")
    for k, defect in enumerate(DEFECTS):
        for i in range(per_defect):
            picture, mask = make_defective(category, train + good + k * per_defect + i, size, defect)
            Image.fromarray(picture).save(folder / "test" / defect / f"{i:03d}.png")
            Image.fromarray(mask).save(folder / "ground_truth" / defect / f"{i:03d}_mask.png")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, help="a new folder")
    parser.add_argument("--size", type=int, default=160, help="side of the square pictures in pixels (default 160)")
    args = parser.parse_args(argv)
    write_toy(args.out, args.size)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
