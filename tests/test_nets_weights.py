"""The weights of nets by name: from a file, by name or from the cache, the same net; files that hold none."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from helpers.images import scene
from helpers.layer_cam import assert_maps_close, batch, by_hooks, cam_of, normalised
from torchvision import models

from cutswap_transforms import LayerCAMExtractor


class Calls:
    """Unpickling it would call what it was given."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("called"),))


@pytest.mark.parametrize("kind", ["empty", "text", "truncated", "object", "list", "foreign"])
def test_files_that_hold_no_state_dict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.chdir(tmp_path)
    path, held = tmp_path / "other.pth", {"object": Calls(), "list": [1], "foreign": models.vgg11().features.state_dict()}
    torch.save(held.get(kind, models.squeezenet1_1().state_dict()), path)
    if kind in ("empty", "text", "truncated"):
        path.write_bytes({"empty": b"", "text": b"weights\n", "truncated": path.read_bytes()[:-1000]}[kind])
    with pytest.raises(
        ValueError, match=r"`weights` must be a state_dict of 'squeezenet1_1' .*other.pth' (cannot|is not)"
    ) as caught:
        LayerCAMExtractor("squeezenet1_1", weights=path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    assert not Path("called").exists()


def test_copies_of_a_named_model_carry_the_weights_of_their_file(tmp_path: Path) -> None:
    path, other = tmp_path / "mine.pth", tmp_path / "other.pth"
    model = models.squeezenet1_1()
    torch.save(model.state_dict(), path)
    mine = cam_of("squeezenet1_1", weights=path)
    expected, sent, copied = mine(scene()), pickle.dumps(mine), copy.deepcopy(mine)
    model.features[0].weight.data *= 2
    torch.save(model.state_dict(), other)
    for change in (lambda: other.replace(path), path.unlink):
        change()
        assert all(torch.equal(cam(scene()), expected) for cam in (pickle.loads(sent), copied))


def test_weights_by_name_path_or_cache_are_the_same_net_and_where_there_are_none_the_error_says_the_remedies(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.hub, "urlopen", Mock(side_effect=OSError("network is unreachable")))
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    folder, weights = tmp_path / "checkpoints", models.SqueezeNet1_1_Weights.IMAGENET1K_V1
    with pytest.raises(ConnectionError) as caught:
        LayerCAMExtractor("squeezenet1_1")
    parts = ("'squeezenet1_1'", "network is unreachable", str(folder), "weights=None", "path of a", 'model="tiny"')
    assert all(part in str(caught.value) for part in parts)
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(
        ValueError,
        match=r"(?s)`weights` must be a state_dict of 'squeezenet1_1'.*pass a model of another shape as an nn.Module",
    ):
        LayerCAMExtractor("squeezenet1_1", weights=tmp_path / "other.pth")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = models.squeezenet1_1(weights=None)
    folder.mkdir(exist_ok=True)
    path = folder / weights.url.rsplit("/", 1)[1]
    torch.save(model.state_dict(), path)
    names = ("DEFAULT", weights, "IMAGENET1K_V1", "SqueezeNet1_1_Weights.IMAGENET1K_V1", path, str(path))
    before = torch.get_rng_state()
    extractors = [cam_of("squeezenet1_1", weights=w) for w in names]
    for other in (cam_of("squeezenet1_1", weights=None), cam_of(model)):
        other(scene())
    assert torch.equal(torch.get_rng_state(), before)
    assert len({e.fingerprint for e in extractors}) == 1
    mine = extractors[-1]
    assert_maps_close(mine.native_maps(batch()), by_hooks(model, mine.layers, normalised(batch())))
