"""Norms in traced nets: in channels-last, in residual blocks, and where the mean is large beside the spread."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable

import pytest
import torch
from helpers.nets import Mixing, Small, assert_expected, cam_of, conv, images
from torch import Tensor, nn


class Between(Small):
    """Has a norm and an activation between its levels; `residual` adds what they were given."""

    def __init__(self, norm: nn.Module, activation: nn.Module, residual: bool = False) -> None:
        super().__init__()
        self.relu = nn.Sequential(nn.ReLU(), conv(6, 6), norm, activation)
        self.residual = residual
        nn.init.normal_(self.relu[1].weight, std=0.3, generator=torch.Generator().manual_seed(1))
        if residual:
            self.relu = Residual(self.relu)


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class Looped(Between):
    def classify(self, x: Tensor) -> Tensor:
        return torch.stack([logits * 2 for logits in super().classify(x)])


@pytest.mark.parametrize("activation", [nn.Hardswish(), nn.ELU(), nn.SiLU(), nn.ReLU()], ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("norm", [nn.InstanceNorm2d(6, affine=True), nn.GroupNorm(3, 6)], ids=["instance", "group"])
def test_norms_that_torch_computes_wrongly_in_channels_last(norm: nn.Module, activation: nn.Module) -> None:
    model = Between(norm, activation)
    assert_expected(cam_of(model), model, 1, 2, 5)


@pytest.mark.parametrize("kind", [Between, Looped])
def test_instance_norm_in_a_residual_block_by_trace_and_by_autograd(kind: type[Between]) -> None:
    model = kind(nn.InstanceNorm2d(6), nn.Hardswish(), residual=True)
    with contextlib.nullcontext() if kind is Between else pytest.warns(UserWarning, match="Looped cannot be traced"):
        cam = cam_of(model)
    assert_expected(cam, model, 1, 2, 5)


class OverChannels(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ByHand(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, (2, 3), keepdim=True)
        return (x - mean) / (variance + 1e-5).sqrt()


class ChannelsLast(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last)


class Rows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([row * 2 for row in x])


NORMS: dict[str, Callable[[], nn.Module]] = {
    "group": lambda: nn.GroupNorm(3, 6),
    "group_of_all": lambda: nn.GroupNorm(1, 6),
    "group_in_channels_last": lambda: nn.Sequential(ChannelsLast(), nn.GroupNorm(3, 6)),
    "batch_in_channels_last": lambda: nn.Sequential(ChannelsLast(), nn.BatchNorm2d(6, track_running_stats=False)),
    "instance": lambda: nn.InstanceNorm2d(6, affine=True),
    "layer_over_channels": lambda: OverChannels(6),
    "group_behind_layer": lambda: nn.Sequential(OverChannels(6), nn.GroupNorm(3, 6)),
    "batch": lambda: nn.BatchNorm2d(6, track_running_stats=False),
    "response": lambda: nn.LocalResponseNorm(3),
    "by_hand": ByHand,
}


@pytest.mark.parametrize("by_autograd", [False, True], ids=["traced", "autograd"])
@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_norms_of_maps_whose_mean_is_large_beside_their_spread(norm: Callable[[], nn.Module], by_autograd: bool) -> None:
    """Photographs of low contrast, behind a large bias."""
    model = Mixing(norm(), Rows() if by_autograd else nn.Identity())
    nn.init.constant_(model.first.bias, 10.0)
    with pytest.warns(UserWarning, match="cannot be traced") if by_autograd else contextlib.nullcontext():
        cam = cam_of(model)
    for image in (images(3) * 0.1 + 0.4).split(1):
        net = copy.deepcopy(model).double().eval()
        a = net.first(image.double()).requires_grad_()
        b = net.second(net.between(a).relu())
        gradients = torch.autograd.grad(net.at_end(net.classify(b.relu())).amax(1).sum(), (a, b))
        for got, g, t in zip(cam.native_maps(image), gradients, (a, b), strict=True):
            want = (g.relu() * t).sum(1).relu().detach()
            assert (got - want).norm() < 1e-3 * want.norm()
