"""The contact sheet and `python -m cutswap_transforms preview`."""

from __future__ import annotations

import argparse
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from cutswap_transforms import LayerCAMExtractor, SaliencySwap
from cutswap_transforms import __main__ as cli
from cutswap_transforms.preview.panels import ROI, font
from cutswap_transforms.preview.sheet import _clipped, contact_sheet, spread
from cutswap_transforms.preview.steps import found_steps
from cutswap_transforms.shell import arguments, files, preview

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


def test_row_holds_original_maps_clusters_boxes_negative_and_mask() -> None:
    image, swap = picture(), swapper(levels=1)
    torch.manual_seed(0)
    sheet = contact_sheet([image], swap, cell=CELL)
    torch.manual_seed(0)
    params = swap.make_params([image])
    negative = swap.transform(image, params)
    cells = cells_of(sheet, image, 1 + 3 + 4)
    np.testing.assert_array_equal(cells[6], np.asarray(negative))
    region = np.zeros((CELL, CELL), bool)
    for _, ta, la, tb, lb, h, w in params["pairs"][0].tolist():
        region[ta : ta + h, la : la + w] = region[tb : tb + h, lb : lb + w] = True
    np.testing.assert_array_equal(cells[7], np.repeat(region[..., None] * np.uint8(255), 3, 2))
    assert not np.array_equal(cells[5], cells[0])  # boxes are drawn


def test_maps_and_clusters_are_bright_where_the_saliency_is() -> None:
    image = Image.new("RGB", (CELL, CELL), (90, 90, 90))
    image.putpixel((0, 0), (1, 2, 3))  # so that the cell is found
    cells = cells_of(contact_sheet([image], swapper(levels=0), cell=CELL), image, 8)
    for heat in cells[1:4]:
        assert heat[:24, :24].mean() > heat[40:, 40:].mean() + 60
    clusters = cells[4].astype(int)
    warmth = clusters[..., 0] - clusters[..., 2]
    assert warmth[2:30, 2:30].mean() > 40 and warmth[34:, 34:].mean() < 0
    white = (clusters[8:24] == 255).all(2).all(0)  # [W]: a line around the region
    assert white[28:40].sum() == 1 and not white[:28].any() and not white[40:].any(), np.flatnonzero(white)


def test_sheet_is_the_same_for_the_same_seed() -> None:
    sheets = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        sheets.append(contact_sheet([picture(3)], swapper(), cell=CELL).tobytes())
    assert sheets[0] == sheets[1] != sheets[2]


def test_rows_follow_the_shape_of_each_image() -> None:
    images = [picture(0), picture(1, height=32), picture(2, width=40)]
    sheet = contact_sheet(images, swapper(), names=["a", "b", "c"], cell=CELL)
    tops = [corners(sheet, image)[0][0] for image in images]
    assert tops[0] < tops[1] < tops[2]
    assert (tops[1] - tops[0]) - (tops[2] - tops[1]) == 32  # the second row is half as high


def test_no_swap_shows_the_original_as_negative_and_an_empty_mask() -> None:
    image = picture(5)
    sheet = contact_sheet([image], swapper(p=0.0), cell=CELL)
    assert len(corners(sheet, image)) == 2
    assert len(corners(sheet, Image.new("RGB", (CELL, CELL)))) == 1


@pytest.mark.parametrize("levels", ["all", (0, 2), 1])
def test_every_setting_has_a_sheet(levels: Any) -> None:
    swap = swapper(levels=levels, return_mask=True, scale=(0.01, 0.02))
    image = picture(6)
    torch.manual_seed(3)
    _, expected = swap(image)
    torch.manual_seed(3)
    sheet = contact_sheet([image], swap, cell=CELL)
    assert len(corners(sheet, Image.fromarray(expected[0].numpy() * 255))) == 1
    assert expected.any()


@pytest.mark.parametrize(
    "image",
    [
        torch.rand(3, 20, 30),
        torch.randint(0, 65536, (1, 20, 30)).to(torch.uint16),
        Image.new("L", (30, 20), 70),
        picture(7, 20, 30).quantize(16),
    ],
    ids=["float", "uint16", "grey", "palette"],
)
def test_takes_what_the_swap_takes(image: Any) -> None:
    assert contact_sheet([image], swapper(), cell=CELL).mode == "RGB"


