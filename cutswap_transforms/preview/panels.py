"""The pictures of the contact sheet: an image, a saliency map, clusters."""

from __future__ import annotations

import math

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as tvf

from ..saliency.maps import normalize_maps

PAGE, GAP = (250, 250, 248), 8
ROI = (120, 255, 130)  # the line around the region of interest
# From black over violet and orange to pale yellow: lightness grows evenly, so it also reads in gray.
HEAT = (
    (0, 0, 4),
    (40, 11, 84),
    (101, 21, 110),
    (159, 42, 99),
    (212, 72, 66),
    (245, 125, 21),
    (250, 193, 39),
    (252, 255, 164),
)
# Clusters from the least to the second most salient; the most salient one has its own color.
COOL, SALIENT = ((38, 50, 82), (52, 92, 130), (70, 134, 158), (110, 172, 176)), (255, 140, 30)
Color = tuple[int, int, int]


def picture(image: Tensor) -> Image.Image:
    """An RGB image of [3, H, W], uint8 or floats in [0, 1]."""
    pixels = image if image.dtype == torch.uint8 else (image.clamp(0, 1) * 255).round().to(torch.uint8)
    rgb: Image.Image = tvf.to_pil_image(pixels)
    return rgb


def fitted(image: Image.Image, cell: int) -> Image.Image:
    """The image with a longer side of `cell` pixels; enlarged pixels stay sharp."""
    scale = cell / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST)


def heat_map(photo: Image.Image, saliency: Tensor) -> Image.Image:
    """The map, smoothly enlarged and colored, over the gray photo; hotter is more opaque."""
    full = torch.nn.functional.interpolate(saliency[:, None], (photo.height, photo.width), mode="bilinear")[:, 0]
    levels = (normalize_maps(full).nan_to_num(0.0)[0] * 255).round().to(torch.uint8)
    heat = Image.fromarray(levels.numpy())
    colored = heat.copy()
    colored.putpalette(_palette())
    opacity = heat.point([140 + round(value * 0.3) for value in range(256)])
    return Image.composite(colored.convert("RGB"), photo.convert("L").convert("RGB"), opacity)


def _palette() -> list[int]:
    """256 colors between the stops of `HEAT`, flattened."""
    flat: list[int] = []
    for value in range(256):
        where = value / 255 * (len(HEAT) - 1)
        low = min(int(where), len(HEAT) - 2)
        flat += [round(a + (b - a) * (where - low)) for a, b in zip(HEAT[low], HEAT[low + 1], strict=True)]
    return flat


def heat_maps(photo: Image.Image, maps: list[Tensor]) -> Image.Image:
    """Heat maps of several levels [1, h, w] over one photo, side by side."""
    strip = Image.new("RGB", (len(maps) * (photo.width + GAP) - GAP, photo.height), PAGE)
    for k, saliency in enumerate(maps):
        strip.paste(heat_map(photo, saliency), (k * (photo.width + GAP), 0))
    return strip


# ---------------------------------------- clusters


def clusters(photo: Image.Image, panels: list[Image.Image]) -> Image.Image:
    """The panels of the swapped levels; several as a mosaic."""
    side = math.ceil(len(panels) ** 0.5)
    if side == 1:
        return panels[0]
    panel = Image.new("RGB", photo.size, (235, 236, 233))
    width, height = photo.width // side, photo.height // side
    spare = (photo.height - math.ceil(len(panels) / side) * height) // 2
    for k, part in enumerate(panels):
        small = part.resize((max(1, width - 2), max(1, height - 2)), Image.Resampling.BOX)
        panel.paste(small, (k % side * width + 1, k // side * height + 1 + spare))
    return panel


def level_clusters(photo: Image.Image, saliency: Tensor, labels: Tensor, region: Tensor) -> Image.Image:
    """Cells over the gray photo: cool colors by rank of mean saliency, the salient region bright and outlined.

    Args:
        saliency: float [G, G].
        labels: int64 [G, G], -1 = noise, which stays nearly black.
        region: bool [G, G].
    """
    present = [label for label in sorted(set(labels.flatten().tolist())) if label >= 0]
    order = sorted(present, key=lambda label: float(saliency[labels == label].mean()))
    cells = torch.full((*labels.shape, 3), 20, dtype=torch.uint8, device=labels.device)
    for rank, label in enumerate(order):
        cells[labels == label] = torch.tensor(COOL[min(rank, len(COOL) - 1)], dtype=torch.uint8, device=labels.device)
    cells[region] = torch.tensor(SALIENT, dtype=torch.uint8, device=labels.device)
    colors = Image.fromarray(cells.numpy()).resize(photo.size, Image.Resampling.NEAREST)
    panel = Image.blend(photo.convert("L").convert("RGB"), colors, 0.62)
    inside = Image.fromarray(region.to(torch.uint8).numpy() * 255).resize(photo.size, Image.Resampling.NEAREST)
    return outlined(panel, inside)


def dim_outside(photo: Image.Image, inside: Tensor, color: Color = (255, 255, 255)) -> Image.Image:
    """The photo, gray and dim outside a mask bool [h, w] of any size, with a line around the inside."""
    mask = Image.fromarray(inside.to(torch.uint8).numpy() * 255).resize(photo.size, Image.Resampling.NEAREST)
    dim = Image.blend(photo.convert("L").convert("RGB"), Image.new("RGB", photo.size), 0.65)
    return outlined(Image.composite(photo, dim, mask), mask, color)


def outlined(panel: Image.Image, inside: Image.Image, color: Color = (255, 255, 255)) -> Image.Image:
    """The panel, changed in place: a line along the border of `inside`, a picture of the same size, 0 outside."""
    area = tvf.pil_to_tensor(inside)[0].bool()
    edge = torch.zeros_like(area)
    edge[1:] |= area[1:] != area[:-1]
    edge[:, 1:] |= area[:, 1:] != area[:, :-1]
    panel.paste(color, mask=Image.fromarray(edge.to(torch.uint8).numpy() * 255))
    return panel
