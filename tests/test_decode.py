"""The decoder: every mode and depth becomes upright 8-bit RGB, and what may surprise is noted."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cutswap_transforms.shell.decode import Decoded, Note, decoded, opened, read_mask

RAMP = np.linspace(0, 1, 7 * 11).reshape(7, 11)  # shares of white
WANTED = (RAMP * 255 + 0.5).astype(np.uint8)
UP = {1: 0, 3: 2, 6: -1, 8: 1}  # EXIF's orientation -> quarter turns of np.rot90
FILES = [("JPEG", "u1"), ("PNG", "u1"), ("PNG", "u2"), ("TIFF", "u2"), ("TIFF", "f4"), ("WEBP", "u1")]


def read(image: Any, kind: str, white: float | None = None, **options: Any) -> Decoded:
    """What comes back of an image or array that was written as a file of this kind."""
    stream = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, kind, **options)
    return decoded(Image.open(stream), white)


def color_png(values: np.ndarray[Any, Any]) -> Image.Image:
    """uint16 [H, W, 3], which Pillow itself cannot write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return Image.open(io.BytesIO(content))


def test_deep_greys_are_scaled_by_their_range() -> None:
    words = (RAMP * 65535).round().astype(np.uint16)
    big = Image.frombytes("I;16B", (11, 7), words.astype(">u2").tobytes())
    pgm = Image.open(io.BytesIO(b"P5 11 7 65535\n" + words.astype(">u2").tobytes()))
    cases = [read(words, "PNG"), read(words, "TIFF"), read(big, "TIFF"), read(words.astype(np.int32), "TIFF"), decoded(pgm)]
    for found in cases:
        assert found.image.mode == "RGB" and found.notes == () and found.top == 65535
        np.testing.assert_allclose(np.asarray(found.image)[..., 1].astype(int), WANTED, atol=1)
    assert read((RAMP * 4094).astype(np.uint16), "PNG").notes == (Note.NARROW,)
    assert read((RAMP * 4097).astype(np.uint16), "PNG").notes == ()


def test_floats_are_shares_of_white_or_stretched_and_never_black() -> None:
    for values, note in ((RAMP, Note.FLOATS), (RAMP * 9 - 4, Note.STRETCHED), (RAMP * 255, Note.STRETCHED)):
        found = read(values.astype(np.float32), "TIFF")
        assert found.notes == (note,)
        np.testing.assert_allclose(np.asarray(found.image)[..., 0].astype(int), WANTED, atol=1)
    assert read((RAMP / 20).astype(np.float32), "TIFF").notes == (Note.FLOATS, Note.NARROW)
    assert read((RAMP * 1e6).astype(np.int32), "TIFF").notes == (Note.STRETCHED,)
    assert read(np.full((4, 4), 7.0, np.float32), "TIFF").image.getextrema() == ((0, 0),) * 3  # flat: nothing to stretch


def test_values_that_are_no_numbers_do_not_hide_the_others() -> None:
    values = RAMP.astype(np.float32)
    values[0, :3] = np.nan, np.inf, -np.inf
    found = read(values, "TIFF")
    assert Note.NOT_FINITE in found.notes
    pixels = np.asarray(found.image)[..., 0]
    assert pixels[0, :3].tolist() == [0, 255, 0] and abs(int(pixels[-1, 5]) - int(WANTED[-1, 5])) <= 1
    assert read(np.full((3, 3), np.nan, np.float32), "TIFF").image.getextrema()[0] == (0, 0)


@pytest.mark.parametrize("white", [4095.0, 1.0, 200.0])
def test_white_says_what_is_white(white: float) -> None:
    kind = np.float32 if white == 1 else np.uint16
    found = read((RAMP * white).astype(kind), "TIFF", white)
    assert found.notes == ()
    np.testing.assert_allclose(np.asarray(found.image)[..., 2].astype(int), WANTED, atol=2)
    beyond = read((RAMP * white * 2).astype(kind), "TIFF", white)
    assert beyond.notes == (Note.CLIPPED,) and beyond.image.getextrema()[0] == (0, 255)
    assert np.array_equal(np.asarray(read(WANTED, "PNG", white).image)[..., 0], WANTED)  # 8 bits know their white