def test_normalised_images_are_shown_as_they_were() -> None:
    image, (mean, std) = picture(8), ((0.5, 0.4, 0.3), (0.2, 0.3, 0.25))
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).double() / 255
    tensor = (tensor - torch.tensor(mean, dtype=torch.float64)[:, None, None]) / torch.tensor(std)[:, None, None]
    assert len(corners(contact_sheet([tensor], swapper(normalized=(mean, std)), cell=CELL), image)) == 1


def test_bad_sheets() -> None:
    with pytest.raises(ValueError, match="`images` must hold at least one image, got none"):
        contact_sheet([], swapper())
    with pytest.raises(ValueError, match=r"`names` must be one per image \(1\), got 2"):
        contact_sheet([picture()], swapper(), names=["a", "b"])
    with pytest.raises(ValueError, match="`cell` must be at least 64 pixels, got 10"):
        contact_sheet([picture()], swapper(), cell=10)
    with pytest.raises(ValueError, match=r"`images` must be single images \[C, H, W\], got a batch of 2"):
        contact_sheet([torch.rand(2, 3, 20, 20)], swapper())
    with pytest.raises(TypeError, match=r"numpy\.ndarray"):
        contact_sheet([np.zeros((20, 20, 3), np.uint8)], swapper())


def test_long_names_keep_their_end() -> None:
    assert _clipped("short.png", 500, 12) == "short.png"
    clipped = _clipped("a_very_long_folder_name_" * 5 + "000.png", 120, 12)
    assert clipped.startswith("...") and clipped.endswith("000.png") and font(12).getlength(clipped) <= 120


