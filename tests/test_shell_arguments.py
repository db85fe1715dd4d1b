"""Arguments that the commands share: bounds of numbers, weights, nets of one's own, the picture of a region of interest."""

from __future__ import annotations

import argparse
import inspect
import os
import pickle
import subprocess
import sys
import zipfile
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
from cutswap_transforms.shell import arguments, resolve

RAN_WITH_TORCH = """
import sys
from cutswap_transforms.__main__ import main
try:
    print(main(sys.argv[1:]))
finally:
    print("torch" in sys.modules)
"""


@pytest.mark.parametrize(
    ("line", "needed"),
    [
        ("--version", False),
        ("--help", False),
        ("preview --help", False),
        ("precompute --help", False),
        ("export --help", False),
        ("preview --limit 0 nowhere", False),
        ("preview nowhere", True),  # the check can fail
    ],
)
def test_version_help_and_mistyped_options_do_not_wait_for_torch(tmp_path: Path, line: str, needed: bool) -> None:
    command = [sys.executable, "-c", RAN_WITH_TORCH, *line.split()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == str(needed), done.stdout + done.stderr
    assert done.returncode == (0 if needed or "-h" in line or "-v" in line else 2)


def test_the_default_scale_is_the_librarys() -> None:
    parser = argparse.ArgumentParser()
    arguments.add_scale(parser)
    assert parser.parse_args([]).scale == inspect.signature(SaliencySwap).parameters["scale"].default


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
    parser = argparse.ArgumentParser()
    arguments.add_guidance(parser)
    saliency = resolve.make_swap(parser.parse_args(["--net", "own_nets:Net"])).saliency
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
    monkeypatch.setattr(resolve, "LayerCAMExtractor", Mock(side_effect=fault("first line\nsecond line")))
    assert run(folder, "--weights", "mine.npz") == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: `--weights` must be weights of tiny, got 'mine.npz' ({fault.__name__}: ")
    assert len(told.splitlines()) == 1


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
        assert "error: `roi` must cover at least half of a cell of the grid, got" in told[-1].replace("ValueError: ", "")
    else:
        assert told[-1].startswith(f"error: `--roi` must be the picture of a mask, got {roi} (")
