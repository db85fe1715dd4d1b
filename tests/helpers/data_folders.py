"""Folders of data as the examples read them, drawn from noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

rng = np.random.default_rng(0)


def noise(height: int = 17, width: int = 11) -> np.ndarray[Any, Any]:
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, picture: Any = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (picture if isinstance(picture, Image.Image) else Image.fromarray(noise() if picture is None else picture)).save(path)
    return path


DEFECT = np.eye(17, 11, dtype=np.uint8)
TABLE = "object,split,label,image,mask\n"


def visa(folder: Path, rows: str | bytes) -> Path:
    """A VisA folder with a whole object, `candle`, and more rows below it, or a table of other bytes."""
    for name in ("train", "test", "defect"):
        save(folder / f"candle/{name}.png")
    whole = "candle,train,normal,candle/train.png,\ncandle,test,normal,candle/test.png,\n"
    (folder / "1cls.csv").write_bytes(rows if isinstance(rows, bytes) else (TABLE + whole + rows).encode())
    return folder
