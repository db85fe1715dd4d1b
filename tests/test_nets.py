"""Nets in wrappers, nets that cut their gradients off, and nets whose class no other process knows."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.images import scene
from torch import Tensor, nn

from cutswap_transforms import LayerCAMExtractor

SIZE = 32


def net() -> nn.Sequential:
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, 2, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    rng = torch.Generator().manual_seed(0)
    for p in model.parameters():
        nn.init.normal_(p, std=0.3, generator=rng)
    return model


def cam_of(model: nn.Module, layers: Any = None) -> LayerCAMExtractor:
    return LayerCAMExtractor(model, layers=layers, input_size=SIZE)


@pytest.fixture
def group() -> Iterator[None]:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


DP, DDP = nn.DataParallel, nn.parallel.DistributedDataParallel
WRAPPED: dict[str, tuple[Callable[[nn.Module], nn.Module], str]] = {
    "DataParallel": (DP, "module."),
    "DistributedDataParallel": (DDP, "module."),
    "compile": (torch.compile, "_orig_mod."),
    "both": (lambda m: DDP(torch.compile(m)), "module._orig_mod."),
    "other": (lambda m: torch.compile(DP(m)), "_orig_mod.module."),
}


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize(("wrap", "prefix"), WRAPPED.values(), ids=WRAPPED)
def test_a_wrapped_net_is_the_net_by_either_name_of_its_layers(wrap: Callable[[nn.Module], nn.Module], prefix: str) -> None:
    plain, wrapped = cam_of(net(), ["1", "3"]), wrap(net())
    for layers in (["1", "3"], [f"{prefix}1", f"{prefix}3"], ("1", f"{prefix}3")):
        cam = cam_of(wrapped, layers)
        assert cam.layers == ("1", "3") and cam.fingerprint == plain.fingerprint
        assert torch.equal(cam(scene()), plain(scene()))
    assert cam_of(wrapped).layers == cam_of(net()).layers
    assert cam_of(wrapped, f"{prefix}1").layers == ("1",)
    assert type(wrapped) is type(wrap(net()))  # yours stays wrapped
    with pytest.raises(ValueError, match=r"`layers` must be names of modules of 'Sequential', got 'module\.9'"):
        cam_of(wrapped, "module.9")


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize(("wrap", "prefix"), WRAPPED.values(), ids=WRAPPED)
def test_wrappers_within_a_net(wrap: Callable[[nn.Module], nn.Module], prefix: str) -> None:
    plain, holder = cam_of(nn.Sequential(net()), ["0.3"]), nn.Sequential(wrap(net()))
    for name in ("0.3", f"0.{prefix}3"):
        cam = cam_of(holder, [name])
        assert cam.layers == ("0.3",) and cam.fingerprint == plain.fingerprint
        assert torch.equal(cam(scene()), plain(scene()))


class Holder(nn.Module):
    """Calls its net in some way."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x: Tensor) -> Any:
        return self.net(x)


class Own(nn.Module):
    """Has a child of the name that wrappers use."""

    def __init__(self) -> None:
        super().__init__()
        self.module = net()

    def forward(self, x: Tensor) -> Any:
        return self.module(x)


def test_a_child_called_module_is_no_wrapper() -> None:
    assert cam_of(DP(Own()), ["module.1"]).layers == ("module.1",)
    assert cam_of(DP(Own()), ["module.module.1"]).layers == ("module.1",)


class NoGrad(Holder):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Any:
        return super().forward(x)


class Inference(Holder):
    @torch.inference_mode()
    def forward(self, x: Tensor) -> Any:
        return super().forward(x)


class EvalOnly(Holder):
    def forward(self, x: Tensor) -> Any:
        with torch.set_grad_enabled(self.training):
            return super().forward(x)


class Probe(Holder):
    """A head on features of a frozen net."""

    def forward(self, x: Tensor) -> Any:
        with torch.no_grad():
            x = self.net[:6](x)
        return self.net[6](x)


class Detached(Holder):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x).detach()


class DetachedFeatures(Holder):
    def forward(self, x: Tensor) -> Any:
        return self.net[6](self.net[:6](x).data)


class ByNumPy(Holder):
    def forward(self, x: Tensor) -> Any:
        return torch.from_numpy(super().forward(x).numpy())


CUT = "`model` must let gradients pass from its layers to the logits, {} does not: "


@pytest.mark.parametrize("layers", [None, ["net.1"]])
@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        (NoGrad, r"its forward runs under torch.no_grad\(\)"),
        (Inference, r"its forward runs under torch.inference_mode\(\)"),
        (EvalOnly, r"its forward runs under .* set_grad_enabled\(False\)"),
        (Probe, r"its forward runs under torch.no_grad\(\)"),
        (Detached, r"it cuts them off by detach\(\)"),
        (DetachedFeatures, r"it cuts them off by detach\(\), by .data"),
        (ByNumPy, r"Can't call numpy\(\)"),
    ],
)
def test_a_net_that_cuts_its_gradients_off_is_told_why(kind: type[Holder], cause: str, layers: Any) -> None:
    with pytest.raises(ValueError, match=CUT.format(kind.__name__) + cause):
        cam_of(kind(), layers)
    with pytest.raises(ValueError, match=CUT.format(kind.__name__) + cause):
        cam_of(DP(kind()), layers)


