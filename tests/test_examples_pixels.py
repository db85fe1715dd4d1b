"""Pictures and masks of every kind as the examples read them: upright squares of 8 bits, binary masks, and what is told."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import data
import numpy as np
import pytest
import torch
from helpers.data_folders import noise, save
from PIL import Image


def test_every_fault_of_a_decoder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A DDS file under another suffix, for one, raises NotImplementedError."""
    picture = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(picture, "DDS")
    picture.write_bytes(picture.read_bytes()[:80] + bytes(4) + picture.read_bytes()[84:])
    with pytest.raises(data.DataError, match=r"got 1 that cannot: .*a\.png \(Unknown pixel format flags 0\)"):
        data.decode([data.Sample(picture)], 8)
    with pytest.raises(data.DataError, match=r"masks that can be read, got 1 that cannot: .*a\.png"):
        data.decode_masks([data.Sample(picture, "crack", picture)], 8)


def test_images_of_every_size_and_mode_become_equal_squares_and_photographs_stand_upright(tmp_path: Path) -> None:
    modes = {"RGB": "png", "L": "png", "RGBA": "png", "P": "png", "1": "png", "CMYK": "tif"}
    pictures = [Image.fromarray(noise(9 + i, 20)).convert(mode) for i, mode in enumerate(modes)]
    paths = [save(tmp_path / f"{m}.{modes[m]}", picture) for m, picture in zip(modes, pictures, strict=True)]
    images, samples = data.decode([data.Sample(p) for p in paths], 12)
    assert images.shape == (6, 3, 12, 12) and images.dtype == torch.uint8 and len(samples) == 6
    assert all(image.float().std() > 5 for image in images)
    picture, exif = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)), Image.Exif()
    exif[0x0112] = 6  # turn by a quarter to see it upright
    picture.save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(data.read_image(tmp_path / "turned.png", 16)[0].numpy(), np.rot90(np.asarray(picture), -1))


DEEP = [("deep.png", np.uint16, 65535), ("deep.tif", np.uint16, 4095), ("deep.tif", np.float32, 1.0)]


@pytest.mark.parametrize(("name", "kind", "top"), DEEP)
def test_deep_greys_are_kept_or_refused(tmp_path: Path, name: str, kind: Any, top: float) -> None:
    ramp = np.linspace(0, top, 16).astype(kind)[None].repeat(16, 0)
    sample, white = data.Sample(save(tmp_path / name, ramp)), None
    if top != 65535:
        with pytest.raises(data.DataError, match=r"deep\.tif \(deep grays up to (4095|1): pass --white, the value of white"):
            data.decode([sample], 16)
        white = top
    images, _ = data.decode([sample], 16, white=white)
    assert images[0, 0, 0].tolist() == (ramp[0] * 255.0 / top).astype(int).tolist()


def test_unreadable_images_are_all_named_and_skipped_on_request(tmp_path: Path) -> None:
    whole, cut = save(tmp_path / "whole.png"), save(tmp_path / "cut.png", noise(64, 64))
    cut.write_bytes(cut.read_bytes()[:900])
    (tmp_path / "text.jpg").write_text("no image")
    samples = [data.Sample(p) for p in (cut, whole, tmp_path / "text.jpg", tmp_path / "gone.png")]
    with pytest.raises(data.DataError, match=r"got 3 that cannot: .*cut\.png.*text\.jpg.*gone\.png.*--skip-unreadable"):
        data.decode(samples, 8)
    with pytest.warns(UserWarning, match=r"skipped 3 images that cannot be read: .*cut\.png"):
        images, kept = data.decode(samples, 8, skip_unreadable=True)
    assert len(images) == 1 and [s.path.name for s in kept] == ["whole.png"]
    with pytest.raises(data.DataError, match="got none among 1"), pytest.warns(UserWarning, match="skipped 1"):
        data.decode(samples[:1], 8, skip_unreadable=True)


