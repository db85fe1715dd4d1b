"""Tracing, folding and finding levels, on nets of a few lines: the cases that the torchvision models do not show."""

from __future__ import annotations

import contextlib
import copy
import os
import pickle
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from cutswap_transforms import LayerCAMExtractor
from cutswap_transforms.saliency._fold import fold_batch_norms
from cutswap_transforms.saliency._stages import find_layers, record_calls

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
        return self.score(self.head(self.second(self.relu(self.first(x))).relu().mean((2, 3))))

    def score(self, logits: Tensor) -> Tensor:
        return logits


def expected_maps(model: Small, x: Tensor) -> list[Tensor]:
    """Levels "first" and "second" in float64, written out."""
    net = copy.deepcopy(model).double().eval()
    a = net.first(x.double()).requires_grad_()
    b = net.second(net.relu(a.clone()))
    gradients = torch.autograd.grad(net.score(net.head(b.relu().mean((2, 3)))).amax(1).sum(), (a, b))
    return [(g.relu() * t).sum(1).relu().detach() for g, t in zip(gradients, (a, b), strict=True)]


def cam_of(model: nn.Module, **arguments: Any) -> LayerCAMExtractor:
    return LayerCAMExtractor(model, **{"input_size": SIZE, "mean_std": None, "layers": ["first", "second"], **arguments})


def assert_expected(cam: LayerCAMExtractor, model: Small, n: int) -> None:
    with torch.inference_mode():
        maps = cam.native_maps(images(n))
    for got, want in zip(maps, expected_maps(model, images(n)), strict=True):
        assert want.max() > 0
        torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 20])
def test_outputs_that_are_changed_in_place(n: int) -> None:
    assert_expected(cam_of(Small()), Small(), n)


class Pads(Small):
    """Pads by hand, as nets converted from TensorFlow do; a negative pad cuts off."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.Sequential(nn.ReLU(inplace=True), nn.ConstantPad2d((-1, 2, 3, -2), 0.5))


@pytest.mark.parametrize("n", [1, 2, 5])
def test_constant_padding_leaves_the_batch_size_open(n: int) -> None:
    assert_expected(cam_of(Pads()), Pads(), n)


class Views(Small):
    """Flattens by `view`, which wants the usual order of memory."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8 * 8 * 8, 5)
        nn.init.normal_(self.head.weight, std=0.1, generator=torch.Generator().manual_seed(1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.relu(self.first(x))).relu()
        return self.head(x.view(x.shape[0], -1))


@pytest.mark.parametrize("n", [1, 2, 5])
def test_view_finds_the_order_of_memory_that_it_wants(n: int) -> None:
    net = copy.deepcopy(Views()).double()
    a = net.first(images(n).double()).requires_grad_()
    b = net.second(net.relu(a.clone()))
    gradients = torch.autograd.grad(net.head(b.relu().flatten(1)).amax(1).sum(), (a, b))
    for got, g, t in zip(cam_of(Views()).native_maps(images(n)), gradients, (a, b), strict=True):
        torch.testing.assert_close(got.double(), (g.relu() * t).sum(1).relu().detach(), rtol=1e-4, atol=1e-6)


class Coloured(Small):
    """Computes with numbers that are no parameters, in three places where they may stand."""

    def __init__(self, *numbers: float) -> None:
        super().__init__()
        self.numbers = numbers

    def forward(self, x: Tensor) -> Tensor:
        made, listed, keyed = self.numbers
        self.listed, self.keyed = [torch.tensor(listed)], {"": torch.tensor(keyed)}
        return super().forward(x * torch.tensor([made, 1.0, 1.0])[:, None, None] * self.listed[0] + self.keyed[""])


def test_constants_of_a_module_are_part_of_its_fingerprint() -> None:
    numbers = [(1.0, 1.0, 0.0), (0.5, 1.0, 0.0), (1.0, 0.5, 0.0), (1.0, 1.0, 0.5)]
    found = {cam_of(Coloured(*row)).fingerprint for row in (*numbers, numbers[0])}
    assert len(found) == 4 and None not in found


@pytest.mark.parametrize("traced", [True, False])
def test_a_child_that_is_forked_in_the_middle_of_a_call_does_not_wait(traced: bool) -> None:
    with pytest.warns(UserWarning, match="cannot be traced") if not traced else contextlib.nullcontext():
        cam = cam_of(Small() if traced else Value())
    net: Any = cam._net
    expected = cam.native_maps(images())[0]
    with net._lock if traced else net._graphs[torch.device("cpu")]._lock:  # held by another thread, as it were
        pid = os.fork()
        if pid == 0:
            net._graphs = {} if traced else net._graphs  # a first call on a device takes the lock
            code = 1
            try:
                if traced:
                    net._lock.acquire(timeout=20)
                    code = 0
                else:
                    code = 0 if torch.equal(cam.native_maps(images())[0], expected) else 2
            finally:
                os._exit(code)
        deadline = time.monotonic() + 60
        while not (ended := os.waitpid(pid, os.WNOHANG))[0] and time.monotonic() < deadline:
            time.sleep(0.02)
        if not ended[0]:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    assert ended[0] and os.waitstatus_to_exitcode(ended[1]) == 0


class Loop(Small):
    def score(self, logits: Tensor) -> Tensor:
        return torch.stack([logits[i] * 2 for i in range(len(logits))])


class Branch(Small):
    def score(self, logits: Tensor) -> Tensor:
        return logits * 3 if logits.shape[0] > 4 else logits


class Value(Small):
    def score(self, logits: Tensor) -> Tensor:
        return logits * 3 if logits.detach().sum() > 0 else logits


@pytest.mark.parametrize("kind", [Loop, Branch, Value])
def test_what_cannot_be_traced_warns_and_is_still_right(kind: type[Small]) -> None:
    with pytest.warns(UserWarning, match=f"{kind.__name__} cannot be traced .* computed by autograd"):
        cam = cam_of(kind())
    for n in (1, 6):
        assert_expected(cam, kind(), n)
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda _: cam.native_maps(images())[0], range(8)))
    assert all(torch.equal(r, runs[0]) for r in runs)
    assert not runs[0].requires_grad
    twin = pickle.loads(pickle.dumps(cam))  # warned once: that a warning is an error here shows it
    assert torch.equal(twin.native_maps(images())[0], runs[0])