class FrozenStem(Holder):
    def forward(self, x: Tensor) -> Any:
        with torch.no_grad():
            x = self.net[0](x)
        return self.net[1:](x)


def test_a_part_without_gradients_below_the_layers_is_no_harm() -> None:
    assert cam_of(FrozenStem(), ["net.1"])(scene()).max() == 1
    with pytest.raises(ValueError, match=r"`layers` must affect the logits, got \('net.0',\) of Skipped"):
        cam_of(Skipped(), ["net.0"])


class Skipped(Holder):
    """Its first layer is computed for nothing; what counts is not under no_grad."""

    def forward(self, x: Tensor) -> Any:
        self.net[0](x)
        with torch.no_grad():
            self.net[1](x)
        return self.net[4:](x.mean(1, keepdim=True).expand(-1, 8, -1, -1))


def lightning_module(forward: Callable[[Any, Any], Any] | None) -> nn.Module:
    from lightning import LightningModule

    task = type("Task", (LightningModule,), {} if forward is None else {"forward": forward})()
    task.net = net()
    return task


def test_lightning_modules_that_classify_images_are_nets() -> None:
    cam = cam_of(lightning_module(lambda self, x: self.net(x)), ["net.1", "net.3"])
    assert torch.equal(cam(scene()), cam_of(net(), ["1", "3"])(scene()))


@pytest.mark.parametrize(
    ("forward", "sentence"),
    [
        (
            None,
            r'Task failed \(Module \[Task\] is missing the required "forward" function\); pass the net within it \(it holds ',
        ),
        (lambda self, batch: self.net(batch["image"]), r"the forward of a LightningModule may take and return other things"),
        (lambda self, x: {"logits": self.net(x)}, r"Task returned dict; the forward of a LightningModule may take .*'net'"),
    ],
)
def test_other_lightning_modules_are_told_what_to_pass(forward: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"`model` must map images .* to logits .*{sentence}"):
        cam_of(lightning_module(forward))


# ---- copies -------------------------------------------------------------------------------------------------------------


NOTEBOOK = """
import multiprocessing
import torch
from torch import nn
from cutswap_transforms import LayerCAMExtractor, SaliencySwap

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.head, self.activation = nn.Conv2d(3, 6, 3), nn.Linear(6, 5), lambda x: x.relu()
    def forward(self, x):
        return self.head(self.activation(self.first(x)).mean((2, 3)))

torch.set_num_threads(1)
cam, x = LayerCAMExtractor(Net(), layers="first", input_size=32), torch.rand(2, 3, 40, 33)
swap = SaliencySwap(cam)
with multiprocessing.get_context("spawn").Pool(1) as pool:
    for _ in range(2):  # before and after the first call
        assert pool.apply(swap, (x,)).shape == x.shape
        there = pool.apply(cam, (x,))
        assert torch.equal(there, cam(x)) and swap(x).shape == x.shape
print("the same")
"""


def test_a_net_of_a_notebook_goes_to_spawned_workers() -> None:
    # As in a notebook, `__main__` is no file that a child could import.
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", NOTEBOOK], capture_output=True, text=True, timeout=300, env=environment)
    assert done.stdout == "the same\n", done.stderr


class Places(Holder):
    """Makes tensors at each call, of the size of the batch and of fixed size, and has attention in it."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.offsets = [torch.arange(8.0)]

    def forward(self, x: Tensor) -> Any:
        tokens = self.net[:4](x).flatten(2).transpose(1, 2)
        tokens = tokens + torch.zeros(x.shape[0], 1, 8, device=x.device) + torch.arange(8, device=x.device)
        tokens = tokens + self.offsets[0].to(x.device) + torch.tensor([1.0] * 8, device=x.device)
        return self.net[6]((tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]).mean(1))


def test_a_copy_is_small_needs_no_class_and_runs_on_other_devices() -> None:
    cam = cam_of(Places(), ["net.1", "net.3"])
    x = torch.rand(3, 3, 40, 33)
    sent, expected = pickle.dumps(cam), cam.native_maps(x)
    assert b"test_nets" not in sent
    for twin in (pickle.loads(sent), pickle.loads(pickle.dumps(pickle.loads(sent)))):
        assert all(torch.equal(a, b) for a, b in zip(twin.native_maps(x), expected, strict=True))
        maps = twin.native_maps(x.to("meta"))  # stands for an accelerator
        assert [(m.device.type, m.shape) for m in maps] == [("meta", m.shape) for m in expected]
        assert all(torch.equal(a, b) for a, b in zip(twin.native_maps(x), expected, strict=True))
    assert "_for_cpu" not in cam._net._graphs[torch.device("cpu")].code


def test_a_pickle_holds_the_weights_once() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 512, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    held = sum(p.numel() * 4 for p in model.parameters())
    cam = cam_of(model, ["1"])
    cam(scene())
    assert held < len(pickle.dumps(cam)) < held + 30_000
