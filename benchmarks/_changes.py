"""Small changes of an image after which its regions should be the same."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as tvF


class Change(NamedTuple):
    """A change of images uint8 [N, 3, H, W], and its inverse for their regions [N, h, w]."""

    name: str
    done: Callable[[Tensor], Tensor]
    undone: Callable[[Tensor], Tensor] = lambda region: region


def noisy(images: Tensor) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images + noise).round().clamp(0, 255).to(torch.uint8)


def compressed(images: Tensor) -> Tensor:
    def stored(image: Tensor) -> Tensor:
        tvF.to_pil_image(image).save(file := io.BytesIO(), "JPEG", quality=90)
        return tvF.pil_to_tensor(Image.open(file))

    return torch.stack([stored(image) for image in images])


CHANGES = (
    Change("mirror", lambda x: x.flip(-1), lambda r: r.flip(-1)),
    Change("upside down", lambda x: x.flip(-2), lambda r: r.flip(-2)),
    Change("quarter turn", lambda x: x.rot90(1, (-2, -1)), lambda r: r.rot90(-1, (-2, -1))),
    Change("one pixel", lambda x: torch.cat([x[..., :1], x[..., :-1]], -1)),  # a tenth of a cell: not undone
    Change("+1 level", lambda x: x.clamp(max=254) + 1),
    Change("noise 1", noisy),
    Change("brightness +10 %", lambda x: tvF.adjust_brightness(x, 1.1)),
    Change("contrast +10 %", lambda x: tvF.adjust_contrast(x, 1.1)),
    Change("JPEG 90", compressed),
)
