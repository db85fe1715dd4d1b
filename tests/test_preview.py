"""`python -m cutswap_transforms preview`: the sheet as a file, what it says, and a sentence for what is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from helpers.commands import roi_file, run
from helpers.sheets import picture
from PIL import Image

from cutswap_transforms import SaliencySwap
from cutswap_transforms import __main__ as cli
from cutswap_transforms.preview.panels import ROI
from cutswap_transforms.shell import files, preview


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
        sheet = Image.open(folder.parent / "sheet.png")
        sheets.append(sheet.crop((0, sheet.height - 60, *sheet.size)).tobytes())  # the last row; the caption has the seed
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
        assert "error: `--out` must be outside the folders of the images, got " in told and "; name another folder" in told
    assert sorted(folder.rglob("*")) == before
    assert run(Path(given), "--out", "../sheet.png") == 0


@pytest.mark.usefixtures("unmeasured")
def test_a_sheet_in_a_linked_folder_of_images_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    (folder / "a.png").rename(elsewhere / "a.png")
    (folder / "linked").symlink_to(elsewhere)
    assert run(folder, "--out", str(elsewhere / "new" / "sheet.png")) == 2  # the next search would find it
    assert "error: `--out` must be outside the folders of the images, got " in capsys.readouterr().err


@pytest.mark.usefixtures("unmeasured")
def test_a_sheet_is_written_through_a_link_and_whole_or_not_at_all(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, target = folder.parent / "sheet.png", folder.parent / "elsewhere.png"
    out.symlink_to(target)
    assert run(folder, "--out", str(out)) == 0
    assert out.is_symlink() and target.is_file()
    before, there = target.read_bytes(), sorted(folder.parent.iterdir())

    def interrupted(self: Image.Image, path: Path, kind: str) -> None:
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", interrupted)
    assert run(folder, "--out", str(out), "--seed", "1") == 130
    assert target.read_bytes() == before and sorted(folder.parent.iterdir()) == there


@pytest.mark.usefixtures("unmeasured")
def test_preview_says_how_many_of_the_images_it_draws(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for limit, sentence in (("2", ["2 of 3 images, spread evenly over them; more with --limit"]), ("3", [])):
        assert run(folder, "--limit", limit, "--out", str(folder.parent / "sheet.png")) == 0
        assert capsys.readouterr().out.splitlines()[1:-1] == sentence


@pytest.mark.usefixtures("unmeasured")
def test_the_caption_has_the_settings_in_words_and_how_many_images_are_shown(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions: list[str] = []
    monkeypatch.setattr(preview, "contact_sheet", lambda *_, caption, **__: captions.append(caption) or picture())
    (folder.parent / "caption_net.py").write_text("def darkness(): return type('Dark', (), {'native_maps': None})()")
    monkeypatch.syspath_prepend(folder.parent)
    out = ["--out", str(folder.parent / "sheet.png")]
    monkeypatch.setattr(preview, "_unchanged", lambda *_: [])
    assert run(folder, "--limit", "2", "--seed", "7", *out) == 0
    assert run(folder, "--net", "caption_net:darkness", "--levels", "0", *out) == 0
    (folder / "broken.png").write_bytes(b"no image")
    assert run(folder, *out) == 0
    assert captions.pop().endswith("; 3 of 4 images, the others could not be read")
    assert captions == [
        "saliency tiny; clustering kmeans; levels all; scale 0.002 to 0.03; ratio 0.3 to 3.3; grid 24; seed 7; "
        "shorter side 32 px; 2 of 3 images, see --limit",
        "saliency Dark; clustering kmeans; levels 0; scale 0.002 to 0.03; ratio 0.3 to 3.3; grid 24; "
        "net caption_net:darkness; seed 0; shorter side 32 px",
    ]


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


@pytest.mark.usefixtures("unmeasured")
def test_preview_draws_within_a_roi(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(folder.parent / "sheet.png")
    roi = roi_file(folder.parent / "roi.png")
    assert run(folder, "--roi", roi, "--out", out) == 0
    sheet = Image.open(out)
    assert (np.asarray(sheet) == ROI).all(-1).any()
    assert run(folder, "--roi", roi, "--out", roi) == 2
    assert "error: `--out` must not be one of the images" in capsys.readouterr().err


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


def test_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cutswap_transforms", "preview", "nowhere"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "error: `images` must be files or folders that exist, got nowhere\n"
