"""Tracing, on nets of a few lines: any batch size, pickles, forks, devices, and what cannot be traced."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from helpers.nets import SIZE, Small, assert_expected, cam_of, images
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm
from torch.nn.utils.parametrize import is_parametrized

from cutswap_transforms import LayerCAMExtractor


class Pads(Small):
    """Pads by hand, as nets converted from TensorFlow do; a negative pad cuts off."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.Sequential(nn.ReLU(inplace=True), nn.ConstantPad2d((-1, 2, 3, -2), 0.5))


class Views(Small):
    """Flattens by `view`, which wants the usual order of memory."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8 * 8 * 8, 5)
        nn.init.normal_(self.head.weight, std=0.1, generator=torch.Generator().manual_seed(1))

    def classify(self, x: Tensor) -> Tensor:
        return self.head(x.view(x.shape[0], -1))


def weight_normed() -> Small:
    """Its first weight is computed from others."""
    model = Small()
    model.first = weight_norm(model.first)
    return model


@pytest.mark.parametrize("make", [Small, Pads, Views, weight_normed])
def test_one_trace_is_right_for_any_batch_size(make: Callable[[], Small]) -> None:
    assert_expected(cam_of(make()), Small() if make is weight_normed else make(), 1, 2, 5, 20)


@pytest.mark.parametrize("parametrize", [weight_norm, spectral_norm, orthogonal])
def test_parametrized_modules_are_pickled_with_the_weights_that_they_have(parametrize: Callable[..., nn.Module]) -> None:
    model = Small()
    parametrize(model.first)
    cam = cam_of(model.train())
    assert_expected(cam, model, 1, 3)
    assert torch.equal(pickle.loads(pickle.dumps(cam))(images()), cam(images()))
    assert model.training and is_parametrized(model.first)  # yours stays as it was
    model(images()).sum().backward()


@pytest.mark.parametrize("model", [Small, lambda: "squeezenet1_1", lambda: "tiny"], ids=["own", "named", "tiny"])
def test_torch_save_keeps_an_extractor(model: Callable[[], Any]) -> None:
    cam = LayerCAMExtractor(model(), input_size=SIZE) if model is Small else LayerCAMExtractor(model(), weights=None)
    file = io.BytesIO()
    torch.save(cam, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(images()), cam(images()))


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
    with contextlib.nullcontext() if traced else pytest.warns(UserWarning, match="cannot be traced"):
        cam = cam_of(Small() if traced else Value())
    net: Any = cam._net
    expected = cam.native_maps(images())[0]

    def child() -> None:
        assert net._lock.acquire(timeout=20) if traced else torch.equal(cam.native_maps(images())[0], expected)

    with net._lock if traced else net._graphs[torch.device("cpu")]._lock:  # held by another thread, as it were
        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join(60)
        process.kill()  # in vain where it has ended
    assert process.exitcode == 0


class Loop(Small):
    def classify(self, x: Tensor) -> Tensor:
        return torch.stack([logits * 2 for logits in super().classify(x)])


class Branch(Small):
    def classify(self, x: Tensor) -> Tensor:
        return super().classify(x) * (3 if x.shape[0] > 4 else 1)


class Value(Small):
    def classify(self, x: Tensor) -> Tensor:
        logits = super().classify(x)
        return logits * 3 if logits.detach().sum() > 0 else logits


@pytest.mark.parametrize("kind", [Loop, Branch, Value])
def test_what_cannot_be_traced_warns_and_is_still_right(kind: type[Small]) -> None:
    with pytest.warns(UserWarning, match=f"{kind.__name__} cannot be traced .* computed by autograd"):
        cam = cam_of(kind())
    assert cam.fingerprint is None  # another module of this class and of equal weights may compute something else
    assert_expected(cam, kind(), 1, 6)
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


def test_no_annotation_of_ours_is_in_the_graph() -> None:
    # As strings, which they are under `from __future__ import annotations`, torch 2.11 cannot pickle them.
    graph: Any = cam_of(Small())._net._graphs[torch.device("cpu")]
    assert all(node.type is None for node in graph.graph.nodes)
    assert "def forward(self, images_1, classes_1):" in graph.code
