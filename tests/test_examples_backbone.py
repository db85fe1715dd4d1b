"""The examples that made and measured the embedded net, with a teacher of random weights: they run, resume and explain."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from images import scene
from PIL import Image

from cutswap_transforms import LayerCAMExtractor

ROOT = Path(__file__).parents[1]
TEACHER = """
import torch
from torch import nn

class Teacher(nn.Module):
    def __init__(self):
        super().__init__()
        widths = [3, 8, 16, 70, 130]
        convs = [nn.Conv2d(a, b, 3, 2 if a > 3 else 4, 1) for a, b in zip(widths, widths[1:])]
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


def run(script: str, folder: Path, arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "examples" / script), *arguments.split()]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=folder, env=environment)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Two labels of 20 photographs, and a teacher."""
    (tmp_path / "own.py").write_text(TEACHER)
    for i in range(40):
        path = tmp_path / f"photographs/{'ab'[i % 2]}/{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene(70, 80, seed=i).permute(1, 2, 0).numpy()).save(path)
    return tmp_path


@pytest.mark.slow
def test_a_backbone_is_trained_measured_and_loads_and_its_teacher_needs_feature_maps(photographs: Path) -> None:
    brief = "--views 1 --epochs 1 --map-views 1 --map-epochs 1 --batch-size 8"
    arguments = f"--data photographs --out net --teacher own:teacher --teacher-size 64 {brief}"
    first = run("train_backbone.py", photographs, arguments)
    assert first.returncode == 0, first.stderr
    assert "tiny.npz: 937720 parameters" in first.stdout
    with np.load(photographs / "net/tiny.npz") as arrays:
        weights = {name: arrays[name] for name in arrays.files}
    assert all(w.dtype == np.float16 and np.isfinite(w).all() for w in weights.values())
    again = run("train_backbone.py", photographs, arguments)  # the teacher's answers are there
    assert again.returncode == 0 and "teacher:" not in again.stderr, again.stderr
    with np.load(photographs / "net/tiny.npz") as arrays:
        assert all(np.array_equal(arrays[name], w) for name, w in weights.items())
    maps = LayerCAMExtractor("tiny", weights=str(photographs / "net/tiny.npz"))(scene(64, 64)[None])
    assert maps.shape == (1, 4, 64, 64) and torch.isfinite(maps).all()

    sets = "--caltech photographs --photographs photographs --object photographs/a --count 4"
    nets = "--teacher own:teacher --teachers big:64 --weights net/tiny.npz"
    measured = run("measure_backbone.py", photographs, f"{sets} {nets}")
    assert measured.returncode == 0, measured.stderr
    assert measured.stdout.count("| tiny |") == 3 and measured.stdout.count("| big |") == 2
    refused = run("train_backbone.py", photographs, "--data photographs --out other --teacher own:blind")
    assert refused.returncode == 1
    assert "`--teacher` must have a method stages(images) that returns feature maps, got Linear" in refused.stderr
