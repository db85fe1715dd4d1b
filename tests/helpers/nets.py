"""Nets of a few lines, their images and extractors, and LayerCAM of them by autograd in float64, written out."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cutswap_transforms import LayerCAMExtractor
from cutswap_transforms.saliency.traced.stages import find_layers, record_calls

SIZE = 32


def images(n: int = 2) -> Tensor:
    return torch.rand(n, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


class Small(nn.Module):
    """Two stages. The first one's output is changed in place by the ReLU that follows it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.relu = nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU(inplace=True)
        self.second, self.head = nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.Linear(8, 5)
        rng = torch.Generator().manual_seed(0)
        for p in self.parameters():
            nn.init.normal_(p, std=0.3, generator=rng)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.second(self.relu(self.first(x))).relu())

    def classify(self, x: Tensor) -> Tensor:
        return self.head(x.mean((2, 3)))


def cam_of(model: nn.Module, **arguments: Any) -> LayerCAMExtractor:
    return LayerCAMExtractor(model, **{"input_size": SIZE, "mean_std": None, "layers": ["first", "second"], **arguments})


def assert_expected(cam: LayerCAMExtractor, model: Small, *sizes: int) -> None:
    """Levels "first" and "second" of batches, against autograd in float64, written out."""
    net = copy.deepcopy(model).double().eval()
    for n in sizes:
        with torch.inference_mode():
            maps = cam.native_maps(images(n))
        a = net.first(images(n).double()).requires_grad_()
        b = net.second(net.relu(a.clone()))
        gradients = torch.autograd.grad(net.classify(b.relu()).amax(1).sum(), (a, b))
        for got, g, t in zip(maps, gradients, (a, b), strict=True):
            want = (g.relu() * t).sum(1).relu().detach()
            assert want.max() > 0
            torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-6)


def layers_of(*modules: nn.Module) -> tuple[str, ...]:
    calls, _ = record_calls(nn.Sequential(*modules), images(1))
    return find_layers(calls, "net")


def conv(before: int, after: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, stride=stride, padding=1)


class Mixing(Small):
    """Does something to the maps between its levels, and to its logits."""

    def __init__(self, between: Callable[[Tensor], Tensor] | None = None, at_end: Callable[[Tensor], Tensor] | None = None):
        super().__init__()
        self.relu, self.between, self.at_end = nn.ReLU(), between or nn.Identity(), at_end or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.at_end(self.classify(self.second(self.relu(self.between(self.first(x)))).relu()))
