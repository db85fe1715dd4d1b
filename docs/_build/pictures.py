"""The pictures of `how_it_works.md`, drawn by the library from a drawn scene whenever the site is built."""

from __future__ import annotations

import io

import torch
from make_samples import make_scene
from PIL import Image

from cutswap_transforms import SaliencySwap
from cutswap_transforms.preview.steps import region_steps, swap_steps

SIDE, GAP = 220, 8


def draw_all() -> dict[str, bytes]:
    """Name -> PNG."""
    photo = Image.fromarray(make_scene("flange", 3, 256))
    swap = SaliencySwap()
    torch.manual_seed(4)
    found = region_steps(photo, swap, SIDE)
    drawn = swap_steps(photo, swap, swap.make_params([photo]), found)
    rows = {
        "image.png": [found.photo],
        "maps.png": found.maps,
        "cells.png": found.cells,
        "pair.png": [drawn.boxes],
        "negative.png": [drawn.negative, drawn.difference, drawn.mask],
    }
    return {name: _png(_beside(panels)) for name, panels in rows.items()}


def _beside(panels: list[Image.Image]) -> Image.Image:
    strip = Image.new("RGB", (sum(p.width + GAP for p in panels) - GAP, panels[0].height), "white")
    for i, panel in enumerate(panels):
        strip.paste(panel, (i * (panel.width + GAP), 0))
    return strip


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()
