"""Modules and layers that are refused: maps that are none, weights that are not there, what cannot be copied."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.nets import SIZE, Small, cam_of, images, layers_of
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from cutswap_transforms import LayerCAMExtractor


class Aside(Small):
    def forward(self, x: Tensor) -> Tensor:
        self.second(self.first(x).detach())
        return self.head(x.mean((2, 3)) @ torch.ones(3, 8))


def test_modules_and_layers_that_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`layers` must affect the logits, got \('second',\) of Aside"):
        cam_of(Aside(), layers=["second"])
    with pytest.raises(
        ValueError, match=r"`layers` of 'net' cannot be found automatically: it has no stages that return square maps"
    ):
        layers_of(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 5))
    model = Small()
    model.spare = nn.Conv2d(3, 3, 1)
    with pytest.raises(ValueError, match=r"`layers` must be modules that return square maps .* 'spare' returned no tensor"):
        cam_of(model, layers=["spare"])
    model.activation = model.first(images()).relu()
    with pytest.raises(TypeError, match=r"`model` must be a module that copy.deepcopy can copy, Small is not"):
        cam_of(model)


def on_meta() -> nn.Module:
    return Small().to("meta")


def fake() -> nn.Module:
    with FakeTensorMode():
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


def lazy() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.Sequential(nn.LazyConv2d(4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        return torch.jit.trace(Small().eval(), images())


def scripted_within() -> nn.Module:
    return nn.Sequential(scripted())


def old_weight_norm() -> nn.Module:
    model = Small()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.weight_norm(model.first)
    return model


NO_WEIGHTS = "`model` must hold its weights, {} has "


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (on_meta, ValueError, NO_WEIGHTS.format("Small") + "some on the meta device .* model.to_empty"),
        (fake, ValueError, NO_WEIGHTS.format("Sequential") + "some on the meta device or fake ones"),
        (lazy, ValueError, NO_WEIGHTS.format("Sequential") + "lazy ones; call it on images once"),
        (
            scripted,
            TypeError,
            "`model` must be a module of Python code, .* was compiled by torch.jit; pass the original module",
        ),
        (scripted_within, TypeError, "`model` must be a module of Python code, Sequential was compiled by torch.jit"),
        (old_weight_norm, TypeError, "copy.deepcopy can copy, Small is not .* torch.nn.utils.parametrizations in place of"),
    ],
)
def test_modules_that_cannot_be_copied_as_they_are(make: Callable[[], Any], error: type[Exception], message: str) -> None:
    model = make()
    with pytest.raises(error, match=message) as caught:
        LayerCAMExtractor(model, input_size=SIZE)
    assert "\n" not in str(caught.value)
