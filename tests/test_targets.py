"""`target`: callables for models that return more than logits, and a class for each image of a batch."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cutswap_transforms import LayerCAMExtractor


class Outputs(nn.Module):
    """A small net that returns what `kind` says: [N, 5] logits within a dict, a tuple or a map of classes."""

    def __init__(self, kind: str = "dict") -> None:
        super().__init__()
        self.kind = kind
        self.first, self.second = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 5, 3, 2, 1)
        rng = torch.Generator().manual_seed(0)
        for p in self.parameters():
            nn.init.normal_(p, std=0.3, generator=rng)

    def forward(self, x: Tensor) -> Any:
        maps = self.second(self.first(x).relu())
        logits = maps.mean((2, 3))
        outputs = {"dict": {"logits": logits, "aux": None}, "tuple": (maps, logits), "map": maps, "logits": logits}
        return outputs[self.kind]


def outputs_cam(kind: str, target: Any) -> LayerCAMExtractor:
    return LayerCAMExtractor(Outputs(kind), target=target, layers=["first", "second"], input_size=32, mean_std=None)


IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
PICKS: dict[str, Callable[[Any], Tensor]] = {
    "dict": lambda out: out["logits"][:, 2],
    "tuple": lambda out: out[1][:, 2],
    "map": lambda out: out[:, 2].mean((1, 2)),
    "logits": lambda out: out[:, 2],
}


@pytest.mark.parametrize("kind", PICKS)
def test_a_callable_target_makes_scores_of_whatever_the_model_returns(kind: str) -> None:
    cam, plain = outputs_cam(kind, PICKS[kind]), outputs_cam("logits", 2)
    for got, want in zip(cam.native_maps(IMAGES), plain.native_maps(IMAGES), strict=True):
        assert want.any()
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-7)
    twin = pickle.loads(pickle.dumps(cam))  # a lambda cannot be pickled, its trace can
    assert all(torch.equal(a, b) for a, b in zip(twin.native_maps(IMAGES), cam.native_maps(IMAGES), strict=True))
    assert twin.fingerprint == cam.fingerprint is not None
    assert copy.deepcopy(cam).fingerprint == cam.fingerprint


def test_embeddings_by_their_likeness_to_another() -> None:
    mean = torch.tensor([1.0, 0.5, -1.0, 0.2, 0.0])
    cam = outputs_cam("logits", lambda out: nn.functional.cosine_similarity(out, mean[None], dim=1))
    for got, n in zip(cam.native_maps(IMAGES), (16, 8), strict=True):
        assert got.shape == (3, n, n) and got.any()


def test_fingerprints_differ_between_targets_and_equal_ones_have_one() -> None:
    targets = [lambda out: out[:, 2], lambda out: out[:, 3], lambda out: out.amax(1), lambda out: out[:, 2] * 2, 2, None]
    found = [outputs_cam("logits", t).fingerprint for t in targets]
    assert len(set(found)) == len(targets) and None not in found
    assert outputs_cam("logits", lambda scores: scores[:, 2]).fingerprint == found[0]


def test_a_target_that_cannot_be_traced_warns_and_is_still_right() -> None:
    with pytest.warns(UserWarning, match="Outputs cannot be traced"):
        cam = outputs_cam("logits", lambda out: torch.stack([row[2] for row in out]))
    assert cam.fingerprint is None
    for got, want in zip(cam.native_maps(IMAGES), outputs_cam("logits", 2).native_maps(IMAGES), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-7)


SCORES = r"`target` must map the model's output to scores \[N\], floating point"


@pytest.mark.parametrize(
    ("kind", "target", "message"),
    [
        (
            "dict",
            None,
            r"Outputs returned dict; for another output pass target=..., a callable that turns it into scores \[N\]",
        ),
        ("tuple", 2, "Outputs returned tuple; for another output pass target="),
        ("map", None, r"Outputs returned \[1, 5, 8, 8\]; for another output pass target="),
        ("dict", lambda out: out["scores"][:, 0], SCORES + "; for a dict it failed .*scores"),
        ("logits", lambda out: out, SCORES + r", got \[1, 5\] of torch.float32 for one image"),
        ("logits", lambda out: out[:, 0].sum(), SCORES + r", got \[\] of torch.float32"),
        ("logits", lambda out: out.argmax(1), SCORES + r", got \[1\] of torch.int64"),
        ("logits", lambda out: 3.0, SCORES + ", got float"),
        ("logits", lambda out: out[:, 0].detach(), "`model` must let gradients pass from its layers to the"),
    ],
)
def test_outputs_and_targets_that_do_not_fit_are_told(kind: str, target: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        outputs_cam(kind, target)


# ---- a class for each image -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tiny", "traced"])
def test_a_class_for_each_image_equals_the_targets_of_constructors(name: str) -> None:
    def make(target: Any = None) -> LayerCAMExtractor:
        return LayerCAMExtractor(target=target) if name == "tiny" else outputs_cam("logits", target)

    classes = torch.tensor([4, 0, 2])
    for cam in (make(), make(1)):
        found = cam.native_maps(IMAGES, target=classes)
        for i, image in enumerate(IMAGES):
            alone = make(int(classes[i])).native_maps(image[None])
            for level, want in zip(found, alone, strict=True):
                torch.testing.assert_close(level[i : i + 1], want, rtol=1e-4, atol=1e-5 * float(want.max()))
        assert [len(m) for m in cam.native_maps(IMAGES[:0], target=classes[:0])] == [0] * len(cam.layers)
        assert all(
            torch.equal(a, b) for a, b in zip(cam.native_maps(IMAGES), make(cam.target).native_maps(IMAGES), strict=True)
        )


@pytest.mark.parametrize("name", ["tiny", "traced"])
@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        (2, TypeError, r"`target` must be a tensor int64 \[N\], a class for each image, got int"),
        (torch.zeros(3), TypeError, r"`target` must be a tensor int64 \[N\], .* got torch.float32"),
        (torch.zeros(3, dtype=torch.int32), TypeError, "got torch.int32"),
        (torch.zeros(2, dtype=torch.int64), ValueError, r"`target` must have shape \[3\], a class for each image, got \[2\]"),
        (torch.zeros(3, 1, dtype=torch.int64), ValueError, r"`target` must have shape \[3\], .* got \[3, 1\]"),
        (torch.tensor([0, -1, 2]), ValueError, r"`target` must be in \[0, \d+\] for \d+ classes, got \[0, -1, 2\]"),
        (torch.tensor([0, 1, 5000]), ValueError, r"`target` must be in .* got \[0, 1, 5000\]"),
    ],
)
def test_classes_that_do_not_fit_are_told(name: str, target: Any, error: type[Exception], message: str) -> None:
    cam = LayerCAMExtractor() if name == "tiny" else outputs_cam("logits", None)
    with pytest.raises(error, match=message):
        cam.native_maps(IMAGES, target=target)


def test_no_classes_beside_a_callable() -> None:
    with pytest.raises(ValueError, match="`target` must be None if the constructor got a callable"):
        outputs_cam("map", PICKS["map"]).native_maps(IMAGES, target=torch.zeros(3, dtype=torch.int64))
    with pytest.raises(TypeError, match='`target` of "tiny" must be a class index or None'):
        LayerCAMExtractor(target=lambda out: out[:, 0])
