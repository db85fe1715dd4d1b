"""Command lines of `python -m cutswap_transforms` on small images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from cutswap_transforms import __main__ as cli


def run(folder: Path, *more: str) -> int:
    """`preview` in small cells."""
    return cli.main(["preview", str(folder), "--size", "32", "--cell", "64", *more])


def roi_file(path: Path, left: int = 0, right: int = 20) -> str:
    """Of 40 x 30 pixels, white from column to column."""
    mask = np.zeros((30, 40), np.uint8)
    mask[:, left:right] = 255
    Image.fromarray(mask).save(path)
    return str(path)