def test_masks_are_binary_whatever_they_were(tmp_path: Path) -> None:
    truth = np.zeros((10, 8), np.uint8)
    truth[2:5, 3:6] = 1
    rgb = truth[..., None].repeat(3, 2)
    files = {"labels": truth * 3, "white": truth * 255, "rgb": rgb * 9, "red": rgb * np.uint8([1, 0, 0])}  # a luminance of 0.3
    files["opaque"] = np.concatenate((rgb * 9, rgb[..., :1] * 0 + 255), 2)  # everywhere, which is no defect
    files["clear"] = np.concatenate((rgb * 0 + 255, truth[..., None] * 255), 2)  # white, seen where truth is
    enlarged = np.asarray(Image.fromarray(truth).resize((40, 40), Image.Resampling.NEAREST))
    for name, values in files.items():
        found = data.read_mask(save(tmp_path / f"{name}.png", values), 40)
        assert found.dtype == torch.uint8 and set(found.unique().tolist()) == {0, 1}, name
        np.testing.assert_array_equal(found.numpy(), enlarged, err_msg=name)


def square() -> Image.Image:
    """64 px, of which 100 mark a defect."""
    return Image.fromarray(np.pad(np.full((10, 10), 255, np.uint8), ((20, 34), (30, 24))))


@pytest.mark.parametrize("first", [0, 255])
def test_palette_masks_count_by_their_colors(tmp_path: Path, first: int) -> None:
    marked = np.asarray(square()) > 0
    index = np.where(marked == (first > 0), 0, 1).astype(np.uint8)  # index 0 has the color `first`
    picture = Image.fromarray(index)
    picture.putpalette([first] * 3 + [255 - first, 0, 0])
    assert picture.mode == "P"
    for suffix in ("png", "bmp", "tif", "png"):
        np.testing.assert_array_equal(data.read_mask(save(tmp_path / f"m.{suffix}", picture), 64).numpy(), marked)
    save(tmp_path / "m.png", square().quantize(2))
    np.testing.assert_array_equal(data.read_mask(tmp_path / "m.png", 64).numpy(), marked)


LOSSY = [("jpg", {}), ("jpg", {"quality": 20}), ("webp", {}), ("tif", {"compression": "jpeg"})]


@pytest.mark.parametrize(("suffix", "options"), LOSSY)
@pytest.mark.parametrize("color", [(255, 255, 255), (255, 0, 0)])
def test_lossy_masks_do_not_grow(tmp_path: Path, suffix: str, options: dict[str, Any], color: tuple[int, int, int]) -> None:
    picture = Image.composite(Image.new("RGB", (64, 64), color), Image.new("RGB", (64, 64)), square())
    picture.save(tmp_path / f"m.{suffix}", **options)
    found = data.read_mask(tmp_path / f"m.{suffix}", 64)
    grown = 1.1 if color[1] else 1.7  # the color itself is stored at half of the resolution
    assert 100 / grown < found.sum() < 100 * grown


@pytest.mark.parametrize(
    ("mode", "suffix"), [("L", "png"), ("I;16", "png"), ("F", "tif"), ("I", "tif"), ("L", "webp"), ("1", "png")]
)
def test_label_maps_count_from_one_in_lossless_files(tmp_path: Path, mode: str, suffix: str) -> None:
    labels = (np.asarray(square()) > 0).astype({"I;16": "u2", "F": "f4", "I": "i4"}.get(mode, "u1"))
    picture = Image.fromarray(labels * 255).convert("1") if mode == "1" else Image.fromarray(labels)
    picture.save(tmp_path / f"m.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    assert data.read_mask(tmp_path / f"m.{suffix}", 64).sum() == 100


def test_black_of_print_is_no_defect(tmp_path: Path) -> None:
    assert data.read_mask(save(tmp_path / "m.tif", square().convert("RGB").convert("CMYK")), 64).sum() == 100


def test_masks_that_look_wrong_are_named(tmp_path: Path) -> None:
    good = save(tmp_path / "photo.png", noise(64, 64))
    inverted = save(tmp_path / "inverted.png", Image.eval(square(), lambda v: 255 - v))
    wide = save(tmp_path / "wide.png", square().resize((128, 64)))
    small = save(tmp_path / "small.png", square().resize((21, 21)))
    with pytest.warns(UserWarning) as told:
        masks = data.decode_masks([data.Sample(good, "dent", mask) for mask in (inverted, wide, small)], 64)
    assert masks.shape == (3, 64, 64)
    assert [str(w.message) for w in told] == [
        f"masks to look at: {inverted} marks 98% of its image as a defect: it may be inverted; "
        f"{wide} of 128 x 64 px is of another aspect than its image of 64 x 64 px"
    ]


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("orientation", [1, 3, 5, 6, 7, 8])
def test_a_mask_is_turned_with_its_photograph(tmp_path: Path, orientation: int, suffix: str) -> None:
    stored, exif = np.zeros((40, 80), np.uint8), Image.Exif()
    stored[4:12, 10:40] = 255
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / f"photo.{suffix}", exif=exif.tobytes())
    Image.fromarray(stored).save(tmp_path / "own.png", exif=exif.tobytes())  # says itself how it is turned
    Image.fromarray(stored).save(tmp_path / "raw.png")  # drawn on the photograph as it is stored
    upright = (data.read_image(tmp_path / f"photo.{suffix}", 40)[0] > 127).to(torch.uint8)
    Image.fromarray(upright.numpy() * 255).resize((40, 80) if orientation > 4 else (80, 40), 0).save(tmp_path / "seen.png")
    for name in ("own", "seen", *(["raw"] if orientation != 3 else [])):
        (mask,) = data.decode_masks([data.Sample(tmp_path / f"photo.{suffix}", "dent", tmp_path / f"{name}.png")], 40)
        assert (mask != upright).float().mean() < 0.03, name


