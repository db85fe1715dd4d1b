"""CutPaste and CutPaste-Scar, written from the paper, for comparison in the detector and the benchmarks."""

from __future__ import annotations

import math
from typing import Any

import torch
from PIL import Image
from torchvision.transforms import v2

AREA = (0.02, 0.15)
ASPECT = ((0.3, 1.0), (1.0, 3.3))
JITTER = 0.1
SCAR_WIDTH, SCAR_HEIGHT, SCAR_ANGLE = (2, 16), (10, 25), (-45, 45)


def _uniform(low: float, high: float) -> float:
    return float(torch.empty(1).uniform_(low, high))


def _whole(low: int, high: int) -> int:
    """A random integer in [low, high]."""
    return int(torch.randint(low, high + 1, ()))


def size_of(image: Any) -> tuple[int, int]:
    """(H, W)."""
    return (image.height, image.width) if isinstance(image, Image.Image) else (image.shape[-2], image.shape[-1])


def _cut(image: Any, height: int, width: int) -> Any:
    """A copy of a patch at a random position."""
    top, left = _whole(0, size_of(image)[0] - height), _whole(0, size_of(image)[1] - width)
    if isinstance(image, Image.Image):
        return image.crop((left, top, left + width, top + height))
    return image[..., top : top + height, left : left + width].clone()


class CutPaste:
    """CutPaste (Li, Sohn, Yoon, Pfister, CVPR 2021): cuts out a patch, jitters its colors and pastes it elsewhere.

    Area 2 to 15 % of the image, aspect from (0.3, 1) or (1, 3.3), brightness, contrast, saturation and hue jittered by
    at most 0.1. Takes PIL images, as the authors' pipeline does, and tensors [C, H, W].
    """

    def __init__(self) -> None:
        self.jitter = v2.ColorJitter(JITTER, JITTER, JITTER, JITTER)

    def __call__(self, image: Any) -> Any:
        height, width = size_of(image)
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
    """CutPaste (Scar): a long thin patch, 2 to 16 by 10 to 25 pixels, jittered and rotated by at most 45 degrees."""

    def __init__(self) -> None:
        self.jitter = v2.ColorJitter(JITTER, JITTER, JITTER, JITTER)

    def __call__(self, image: Any) -> Any:
        patch = self.jitter(_cut(image, _whole(*SCAR_HEIGHT), _whole(*SCAR_WIDTH)))
        angle = _uniform(*SCAR_ANGLE)
        if isinstance(image, Image.Image):
            turned = patch.convert("RGBA").rotate(angle, expand=True)  # corners from outside the patch are transparent
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
        (height, width), (h, w) = size_of(image), size_of(patch)
        return _whole(0, width - w), _whole(0, height - h)