# ---------------------------------------- command line


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images" / "deep").mkdir(parents=True)
    for i, name in enumerate(("a.png", "b.JPG", "deep/c.webp")):
        picture(i, 40, 50).save(tmp_path / "images" / name)
    (tmp_path / "images" / "notes.txt").write_text("no image")
    return tmp_path / "images"


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The measurement takes a second, and only one test is about it."""
    monkeypatch.setattr(preview, "images_per_second", lambda images, swap: 7.0)


def run(folder: Path, *more: str) -> int:
    return cli.main(["preview", str(folder), "--size", "32", "--cell", "64", *more])


def test_preview_writes_the_sheet_and_says_where_and_how_fast(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder.parent / "new" / "sheet.png"
    assert run(folder, "--out", str(out)) == 0
    path, speed = capsys.readouterr().out.splitlines()
    assert path == str(out)
    assert int(speed.split()[0]) > 0 and "images per second" in speed
    with Image.open(out) as sheet:
        assert sheet.format == "PNG" and sheet.width > 9 * 64


@pytest.mark.usefixtures("unmeasured")
def test_preview_depends_on_the_seed_alone(folder: Path) -> None:
    sheets = []
    for seed in ("4", "4", "5"):
        assert run(folder, "--seed", seed, "--out", str(folder.parent / "sheet.png")) == 0
        sheets.append(Image.open(folder.parent / "sheet.png").crop((0, 90, 2000, 2000)).tobytes())  # below the caption
    assert sheets[0] == sheets[1] != sheets[2]


@pytest.mark.usefixtures("unmeasured")
def test_preview_takes_files_levels_and_weights(folder: Path) -> None:
    out = folder.parent / "sheet.png"
    files = [str(folder / "a.png"), str(folder / "b.JPG")]
    options = ["--size", "32", "--cell", "64", "--out", str(out)]
    assert cli.main(["preview", *files, "--levels", "0,-1", "--weights", "none", "--scale", "0.01", "0.02", *options]) == 0
    assert out.exists()


@pytest.mark.usefixtures("unmeasured")
def test_unreadable_images_are_named_and_skipped(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "broken.png").write_bytes(b"not a png")
    out = folder.parent / "sheet.png"
    assert run(folder, "--out", str(out)) == 0
    assert f"skipped {folder / 'broken.png'}: not a readable image (UnidentifiedImageError)" in capsys.readouterr().err
    for path in folder.rglob("*.*"):
        path.write_bytes(b"")
    assert run(folder, "--out", str(out)) == 2
    assert "error: none of the 4 images tried could be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["images/nowhere"], "error: `images` must be files or folders that exist, got images/nowhere"),
        (["empty"], "error: no images found in empty: looked for *.jpg, *.jpeg, *.png, *.ppm, *.bmp, *.pgm, *.tif, "),
        (["images", "--model", "resnet_18"], "error: `model`"),
        (["images", "--clustering", "kmaens"], "error: `clustering`"),
        (["images", "--levels", "some"], "error: `levels` must be 'all', 'random' or indices, got 'some'"),
        (["images", "--scale", "0.3", "0.1"], "error: `scale` must be 0 < low <= high <= 1, got (0.3, 0.1)"),
        (["images", "--out", "sheet.docx"], "error: `--out` must be a path that can be written, with an image suffix"),
    ],
)
def test_mistakes_are_told_in_a_sentence(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(folder.parent)
    (folder.parent / "empty").mkdir()
    assert cli.main(["preview", *arguments, "--size", "32", "--cell", "64"]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--size", "--limit", "--cell", "--seed"])
@pytest.mark.parametrize("value", ["-" + "9" * 30, "9" * 30, "9" * 5000, "three", "1.5"])
def test_numbers_have_bounds(folder: Path, capsys: pytest.CaptureFixture[str], option: str, value: str) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["preview", str(folder), f"{option}={value}"])
    assert stop.value.code == 2
    assert f"argument {option}: must be an integer from " in capsys.readouterr().err


def test_the_least_and_greatest_seed_are_torchs() -> None:
    parse = arguments.whole(-(2**63), 2**64 - 1)
    for seed in (-(2**63), 2**64 - 1):
        torch.manual_seed(parse(str(seed)))
    with pytest.raises((RuntimeError, ValueError)):
        torch.manual_seed(2**64)


def test_a_sheet_has_a_largest_size(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(5):
        picture(i).save(folder / f"{i}.png")
    assert cli.main(["preview", str(folder), "--cell", "2048", "--limit", "1000"]) == 2
    told = capsys.readouterr().err
    assert "error: `--limit` and `--cell` must make a sheet of at most 16777216 pixels in a column, got 8 rows of 2048" in told


@pytest.mark.parametrize("link", [None, "symlink_to", "hardlink_to"])
def test_the_sheet_never_overwrites_an_image(folder: Path, capsys: pytest.CaptureFixture[str], link: str | None) -> None:
    image, out = folder / "a.png", folder.parent / "other.png"
    before = image.read_bytes()
    if link:
        getattr(out, link)(image)
    else:
        out = folder / "deep" / ".." / "a.png"
    assert run(folder, "--limit", "1", "--out", str(out)) == 2
    assert f"error: `--out` must not be one of the images, which it would overwrite, got {out}; name" in capsys.readouterr().err
    assert image.read_bytes() == before


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("out", ["{long}.png", "\0.png", "a.png/b.png", "sheet.psd", "sheet.xbm", ".png", "images.png"])
def test_a_sheet_that_cannot_be_written_is_told(folder: Path, capsys: pytest.CaptureFixture[str], out: str) -> None:
    (folder.parent / "a.png").write_bytes(b"")
    (folder.parent / "images.png").mkdir()
    assert run(folder, "--out", str(folder.parent / out.format(long="x" * 5000))) == 2
    assert "error: `--out` must be a path that can be written, with an image suffix, got " in capsys.readouterr().err


@pytest.mark.parametrize("path", ["x" * 5000, "a\0b", "a.png/b"])
def test_no_path_is_too_strange(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    monkeypatch.chdir(folder)
    assert cli.main(["preview", path]) == 2
    assert "error: `images` must be files or folders that exist, got" in capsys.readouterr().err
    assert run(folder, "--weights", f"{path}.npz") == 2
    assert "weights`" in capsys.readouterr().err


@pytest.mark.parametrize("out", ["contact_sheet.png", "{folder}/sheet.png", "{folder}/new/sheet.png", "../link/sheet.png"])
@pytest.mark.parametrize("given", [".", "a.png", "../link"])
def test_the_sheet_does_not_become_one_of_the_images(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given: str, out: str
) -> None:
    (folder.parent / "link").symlink_to(folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(preview, "images_per_second", lambda images, swap: 7.0)
    before, out = sorted(folder.rglob("*")), out.format(folder=folder)
    for more in ([], ["--out", out]):
        if given == "a.png" and "new" in out and more:
            continue  # a folder beside the one image is no folder of images
        assert run(Path(given), *more) == 2
        told = capsys.readouterr().err
        assert "error: `--out` must lie apart from the images, got " in told and "among them; name another folder" in told
    assert sorted(folder.rglob("*")) == before
    assert run(Path(given), "--out", "../sheet.png") == 0


@pytest.mark.usefixtures("unmeasured")
def test_preview_says_how_many_of_the_images_it_draws(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for limit, sentence in (("2", ["2 of 3 images, spread evenly over them; more with --limit"]), ("3", [])):
        assert run(folder, "--limit", limit, "--out", str(folder.parent / "sheet.png")) == 0
        assert capsys.readouterr().out.splitlines()[1:-1] == sentence


@pytest.mark.usefixtures("unmeasured")
def test_preview_names_the_images_that_no_swap_changes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (50, 40), (7, 8, 9)).save(folder / "flat.png")
    assert run(folder, "--out", str(folder.parent / "sheet.png")) == 0
    told = capsys.readouterr().err.splitlines()
    assert told == [f"unchanged: 1 negatives equal their image, whose patches have the same pixels: {folder / 'flat.png'}"]
    (folder / "flat.png").unlink()
    assert run(folder, "--out", str(folder.parent / "sheet.png")) == 0 and not capsys.readouterr().err


def test_pipes_and_devices_are_refused_at_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("pipe.png", "weights.npz", "weights.pth"):
        os.mkfifo(folder.parent / name)
    (folder.parent / "zero.png").symlink_to("/dev/zero")
    for name in ("pipe.png", "zero.png"):
        path = folder.parent / name
        assert run(path) == 2
        assert f"error: `images` must be files or folders that exist, got {path}" in capsys.readouterr().err
        assert run(folder, "--out", str(path)) == 2
        assert f"error: `--out` must be a path that can be written, with an image suffix, got {path}" in capsys.readouterr().err
        assert files.load_image(path, (32,)) is None and len(files.ImageFiles([path], (32,))[0]) == 0
        assert capsys.readouterr().err == f"skipped {path}: not a readable image (ValueError)\n" * 2
    for model, name in (("tiny", "weights.npz"), ("resnet18", "weights.pth")):
        assert run(folder, "--model", model, "--weights", str(folder.parent / name)) == 2
        assert capsys.readouterr().err.startswith("error: `weights` ")


def test_names_that_are_no_text_are_shown(folder: Path) -> None:
    image = folder / os.fsdecode(b"\xff.png")
    picture().save(image)
    assert run(image, "--out", str(folder.parent / "sheet.png")) == 0


WEIGHTS = {
    "empty.npz": b"",
    "text.npz": b"no weights",
    "cut.npz": b"PK\x03\x04" + bytes(40),
    "empty.pth": b"",
    "text.pth": b"no weights",
    "cut.pth": b"PK\x03\x04" + bytes(40),
}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # NumPy leaves a broken archive open
@pytest.mark.parametrize("name", WEIGHTS)
def test_files_that_hold_no_weights_are_named(folder: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    path = folder.parent / name
    path.write_bytes(WEIGHTS[name])
    assert run(folder, "--weights", str(path), "--model", "tiny" if name.endswith("npz") else "resnet18") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: `") and name in line


FACTORIES = """
import torch
from torch import nn
from cutswap_transforms import LayerCAMExtractor
class Net(nn.Module):
    def __init__(self, classes=5):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, 4, 1), nn.Conv2d(6, classes, 3, 2, 1)
    def forward(self, x):
        return self.second(self.first(x).relu()).mean((2, 3))