@pytest.mark.parametrize("values", ["u2", "u1"])
def test_deep_photographs_stand_upright_too(tmp_path: Path, values: str) -> None:
    picture, exif = (np.arange(256).reshape(16, 16) * (257 if values == "u2" else 1)).astype(values), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture).save(tmp_path / "turned.png", exif=exif)
    found = data.read_image(tmp_path / "turned.png", 16)[0].numpy()
    np.testing.assert_array_equal(found, np.rot90(np.arange(256).reshape(16, 16), -1))


def test_values_that_white_cannot_be_guessed_for_are_refused(tmp_path: Path) -> None:
    sample = data.Sample(save(tmp_path / "wide.tif", np.linspace(0, 1e6, 256).reshape(16, 16).astype(np.int32)))
    with pytest.raises(data.DataError, match=r"deep grays up to 1e\+06: pass --white"):
        data.decode([sample], 16)
    images, _ = data.decode([sample], 16, white=1e6)
    assert images.min() == 0 and images.max() == 255


def test_what_surprises_is_a_warning(tmp_path: Path) -> None:
    clear = data.Sample(save(tmp_path / "clear.png", np.full((16, 16, 4), 100, np.uint8)))
    with pytest.warns(UserWarning, match="transparency is laid on white"):
        data.decode([clear], 16)
    deep = data.Sample(save(tmp_path / "deep.png", np.arange(256, dtype=np.uint16).reshape(16, 16) * 257))
    with pytest.warns(UserWarning, match="values below 0 or above --white are clipped"):
        images, _ = data.decode([deep], 16, white=6553.5)
    assert images[0, 0, 0, :3].tolist() == [0, 10, 20]


@pytest.mark.parametrize("name", ["image", "mask"])
def test_a_pipe_is_never_opened_by_the_readers(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    read = data.read_image if name == "image" else data.read_mask
    with pytest.raises(ValueError, match="not a regular file"):
        read(tmp_path / "pipe.png", 16)


def test_masks_of_any_size_one_for_every_defect(mvtec: Path) -> None:
    with pytest.raises(data.DataError, match=r"a mask for every defect to score pixels, got 1 without, first '.*crack/1\.png'"):
        data.decode_masks(data.read_categories(mvtec)[0].test, 8)
    save(mvtec / "ground_truth/crack/1_mask.png", np.full((50, 60), 7, np.uint8))
    with pytest.warns(UserWarning, match=r"1_mask\.png marks 100% .*; .*1_mask\.png of 60 x 50 px is of another aspect"):
        masks = data.decode_masks(data.read_categories(mvtec)[0].test, 6)
    assert masks.shape == (3, 6, 6)
    assert 0 < masks[0].sum() < 36 and masks[1].min() == 1 and masks[2].max() == 0
