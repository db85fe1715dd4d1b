"""The augmentations that SaliencySwap is compared with: CutPaste from the examples, a swap without guidance, Perlin noise."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import torch
from _images import example
from torch import Tensor

from cutswap_transforms import functional

_cutpaste = example("cutpaste")
CutPaste, CutPasteScar = _cutpaste.CutPaste, _cutpaste.CutPasteScar


class RandomSwap:
    """SaliencySwap without guidance: two disjoint boxes anywhere in the image, of the same sizes, swapped.

    What is left of the work is to draw, to copy the image and to move the patches: the floor.
    """

    scale, ratio = (0.002, 0.03), (0.3, 3.3)

    def __call__(self, image: Any) -> Any:
        top_a, left_a, top_b, left_b, h, w = self._draw(*_cutpaste.size_of(image))
        if isinstance(image, Tensor):
            return functional.swap_patches(image, torch.tensor([[[0, top_a, left_a, top_b, left_b, h, w]]]))
        out, a = image.copy(), (left_a, top_a, left_a + w, top_a + h)
        patch = image.crop(a)
        out.paste(image.crop((left_b, top_b, left_b + w, top_b + h)), a)
        out.paste(patch, (left_b, top_b))
        return out

    def _draw(self, height: int, width: int) -> tuple[int, int, int, int, int, int]:
        while True:
            u = torch.rand(6).tolist()
            area = (self.scale[0] + u[0] * (self.scale[1] - self.scale[0])) * height * width
            low, high = (math.log(r) for r in self.ratio)
            aspect = math.exp(low + u[1] * (high - low))
            h = min(max(1, round(math.sqrt(area * aspect))), height)
            w = min(max(1, round(math.sqrt(area / aspect))), width)
            rows, columns = height - h + 1, width - w + 1
            spots = int(u[2] * rows), int(u[3] * columns), int(u[4] * rows), int(u[5] * columns)
            if abs(spots[0] - spots[2]) >= h or abs(spots[1] - spots[3]) >= w:
                return (*spots, h, w)


def perlin() -> Callable[[Tensor], Any] | None:
    """anomalib's Perlin noise generator, applied to every image; None without anomalib."""
    try:
        generators = importlib.import_module("anomalib.data.utils.generators")
    except ImportError:
        return None
    found: Callable[[Tensor], Any] = generators.PerlinAnomalyGenerator(probability=1.0)
    return found
