"""The images of a command: which files are found, that they are loaded upright as RGB, and notes on those that are not."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from helpers.sheets import picture
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms import v2

from cutswap_transforms.shell import files, layouts


def test_the_images_found_are_those_of_torchvisions_image_folder(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "parts", tmp_path / "elsewhere"
    for i, name in enumerate(("good/a.ppm", "good/b.pgm", "good/deep/c.TIF", "good/d.jpeg", "good/.e/f.bmp")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture(i).save(root / name)
    (elsewhere / "sub").mkdir(parents=True)
    picture(9).save(elsewhere / "sub" / "g.png")
    (root / "linked").symlink_to(elsewhere)
    (root / "twin").symlink_to(root / "good")
    (root / "good" / "h.png").symlink_to(elsewhere / "sub" / "g.png")
    (root / "good" / "notes.txt").write_text("no image")
    expected = sorted(Path(path) for path, _ in ImageFolder(str(root)).samples)
    assert len(expected) == 13
    assert files.find_images([root]) == [path for path in expected if ".e" not in path.parts]
    assert layouts.SUFFIXES == IMG_EXTENSIONS


def test_what_notebooks_and_archives_leave_behind_is_named_and_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / ".cache" / "parts"  # what is named may lie in a hidden folder
    strange = ("._a.png", ".ipynb_checkpoints/a-checkpoint.png", "good/.hidden/b.png", "__MACOSX/good/b.png", "@eaDir/c.png")
    for name in ("a.png", "good/b.png", *strange):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture().save(root / name)
    (root / ".DS_Store").write_text("no image")
    assert files.find_images([root]) == [root / "a.png", root / "good/b.png"]
    told = sorted(line.split(":")[0] for line in capsys.readouterr().err.splitlines())
    first = ["._a.png", ".ipynb_checkpoints", "@eaDir", "__MACOSX", "good/.hidden"]
    assert told == sorted(f"skipped {root / name}" for name in first)
    assert files.find_images([root / ".ipynb_checkpoints"]) == [root / ".ipynb_checkpoints/a-checkpoint.png"]


def test_links_in_a_circle_come_to_an_end(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "parts" / name).mkdir(parents=True)
        picture().save(tmp_path / "parts" / name / "0.png")
    (tmp_path / "parts" / "a" / "up").symlink_to(tmp_path / "parts")
    (tmp_path / "parts" / "a" / "b").symlink_to("../b")
    (tmp_path / "parts" / "b" / "a").symlink_to("../a")
    (tmp_path / "parts" / "b" / "b").symlink_to("b")  # names itself
    found = [path.relative_to(tmp_path / "parts").as_posix() for path in files.find_images([tmp_path / "parts"])]
    assert found == ["a/0.png", "a/b/0.png", "b/0.png", "b/a/0.png"]


def test_what_cannot_be_opened_is_not_passed_over_in_silence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture().save(tmp_path / "a.png")
    (tmp_path / "lost.png").symlink_to("nowhere.png")
    os.mkfifo(tmp_path / "pipe.png")  # to open it would wait for ever
    locked = tmp_path / "locked"
    locked.mkdir()
    assert files.find_images([tmp_path]) == [tmp_path / "a.png", tmp_path / "lost.png"]
    assert files.load_image(tmp_path / "lost.png", (32,)) is None
    assert f"skipped {tmp_path / 'lost.png'}: not a readable image (FileNotFoundError)" in capsys.readouterr().err
    listdir = os.listdir

    def refuse(path: Any) -> Any:
        if Path(path) == locked:
            raise PermissionError(13, "Permission denied", str(path))
        return listdir(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "listdir", refuse)
        files.find_images([tmp_path])
    assert f"skipped {locked}: the folder cannot be read (PermissionError)" in capsys.readouterr().err


def test_images_are_loaded_upright_as_rgb(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 32 * 64).reshape(32, 64)
    Image.fromarray(ramp.astype(np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(ramp.astype(np.float32)).save(tmp_path / "float.tif")
    Image.fromarray((ramp // 257).astype(np.uint8)).save(tmp_path / "grey.png")
    loaded = [files.load_image(tmp_path / name, (32,)) for name in ("deep.png", "float.tif", "grey.png")]
    for image in loaded:
        assert image is not None and image.mode == "RGB" and image.size == (64, 32)
        assert np.abs(np.asarray(image).astype(int)[..., 0] - ramp / 257).max() < 2
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by a quarter
    picture(0, 32, 64).save(tmp_path / "turned.jpg", exif=exif)
    turned = files.load_image(tmp_path / "turned.jpg", (64,))
    assert turned is not None and turned.size == (64, 128)


@pytest.mark.parametrize("size", [(31,), (200,), (37, 53)])
def test_images_are_resized_as_training_resizes_them(tmp_path: Path, size: Any) -> None:
    picture(0, 120, 83).save(tmp_path / "a.png")
    expected = np.asarray(v2.Resize(size)(picture(0, 120, 83)))
    for image in (files.load_image(tmp_path / "a.png", size), files.ImageFiles([tmp_path / "a.png"], size)[0]):
        np.testing.assert_array_equal(np.asarray(image), expected)


FAULTS = (IndexError, struct.error, KeyError, NotImplementedError, MemoryError, RuntimeError, AttributeError, SystemError)
FAULTS += (Image.DecompressionBombWarning, Image.DecompressionBombError, ZeroDivisionError, OverflowError, TypeError)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_whatever_a_decoder_raises_is_a_note_but_not_ctrl_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Any
) -> None:
    picture().save(tmp_path / "a.png")
    monkeypatch.setattr(Image.Image, "convert", Mock(side_effect=fault))
    assert files.load_image(tmp_path / "a.png", (32,)) is None and len(files.ImageFiles([tmp_path / "a.png"], (32,))[0]) == 0
    monkeypatch.setattr(Image.Image, "convert", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        files.load_image(tmp_path / "a.png", (32,))
    with pytest.raises(KeyboardInterrupt):
        files.ImageFiles([tmp_path / "a.png"], (32,))[0]


def test_an_image_that_resizing_would_make_too_large_is_refused_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("L", (40_000, 1)).save(tmp_path / "line.png")
    Image.new("L", (40_000, 40)).save(tmp_path / "strip.png")
    resized = files.load_image(tmp_path / "strip.png", (256,))
    assert resized is not None and resized.size == (256_000, 256)
    capsys.readouterr()
    monkeypatch.setattr(Image.Image, "resize", Mock(side_effect=AssertionError("resized")))
    assert files.load_image(tmp_path / "line.png", (256,)) is None
    assert len(files.ImageFiles([tmp_path / "line.png"], (256,))[0]) == 0
    sentence = f"skipped {tmp_path / 'line.png'}: it would be resized to 10240000 x 256 pixels, and {2**26} are the most"
    assert capsys.readouterr().err.splitlines() == [sentence] * 2


def test_values_that_are_no_numbers_do_not_hide_the_others(tmp_path: Path) -> None:
    values = np.linspace(0, 1, 32 * 32, dtype=np.float32).reshape(32, 32)
    values[0, :3] = np.nan, np.inf, -np.inf
    Image.fromarray(values).save(tmp_path / "float.tif")
    image = files.load_image(tmp_path / "float.tif", (32,))
    assert image is not None and [image.getpixel((x, 0))[0] for x in range(3)] == [0, 255, 0]
    assert image.getpixel((31, 31)) == (255, 255, 255)
