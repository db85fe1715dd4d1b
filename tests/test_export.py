"""`python -m cutswap_transforms export`: negatives and masks as files, the same whatever the number of workers."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.exports import contents, drawn_parts, lines, run
from helpers.images import as_kind, scene
from PIL import Image

from cutswap_transforms import SaliencySwap
from cutswap_transforms.__main__ import main
from cutswap_transforms.functional import negative_seed
from cutswap_transforms.saliency.tiny import PACKAGED
from cutswap_transforms.shell import export
from cutswap_transforms.shell.files import find_images, image_keys


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    return drawn_parts(tmp_path / "parts")


@pytest.mark.parametrize("command", ["export", "preview", "precompute"])
def test_help_names_the_defaults_that_there_are(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "(default: None)" not in text and "(default: tiny)" in text and "(default: (" not in text
    assert command == "precompute" or "patch area / image area (default: 0.002 0.03)" in text


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


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # more workers than cores
def test_seed_decides_and_the_number_of_workers_does_not(parts):
    for out, seed, workers in (("a", "5", 0), ("b", "5", 1), ("c", "5", 2), ("d", "5", 5), ("e", "6", 0)):
        assert run(parts, out, "--seed", seed, workers=workers) == 0
    a, b, c, d, e = (contents(parts.parent / name) for name in "abcde")
    assert a == b == c == d and a["swap/000000_p0.png"] != e["swap/000000_p0.png"]


def test_a_negative_is_that_of_its_public_seed(parts):
    assert run(parts, "out", "--seed", "5") == 0
    swap, out = SaliencySwap(), parts.parent / "out"
    for line in lines(out):
        turn, which = divmod(line["number"], 3)
        with Image.open(out / "normal" / f"{which:06d}_p{which}.png") as image, torch.random.fork_rng(devices=[]):
            torch.manual_seed(negative_seed(5, f"good/p{which}.png", turn))
            assert swap(image.convert("RGB")).tobytes() == Image.open(out / "swap" / line["file"]).tobytes()


def test_a_negative_stays_when_images_are_added_and_the_folder_is_moved(parts):
    def swaps(out):
        found = lines(out)
        return {(Path(x["image"]).name, sum(y["image"] == x["image"] for y in found[: x["number"]])): x for x in found}

    assert run(parts, "out") == 0
    other = Path(shutil.copytree(parts, parts.parent / "moved" / "elsewhere"))
    as_kind("PIL", scene(50, 60, seed=9)).save(other / "good" / "a.png")  # before the others
    assert run(other, "out", count=12) == 0
    before, after = swaps(parts.parent / "out"), swaps(other.parent / "out")
    assert len(before) == 7 and len(after) == 12
    for negative, line in before.items():
        assert line["pairs"] == after[negative]["pairs"] and line["number"] != after[negative]["number"]


def test_keys_of_images_are_told_apart(tmp_path):
    for folder in "ab":
        drawn_parts(tmp_path / folder, 1)
    a, b = tmp_path / "a", tmp_path / "b/good/p0.png"
    assert image_keys([a], find_images([a])) == ["good/p0.png"]
    assert image_keys([a, b], find_images([a, b])) == ["a/good/p0.png", "b/good/p0.png"]
    assert image_keys([b], [b]) == ["p0.png"]


def test_a_run_that_was_stopped_goes_on(parts, capsys, monkeypatch):
    assert run(parts, "whole") == 0
    save, saved = export.save_image, []

    def interrupted(image, path):
        saved.append(path)
        if len(saved) == 9:  # the third file of a negative
            raise KeyboardInterrupt
        save(image, path)

    monkeypatch.setattr(export, "save_image", interrupted)
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
    assert [Path(line["image"]).name for line in lines(parts.parent / "out")] == ["p0.png", "p2.png", "p2.png"] * 2
    assert len({json.dumps(line["pairs"]) for line in lines(parts.parent / "out")}) == 6, "each has the seed of its own turn"
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
        assert "error: `OUT` must be outside the folders of the images, got" in capsys.readouterr().err
    (parts.parent / "file").write_text("")
    assert run(parts, "file") == 2
    assert "error: `OUT` must be a folder that can be written, got" in capsys.readouterr().err


def test_what_ends_the_writing_is_told(parts, capsys, monkeypatch):
    monkeypatch.setattr(export, "save_image", lambda image, path: (_ for _ in ()).throw(OSError(28, "No space left on device")))
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


def test_a_roi_holds_for_all_and_another_one_is_another_export(parts, capsys):
    roi, same, other = (parts.parent / f"{name}.png" for name in ("roi", "same", "other"))
    mask = np.zeros((64, 64), np.uint8)
    mask[:, :32] = 1  # any value above zero
    for path, values in ((roi, mask), (same, mask * 255), (other, 1 - mask)):
        Image.fromarray(values).save(path)
    assert run(parts, "out", "--roi", str(roi)) == 0
    for line in lines(parts.parent / "out"):
        for pair in line["pairs"]:
            assert pair["left_a"] + pair["width"] // 2 < 20 and pair["left_b"] + pair["width"] // 2 < 20
    assert run(parts, "out", "--roi", str(same)) == 0  # the mask counts, not its name
    assert "7 negatives, 0 of them new" in capsys.readouterr().out
    for more in ((), ("--roi", str(other))):
        assert run(parts, "out", *more) == 2
        assert "error: `OUT` must be new or of the same settings and images" in capsys.readouterr().err


def test_a_negative_that_equals_its_image_is_told(parts, capsys):
    Image.new("RGB", (60, 50), (9, 9, 9)).save(parts / "good" / "p3.png")
    assert run(parts, "out", count=8) == 0
    sentence = "unchanged: 2 negatives equal their image, whose patches have the same pixels: 000003_p3.png, 000007_p3.png\n"
    assert sentence in capsys.readouterr().err
    assert [line["changed"] for line in lines(parts.parent / "out")] == [True, True, True, False] * 2
    assert run(parts, "out", count=8) == 0 and sentence in capsys.readouterr().err


@pytest.mark.parametrize("workers", ["0", "1"])
def test_one_export_at_a_time_writes_a_folder(parts, capsys, workers):
    """The first waits in the middle, for ever, until it is killed."""
    waiting = (
        "import pathlib, signal, sys\n"
        "from cutswap_transforms.__main__ import main\n"
        "from cutswap_transforms.shell import export\n"
        "def wait(image, path):\n"
        "    pathlib.Path(sys.argv[1]).touch()\n"
        "    signal.pause()\n"
        "export.save_image = wait\n"
        "main(sys.argv[2:])"
    )
    out, marker = parts.parent / "out", parts.parent / "waits"
    more = ["--count", "7", "--size", "32", "40", "--num-workers", workers]
    command = [sys.executable, "-c", waiting, str(marker), "export", str(parts), str(out), *more]
    first = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        while not marker.exists():
            assert first.poll() is None
            time.sleep(0.01)
        assert run(parts, "out") == 2
        told = capsys.readouterr().err
        assert f"error: `OUT` must be written by one export at a time, got {out}, which another is writing; wait for" in told
        assert not lines(out) and not list((out / "swap").iterdir())
        first.kill()  # its worker lives on for some seconds, without the lock
        first.wait(60)
        assert run(parts, "out") == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(first.pid, signal.SIGKILL)
        first.wait(60)
    assert run(parts, "whole") == 0
    assert contents(out) == contents(parts.parent / "whole")


def test_two_exports_of_one_process_do_not_write_one_folder(parts, capsys, monkeypatch):
    save, inner = export.save_image, []

    def nested(image, path):
        if not inner:
            inner.append(None)
            inner.append(run(parts, "out"))
        save(image, path)

    monkeypatch.setattr(export, "save_image", nested)
    assert run(parts, "out") == 0 and inner == [None, 2] and len(lines(parts.parent / "out")) == 7


DAMAGE = {
    "no JSON": b"{",
    "a list": b"[1, 2]",
    "null": b"null",
    "a number": b"3",
    "binary": bytes(range(256)),
    "another text": '{"number": 1}'.encode("utf-16"),
    "deep": b"[" * 200_000,
    "long": b"9" * 10_000,
    "no number": b'{"file": "000001_p1.png"}',
    "no whole number": b'{"number": 1.0, "file": "000001_p1.png", "pairs": []}',
    "truth": b'{"number": true, "file": "000001_p1.png", "pairs": []}',
    "negative": b'{"number": -1, "pairs": []}',
    "huge": b'{"number": ' + b"9" * 400 + b', "pairs": []}',
    "another file": b'{"number": 1, "file": "../../1.png", "image": "x", "pairs": []}',
    "empty": b"",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_lines_are_written_again(parts, capsys, damage):
    assert run(parts, "whole") == 0
    out = parts.parent / "out"
    shutil.copytree(parts.parent / "whole", out)
    whole = (out / "pairs.jsonl").read_bytes().splitlines()
    capsys.readouterr()
    (out / "pairs.jsonl").write_bytes(b"\n".join([*whole[:1], damage, *whole[2:5], whole[3], whole[6]]) + b"\n" + whole[5][:30])
    assert run(parts, "out") == 0
    told = capsys.readouterr()
    assert "7 negatives, 2 of them new" in told.out and "lines were damaged, double or without their pictures" in told.err
    assert contents(out) == contents(parts.parent / "whole")


@pytest.mark.parametrize("damage", [*DAMAGE.values(), b"{}"], ids=[*DAMAGE, "nothing"])
def test_damaged_settings_are_refused(parts, capsys, damage):
    assert run(parts, "out") == 0
    before = contents(parts.parent / "out")
    (parts.parent / "out" / "settings.json").write_bytes(damage)
    assert run(parts, "out") == 2
    told = capsys.readouterr().err
    assert "error: `OUT` must be new or of the same settings and images, got" in told and len(told) < 1500
    (parts.parent / "out" / "settings.json").unlink()
    assert run(parts, "out") == 2 and "without settings.json; name another folder" in capsys.readouterr().err
    before.pop("settings.json")
    assert contents(parts.parent / "out") == before


def test_pictures_that_were_deleted_or_emptied_come_back(parts, capsys):
    assert run(parts, "whole") == 0 and run(parts, "out") == 0
    out = parts.parent / "out"
    for name in ("swap/000001_p1.png", "mask/000003_p0.png", "normal/000002_p2.png"):
        (out / name).unlink()
    (out / "swap/000004_p1.png").write_bytes(b"")
    (out / "mask/.000004_p1.png.1.draft").write_bytes(b"half")
    assert run(parts, "out") == 0
    assert "7 negatives, 4 of them new" in capsys.readouterr().out
    assert contents(out) == contents(parts.parent / "whole")


@pytest.mark.parametrize("name", ["settings.json", "pairs.jsonl"])
def test_results_are_regular_files(parts, capsys, name):
    assert run(parts, "out") == 0
    path = parts.parent / "out" / name
    path.unlink()
    os.mkfifo(path)
    assert run(parts, "out") == 2
    assert f"error: `OUT` must hold results as regular files, got {path}; move it away" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["content", "time", "weights"])
def test_what_was_replaced_between_stop_and_start_is_noticed(parts, capsys, how):
    weights = parts.parent / "w.npz"
    shutil.copy(PACKAGED, weights)
    assert run(parts, "out", "--weights", str(weights), count=2) == 0
    image = parts / "good" / "p1.png"
    if how == "content":
        as_kind("PIL", scene(50, 60, seed=77)).save(image)
    elif how == "time":
        os.utime(image, ns=(1, 1))
    else:
        with np.load(weights) as arrays:
            np.savez(weights, **{name: array * (1.01 if "head" in name else 1) for name, array in arrays.items()})
    assert run(parts, "out", "--weights", str(weights)) == 2
    told = capsys.readouterr().err
    assert "error: `OUT` must be new or of the same settings and images, got" in told
    assert ("regions: " if how == "weights" else "images: ") in told
    assert "images are compared by name, size and time of change" in told and len(lines(parts.parent / "out")) == 2


def test_an_input_is_not_written_over_through_a_link(parts, capsys):
    assert run(parts, "out", count=3) == 0
    out, linked = parts.parent / "out", parts.parent / "linked"
    linked.mkdir()
    (linked / "a.png").symlink_to(out / "normal" / "000000_p0.png")
    (parts.parent / "folder").mkdir()
    (parts.parent / "folder" / "deep").symlink_to(out / "normal")
    (parts.parent / "up").mkdir()
    (parts.parent / "up" / "all").symlink_to(parts.parent / "linked")
    other = parts.parent / "other"
    other.mkdir()
    (other / "normal").symlink_to(parts / "good")
    before = contents(parts.parent)
    for images, target in (
        ("linked", "out"),
        ("linked/a.png", "out"),
        ("folder", "out"),
        ("parts", "other"),
        ("parts/good/p0.png", "other"),
        ("up", "linked/out"),
    ):
        assert run(parts.parent / images, os.path.relpath(parts.parent / target, (parts.parent / images).parent)) == 2
        assert "error: `OUT` must be outside the folders of the images, got" in capsys.readouterr().err
    assert contents(parts.parent) == before
    assert run(parts / "good" / "p0.png", "beside") == 0, "a folder beside one image is no image"


def test_version_and_sizes(parts, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out.startswith("cutswap_transforms 0.")
    with pytest.raises(SystemExit, match="2"):
        run(parts, "out", "--size", "32", "32", "32")
    assert "argument --size: must be S or H W, got 3 numbers" in capsys.readouterr().err
