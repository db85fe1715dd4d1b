"""Files that the explorer opens: what is refused and why, upright photographs, 16 bits, names without folders."""

from __future__ import annotations

from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from explorer import images
from explorer.images import Photo, RefusedImage, check_photo, opened, plain_name
from explorer.views import update
from explorer.visitor import SAMPLES
from helpers.explorer import content, fetched, guest, picture, png_header, run, turned, values
from PIL import Image


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "'x' is not a PNG, JPEG, .* or PPM image."),
        (b"hello" * 99, "'x' is not a PNG, JPEG, .* or PPM image."),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "'x' is not a PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "'x' is not a PNG"),
        (png_header(9000, 9000), "'x' has 9000 x 9000 pixels; the limit is 67 million. Make it smaller first."),
        (png_header(10000, 10000), "'x' has 10000 x 10000 pixels; the limit"),  # of which Pillow warns
        (png_header(50000, 50000), "'x' has too many pixels"),
        (content(picture().convert("I"), "TIFF"), r"'x' has pixels of 32 bits \(mode I\). Convert it to 8 or 16 bits first."),
        (content(picture().convert("F"), "TIFF"), r"\(mode F\)"),
        (bytes(images.MAX_BYTES + 1), "'x' has 32 MB; 32 MB is the most."),
    ],
    ids=["empty", "text", "svg", "eps", "bomb", "bomb of a warning", "larger bomb", "32 bits", "float", "large file"],
)
def test_files_that_are_no_images_are_refused_with_the_reason(data: bytes, sentence: str) -> None:
    with pytest.raises(RefusedImage, match=sentence):
        guest().add("x", data)


@pytest.mark.parametrize(
    "data",
    [content(picture(size=(200, 200)))[:5000], content(picture(size=(900, 700)), "JPEG")[:9000], png_header(9, 9)],
    ids=["cut PNG", "cut JPEG", "nothing but a header"],
)
def test_damaged_data_is_refused_when_it_is_dropped(data: bytes) -> None:
    visitor = guest()
    with pytest.raises(RefusedImage, match="'x' is damaged: "):
        visitor.add("x", data)
    assert visitor.photos == {}
    visitor.photos["x"] = Photo("x", data)  # as if it had passed
    assert "x&#x27; is damaged" in update(visitor, "x", values()).message
    assert update(visitor, SAMPLES[0], values()).message == ""


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP"])
def test_no_change_of_a_file_escapes_as_another_error(kind: str) -> None:
    rng, data = np.random.default_rng(0), content(picture(), kind)
    for _ in range(60):
        damaged = bytearray(data)
        for at in rng.integers(0, min(len(data), 400), 3):
            damaged[at] = rng.integers(0, 256)
        try:
            opened(Photo("x", bytes(damaged)), "128")
        except RefusedImage as error:
            assert str(error).startswith("'x' ")


def test_twenty_megapixels_work_at_a_size_and_are_refused_as_they_are() -> None:
    photo = Photo("x", content(Image.new("L", (5472, 3648), 90), "JPEG"))
    assert opened(photo, "256").image.size == (384, 256)
    with pytest.raises(RefusedImage, match=r"'x' of 5472 x 3648 pixels is too large at the size as it is. Choose a size."):
        opened(photo, "as it is")
    with pytest.raises(RefusedImage, match=r"It is too long and narrow: crop it, or choose a smaller size."):
        opened(Photo("x", content(Image.new("L", (30000, 9)))), "512")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "JPEG"), ("I;16", "PNG"), ("I;16B", "TIFF"), ("L", "TIFF"), ("clear RGBA", "PNG")]
)
def test_a_photograph_is_upright_as_in_the_commands(
    mode: str, kind: str, orientation: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = turned(picture(mode), kind, orientation)
    (tmp_path / "a.file").write_bytes(data)
    visitor = guest(("a.file", data))
    view = update(visitor, "a.file", values(size="as it is"))
    assert ("transparency is laid on white" in view.message) == (mode == "clear RGBA")
    shown = opened(visitor.photos["a.file"], "as it is").image
    stored = picture(mode).convert("I" if mode.startswith("I") else "RGBA")
    expected = upright(np.asarray(stored), orientation)
    if mode.startswith("I;16"):
        np.testing.assert_array_equal(np.asarray(shown), expected)
    else:
        expected = np.where(expected[..., 3:] > 0, expected[..., :3], 255).astype(int)
        assert np.abs(np.asarray(shown) - expected).mean() < (8 if kind == "JPEG" else 1e-9)
    negative, _ = run(view.code, tmp_path, monkeypatch)
    np.testing.assert_array_equal(np.asarray(fetched(visitor, view.words, "negative.png")), np.asarray(negative))


def upright(stored: np.ndarray[Any, Any], orientation: int) -> np.ndarray[Any, Any]:
    """By the table of EXIF, which says where row 0 and column 0 of the stored pixels belong."""
    if orientation >= 5:
        stored = stored.swapaxes(0, 1)
    rows, columns = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}.get(orientation, (1, 1))
    return stored[::rows, ::columns]


def test_sixteen_bits_look_the_same_in_either_order_of_bytes() -> None:
    shown = [
        np.asarray(opened(Photo("x", content(picture(mode), kind)), "as it is").image)
        for mode, kind in (("I;16", "PNG"), ("I;16", "TIFF"), ("I;16B", "TIFF"), ("I;16", "PPM"))
    ]
    assert shown[0].max() == 209 * 257 and all(np.array_equal(shown[0], other) for other in shown[1:])


def test_sixteen_bits_of_colour_are_scaled_and_told_when_they_are_dark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import cv2

    values_of_12_bits = (np.asarray(picture()).astype(np.uint16) * 257) >> 4
    cases = {"bright.png": values_of_12_bits << 4, "dark.png": values_of_12_bits >> 1}
    for name, values_of_case in cases.items():
        cv2.imwrite(str(tmp_path / name), values_of_case)
        visitor = guest((name, (tmp_path / name).read_bytes()))
        view = update(visitor, name, values())
        assert ("If white is lower, scale the values first." in view.message) == (name == "dark.png")
        negative, _ = run(view.code, tmp_path, monkeypatch)
        np.testing.assert_array_equal(np.asarray(fetched(visitor, view.words, "negative.png")), np.asarray(negative))


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ("a.png", "a.png"),
        ("../../etc/a.png", "a.png"),
        ("C:\\photos\\a.png", "a.png"),
        ("a\n\x00b.png", "ab.png"),
        ("", "image"),
        ("..", "image"),
    ],
)
def test_names_lose_their_folders(given: str, plain: str) -> None:
    assert plain_name(given) == plain


def test_check_photo_reads_the_header_alone() -> None:
    check_photo(Photo("x", png_header(9, 9)))  # its data is missing, which is told when it is shown
    assert astuple(Photo("x", b"1")) == ("x", b"1", "", "")