def test_colors_of_16_bits() -> None:
    words = (RAMP[..., None] * [65535, 30000, 10000]).astype(np.uint16)
    found = decoded(color_png(words))
    assert found.notes == ()
    np.testing.assert_allclose(np.asarray(found.image).astype(int), words / 257, atol=2)
    dark = decoded(color_png(words // 16))
    assert dark.notes == (Note.NARROW,) and dark.top < 4096
    bright = np.asarray(decoded(color_png(words // 16), 4095).image).astype(int)
    np.testing.assert_allclose(bright, words / 257, atol=17)  # 16 steps: Pillow reads the high byte


def test_bitmaps_of_16_bits_per_pixel_are_no_deep_colors() -> None:
    head = struct.pack("<2sIHHI IiiHHIIiiII", b"BM", 66 + 8, 0, 0, 66, 40, 2, 2, 1, 16, 3, 8, 0, 0, 0, 0)
    head += struct.pack("<3I", 0xF800, 0x07E0, 0x001F)  # 5, 6 and 5 bits of red, green and blue
    content = head + struct.pack("<4H", 0xFFFF, 0, 0xF800, 0x001F)  # the lower row first
    found = decoded(Image.open(io.BytesIO(content)), 4095)
    assert found.notes == () and [found.image.getpixel((x, 0)) for x in (0, 1)] == [(255, 0, 0), (0, 0, 255)]
    assert [found.image.getpixel((x, 1)) for x in (0, 1)] == [(255, 255, 255), (0, 0, 0)]
    dark = head + struct.pack("<4H", 1, 1, 1, 1)
    assert decoded(Image.open(io.BytesIO(dark)), 4095).image.getpixel((0, 0)) == (0, 0, 8)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_by_its_colors(mode: str) -> None:
    image = Image.fromarray(np.where(RAMP[..., None] > 0.5, np.uint8([250] * 3), np.uint8([4] * 3))).convert(mode)
    found = read(image, "TIFF" if mode in ("CMYK", "YCbCr") else "PNG")
    assert found.image.mode == "RGB" and found.notes == ()
    np.testing.assert_allclose(np.asarray(found.image)[..., 1].astype(int), np.where(RAMP > 0.5, 250, 4), atol=5)


def test_what_is_transparent_lies_on_white() -> None:
    shown = Image.fromarray((np.arange(77).reshape(7, 11) % 2 * 255).astype(np.uint8))
    color = Image.new("RGB", shown.size, (0, 0, 40))
    color.putalpha(shown)
    grey = Image.new("L", shown.size, 0)
    grey.putalpha(shown)
    palette = Image.fromarray((np.asarray(shown) > 0).astype(np.uint8))
    palette.putpalette([9, 9, 9, 0, 0, 40])
    cases = [read(color, "PNG"), read(grey, "PNG"), read(palette, "PNG", transparency=0), read(color, "WEBP", lossless=True)]
    cases += [read(palette, "GIF", transparency=0)]
    deep = np.where(np.asarray(shown) > 0, 0, 40_000).astype(np.uint16)
    cases += [read(deep, "PNG", transparency=40_000)]
    for found in cases:
        assert found.notes == (Note.TRANSPARENT,)
        pixels = np.asarray(found.image)
        assert (pixels[np.asarray(shown) == 0] == 255).all() and (pixels[np.asarray(shown) > 0, 0] == 0).all()
    half = Image.new("RGBA", (2, 2), (0, 0, 0, 128))
    assert read(half, "PNG").image.getpixel((0, 0)) == (127, 127, 127)


@pytest.mark.parametrize("turn", UP)
@pytest.mark.parametrize(("kind", "depth"), FILES)
def test_photographs_stand_upright_at_every_depth(kind: str, depth: str, turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    block = np.zeros((24, 40))
    block[:8, :24] = 1
    values = (block * {"u1": 255, "u2": 65535, "f4": 1}[depth]).astype(depth)
    pixels = np.asarray(read(values, kind, exif=exif).image)[..., 0]
    wanted = np.rot90(block, UP[turn])
    assert pixels.shape == wanted.shape and ((pixels > 127) == (wanted > 0)).mean() > 0.97


@pytest.mark.parametrize("depth", ["u1", "u2"])
def test_a_turned_tiff_on_disk_is_not_garbled(tmp_path: Path, depth: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    values = (np.arange(24 * 40).reshape(24, 40) % 7 > 3).astype(depth) * np.array(65535, "u2").astype(depth)
    Image.fromarray(values).save(tmp_path / "a.tif", exif=exif)
    with opened(tmp_path / "a.tif") as image:
        np.testing.assert_array_equal(np.asarray(decoded(image).image)[..., 0] > 127, np.rot90(values, -1) > 0)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")  # to open it would wait for ever
    for path in (tmp_path / "pipe.png", tmp_path):
        with pytest.raises(ValueError, match="not a regular file"):
            opened(path)
    with pytest.raises(FileNotFoundError):
        opened(tmp_path / "nothing.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("turn", UP)
def test_a_mask_is_read_upright_whatever_its_file(kind: str, turn: int, tmp_path: Path) -> None:
    mask = np.zeros((40, 64), bool)
    mask[8:24, 16:56] = True
    exif = Image.Exif()
    exif[0x0112] = turn
    stored = Image.fromarray(np.rot90(mask, -UP[turn]).astype(np.uint8) * 255)
    stored.save(tmp_path / "mask", kind, exif=exif)
    assert read_mask(tmp_path / "mask").tolist() == mask.tolist()


def test_a_mask_of_ones_is_no_lossy_one(tmp_path: Path) -> None:
    ones = np.eye(9, 7, dtype=np.uint8)
    for kind, options in (("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True})):
        Image.fromarray(ones).convert("RGB" if kind == "WEBP" else "L").save(tmp_path / "mask", kind, **options)
        assert read_mask(tmp_path / "mask").tolist() == (ones > 0).tolist()
