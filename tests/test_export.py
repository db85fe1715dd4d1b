"""`python -m cutswap_transforms export`: negatives and masks as files, the same whatever the number of workers."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from images import as_kind, scene
from PIL import Image

from cutswap_transforms.__main__ import main
from cutswap_transforms.shell import export


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    (tmp_path / "parts" / "good").mkdir(parents=True)
    for i in range(3):
        as_kind("PIL", scene(50, 60, seed=i)).save(tmp_path / "parts" / "good" / f"p{i}.png")
    return tmp_path / "parts"


def run(parts: Path, out: str, *more: str, count: int = 7, workers: int = 0) -> int:
    arguments = ["--count", str(count), "--size", "32", "40", "--num-workers", str(workers), *more]
    return main(["export", str(parts), str(parts.parent / out), *arguments])


def contents(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]


def test_pictures_masks_and_lines_tell_the_same(parts, capsys):
    before = contents(parts)
    assert run(parts, "out") == 0
    assert "7 negatives, 7 of them new" in capsys.readouterr().out
    out = parts.parent / "out"
    assert contents(parts) == before, "the images were touched"
    assert [line["number"] for line in lines(out)] == list(range(7))
    assert len(list((out / "normal").iterdir())) == 3 and len(list((out / "swap").iterdir())) == 7
    for line in lines(out):
        negative = np.asarray(Image.open(out / "swap" / line["file"]))
        mask = np.asarray(Image.open(out / "mask" / line["file"]))
        stem = line["file"].split("_", 1)[1]
        (normal,) = (np.asarray(Image.open(p)) for p in (out / "normal").iterdir() if p.name.endswith(stem))
        assert negative.shape == (32, 40, 3) and mask.shape == (32, 40) and set(np.unique(mask)) == {0, 255}
        assert not (negative != normal).any(-1)[mask == 0].any()
        assert mask.astype(bool).sum() == sum(2 * pair["height"] * pair["width"] for pair in line["pairs"])
        assert Path(line["image"]).name == stem
    swaps = [(out / "swap" / line["file"]).read_bytes() for line in lines(out)]
    assert len(set(swaps)) == 7, "two negatives of an image are alike"


def test_seed_decides_and_the_number_of_workers_does_not(parts):
    for out, seed, workers in (("a", "5", 0), ("b", "5", 2), ("c", "6", 0)):
        assert run(parts, out, "--seed", seed, workers=workers) == 0
    a, b, c = (contents(parts.parent / name) for name in "abc")
    assert a == b and a["swap/000000_p0.png"] != c["swap/000000_p0.png"]


def test_a_run_that_was_stopped_goes_on(parts, capsys, monkeypatch):
    assert run(parts, "whole") == 0
    save, saved = export._save, []

    def interrupted(image, path):
        saved.append(path)
        if len(saved) == 9:  # the third file of a negative
            raise KeyboardInterrupt
        save(image, path)

    monkeypatch.setattr(export, "_save", interrupted)
    assert run(parts, "out") == 130
    assert "stopped: 2 negatives are in" in capsys.readouterr().err
    with open(parts.parent / "out" / "pairs.jsonl", "a") as file:
        file.write('{"number": 5, "fi')  # a kill in the middle of a line
    assert run(parts, "out") == 0
    assert "7 negatives, 5 of them new" in capsys.readouterr().out
    assert contents(parts.parent / "out") == contents(parts.parent / "whole")
    assert run(parts, "out", count=9) == 0 and "9 negatives, 2 of them new" in capsys.readouterr().out


def test_images_that_cannot_be_read_are_named_and_replaced(parts, capsys):
    (parts / "good" / "p1.png").write_bytes(b"no picture")
    assert run(parts, "out", count=6) == 0
    told = capsys.readouterr()
    assert "p1.png: not a readable image" in told.err and "6 negatives" in told.out
    assert {Path(line["image"]).name for line in lines(parts.parent / "out")} == {"p0.png", "p2.png"}
    assert run(parts, "few", count=4) == 0 and len(lines(parts.parent / "few")) == 4
    (parts / "good" / "p2.png").write_bytes(b"no picture")
    assert run(parts, "one", count=3) == 0 and len(lines(parts.parent / "one")) == 3
    for name in ("p0.png", "p2.png"):
        os.remove(parts / "good" / name)
    assert run(parts, "other") == 2 and "none of the 1 images tried could be read" in capsys.readouterr().err


def test_a_folder_of_other_settings_or_with_the_images_is_refused(parts, capsys):
    assert run(parts, "out") == 0
    assert run(parts, "out", "--seed", "1") == 2
    assert "error: `OUT` must be new or of the same settings and images, got" in capsys.readouterr().err
    as_kind("PIL", scene(50, 60, seed=9)).save(parts / "good" / "p00.png")  # it would shift the numbers of the others
    assert run(parts, "out") == 2
    assert "error: `OUT` must be new or of the same settings and images, got" in capsys.readouterr().err
    for out in ("parts/out", ".", "parts"):
        assert run(parts, out) == 2
        assert "error: `OUT` must lie apart from the images, got" in capsys.readouterr().err
    (parts.parent / "file").write_text("")
    assert run(parts, "file") == 2
    assert "error: `OUT` must be a folder that can be written, got" in capsys.readouterr().err


def test_what_ends_the_writing_is_told(parts, capsys, monkeypatch):
    monkeypatch.setattr(export, "_save", lambda image, path: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert run(parts, "out") == 1
    assert "error: [Errno 28] No space left on device; 0 negatives are in" in capsys.readouterr().err


def save(path: Path, values: np.ndarray, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **options)


def exported(folder: Path, out: str, *more: str, workers: int = 0) -> list[np.ndarray]:
    arguments = ["--count", "2", "--size", "32", "--num-workers", str(workers), *more]
    assert main(["export", str(folder), str(folder.parent / out), *arguments]) == 0
    return [np.asarray(Image.open(path)) for path in sorted((folder.parent / out / "normal").iterdir())]


def test_what_is_exported_is_upright_and_of_8_bits_by_range(tmp_path, capsys):
    ramp, exif = np.linspace(0, 1, 64 * 96).reshape(64, 96), Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "in/a.png", (ramp * 65535).astype(np.uint16), exif=exif)
    save(tmp_path / "in/b.tif", ramp.astype(np.float32))
    turned, shares = exported(tmp_path / "in", "out")
    assert turned.shape == (48, 32, 3) and shares.shape == (32, 48, 3)  # the shorter side is 32
    assert 120 < turned.mean() < 135 and 120 < shares.mean() < 135
    assert turned[0].mean() > 0 and turned[:, 0].mean() > turned[:, -1].mean() + 200  # the bright bottom is left now
    told = capsys.readouterr().err.splitlines()
    assert [line for line in told if line.startswith("warning")] == [
        "warning: floats are taken for shares of white, from 0 to 1; if white is another value, pass it as --white "
        f"(1 of 2 images, first {tmp_path / 'in/b.tif'})"
    ]


@pytest.mark.parametrize("workers", [0, 2])
def test_notes_are_said_once_whatever_the_number_of_workers(tmp_path, capsys, workers):
    ramp = np.linspace(0, 1, 64 * 64).reshape(64, 64)
    for name in "ab":
        save(tmp_path / f"in/{name}.png", (ramp * 4095).astype(np.uint16))
        save(tmp_path / f"clear/{name}.png", (ramp[..., None] * [9, 9, 9, 255]).astype(np.uint8))
    dark, _ = exported(tmp_path / "in", "dark", workers=workers)
    said = capsys.readouterr().err
    assert (
        dark.max() < 17 and said.count("warning: ") == said.count("less than a sixteenth") == said.count("2 of 2 images") == 1
    )
    bright, _ = exported(tmp_path / "in", "bright", "--white", "4095", workers=workers)
    assert 120 < bright.mean() < 135 and "warning" not in capsys.readouterr().err
    clear, _ = exported(tmp_path / "clear", "out", workers=workers)
    assert clear[0, 0, 0] > 240 and clear[-1, -1, 0] < 20
    assert capsys.readouterr().err.count("warning: transparency is laid on white (2 of 2 images") == 1


def test_another_white_is_another_export(tmp_path, capsys):
    save(tmp_path / "in/a.png", np.arange(64 * 64, dtype=np.uint16).reshape(64, 64))
    exported(tmp_path / "in", "out", "--white", "4095")
    assert main(["export", str(tmp_path / "in"), str(tmp_path / "out"), "--count", "2", "--size", "32"]) == 2
    assert "error: `OUT` must be new or of the same settings and images" in capsys.readouterr().err
    for value in ("0", "-1", "nan", "inf", "white"):
        with pytest.raises(SystemExit):
            exported(tmp_path / "in", "other", f"--white={value}")
        assert f"argument --white: must be a finite number above 0, got '{value}'" in capsys.readouterr().err


def test_version_and_sizes(parts, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out.startswith("cutswap_transforms 0.")
    with pytest.raises(SystemExit, match="2"):
        run(parts, "out", "--size", "32", "32", "32")
    assert "argument --size: must be S or H W, got 3 numbers" in capsys.readouterr().err
