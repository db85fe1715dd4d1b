"""Folders of photographs: which ones are held out, and the views of the others for training."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as tvF
from tqdm import tqdm

from cutswap_transforms.shell.decode import decoded, opened

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


def list_photographs(folders: list[Path]) -> list[tuple[Path, str]]:
    """(path, name) of every photograph; the name starts with its data folder and decides the split."""
    found = [
        (path, f"{folder.name}/{path.relative_to(folder).as_posix()}")
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SUFFIXES and path.is_file()  # reading a pipe would block forever
    ]
    if not found:
        raise SystemExit(f"`--data` holds no photograph ({', '.join(sorted(SUFFIXES))}): {[str(f) for f in folders]}")
    return found


def is_held_out(name: str, seed: int, share: float = 0.2) -> bool:
    """A seeded random choice per photograph that depends only on its name."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return int.from_bytes(digest[:4], "big") < share * 2**32


def load_rgb(path: Path) -> Tensor:
    with opened(path) as file:
        return tvF.pil_to_tensor(decoded(file).image)


def draw_views(rng: np.random.Generator, count: int, zoomed_out: float = 1 / 3) -> np.ndarray:
    """[count, 3]: zoom (side of the window over the short side of the photograph) and the window's position in [0, 1].

    A share of the views zooms out: the photograph shrinks on an edge-padded canvas, because inspected objects may be small."""
    out = rng.random((count, 3)).astype("f4")
    zoom = np.where(rng.random(count) < zoomed_out, rng.uniform(1, 2.0, count), np.sqrt(rng.uniform(0.3, 1, count)))
    out[:, 0] = zoom
    return out


def render_view(photo: Tensor, view: np.ndarray, side: int) -> Tensor:
    """uint8 [3, side, side]: the window of `draw_views`, padded with the edge's pixels where it leaves the photograph."""
    h, w = photo.shape[-2:]
    size = max(16, round(float(view[0]) * min(h, w)))
    pad_h, pad_w = max(0, size - h), max(0, size - w)
    top = round(float(view[1]) * abs(h - size)) - (pad_h if size > h else 0)
    left = round(float(view[2]) * abs(w - size)) - (pad_w if size > w else 0)
    y0, x0, y1, x1 = max(top, 0), max(left, 0), min(top + size, h), min(left + size, w)
    crop = photo[:, y0:y1, x0:x1]
    if crop.shape[1] < size or crop.shape[2] < size:
        pads = (x0 - left, left + size - x1, y0 - top, top + size - y1)
        crop = F.pad(crop[None].float(), pads, mode="replicate")[0].byte()
    return tvF.resize(crop, [side, side], antialias=True)


def render_views(photos: list[Tensor], count: int, zoomed_out: float, side: int, seed: int) -> Tensor:
    """uint8 [count * photographs, 3, side, side]: a view of each photograph, then another of each, and so on."""
    out = torch.empty(len(photos) * count, 3, side, side, dtype=torch.uint8)
    for i, photo in enumerate(tqdm(photos, desc="views", mininterval=10)):
        for j, view in enumerate(draw_views(np.random.default_rng([seed, i]), count, zoomed_out)):
            out[j * len(photos) + i] = render_view(photo, view, side)
    return out
