"""Nets as feature extractors: maps at several strides, on which the densities are fitted."""

from __future__ import annotations

import contextlib
from typing import cast

import torch
import torch.nn.functional as F
import torchvision
from augment import load_factory
from data import DataError
from torch import Tensor, nn

from cutswap_transforms.saliency import tiny
from cutswap_transforms.saliency.traced.fold import fold_batch_norms
from cutswap_transforms.saliency.traced.layouts import Layout
from cutswap_transforms.saliency.traced.stages import Call, find_layers, forward_hooks, record_calls
from cutswap_transforms.seeds import own_seed

from . import efficientnet

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
FINEST = 8  # finer maps cost more than they help


class _Enough(Exception):
    """Raised when all maps are computed, to skip the rest of the net."""


class Features(nn.Module):
    """float images [N, 3, S, S] in [0, 1] -> maps [N, C_l, S_l, S_l], fine to coarse.

    Args:
        spec: "tiny", "efficientnet-lite0", a torchvision name, or "module:factory".
        size: the images' side, at which the levels are searched.
        weights: False keeps random weights, which are loaded later.

    The maps are the outputs of the last block of each resolution stage, as for LayerCAM, from stride 8 on: each cell is scaled
    to unit length, then averaged over 3 x 3 cells.
    """

    def __init__(self, spec: str, size: int, weights: bool = True) -> None:
        super().__init__()
        self.spec, self.size = spec, size
        with own_seed(0):  # weights are drawn at random before they are loaded
            self.net = make_net(spec, weights).eval()
        plain = ":" in spec or spec == "efficientnet-lite0"  # these take images in [0, 1] without normalization
        mean, std = ((0.0,) * 3, (1.0,) * 3) if plain else IMAGENET
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)
        calls, names = _levels(self.net, spec, size)
        last = {call.name: call for call in calls}
        self._strides = {name: round(size / last[name].side) for name in names}
        by_stride = {self._strides[name]: name for name in names}  # of a transformer with one resolution, the last level
        self.layers = tuple(name for stride, name in by_stride.items() if stride >= FINEST) or tuple(by_stride.values())
        self.strides = tuple(self._strides[name] for name in self.layers)
        self._layouts = [cast(Layout, last[name].layout) for name in self.layers]
        outputs = [layout.as_maps(last[name].output) for name, layout in zip(self.layers, self._layouts, strict=True)]
        self.widths = tuple(x.shape[1] for x in outputs)
        self._calls = [call.name for call in calls]  # in the order in which the modules return
        fold_batch_norms(self.net, ())
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [local_means(unit_length(x)) for x in self.raw(images)]

    def raw(self, images: Tensor) -> list[Tensor]:
        """The net's own maps, which are fine-tuned."""
        found: dict[str, Tensor] = {}

        def keep(name: str, *call: object) -> None:
            found[name] = call[-1]  # type: ignore[assignment]
            if len(found) == len(self.layers):
                raise _Enough

        images = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        with forward_hooks(self.net, keep, self.layers), contextlib.suppress(_Enough):
            self.net(images)
        return [layout.as_maps(found[name]) for name, layout in zip(self.layers, self._layouts, strict=True)]

    def freeze_before(self, stride: int) -> None:
        """Make trainable only what computes the maps of this stride and coarser ones; freeze the rest."""
        fine = [i for i, name in enumerate(self._calls) if self._strides.get(name, stride) < stride]
        last = max(i for i, name in enumerate(self._calls) if name == self.layers[-1])
        trained = set(self._calls[max([-1, *fine]) + 1 : last + 1])
        for name, module in self.net.named_modules():
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(name in trained)


def _levels(net: nn.Module, spec: str, size: int) -> tuple[list[Call], tuple[str, ...]]:
    try:
        calls, _ = record_calls(net, torch.zeros(1, 3, size, size))
        return calls, find_layers(calls, spec)
    except (RuntimeError, ValueError) as error:
        raise DataError(
            f"`features` must be a net of images with stages of convolutional maps at `size` {size}, got {spec!r}: {error}"
        ) from error


def make_net(spec: str, weights: bool = True) -> nn.Module:
    """The net of this name, with its ImageNet weights or (`weights=False`) to be loaded."""
    if spec == "tiny":
        return tiny.as_module()
    if spec == "efficientnet-lite0":
        return efficientnet.pretrained() if weights else efficientnet.EfficientNetLite0()
    if ":" in spec:
        return load_factory(spec)
    try:
        return torchvision.models.get_model(spec, weights="DEFAULT" if weights else None)
    except (ValueError, OSError) as error:  # an unknown name, or no network connection
        raise DataError(
            f"`features` {spec!r} could not be loaded ({error}); "
            "without a download there are tiny, efficientnet-lite0 and module:factory"
        ) from error


def unit_length(x: Tensor) -> Tensor:
    """Each cell's feature [N, C, h, w] over its root mean square: this removes contrast and light."""
    return x / x.square().mean(1, keepdim=True).sqrt().clamp(min=1e-6)


def local_means(x: Tensor) -> Tensor:
    """Means over 3 x 3 cells [N, C, h, w]: a defect shows in its neighborhood (PatchCore, eq. 2)."""
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