def test_each_device_has_a_trace_of_its_own() -> None:
    # The meta device stands for an accelerator: shapes only, and its tensors cannot meet those of the CPU.
    cam = cam_of(Small())
    maps = cam.native_maps(torch.rand(3, 3, 50, 40, device="meta"))
    assert [(m.device.type, tuple(m.shape)) for m in maps] == [("meta", (3, 16, 16)), ("meta", (3, 8, 8))]
    assert_expected(cam, Small(), 2)
    assert_expected(pickle.loads(pickle.dumps(cam)), Small(), 2)


def test_layers_off_the_way_to_the_logits() -> None:
    class Aside(Small):
        def forward(self, x: Tensor) -> Tensor:
            self.second(self.first(x).detach())
            return self.head(x.mean((2, 3)) @ torch.ones(3, 8))

    with pytest.raises(ValueError, match=r"`layers` must lie on the way to the logits, got \('second',\) of Aside"):
        cam_of(Aside(), layers=["second"])


def test_a_layer_that_is_never_called() -> None:
    model = Small()
    model.spare = nn.Conv2d(3, 3, 1)
    with pytest.raises(ValueError, match=r"`layers` must be modules that return maps .* 'spare' returned no tensor"):
        cam_of(model, layers=["spare"])


def test_a_module_that_cannot_be_copied() -> None:
    model = Small()
    model.activation = model.first(images()).relu()
    with pytest.raises(TypeError, match=r"`model` must be a module that copy.deepcopy can copy, Small is not"):
        cam_of(model)


def test_weights_that_are_computed_from_others() -> None:
    plain, normed = Small(), Small()
    normed.first = weight_norm(normed.first)
    maps = zip(cam_of(normed).native_maps(images()), cam_of(plain).native_maps(images()), strict=True)
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in maps)


# Folding


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.branching, self.after = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        rng = torch.Generator().manual_seed(0)
        for x in (*self.parameters(), *self.buffers()):
            if x.is_floating_point():
                x.data.copy_(torch.rand(x.shape, generator=rng) + 0.5)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.branching(self.norm(self.conv(x)))
        return x + self.after(x)


def test_folding_changes_no_output_and_leaves_what_is_used_twice() -> None:
    model, x = Normed(), images()
    before = model(x)
    assert fold_batch_norms(model, keep=()) == 1
    assert isinstance(model.norm, nn.Identity)
    assert isinstance(model.after, nn.BatchNorm2d)
    torch.testing.assert_close(model(x), before, rtol=1e-5, atol=1e-5)


def test_a_convolution_whose_own_output_is_wanted_is_not_folded() -> None:
    assert fold_batch_norms(Normed(), keep=["conv"]) == 0


def test_control_flow_is_not_folded() -> None:
    class Flow(Normed):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.sum() > 0 else x

    assert fold_batch_norms(Flow(), keep=()) == 0


# Levels


def layers_of(*modules: nn.Module) -> tuple[str, ...]:
    calls, _ = record_calls(nn.Sequential(*modules), images(1))
    return find_layers(calls, "net")


def conv(before: int, after: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, stride=stride, padding=1)


def test_last_plain_module_of_each_stage_where_there_are_no_blocks() -> None:
    net = (conv(3, 4), nn.ReLU(), nn.MaxPool2d(2), conv(4, 4), nn.ReLU(), nn.MaxPool2d(2))
    assert layers_of(*net) == ("1", "4")


def test_one_stage_is_one_level() -> None:
    assert layers_of(conv(3, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1)) == ("1",)


def test_last_block_of_each_stage_without_the_stem_and_the_inside_of_reducing_blocks() -> None:
    class Reducing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide, self.reduce = nn.Sequential(conv(4, 8), nn.ReLU()), conv(8, 4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.reduce(self.wide(x))

    block = nn.Sequential(conv(4, 4), nn.ReLU())
    assert layers_of(conv(3, 4, 2), block, Reducing(), Reducing(), copy.deepcopy(block)) == ("1", "2", "4")


def test_no_more_than_four_levels() -> None:
    assert layers_of(conv(3, 4), *[conv(4, 4, 2) for _ in range(4)]) == ("1", "2", "3", "4")


def test_a_net_without_maps() -> None:
    with pytest.raises(ValueError, match=r"`layers` of 'net' cannot be found automatically.*\(it has none\)"):
        layers_of(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 5))
