"""What the tests of the explorer share: pictures, files, and a visitor whose pictures are made at once."""

from __future__ import annotations

import io
import re
import struct
import zlib
from concurrent.futures import Executor, Future
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from explorer.settings import Settings
from explorer.visitor import Visitor
from PIL import Image


class AtOnce(Executor):
    """Makes every picture in the same thread."""

    def submit(self, make: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(make(*args, **kwargs))
        return future


def picture(mode: str = "RGB", size: tuple[int, int] = (70, 50), seed: int = 0) -> Image.Image:
    """A bright disc on a dark, noisy ground."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[1], : size[0]]
    disc = (y - size[1] / 2) ** 2 + (x - size[0] / 2) ** 2 < (min(size) / 3) ** 2
    grey = np.where(disc, 150, 40)[..., None] + rng.integers(0, 60, (size[1], size[0], 3))
    if mode.startswith("I;16"):
        return Image.frombytes(mode, size, (grey[..., 0] * 257).astype(">u2" if mode == "I;16B" else "<u2").tobytes())
    if mode.startswith("clear "):
        made = Image.fromarray(np.dstack([grey, 255 * disc]).astype(np.uint8))
        return made.quantize(30) if mode == "clear P" else made.convert(mode.split()[1])
    return Image.fromarray(grey.astype(np.uint8)).convert(mode)


def content(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def guest(*given: tuple[str, bytes]) -> Visitor:
    made = Visitor(AtOnce())
    for name, data in given:
        made.add(name, data)
    return made


def values(**changed: Any) -> list[Any]:
    """What the page sends."""
    return [getattr(Settings(**changed), f.name) for f in fields(Settings)]


def fetched(visitor: Visitor, html: str | None, name: str) -> Image.Image:
    found = re.search(rf'"files/([\w-]+)/{re.escape(name)}"', html or "")
    assert found, (name, html)
    make = visitor.file(found[1], name)
    assert make is not None
    return Image.open(io.BytesIO(make()))


def run(code: str | None, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Image.Image, torch.Tensor]:
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(code or "", names)
    return names["negative"], names["mask"]


MASK = Image.fromarray(np.pad(np.full((30, 40), 255, np.uint8), ((10, 20), (20, 20))))  # 80 x 60 pixels


def png_header(width: int, height: int) -> bytes:
    """A PNG that says a size and holds nothing."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def turned(image: Image.Image, kind: str, orientation: int) -> bytes:
    """A file that asks for the image to be turned."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return content(image, kind, exif=exif)
