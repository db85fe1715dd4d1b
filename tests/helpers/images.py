"""Images for the tests, made from seeds: smooth scenes with an object, in every kind that the library accepts."""

from __future__ import annotations

import numpy as np
import PIL.Image
import torch
from torchvision import tv_tensors


def scene(height: int = 40, width: int = 33, channels: int = 3, seed: int = 0) -> torch.Tensor:
    """uint8 [C, H, W]: a bright textured blob on a dark noisy ground, distinct pixels nearly everywhere."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    cy, cx = height * rng.uniform(0.3, 0.7), width * rng.uniform(0.3, 0.7)
    blob = np.exp(-(((y - cy) / (0.2 * height)) ** 2 + ((x - cx) / (0.2 * width)) ** 2))
    image = 40 + 170 * blob + rng.normal(0, 8, (channels, height, width))
    return torch.from_numpy(image.clip(0, 255).astype(np.uint8))


def pil(mode: str, height: int = 40, width: int = 33) -> PIL.Image.Image:
    if mode == "I;16":
        return PIL.Image.fromarray(scene(height, width, 1)[0].numpy().astype(np.uint16) * 257)
    rgb = PIL.Image.fromarray(scene(height, width).permute(1, 2, 0).numpy())
    return rgb.convert(mode)


def as_kind(kind: str, image: torch.Tensor) -> object:
    if kind == "PIL":
        array = image.permute(1, 2, 0).numpy()
        return PIL.Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
    return tv_tensors.Image(image) if kind == "Image" else image.clone()


def pixels(image: object) -> torch.Tensor:
    if isinstance(image, PIL.Image.Image):
        array = torch.from_numpy(np.array(image).astype(np.int64))
        return array[None] if array.ndim == 2 else array.permute(2, 0, 1)
    assert isinstance(image, torch.Tensor)
    return image.as_subclass(torch.Tensor)


def sorted_pixels(image: object) -> torch.Tensor:
    """The multiset of pixels (all channels of one kept together), to compare permutations."""
    flat = pixels(image).double()
    flat = flat.reshape(flat.shape[0], -1).T
    return torch.from_numpy(np.array(sorted(map(tuple, flat.tolist()))))


def hot_quarter(images: torch.Tensor) -> torch.Tensor:
    """A saliency source of two levels whose top left quarter is salient, with some texture."""
    n = len(images)
    maps = torch.rand(n, 2, 8, 8, generator=torch.Generator().manual_seed(0), device="cpu") * 0.2
    maps[:, :, :4, :4] += 5
    return maps
