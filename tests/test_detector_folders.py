"""The folder of a run: what is damaged in it, what has changed since, what must not be written through."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from detector import folders, tuning
from detector.model import FILE, Detector
from helpers.detecting import SMALL, TRAINED, fit, run
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

DAMAGES = {
    "empty": b"",
    "binary": bytes(range(256)),
    "list": b"[1, 2]",
    "null": b"null",
    "open": b'{"steps": ',
    "deep": b"[" * 100_000,
    "other": b"{}",
}


@pytest.fixture(scope="module")
def cut(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped after the first of two checkpoints."""
    out = tmp_path_factory.mktemp("runs") / "cut"

    def breaks_down(module: tuning.Tuning, batch: tuple[torch.Tensor, torch.Tensor], index: int) -> torch.Tensor:
        if module.global_step == 3:
            raise ConnectionError("power cut")
        return step(module, batch, index)

    step = tuning.Tuning.training_step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "EPOCH", 2)
        patch.setattr(tuning.Tuning, "training_step", breaks_down)
        with pytest.raises(ConnectionError):
            run("fit", toy / "flange", "--out", out, options=TRAINED)
    assert (out / folders.CHECKPOINT).is_file() and not (out / FILE).exists()
    return out


@pytest.fixture
def copied(cut: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(cut, tmp_path / "run"))


def refused(data: Path, out: Path, sentence: str) -> None:
    with pytest.raises(SystemExit, match=sentence):
        run("fit", data, "--out", out, options=TRAINED)
    assert not (out / FILE).exists()


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_settings_are_one_sentence(copied: Path, toy: Path, damage: str) -> None:
    note = copied / "settings.json"
    note.write_bytes(DAMAGES[damage])
    sentence = "with features: None there, tiny now" if damage == "other" else r"settings\.json', which is damaged \("
    refused(toy / "flange", copied, f"error: `out` must be new or hold .*{sentence}")
    note.unlink()
    refused(toy / "flange", copied, r"settings\.json', which is damaged \(.*No such file")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_one_sentence(copied: Path, toy: Path, damage: str) -> None:
    (copied / folders.CHECKPOINT).write_bytes(DAMAGES[damage])
    refused(
        toy / "flange", copied, r"error: `out` must be new or hold a run, got .*\.ckpt', which is damaged \(.+\): remove it"
    )


def test_a_checkpoint_with_another_content_is_one_sentence(copied: Path, toy: Path) -> None:
    path = copied / folders.CHECKPOINT
    whole = path.read_bytes()
    state = torch.load(path, weights_only=True)
    name, weight = next((k, v) for k, v in state["state_dict"].items() if v.ndim == 1)  # one that lies in the file in its order
    contents = [
        [],
        {},
        {"state_dict": 3},
        state | {"loops": {}},
        state | {"lr_schedulers": []},
        state | {"optimizer_states": [{}]},
    ]
    contents += [{k: v for k, v in state.items() if k != "loops"}]
    contents.append(state | {"state_dict": state["state_dict"] | {name: torch.zeros(3)}})
    for content in contents:
        torch.save(content, path)
        refused(toy / "flange", copied, r"checkpoint\.ckpt', which is damaged \(.+\): remove it")
    place = whole.index(weight.numpy().tobytes())
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    assert isinstance(torch.load(path, weights_only=True), dict)  # torch itself does not see it
    refused(toy / "flange", copied, r"which is damaged \(wrong checksum of ")
    path.unlink()
    path.mkdir()
    refused(toy / "flange", copied, r"which is damaged \(it must be a regular file, got a folder\)")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_pipes_in_a_run_are_never_waited_for(copied: Path, toy: Path) -> None:
    for name in (folders.CHECKPOINT, "settings.json"):
        (copied / name).rename(copied / f"{name}.kept")
        os.mkfifo(copied / name)
        refused(toy / "flange", copied, rf"{name}', which is damaged \(it must be a regular file, got a pipe or a device\)")
        (copied / name).unlink()
        (copied / f"{name}.kept").rename(copied / name)
    (copied / folders.CHECKPOINT).unlink()
    os.mkfifo(copied / FILE)
    with pytest.raises(SystemExit, match=r"error: `run` must be a folder that `detect.py fit` has finished, got .*; remove '"):
        run("fit", toy / "flange", "--out", copied, options=TRAINED)


