"""Extractors of a ResNet and batches for them, and LayerCAM by hooks and autograd in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cutswap_transforms import LayerCAMExtractor
from cutswap_transforms.saliency.layer_cam import IMAGENET
from helpers.images import scene

LAYERS = ("layer1", "layer2", "layer3", "layer4")
SIZE = 64  # small, and no resizing where the images are of this size


def cam_of(model: str | nn.Module, **arguments: Any) -> LayerCAMExtractor:
    return LayerCAMExtractor(model, input_size=SIZE, **arguments)


def scenes(n: int, height: int, width: int) -> Tensor:
    """uint8 [n, 3, height, width]."""
    return torch.stack([scene(height, width, seed=i) for i in range(n)])


def batch(n: int = 2) -> Tensor:
    """float32 [n, 3, SIZE, SIZE] in [0, 1]."""
    return scenes(n, SIZE, SIZE).float() / 255


def normalised(x: Tensor, mean_std: Any = IMAGENET) -> Tensor:
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in mean_std)
    return (x - mean) / std


def assert_maps_close(got: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(got, expected, strict=True):
        assert float(b.max()) > 0
        torch.testing.assert_close(a.double(), b.double(), rtol=1e-3, atol=1e-6 * float(b.max()))


def by_hooks(model: nn.Module, layers: tuple[str, ...], x: Tensor) -> list[Tensor]:
    """A net of one's own in float64 by autograd. Clones guard against what changes a layer's output in place."""
    net, taps = model.double().eval(), {}

    def tap(name: str) -> Callable[..., Tensor]:
        return lambda m, args, out: taps.__setitem__(name, out) or out.clone()

    for name in layers:
        net.get_submodule(name).register_forward_hook(tap(name))
    logits = net(x.double().requires_grad_())
    gradients = torch.autograd.grad(logits.amax(1).sum(), [taps[name] for name in layers])
    return [(g.relu() * taps[n]).sum(1).relu().detach() for g, n in zip(gradients, layers, strict=True)]


class Scale(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor
