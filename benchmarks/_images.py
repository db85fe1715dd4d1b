"""Pictures for the benchmarks: the scenes of examples/make_samples.py, decoded in memory, or written as PNG."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

_ROOT = Path(__file__).parents[1]


def example(name: str, folder: str = "examples") -> ModuleType:
    """A module of the examples' folder or of another one, which imports its neighbors."""
    sys.path.insert(0, str(_ROOT / folder))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(_ROOT / folder))


def pictures(count: int, size: int = 256) -> list[Image.Image]:
    """Different RGB pictures, [size, size], of all scenes in turn."""
    samples = example("make_samples")
    names = list(samples.SCENES)
    return [Image.fromarray(samples.make_scene(names[i % len(names)], i // len(names), size)) for i in range(count)]


def as_kind(kind: str, picture: Image.Image) -> Any:
    """PIL image, or contiguous tensor [3, H, W]: uint8 or float32 in [0, 1]."""
    if kind == "PIL":
        return picture
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()
    return pixels if kind == "uint8" else pixels.float() / 255


def batch(pictures: list[Image.Image]) -> Tensor:
    """uint8 [N, 3, H, W]."""
    return torch.stack([as_kind("uint8", p) for p in pictures])


def write_files(folder: Path, count: int, size: int) -> list[Path]:
    """`count` PNG files of [size, size] that differ in content.

    Few scenes are drawn; each file gets its own sensor noise, which also makes an enlarged picture as expensive to decode
    as a photograph.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scenes = [p.resize((size, size), Image.Resampling.BICUBIC) for p in pictures(min(count, 14), min(size, 256))]
    paths = []
    for i in range(count):
        rng = np.random.default_rng(i)
        noisy = np.array(scenes[i % len(scenes)], dtype=np.float32)
        noisy += rng.normal(0, 2, noisy.shape).astype(np.float32)
        paths.append(folder / f"{i:04d}.png")
        Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8)).save(paths[-1], compress_level=3)
    return paths
