"""The augmentations that SaliencySwap is compared with, written from their papers' descriptions."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from cutswap_transforms import functional

AREA = (0.02, 0.15)
ASPECT = ((0.3, 1.0), (1.0, 3.3))
JITTER = 0.1
SCAR_WIDTH, SCAR_HEIGHT, SCAR_ANGLE = (2, 16), (10, 25), (-45, 45)


def _uniform(low: float, high: float) -> float:
    return float(torch.empty(1).uniform_(low, high))


def _whole(low: int, high: int) -> int:
    """A whole number in [low, high]."""
    return int(torch.randint(low, high + 1, ()))


def _size(image: Any) -> tuple[int, int]:
    """(H, W)."""
    return (image.height, image.width) if isinstance(image, Image.Image) else (image.shape[-2], image.shape[-1])


def _cut(image: Any, height: int, width: int) -> Any:
    """A patch of a random place, as a copy."""
    top, left = _whole(0, _size(image)[0] - height), _whole(0, _size(image)[1] - width)
    if isinstance(image, Image.Image):
        return image.crop((left, top, left + width, top + height))
    return image[..., top : top + height, left : left + width].clone()


class CutPaste:
    """CutPaste (Li, Sohn, Yoon, Pfister, CVPR 2021): a patch is cut out, its colours are jittered, it is pasted elsewhere.

    Area 2 to 15 % of the image, aspect from (0.3, 1) or (1, 3.3), brightness, contrast, saturation and hue jittered by
    at most 0.1. Takes PIL images, as the authors' pipeline does, and tensors [C, H, W].
    """

    def __init__(self) -> None:
        self.jitter = v2.ColorJitter(JITTER, JITTER, JITTER, JITTER)

    def __call__(self, image: Any) -> Any:
        height, width = _size(image)
        area, aspect = _uniform(*AREA) * height * width, _uniform(*ASPECT[_whole(0, 1)])
        h = min(height, max(1, round(math.sqrt(area * aspect))))
        w = min(width, max(1, round(math.sqrt(area / aspect))))
        patch = self.jitter(_cut(image, h, w))
        top, left = _whole(0, height - h), _whole(0, width - w)
        if isinstance(image, Image.Image):
            out = image.copy()
            out.paste(patch, (left, top))
            return out
        out = image.clone()
        out[..., top : top + h, left : left + w] = patch
        return out


class CutPasteScar:
    """CutPaste (Scar): a long thin patch, 2 to 16 by 10 to 25 pixels, jittered and turned by at most 45 degrees."""

    def __init__(self) -> None:
        self.jitter = v2.ColorJitter(JITTER, JITTER, JITTER, JITTER)

    def __call__(self, image: Any) -> Any:
        patch = self.jitter(_cut(image, _whole(*SCAR_HEIGHT), _whole(*SCAR_WIDTH)))
        angle = _uniform(*SCAR_ANGLE)
        if isinstance(image, Image.Image):
            turned = patch.convert("RGBA").rotate(angle, expand=True)  # what turns in from outside is transparent
            out = image.copy()
            out.paste(turned, self._place(image, turned), mask=turned.getchannel("A"))
            return out
        inside = torch.ones_like(patch[:1])
        both = v2.functional.rotate(torch.cat((patch, inside)), angle, expand=True)
        left, top = self._place(image, both)
        out = image.clone()
        spot = out[..., top : top + both.shape[-2], left : left + both.shape[-1]]
        spot.copy_(torch.where(both[-1:] > 0, both[:-1], spot))
        return out

    @staticmethod
    def _place(image: Any, patch: Any) -> tuple[int, int]:
        """(left, top)."""
        (height, width), (h, w) = _size(image), _size(patch)
        return _whole(0, width - w), _whole(0, height - h)


class RandomSwap:
    """SaliencySwap without guidance: two disjoint boxes anywhere in the image, of the same sizes, swapped.

    What is left of the work is to draw, to copy the image and to move the patches: the floor.
    """

    scale, ratio = (0.002, 0.03), (0.3, 3.3)

    def __call__(self, image: Any) -> Any:
        top_a, left_a, top_b, left_b, h, w = self._draw(*_size(image))
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
