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


@pytest.mark.parametrize("command", ["export", "preview", "precompute"])
def test_help_names_the_defaults_that_there_are(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "(default: None)" not in text and "(default: tiny)" in text and "(default: (" not in text
    assert command == "precompute" or "patch area / image area (default: 0.002 0.03)" in text


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


def test_version_and_sizes(parts, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out.startswith("cutswap_transforms 0.")
    with pytest.raises(SystemExit, match="2"):
        run(parts, "out", "--size", "32", "32", "32")
    assert "argument --size: must be S or H W, got 3 numbers" in capsys.readouterr().err
