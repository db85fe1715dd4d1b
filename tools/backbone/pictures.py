"""Training data beside photographs: composites, whose objects are known, and pictures of 256 px for the cells."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from composites import as_bank, compose, cut_photograph, draw_object, scene_object
from grounds import draw_ground, photo_ground
from sample_studio import Picture
from thin_objects import draw_thin
from torch import Tensor
from tqdm import tqdm

from .student import GRIDS, SIDE
from .teacher import Answers

LARGE = 2 * SIDE


class Banks(NamedTuple):
    """Grounds uint8 [M, 3, S, S] and kinds of objects, each uint8 [M, 4, s, s]."""

    grounds: Tensor
    objects: list[Tensor]


def draw_banks(folder: Path, views: Tensor, answers: Answers, count: int, seed: int) -> Banks:
    """Grounds, a quarter of them photographs' textures, and objects: drawn, thin, from scenes, and cut-outs."""

    def photo(rng: np.random.Generator) -> Picture:
        return views[rng.integers(len(views))].permute(1, 2, 0).numpy()

    kinds: dict[str, tuple[int, Callable[[np.random.Generator], Picture]]] = {
        "grounds": (count - count // 4, draw_ground),
        "textures": (count // 4, lambda rng: photo_ground(rng, photo(rng))),
        "objects": (count // 2, draw_object),
        "thin": (count // 2, draw_thin),
        "scenes": (max(1, count // 10), scene_object),
    }
    banks = {name: drawn(folder / f"{name}.pt", *kind, seed) for name, kind in kinds.items()}
    (cut,) = kept(folder / "cut-outs.pt", lambda: (cut_outs(views, answers, count, np.random.default_rng(seed)),))
    # A third of the draws are thin objects, the hardest ones for the net.
    objects = [banks["thin"], banks["thin"], banks["objects"], banks["scenes"]] + [cut] * (2 if len(cut) else 0)
    return Banks(torch.cat((banks["grounds"], banks["textures"])), objects)


def drawn(path: Path, count: int, draw: Callable[[np.random.Generator], Picture], seed: int) -> Tensor:
    """`count` pictures as a bank, from their own generator."""
    rng = np.random.default_rng([seed, zlib.crc32(path.stem.encode())])
    (bank,) = kept(path, lambda: (as_bank([draw(rng) for _ in tqdm(range(count), desc=path.stem, mininterval=10)]),))
    return bank


def cut_outs(views: Tensor, answers: Answers, count: int, rng: np.random.Generator) -> Tensor:
    """Objects that the teacher's maps show clearly, at most `count`; uint8 [M, 4, s, s]."""
    found: list[Picture] = []
    for i in tqdm(rng.permutation(len(answers.arrays["maps"])), desc="cut-outs", mininterval=10):
        grids = answers("maps", torch.tensor([i])).split([side * side for side in GRIDS], 1)
        levels = [F.interpolate(g.view(1, 1, n, n), size=(32, 32), mode="bilinear") for g, n in zip(grids, GRIDS, strict=True)]
        fused = torch.stack(levels[:3]).mean(0)[0, 0]
        image = cut_photograph(views[i].permute(1, 2, 0).numpy(), (fused / fused.max()).numpy())
        found += [image] if image is not None else []
        if len(found) == count:
            break
    return as_bank(found) if found else torch.empty(0)


def draw_composites(banks: Banks, count: int, side: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images uint8 [M, 3, side, side] and how much of each cell of the finest grid an object covers, uint8 [M, 32, 32]."""
    generator, made = torch.Generator().manual_seed(seed), []
    for _ in tqdm(range(max(1, count // 64)), desc="composites", mininterval=10):
        index = torch.randint(len(banks.grounds), (64,), generator=generator)
        images, covered = compose(banks.grounds[index], banks.objects, side, generator)
        made.append((images.byte(), (F.adaptive_avg_pool2d(covered, GRIDS[0]) * 255).byte()))
    images, covered = (torch.cat(parts) for parts in zip(*made, strict=True))
    return images, covered


def draw_large(folder: Path, views: Tensor, banks: Banks, count: int, seed: int) -> Tensor:
    """uint8 [count, 3, 256, 256]: four views side by side, grounds alone and composites, a third of each.

    At 256 px, four photographs of 112 px show more than one enlarged photograph."""
    third, rng = count // 3, np.random.default_rng([seed, 2])
    four = torch.from_numpy(rng.integers(len(views), size=(third, 2, 2)))
    photos = views[four].permute(0, 3, 1, 4, 2, 5).reshape(third, 3, LARGE, LARGE)
    grounds = drawn(folder / "large-grounds.pt", third, lambda rng: draw_ground(rng, LARGE), seed)
    return torch.cat((photos, grounds, draw_composites(banks, count - 2 * third, LARGE, seed + 1)[0]))


def kept(path: Path, make: Callable[[], Sequence[Tensor]]) -> tuple[Tensor, ...]:
    """The result of `make()`, read from `path` if it exists there."""
    if not path.exists():
        torch.save(make(), f"{path}.new")
        Path(f"{path}.new").replace(path)
    return torch.load(path, weights_only=True)  # type: ignore[no-any-return]