def small():
    return LayerCAMExtractor(Net(), input_size=32, mean_std=None)
def fails():
    raise RuntimeError("no weights here\\nat all")
def stops():
    raise SystemExit(3)
def takes(x):
    return Net()
def number():
    return 3
def dicts():
    return type("Dicts", (Net,), {"forward": lambda self, x: {"logits": x}})()
constant = Net()
"""


@pytest.fixture
def factories(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (folder.parent / "own_nets.py").write_text(FACTORIES)
    (folder.parent / "own_fault.py").write_text("def f(:\n")
    monkeypatch.syspath_prepend(folder.parent)
    monkeypatch.delitem(sys.modules, "own_nets", raising=False)
    return folder


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("spec", ["own_nets:Net", "own_nets:small"])
def test_a_net_of_ones_own_is_named_by_its_factory(factories: Path, capsys: pytest.CaptureFixture[str], spec: str) -> None:
    out = factories.parent / "sheet.png"
    assert run(factories, "--out", str(out), "--net", spec) == 0
    assert out.is_file() and str(out) in capsys.readouterr().out
    assert cli.main(["export", str(factories), str(out.parent / "out"), "--count", "2", "--size", "32", "--net", spec]) == 0
    assert len(list((out.parent / "out" / "swap").iterdir())) == 2


def test_images_of_a_net_of_ones_own_lie_in_0_to_1(factories: Path) -> None:
    saliency = arguments._saliency(argparse.Namespace(net="own_nets:Net", model="tiny", weights="DEFAULT"))
    assert saliency.mean_std is None and saliency.model == "Net"


NOT_MADE = "`--net` must be MODULE:FACTORY, a function without arguments that returns an nn.Module, got "
DICTS = "`model` must map images [N, 3, s, s] to logits [N, classes]; for [1, 3, 224, 224] Dicts returned dict"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["own_nets"], NOT_MADE + "'own_nets'"),
        ([":small"], NOT_MADE),
        (["own_nets:"], NOT_MADE),
        (["no_such_nets:small"], NOT_MADE + "'no_such_nets:small' (ModuleNotFoundError: No module named 'no_such_nets')"),
        (["own_nets:large"], NOT_MADE + "'own_nets:large' (AttributeError: "),
        (["own_fault:small"], NOT_MADE + "'own_fault:small' (SyntaxError: "),
        (["own_nets:fails"], NOT_MADE + "'own_nets:fails' (RuntimeError: no weights here at all)"),
        (["own_nets:stops"], NOT_MADE + "'own_nets:stops' (SystemExit: 3)"),
        (["own_nets:takes"], NOT_MADE + "'own_nets:takes' (TypeError: "),
        (["own_nets:number"], "`--net` must name a function that returns an nn.Module, own_nets:number returned int"),
        (["own_nets:constant"], NOT_MADE),
        (["own_nets:dicts"], DICTS),
        (["own_nets:Net", "--model", "resnet18"], "`--net` must stand without `--model` and `--weights`, got 'own_nets:Net'"),
        (["own_nets:Net", "--weights", "none"], "`--net` must stand without `--model` and `--weights`"),
    ],
)
def test_nets_that_cannot_be_made_are_told_in_a_sentence(
    factories: Path, capsys: pytest.CaptureFixture[str], options: list[str], sentence: str
) -> None:
    assert run(factories, "--net", *options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {sentence}")


@pytest.mark.parametrize("fault", [zipfile.BadZipFile, EOFError, pickle.UnpicklingError, RuntimeError, KeyError, MemoryError])
def test_whatever_comes_of_weights_is_a_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fault: Any
) -> None:
    monkeypatch.setattr(arguments, "LayerCAMExtractor", Mock(side_effect=fault("first line\nsecond line")))
    assert run(folder, "--weights", "mine.npz") == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: `--weights` must be weights of tiny, got 'mine.npz' ({fault.__name__}: ")
    assert len(told.splitlines()) == 1


def test_ctrl_c_and_a_lack_of_memory_are_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder.parent / "sheet.png"
    monkeypatch.setattr(preview, "images_per_second", Mock(side_effect=KeyboardInterrupt))
    assert run(folder, "--out", str(out)) == 130
    assert capsys.readouterr().err == f"stopped: {out} is written, the images per second are not measured\n"
    before = out.read_bytes()
    monkeypatch.setattr(preview, "contact_sheet", Mock(side_effect=KeyboardInterrupt))
    assert run(folder, "--out", str(out)) == 130
    assert capsys.readouterr().err == "stopped: nothing was written\n" and out.read_bytes() == before
    monkeypatch.setattr(preview, "contact_sheet", Mock(side_effect=MemoryError))
    assert run(folder, "--out", str(out)) == 1
    assert capsys.readouterr().err.startswith("error: out of memory: lower --size first")


def test_limit_is_spread_over_the_images() -> None:
    assert spread(range(14), 7) == [0, 2, 4, 6, 8, 10, 12]
    assert spread(range(3), 8) == [0, 1, 2]


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


LAYOUTS = {
    "mvtec": ("train/good/0.png", "test/good/1.png", "test/dent/2.png", "ground_truth/dent/2_mask.png"),
    "btad": ("train/ok/0.png", "test/ok/1.png", "test/ko/2.png", "ground_truth/ko/2.png"),
    "visa": ("Data/Images/Normal/0.JPG", "Data/Images/Anomaly/1.JPG", "Data/Masks/Anomaly/1.png"),
    "tiles": ("MT_Free/Imgs/0.jpg", "MT_Free/Imgs/0.png", "MT_Crack/Imgs/1.jpg", "MT_Crack/Imgs/1.png"),
    "folder": ("good/0.png", "bad/1.png", "mask/1.png"),
    "export": ("normal/0.png", "swap/1.png", "mask/1.png"),
}
MEANT = ("train/good", "train/ok", "Data/Images/Normal", "MT_Free/Imgs/*.jpg", "good", "normal")


def layout(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture().save(folder / name)
    return folder


@pytest.mark.parametrize(("names", "meant"), list(zip(LAYOUTS.values(), MEANT, strict=True)), ids=LAYOUTS)
def test_a_data_set_given_for_its_normal_images_is_refused_by_every_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], names: tuple[str, ...], meant: str
) -> None:
    part = layout(tmp_path / "sets" / "part", names)
    others = {part / Path(name).parent for name in names if "ood" not in name and "Normal" not in name}
    others = {folder for folder in others if folder.name not in ("ok", "normal")}
    (tmp_path / "link").symlink_to(part)
    for given in (part, part.parent, tmp_path / "link", *others):
        for command in (
            ["preview", given, "--out", tmp_path / "sheet.png"],
            ["precompute", given, "--size", "32", "--cache", tmp_path / "c"],
            ["export", given, tmp_path / "out", "--size", "32", "--count", "1"],
        ):
            assert cli.main(list(map(str, command))) == 2
            told = capsys.readouterr().err
            assert f"error: `images` must be normal images alone, got {tmp_path}" in told and told.endswith(f"/{meant}\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "sets"]
    assert len(files.find_images(list(part.glob(meant)))) == 1


def test_folders_of_good_parts_are_taken(tmp_path: Path) -> None:
    part = layout(tmp_path / "part", LAYOUTS["mvtec"])
    for given in ("train", "train/good", "test/good"):
        assert len(files.find_images([part / given])) == 1
    assert len(files.find_images([part / "test/dent/2.png"])) == 1  # who names a file means it
    plain = layout(tmp_path / "plain", ("good/0.png", "left/1.png", "test/2.png"))
    assert len(files.find_images([plain])) == 3


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


@pytest.mark.usefixtures("unmeasured")
def test_sizes_are_printed_as_width_x_height(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--cell", "64", "--out", str(folder.parent / "sheet.png")]
    assert cli.main(["preview", str(folder), "--size", "32", "40", *out]) == 0
    assert "40 x 32 px (width x height)" in capsys.readouterr().out


@pytest.mark.usefixtures("unmeasured")
def test_a_truncated_file_is_one_sentence(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.png", "b.JPG"):
        (folder / name).write_bytes((folder / name).read_bytes()[:600])
    assert run(folder, "--out", str(folder.parent / "sheet.png")) == 0
    assert capsys.readouterr().err.splitlines() == [
        f"skipped {folder / name}: not a readable image (OSError: the file is truncated)" for name in ("a.png", "b.JPG")
    ]


@pytest.mark.usefixtures("unmeasured")
def test_preview_shows_what_export_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    (tmp_path / "in").mkdir()
    values = np.linspace(0, 4095, 60 * 90).reshape(60, 90).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "in" / "deep.png", exif=exif)
    shown: list[Any] = []
    monkeypatch.setattr(preview, "contact_sheet", lambda images, *_, **__: shown.extend(images) or picture())
    options = ["--size", "40", "--white", "4095"]
    assert cli.main(["preview", str(tmp_path / "in"), *options, "--out", str(tmp_path / "s.png")]) == 0
    assert (
        cli.main(["export", str(tmp_path / "in"), str(tmp_path / "out"), *options, "--count", "1", "--num-workers", "0"]) == 0
    )
    (written,) = (tmp_path / "out" / "normal").iterdir()
    assert shown[0].size == (40, 60)
    np.testing.assert_array_equal(np.asarray(shown[0]), np.asarray(Image.open(written)))


# ---- --roi -----------------------------------------------------------------------------------------------------------


def roi_file(path: Path, left: int = 0, right: int = 20) -> str:
    """Of 40 x 30 pixels, white from column to column."""
    mask = np.zeros((30, 40), np.uint8)
    mask[:, left:right] = 255
    Image.fromarray(mask).save(path)
    return str(path)


@pytest.mark.usefixtures("unmeasured")
def test_preview_draws_within_a_roi(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(folder.parent / "sheet.png")
    roi = roi_file(folder.parent / "roi.png")
    assert run(folder, "--roi", roi, "--out", out) == 0
    sheet = Image.open(out)
    assert (np.asarray(sheet) == ROI).all(-1).any()
    assert run(folder, "--roi", roi, "--out", roi) == 2
    assert "error: `--out` must not be one of the images" in capsys.readouterr().err


def test_precompute_fills_what_a_swap_with_that_roi_looks_up(folder: Path) -> None:
    cache, roi = folder.parent / "cache", roi_file(folder.parent / "roi.png")
    assert cli.main(["precompute", str(folder), "--size", "32", "--cache", str(cache), "--roi", roi]) == 0
    found = ImageFolder(str(folder.parent), transform=v2.Resize(32), allow_empty=True)
    swap, other = SaliencySwap(cache=cache, roi=Image.open(roi)), SaliencySwap(cache=cache)
    count = len(swap.cache)
    assert swap.precompute(found) == 0 and other.precompute(found) == count > 0


@pytest.mark.parametrize("command", ["preview", "export", "precompute"])
@pytest.mark.parametrize("fault", ["missing", "a folder", "a pipe", "no image", "cut off", "all black", "no room"])
def test_a_roi_that_cannot_be_used_is_told_in_a_sentence(
    command: str, fault: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    roi, images = tmp_path / "roi.png", tmp_path / "in"
    images.mkdir()
    picture(0, 40, 60).save(images / "a.png")
    if fault == "a folder":
        roi.mkdir()
    elif fault == "a pipe":
        os.mkfifo(roi)
    elif fault == "no image":
        roi.write_text("hello")
    elif fault == "cut off":
        picture(0, 200, 200).save(roi)
        roi.write_bytes(roi.read_bytes()[:2000])
    elif fault == "no room":
        Image.fromarray(np.pad(np.full((1, 1), 255, np.uint8), 100)).save(roi)
    elif fault != "missing":
        roi_file(roi, 0, 0)
    more = {
        "preview": ["--out", str(tmp_path / "sheet.png")],
        "export": [str(tmp_path / "out"), "--count", "2", "--num-workers", "1"],
        "precompute": ["--cache", str(tmp_path / "cache"), "--num-workers", "1"],
    }[command]
    assert cli.main([command, str(images), *more, "--size", "96", "--roi", str(roi)]) == 2
    told = capfd.readouterr().err.splitlines()
    assert len([line for line in told if line.startswith("error: ")]) == 1 and "Traceback" not in "".join(told)
    if fault == "no room":
        assert "error: `roi` must hold a cell of the grid by half, got" in told[-1].replace("ValueError: ", "")
    else:
        assert told[-1].startswith(f"error: `--roi` must be the picture of a mask, got {roi} (")


def test_precompute_reads_as_image_folder_and_warns_where_that_clips(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in" / "good"
    folder.mkdir(parents=True)
    ramp = np.linspace(0, 65535, 40 * 40).reshape(40, 40)
    Image.fromarray(ramp.astype(np.uint16)).save(folder / "deep.png")
    Image.fromarray((ramp / 65535).astype(np.float32)).save(folder / "float.tif")
    Image.fromarray((ramp // 257).astype(np.int32)).save(folder / "few.tif")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(0, 40, 60).save(folder / "turned.jpg", exif=exif)
    arguments = ["precompute", str(tmp_path / "in"), "--size", "32", "--cache", str(tmp_path / "cache")]
    assert cli.main(arguments) == 0
    told = capsys.readouterr().err
    assert told.count("warning: ") == 1 and "(2 of 4 images, first " in told and "ImageFolder's loader" in told
    found = ImageFolder(str(tmp_path / "in"), transform=v2.Resize(32))
    swap = SaliencySwap(cache=tmp_path / "cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(swap._finder, "fill", Mock(side_effect=AssertionError("computed again")))
        assert swap.precompute(found) == 0


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


def test_the_rate_is_that_of_images_no_cache_has_seen(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[SaliencySwap] = []

    def measure(images: Any, swap: SaliencySwap, seconds: float = 1.0) -> float:
        measured.append(swap)
        return 7.0

    monkeypatch.setattr(preview, "images_per_second", measure)
    assert run(folder, "--levels", "all", "--out", str(folder.parent / "sheet.png")) == 0
    assert [(swap.cache, swap.levels) for swap in measured] == [(None, "all")]
    clock = iter(range(1000))
    monkeypatch.undo()
    monkeypatch.setattr(preview.time, "perf_counter", lambda: next(clock) / 100)
    seen: list[Any] = []
    assert preview.images_per_second([picture(0), picture(1)], seen.append, 0.5) == pytest.approx(100, rel=0.05)


def test_the_rate_is_the_median_of_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    now, threads = 0.0, set[int]()

    def busy(image: Any) -> None:
        nonlocal now
        threads.add(torch.get_num_threads())
        now += 0.25 if len(calls) % 3 == 0 else 0.01  # now and then something else runs
        calls.append(image)

    calls: list[Any] = []
    monkeypatch.setattr(preview.time, "perf_counter", lambda: now)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert preview.images_per_second([picture()], busy, 5) == pytest.approx(100)  # type: ignore[arg-type]
        assert threads == {1} and torch.get_num_threads() == 2
        with pytest.raises(ZeroDivisionError):
            preview.images_per_second([picture()], lambda image: 1 / 0, 5)  # type: ignore[arg-type]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("key", [False, True])
def test_the_region_of_interest_is_shown_in_the_photo_and_in_the_cells(key: bool) -> None:
    """Its left half: the other half is dim in the original and the cells, and not in the negative."""
    image = Image.new("RGB", (CELL, CELL), (200, 60, 60))
    left = np.zeros((CELL, CELL), dtype=bool)
    left[:, : CELL // 2] = True
    sample = {"image": image, "where": tv_tensors.Mask(torch.from_numpy(left))} if key else image
    swap = swapper(roi="where" if key else left[::2, ::2])
    found = found_steps(sample, swap, CELL)
    for panel in (found.original, found.cells[0]):
        pixels = np.asarray(panel).astype(int)
        assert pixels[:, : CELL // 2 - 1].mean() > 2 * pixels[:, CELL // 2 + 1 :].mean()
        assert (pixels[:, CELL // 2] == ROI).all()
    assert np.ptp(np.asarray(found.photo), axis=(0, 1)).max() == 0  # what the negative is compared with
    sheet = swap.preview([sample])
    assert (np.asarray(sheet) == ROI).all(-1).sum() >= 2 * CELL
    assert not (np.asarray(swapper().preview([image])) == ROI).all(-1).any()


def test_a_preview_by_a_key_says_that_it_takes_samples() -> None:
    swap = swapper(roi="where")
    with pytest.raises(TypeError, match=r"`roi='where'` must be the key of a .* in each sample, a dict, got Image"):
        swap.preview([picture()])
    with pytest.raises(TypeError, match=r"`images` must be a sequence .*, got one dict; pass \[image\]"):
        swap.preview({"image": picture()})  # type: ignore[arg-type]


def test_a_swap_previews_itself_and_an_extractor_its_maps() -> None:
    images, swap = [picture(i) for i in range(5)], swapper()
    torch.manual_seed(0)
    sheet = swap.preview(images, rows=2)
    torch.manual_seed(0)
    assert sheet.tobytes() == contact_sheet([images[0], images[2]], swap).tobytes()
    with pytest.raises(ValueError, match="`rows` must be at least 1, got 0"):
        swap.preview(images, rows=0)
    with pytest.raises(ValueError, match="`images` must hold at least one image, got none"):
        swap.preview([])
    for wrong in (images[0], torch.rand(3, 8, 8)):
        with pytest.raises(TypeError, match=r"`images` must be a sequence of images or a batch, got one \w+; pass \[image\]"):
            swap.preview(wrong)
    with pytest.raises(TypeError, match="`rows` must be an int, got 'a'"):
        swap.preview(images, rows="a")
    assert swap.preview(torch.rand(2, 3, 20, 20)).mode == "RGB"
    cam = LayerCAMExtractor()
    assert cam.overlay(images[0]).size == (4 * CELL + 3 * 8, CELL)
    one = cam.overlay(images[0], level=-1)
    assert one.size == (CELL, CELL) and one.mode == "RGB"
    assert np.array_equal(np.asarray(one), np.asarray(cam.overlay(images[0]))[:, -CELL:])
    with pytest.raises(ValueError, match=r"`level` must lie in \[-4, 3\] for 4 levels, got 4"):
        cam.overlay(images[0], level=4)
    with pytest.raises(TypeError, match="`level` must be an int or None, got 'a'"):
        cam.overlay(images[0], level="a")
    with pytest.raises(ValueError, match="`image` must be a single image, got a batch of 2"):
        cam.overlay(torch.rand(2, 3, 8, 8))


def test_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cutswap_transforms", "preview", "nowhere"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "error: `images` must be files or folders that exist, got nowhere\n"
