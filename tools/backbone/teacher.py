"""The teacher's answers to pictures: logits, features of its cells and LayerCAM maps, kept on disk.

The teacher is any net that `detector.networks.Features` takes: its levels are found as LayerCAM finds them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from detector.networks import Features, unit_length
from torch import Tensor
from torchvision.transforms.v2 import functional as tvF
from tqdm import tqdm

from cutswap_transforms import LayerCAMExtractor

from .student import GRIDS

RIDGE = 0.1  # of the mean variance, as in the detector's densities
Answer = Callable[[Tensor], dict[str, Tensor]]


class Answers:
    """Memory-mapped float16 arrays [pictures, ...], one per name; missing answers are computed."""

    def __init__(self, folder: Path, pictures: Tensor) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.pictures, self.arrays = folder, pictures, dict[str, np.memmap]()

    def ask(self, answer: Answer, first: int | None = None, batch: int = 16) -> None:
        """Fill the arrays of this answer for the `first` pictures."""
        count = len(self.pictures) if first is None else first
        shapes = {name: tuple(x.shape[1:]) for name, x in answer(self.pictures[:1]).items()}
        done = self._array(f"done-{'-'.join(shapes)}", "u1", (count,))
        self.arrays |= {name: self._array(name, "<f2", (count, *shape)) for name, shape in shapes.items()}
        for start in tqdm(
            range(0, count, batch), desc=f"teacher: {', '.join(shapes)}", mininterval=10, disable=bool(done.all())
        ):
            where = slice(start, min(count, start + batch))
            if not done[where].all():
                for name, x in answer(self.pictures[where]).items():
                    self.arrays[name][where] = x.numpy()
                done[where] = 1

    def __call__(self, name: str, index: Tensor) -> Tensor:
        return torch.from_numpy(self.arrays[name][index.numpy()].astype("f4"))

    def _array(self, name: str, dtype: str, shape: tuple[int, ...]) -> np.memmap:
        path = self.folder / f"{name}.{dtype.strip('<')}"
        return np.memmap(path, dtype, "r+" if path.exists() else "w+", shape=shape)


def as_input(pictures: Tensor, side: int) -> Tensor:
    """uint8 [N, 3, s, s] -> float32 in [0, 1], resized to the teacher's input."""
    return tvF.resize(pictures.float() / 255, [side, side], antialias=True).clamp(0, 1)


def logits_of(teacher: Features, bf16: bool) -> Answer:
    def answer(pictures: Tensor) -> dict[str, Tensor]:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            x = (as_input(pictures, teacher.size) - teacher.mean) / teacher.std
            return {"logits": teacher.net(x.contiguous(memory_format=torch.channels_last)).float()}

    return answer


def extractor_of(teacher: Features) -> LayerCAMExtractor:
    mean_std = (teacher.mean.flatten().tolist(), teacher.std.flatten().tolist())
    return LayerCAMExtractor(teacher.net, mean_std=mean_std, input_size=teacher.size)


def maps_of(teacher: Features) -> Answer:
    """Maps of the teacher's best class on the student's grids, scaled to a maximum of 1, concatenated."""
    extractor = extractor_of(teacher)

    def answer(pictures: Tensor) -> dict[str, Tensor]:
        maps = extractor.native_maps(as_input(pictures, teacher.size))
        grids = [F.adaptive_avg_pool2d(m[:, None], grid).flatten(1) for m, grid in zip(maps, GRIDS, strict=True)]
        return {"maps": torch.cat([g / g.amax(1, keepdim=True).clamp(min=1e-12) for g in grids], 1)}

    return answer


def cells_of(teacher: Features, axes: list[tuple[Tensor, Tensor]], bf16: bool) -> Answer:
    """The teacher's cells on principal axes, as in the detector's densities, at the pictures' own size; `cells8` and so on."""

    def answer(pictures: Tensor) -> dict[str, Tensor]:
        maps = unit_maps(teacher, pictures, bf16)
        projected = [
            torch.einsum("nchw,cd->ndhw", x - mean[:, None, None], axis) for x, (mean, axis) in zip(maps, axes, strict=True)
        ]
        return {f"cells{stride}": x for stride, x in zip(teacher.strides, projected, strict=True)}

    return answer


def unit_maps(teacher: Features, pictures: Tensor, bf16: bool) -> list[Tensor]:
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        return [unit_length(x.float()) for x in teacher.raw(pictures.float() / 255)]


def principal_axes(teacher: Features, pictures: Tensor, dims: tuple[int, ...], bf16: bool) -> list[tuple[Tensor, Tensor]]:
    """(mean [C], axes [C, d]) for each stride: scaled so that each direction has its weight in a Gaussian density."""
    parts = [unit_maps(teacher, part, bf16) for part in pictures.split(16)]
    found = []
    for maps, kept in zip(map(torch.cat, zip(*parts, strict=True)), dims, strict=True):
        cells = maps.permute(0, 2, 3, 1).flatten(0, 2).double()
        values, vectors = torch.linalg.eigh(torch.cov(cells.T))
        scale = (values + RIDGE * values.mean()).rsqrt()
        found.append((cells.mean(0).float(), (vectors * scale)[:, -kept:].flip(1).float()))
    return found
