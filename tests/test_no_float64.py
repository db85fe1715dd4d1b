"""Devices without float64 (Apple's, some of Intel's), by a stand-in that refuses it: regions of the host, sound swaps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.images import hot_quarter, scene, sorted_pixels
from torch import Tensor
from torch.overrides import TorchFunctionMode

from cutswap_transforms import KMeans, SaliencySwap, functional
from cutswap_transforms.draw import first_pairs
from cutswap_transforms.regions.cells import find_regions

MPS = torch.device("mps")


class Lying(Tensor):
    """Memory of the host that says it lies on a device."""

    @property
    def device(self) -> torch.device:
        return MPS


class StandIn(TorchFunctionMode):
    """The device: what is made on it or of what lies on it lies there, and nothing there is float64."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        asked = (*args, *(kwargs or {}).values())
        args = [torch.device("cpu") if a == MPS else a for a in args]
        kwargs = {k: torch.device("cpu") if v == MPS else v for k, v in (kwargs or {}).items()}
        out = func(*args, **kwargs)
        if isinstance(out, Tensor) and any(a is not None and type(a) is torch.device and a == MPS for a in asked):
            out = out.as_subclass(Lying)
        for x in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(x, Lying) and x.dtype == torch.float64:
                raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")
        return out


def on_device(x: Tensor) -> Tensor:
    return x.clone().as_subclass(Lying)


def test_the_stand_in_refuses_float64() -> None:
    for make in (lambda: on_device(torch.ones(2)).double(), lambda: torch.ones(2, dtype=torch.float64, device=MPS)):
        with StandIn(), pytest.raises(TypeError, match="float64"):
            make()


@pytest.mark.parametrize("factor", [1.0, 1e-30, 3e38])
@pytest.mark.parametrize("clustering", [KMeans(), KMeans(7, color=False)], ids=["default", "many"])
def test_regions_are_those_of_the_host(clustering: KMeans, factor: float) -> None:
    images = torch.stack([scene(64, 57, seed=i) for i in range(6)])
    maps = [torch.rand(6, side, side, generator=torch.Generator().manual_seed(side)) * 2 - 1 for side in (32, 4)]
    maps = [*(m * factor for m in maps), (maps[1] > 0).float() * factor]  # the last one is a mask
    maps[0][0, :3] = float("nan")
    expected = find_regions(maps, images, clustering, 24, "salient")
    with StandIn():
        found = find_regions([on_device(m) for m in maps], on_device(images), clustering, 24, "salient")
    assert type(found) is Lying
    assert (found.as_subclass(Tensor) == expected).double().mean() > 0.999


@pytest.mark.parametrize("levels", ["random", "all"])
def test_a_swap_is_sound(levels: str) -> None:
    images = torch.stack([scene(50, 37, seed=i) for i in range(8)])
    swap = SaliencySwap(lambda x: on_device(hot_quarter(x.as_subclass(Tensor))), levels=levels, return_mask=True)
    with StandIn():
        out, mask = swap(on_device(images))
    for before, after, where in zip(images, out.as_subclass(Tensor), mask.as_subclass(Tensor), strict=True):
        assert where.any() and torch.equal(sorted_pixels(after), sorted_pixels(before))
        assert torch.equal(after[:, where[0] == 0], before[:, where[0] == 0])


def test_a_pair_of_the_device_is_that_of_the_host_but_for_rounding() -> None:
    swap, size = SaliencySwap(), (50, 37)
    regions = torch.ones(64, 2, 24, 24, dtype=torch.bool)
    u = torch.rand(64, 1 + 2 * 50, generator=torch.Generator().manual_seed(9))
    drawn = [
        first_pairs(cells, v, [0, 1], size, swap.scale, swap.ratio)
        for cells, v in zip(regions.numpy(), u.tolist(), strict=True)
    ]
    host = torch.tensor(drawn)
    with StandIn():
        pairs = functional.draw_pairs(on_device(regions), on_device(u), [0, 1], size, swap.scale, swap.ratio)
    assert (pairs.as_subclass(Tensor) == host).all((1, 2)).double().mean() > 0.95


def test_autocast_of_the_device_is_off_while_cells_are_clustered() -> None:
    modes = []

    def clustering(points: Tensor) -> Tensor:
        modes.append(torch.is_autocast_enabled("mps"))
        return (points[:, 0] > 0.5).long()

    with StandIn(), torch.autocast("mps", dtype=torch.float16):
        find_regions([on_device(torch.rand(1, 8, 8))], on_device(scene()[None]), clustering, 8, "salient")
        assert torch.is_autocast_enabled("mps")
    assert modes == [False]
