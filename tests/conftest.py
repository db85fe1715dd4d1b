"""What every test shares: one thread per process, and how hypothesis draws; and the fixtures of more than one file."""

from __future__ import annotations

import os
from pathlib import Path
from unittest.mock import Mock

import hypothesis
import pytest
import torch
from torch import nn
from torchvision import models

from cutswap_transforms import LayerCAMExtractor

pytest.register_assert_rewrite("helpers")  # so that an assertion there says as much as one in a test

# The tests run in several processes, and each has small tensors: more threads only make them wait for each other.
torch.set_num_threads(1)

# A deadline per example fails on a busy machine, not on a bug. In CI the examples are the same every time.
hypothesis.settings.register_profile("cutswap", deadline=None, derandomize=bool(os.environ.get("CI")))
hypothesis.settings.load_profile("cutswap")


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two categories of the toy set: 24 normal images, 4 good and 5 defective test images each, 64 px."""
    from toy import write_toy

    folder = tmp_path_factory.mktemp("data") / "toy"
    return write_toy(folder, size=64, train=24, good=4, per_defect=1, categories=("flange", "cloth"))


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU machine, in a worker, the autograd engine must not be entered."""
    entered = Mock(side_effect=AssertionError("the autograd engine was entered"))
    monkeypatch.setattr(torch.autograd.Variable, "_execution_engine", Mock(run_backward=entered))
    with pytest.raises(AssertionError, match="engine was entered"):
        torch.ones(1, requires_grad=True).sum().backward()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images for the commands, one of them in a folder of its own, and a file that is none."""
    from helpers.sheets import picture

    (tmp_path / "images" / "deep").mkdir(parents=True)
    for i, name in enumerate(("a.png", "b.JPG", "deep/c.webp")):
        picture(i, 40, 50).save(tmp_path / "images" / name)
    (tmp_path / "images" / "notes.txt").write_text("no image")
    return tmp_path / "images"


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The measurement takes a second, and only one test is about it."""
    monkeypatch.setattr("cutswap_transforms.shell.preview.images_per_second", lambda images, swap: 7.0)


@pytest.fixture
def mvtec(tmp_path: Path) -> Path:
    """cap: two normal images, one good and two cracked test images, of which one has a mask; and what is not data."""
    from helpers.data_folders import DEFECT, save

    folder = tmp_path / "cap"
    for name in ("train/good/0.png", "train/good/1.jpg", "test/good/0.png", "test/crack/0.png", "test/crack/1.png"):
        save(folder / name)
    save(folder / "ground_truth/crack/0_mask.png", DEFECT * 255)
    (folder / "train/good/Thumbs.db").write_bytes(b"no image")
    (folder / "test/crack/._0.png").write_bytes(b"a shadow of another system")
    for name in ("ground_truth/good", "ground_truth/nested/000", "test/.ipynb_checkpoints"):
        (folder / name).mkdir(parents=True)
    return folder


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    """Its batch norms are as after training: each channel with a scale and statistics of its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = models.resnet18(weights=None).eval()
        for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
            for values in (norm.running_mean, norm.bias.data):
                values.normal_(std=0.1)
            for values in (norm.running_var, norm.weight.data):
                values.uniform_(0.5, 1.5)
    return model


@pytest.fixture(scope="module")
def cam(resnet: nn.Module) -> LayerCAMExtractor:
    from helpers.layer_cam import cam_of

    return cam_of(resnet)


@pytest.fixture(params=["tiny", "resnet18"])
def either(request: pytest.FixtureRequest, cam: LayerCAMExtractor) -> LayerCAMExtractor:
    return LayerCAMExtractor() if request.param == "tiny" else cam


@pytest.fixture(autouse=True)
def no_shared_memory() -> None:
    """A transform of an earlier test that is still alive would share what it has cached with transforms of equal settings."""
    from cutswap_transforms.cache import memory

    memory._by_settings.clear()
