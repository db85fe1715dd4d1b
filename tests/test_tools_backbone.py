"""The tools that made and measured the embedded net, with a teacher of random weights: they run, resume and explain."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import train_backbone
from backbone.student import mixed
from helpers.images import scene
from PIL import Image

from cutswap_transforms import LayerCAMExtractor

ROOT = Path(__file__).parents[1]
TEACHER = """
import torch
from torch import nn

class Teacher(nn.Module):
    def __init__(self):
        super().__init__()
        convs = [nn.Conv2d(a, b, 3, s, 1) for a, b, s in ((3, 8, 4), (8, 16, 2), (16, 70, 2), (70, 130, 2))]
        self.blocks = nn.ModuleList(nn.Sequential(conv, nn.ReLU()) for conv in convs)
        self.fc = nn.Linear(130, 1000)

    def stages(self, x):
        return [x := block(x) for block in self.blocks]

    def forward(self, x):
        return self.fc(self.stages(x)[-1].mean((2, 3)))

def teacher(name="any"):
    torch.manual_seed(0)
    return Teacher()

def blind(name="any"):
    return nn.Linear(3, 1000)
"""


def run(script: str, folder: Path, arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "tools" / script), *arguments.split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=folder, env=environment)
    assert done.returncode == status, done.stderr
    return done


@pytest.mark.slow
def test_a_backbone_is_trained_measured_and_loads_and_its_teacher_needs_feature_maps(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(TEACHER)
    for i in range(40):  # two labels of 20 photographs
        path = tmp_path / f"photographs/{'ab'[i % 2]}/{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene(70, 80, seed=i).permute(1, 2, 0).numpy()).save(path)
    brief = "--views 2 --epochs 1 --map-epochs 1 --batch-size 8 --dims 8 16 16 --grounds 12 --composites 64 --composite-maps 9"
    brief += " --ground-batch 6 --large 9 --large-batch 2 --folded-epochs 1 --composite-map-weight 1"
    arguments = f"--data photographs --out net --teacher own:teacher --teacher-size 64 {brief}"
    first = run("train_backbone.py", tmp_path, arguments)
    assert "tiny.npz: 937720 parameters" in first.stdout
    weights = dict(np.load(tmp_path / "net/tiny.npz"))
    assert all(w.dtype == np.float16 and np.isfinite(w).all() for w in weights.values())
    again = run("train_backbone.py", tmp_path, arguments)
    assert "teacher:" not in again.stderr  # its answers are there
    assert all(np.array_equal(w, weights[name]) for name, w in np.load(tmp_path / "net/tiny.npz").items())
    maps = LayerCAMExtractor("tiny", weights=str(tmp_path / "net/tiny.npz"))(scene(64, 64)[None])
    assert maps.shape == (1, 3, 64, 64) and torch.isfinite(maps).all()
    sets = "--caltech photographs --photographs photographs --object photographs/a --count 4"
    nets = "--nets own:teacher@64 --weights net/tiny.npz"
    measured = run("measure_backbone.py", tmp_path, f"{sets} {nets}")
    assert measured.stdout.count("| tiny |") == 3 and measured.stdout.count("| own:teacher |") == 2
    refused = run("train_backbone.py", tmp_path, "--data photographs --out other --teacher own:blind", status=2)
    assert "`--teacher` must be a net of images with stages" in refused.stderr


def test_a_share_of_the_weights_before_is_kept(tmp_path: Path) -> None:
    names = ("stage1.conv0.weight", "stage4.conv1.bias", "head.weight")
    np.savez(tmp_path / "before.npz", **{name: np.float16([0, 8]) for name in names})
    after = {name: np.float16([4, 0]) for name in names}
    kept = mixed(after, tmp_path / "before.npz", [0.25, 0, 0, 0, 0.5])
    assert {a.dtype for a in kept.values()} == {np.dtype(np.float16)}
    assert [kept[name].tolist() for name in names] == [[3, 2], [4, 0], [2, 4]]


@pytest.mark.parametrize("options", [["--keep", "0.5"], ["--start", "x", "--keep", "1"], ["--start", "x", "--keep", "0", "0"]])
def test_shares_that_cannot_be_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]) -> None:
    with pytest.raises(SystemExit):
        train_backbone.main(["--data", "x", "--teacher", "x", "--out", str(tmp_path), *options])
    assert "`--keep` must be one share in [0, 1), or five, with --start, got " in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_no_photograph(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    os.mkfifo(tmp_path / "b.jpg")
    assert train_backbone.list_photographs([tmp_path]) == [(tmp_path / "a.jpg", f"{tmp_path.name}/a.jpg")]
