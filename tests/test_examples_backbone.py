"""The examples that made and measured the embedded net, with a teacher of random weights: they run, resume and explain."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import composites
import numpy as np
import pytest
import torch
import train_backbone
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
    command = [sys.executable, str(ROOT / "examples" / script), *arguments.split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=folder, env=environment)
    assert done.returncode == status, done.stderr
    return done


def test_composites_show_objects_where_their_mask_says_and_are_the_same_for_the_same_seed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in composites.TEXTURES:
        ground = composites.TEXTURES[name](rng, 48)
        assert ground.shape == (48, 48, 3) and np.isfinite(ground).all(), name
    grounds = composites.as_bank([composites.draw_ground(rng, 80) for _ in range(64)])
    objects = [composites.as_bank([composites.draw_object(rng, 32) for _ in range(16)])]
    assert all(0.05 < (o[3] > 127).float().mean() < 1 for o in objects[0])

    def made(objects: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        return composites.compose(grounds, objects, 64, torch.Generator().manual_seed(1))

    images, covered = made(objects)
    assert images.shape == (64, 3, 64, 64) and covered.shape == (64, 64, 64)
    assert images.min() >= 0 and images.max() <= 255 and covered.min() >= 0 and covered.max() <= 1
    share = covered.mean((1, 2))
    assert (share < 0.01).sum() in range(2, 16) and 0.1 < share.median() < 0.5
    assert all(torch.equal(a, b) for a, b in zip((images, covered), made(objects), strict=True))
    red = [objects[0].clone()]
    red[0][:, :3] = torch.tensor([255, 0, 0], dtype=torch.uint8)[:, None, None]
    painted = made(red)[0]
    inside = covered > 0.99
    assert (painted[:, 1:].amax(1)[inside] < 3).all()  # the object hides the ground
    assert torch.equal(painted.permute(0, 2, 3, 1)[covered == 0], images.permute(0, 2, 3, 1)[covered == 0])


def test_an_object_is_cut_from_a_plain_and_from_a_textured_photograph_and_an_unclear_one_is_refused() -> None:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:96, 0:96]
    disc = np.hypot(y - 40, x - 50) < 25
    saliency = np.exp(-(((y[::3, ::3] - 40) / 20) ** 2) - ((x[::3, ::3] - 50) / 20) ** 2).astype("f4")
    for ground in (np.full((96, 96), 200), rng.integers(100, 256, (96, 96))):
        photo = np.where(disc, 30, ground).astype(np.uint8)[..., None].repeat(3, 2)
        cut = composites.cut_photograph(photo, saliency)
        assert cut is not None and cut.shape == (96, 96, 4)
        assert (cut[..., :3][cut[..., 3] > 250] < 60).mean() > 0.97 and 0.65 < (cut[..., 3] > 127).mean() < 0.9
    assert composites.cut_photograph(np.full((96, 96, 3), 90, np.uint8), saliency) is None


@pytest.mark.slow
def test_a_backbone_is_trained_measured_and_loads_and_its_teacher_needs_feature_maps(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(TEACHER)
    for i in range(40):  # two labels of 20 photographs
        path = tmp_path / f"photographs/{'ab'[i % 2]}/{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene(70, 80, seed=i).permute(1, 2, 0).numpy()).save(path)
    brief = "--composites 64 --grounds 8 --ground-batch 8 --views 1 --epochs 1 --map-views 1 --map-epochs 1 --batch-size 8"
    arguments = f"--data photographs --out net --teacher own:teacher --teacher-size 64 {brief}"
    first = run("train_backbone.py", tmp_path, arguments)
    assert "tiny.npz: 937720 parameters" in first.stdout
    weights = dict(np.load(tmp_path / "net/tiny.npz"))
    assert all(w.dtype == np.float16 and np.isfinite(w).all() for w in weights.values())
    again = run("train_backbone.py", tmp_path, arguments)
    assert "teacher:" not in again.stderr  # its answers are there
    assert all(np.array_equal(w, weights[name]) for name, w in np.load(tmp_path / "net/tiny.npz").items())
    maps = LayerCAMExtractor("tiny", weights=str(tmp_path / "net/tiny.npz"))(scene(64, 64)[None])
    assert maps.shape == (1, 4, 64, 64) and torch.isfinite(maps).all()
    sets = "--caltech photographs --photographs photographs --object photographs/a --count 4"
    nets = "--teacher own:teacher --teachers big:64 --weights net/tiny.npz"
    measured = run("measure_backbone.py", tmp_path, f"{sets} {nets}")
    assert measured.stdout.count("| tiny |") == 3 and measured.stdout.count("| big |") == 2
    refused = run("train_backbone.py", tmp_path, "--data photographs --out other --teacher own:blind", status=1)
    assert "`--teacher` must have a method stages(images) that returns feature maps, got Linear" in refused.stderr


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_no_photograph(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    os.mkfifo(tmp_path / "b.jpg")
    assert train_backbone.list_photographs([tmp_path]) == [(tmp_path / "a.jpg", f"{tmp_path.name}/a.jpg")]
