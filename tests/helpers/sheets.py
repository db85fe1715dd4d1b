"""Pictures, swaps that need no net, and where on a contact sheet a picture stands."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cutswap_transforms import SaliencySwap

CELL = 64


def hot_quarter(images: Tensor) -> list[Tensor]:
    """Three levels that are hot in the upper left quarter and 0 elsewhere."""
    maps = []
    for side in (16, 8, 4):
        level = torch.zeros(len(images), side, side)
        level[:, : side // 2, : side // 2] = 1 + torch.rand(side // 2, side // 2, generator=torch.Generator().manual_seed(0))
        maps.append(level)
    return maps


def two_clusters(points: Tensor) -> Tensor:
    return (points[:, 0] > 0.25).long()


def swapper(**kwargs: Any) -> SaliencySwap:
    return SaliencySwap(hot_quarter, two_clusters, **kwargs)


def picture(seed: int = 0, height: int = CELL, width: int = CELL) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def corners(sheet: Image.Image, tile: Image.Image) -> list[tuple[int, int]]:
    """(top, left) wherever `tile` stands on the sheet, pixel by pixel."""
    page, part = np.asarray(sheet).astype(int), np.asarray(tile.convert("RGB")).astype(int)
    h, w = part.shape[:2]
    first = np.abs(page[: page.shape[0] - h + 1, : page.shape[1] - w + 1] - part[0, 0]).sum(2) == 0
    return [(int(y), int(x)) for y, x in np.argwhere(first) if np.array_equal(page[y : y + h, x : x + w], part)]


def cells_of(sheet: Image.Image, image: Image.Image, columns: int) -> list[np.ndarray[Any, Any]]:
    """The pictures of the row that starts with `image`, found by the distance between the columns."""
    top, left = corners(sheet, image)[0]
    step = (sheet.width - 2 * left + 8) // columns
    page = np.asarray(sheet)
    return [page[top : top + CELL, left + k * step : left + k * step + CELL] for k in range(columns)]