def test_an_image_that_was_replaced_is_another_run(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same size, at the same time: its content is compared."""

    def breaks_down(*_: object) -> None:
        raise ConnectionError("power cut")

    folder = tmp_path / "good"
    folder.mkdir()
    for path in (toy / "flange/train/good").iterdir():
        with Image.open(path) as image:
            image.save(folder / f"{path.stem}.bmp")
    monkeypatch.setattr(tuning.Tuning, "on_train_end", breaks_down)
    with pytest.raises(ConnectionError):
        run("fit", folder, "--out", tmp_path / "run", options=TRAINED)
    monkeypatch.undo()
    path = folder / "003.bmp"
    before = path.stat()
    with Image.open(path) as image:
        changed = Image.fromarray(255 - np.asarray(image))
    changed.save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    refused(
        folder, tmp_path / "run", r"with data: 24 \+ 0 .* there, 24 \+ 0 .* now \(of data, names and contents are compared\)"
    )


def test_a_damaged_detector_is_not_taken_for_a_fitted_one(toy: Path, tmp_path: Path) -> None:
    fit(toy / "flange", tmp_path)
    whole = (tmp_path / FILE).read_bytes()
    for content in (b"", whole[:-9], whole[:-1] + bytes([whole[-1] ^ 1])):
        (tmp_path / FILE).write_bytes(content)
        with pytest.raises(SystemExit, match=r"error: `run` must hold a whole detector, got .*; remove '.*' to fit it again"):
            run("fit", toy / "flange", "--out", tmp_path, options=SMALL)


def test_headers_of_a_detector_that_are_damaged(toy: Path, tmp_path: Path) -> None:
    fit(toy / "flange", tmp_path)
    with safe_open(tmp_path / FILE, "pt") as file:
        about, arrays = dict(file.metadata()), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    header = json.loads(about["detector"])
    wrong = [header | {"kinds": [[]]}, header | {"about": {"white": "much"}}, header | {"about": {"white": -1}}, [], None, 3]
    for text in [*map(json.dumps, wrong), "[" * 100_000, "{", ""]:
        save_file(arrays, tmp_path / FILE, about | {"detector": text})
        with pytest.raises(ValueError, match="`run` must hold a whole detector, got"):
            Detector.load(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_nothing_is_written_through_a_link_or_into_a_pipe(toy: Path, tmp_path: Path, kind: str) -> None:
    out, mine = tmp_path / "run", tmp_path / "mine.png"
    mine.write_text("mine")

    def occupy(*names: str) -> None:
        for name in names:
            (out / name).unlink(missing_ok=True)
            (out / name).symlink_to(mine) if kind == "link" else os.mkfifo(out / name)

    out.mkdir()
    occupy("settings.json", "settings.part", "report.md", "negatives.png", "kept.png", "detector.part")
    fit(toy / "flange", out)
    occupy("evaluation.json", "evaluation.part", "histogram.png", "heatmaps.png")
    assert run("evaluate", out, toy / "flange") == 0
    assert mine.read_text() == "mine"
    assert all(path.is_file() and not path.is_symlink() for path in out.iterdir())


def test_the_bar_counts_steps_and_goes_on_with_them(copied: Path, toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(toy / "flange", copied, f"{TRAINED} --progress")
    told = capsys.readouterr()
    assert "Epoch" not in told.out + told.err
    assert "2/4" in told.err and "4/4" in told.err and "0/4" not in told.err and "loss=" in told.err
