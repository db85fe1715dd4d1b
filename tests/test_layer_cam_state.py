"""Computing maps leaves no trace: modes, threads, your module, memory, copies, fingerprints."""

from __future__ import annotations

import copy
import gc
import itertools
import pickle
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any

import pytest
import torch
from helpers.images import scene
from helpers.layer_cam import SIZE, Scale, assert_maps_close, batch, cam_of, scenes
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils.data import DataLoader

from cutswap_transforms import LayerCAMExtractor
from cutswap_transforms.saliency import tiny
from cutswap_transforms.saliency.layer_cam import _scale_and_shift


def default_dtype(dtype: torch.dtype) -> ExitStack:
    stack = ExitStack()
    stack.callback(torch.set_default_dtype, torch.get_default_dtype())
    torch.set_default_dtype(dtype)
    return stack


MODES = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "default_device": lambda: torch.device("meta"),
    "default_dtype": lambda: default_dtype(torch.float64),
}


def test_neither_modes_of_the_caller_nor_four_threads_change_anything(either: LayerCAMExtractor) -> None:
    images = list(scenes(16, 40, 33))
    expected = [either(i) for i in images]
    for name, mode in MODES.items():
        with mode():
            out = either(images[0])
        assert torch.equal(out, expected[0]) and not out.requires_grad, name
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(a, b) for a, b in zip(pool.map(either, images), expected, strict=True))


def test_modes_and_dtype_at_construction_and_later_changes_change_nothing(resnet: nn.Module, cam: LayerCAMExtractor) -> None:
    with MODES["inference_mode"](), MODES["autocast"](), MODES["default_dtype"]():
        odd = cam_of(resnet)
    frozen, model = copy.deepcopy(resnet).requires_grad_(False).double(), copy.deepcopy(resnet)
    snapshot = cam_of(model)
    nn.init.zeros_(model.conv1.weight)
    for made in (odd, cam_of(frozen), snapshot):
        assert_maps_close(made.native_maps(batch()), cam.native_maps(batch()))
    assert next(frozen.parameters()).dtype == torch.float64


@pytest.mark.parametrize("mode", ["default_dtype", "default_device", "fake_tensors"])
def test_random_weights_of_a_named_model_are_the_same_in_every_mode(mode: str) -> None:
    plain = cam_of("squeezenet1_1", weights=None)
    expected, fingerprint = plain(scene()), plain.fingerprint
    del plain  # a living one would be shared
    gc.collect()
    with FakeTensorMode() if mode == "fake_tensors" else MODES[mode]():
        odd = cam_of("squeezenet1_1", weights=None)
    assert odd.fingerprint == fingerprint
    assert torch.equal(odd(scene()), expected)


def test_a_net_that_is_used_first_among_fake_tensors_is_real_afterwards() -> None:
    expected = LayerCAMExtractor()(scene())
    tiny._placed.cache_clear()
    tiny._on_cpu.cache_clear()
    _scale_and_shift.cache_clear()
    with FakeTensorMode(), suppress(AssertionError, DataDependentOutputException):  # what it says there is torch's affair
        LayerCAMExtractor()(scene())
    assert torch.equal(LayerCAMExtractor()(scene()), expected)


def test_no_graph_and_no_tensor_is_retained(either: LayerCAMExtractor) -> None:
    def living() -> set[int]:
        gc.collect()
        return {id(o) for o in gc.get_objects() if issubclass(type(o), Tensor)}

    x = batch(1)
    either(x)
    before = living()
    for _ in range(50):
        maps = either.native_maps(x)
    assert all(m.grad_fn is None for m in maps)
    del maps
    assert not living() - before  # what other tests left may go meanwhile


@pytest.mark.usefixtures("no_engine")
def test_no_engine_at_call_time_in_an_unpickled_twin_nor_in_forked_workers(either: LayerCAMExtractor) -> None:
    def maps(n: int) -> Tensor:
        return either(scenes(n, 40, 33))

    twin = pickle.loads(pickle.dumps(either))
    for mode, n in itertools.product((torch.enable_grad, torch.inference_mode), (1, 3)):
        with mode():
            found, same = either.native_maps(batch(n)), twin.native_maps(batch(n))
        assert all(len(m) == n and m.max() > 0 for m in found)
        assert all(torch.equal(a, b) for a, b in zip(found, same, strict=True))
    loader = DataLoader(range(1, 5), None, collate_fn=maps, num_workers=2, multiprocessing_context="fork")
    for n, got in zip(range(1, 5), loader, strict=True):
        torch.testing.assert_close(got, maps(n), rtol=1e-4, atol=1e-5)


def test_your_module_stays_bit_for_bit(resnet: nn.Module) -> None:
    model = copy.deepcopy(resnet)
    model.train()
    model.layer2.eval()
    model.conv1.requires_grad_(False)
    model(batch()).sum().backward()
    seen: list[str] = []
    for m in (model, model.layer3):
        m.register_forward_hook(lambda *_: seen.append("forward"))
        m.register_full_backward_hook(lambda *_: seen.append("backward"))
        m.register_forward_pre_hook(lambda *_: seen.append("before"))

    def condition() -> list[Any]:
        state = {name: v.numpy().tobytes() for name, v in model.state_dict().items()}
        grads = [None if p.grad is None else p.grad.numpy().tobytes() for p in model.parameters()]
        flags = [(m.training, len(m._forward_hooks), len(m._backward_hooks)) for m in model.modules()]
        return [state, grads, flags, [(id(p), p.requires_grad, p.dtype, p.stride()) for p in model.parameters()]]

    before = condition()
    mine = cam_of(model)
    mine(batch())
    with pytest.raises(ValueError, match="finite"):
        mine(batch() + torch.inf)
    with pytest.raises(ValueError, match="`layers`"):
        cam_of(model, layers=["fc"])
    assert condition() == before
    assert not seen


def test_net_is_no_submodule_and_copies_are_small_and_share_it(cam: LayerCAMExtractor) -> None:
    assert all(part in repr(cam) for part in ("model=ResNet", "layers=('layer1'", f"input_size={SIZE}", "precision=fp32"))
    for fresh in (LayerCAMExtractor(), cam):
        unused, expected = len(pickle.dumps(fresh)), fresh(scene())
        holder = nn.Sequential(fresh)
        assert not list(holder.parameters()) and not list(holder.buffers()) and not holder.state_dict()
        assert len(list(holder.modules())) == 2 and "Conv" not in repr(holder)
        holder.train().to(torch.float64)
        for twin in (fresh, pickle.loads(pickle.dumps(fresh)), copy.deepcopy(fresh)):
            assert torch.equal(twin(scene()), expected) and twin.fingerprint == fresh.fingerprint
        assert fresh is cam or max(unused, len(pickle.dumps(fresh))) < 10_000
    assert copy.deepcopy(cam)._net is cam._net
    again = cam_of("squeezenet1_1", weights=None)
    assert cam_of("squeezenet1_1", weights=None, mean_std=None)._net is again._net


def test_fingerprint_changes_with_all_that_changes_the_maps(resnet: nn.Module, cam: LayerCAMExtractor) -> None:
    other = copy.deepcopy(resnet)
    other.fc.bias.data[0] += 1
    changes = [{"weights": None}, {"layers": ["stage1"]}, {"target": 1}, {"input_size": 64}, {"mean_std": None}]
    variants = [LayerCAMExtractor(**change) for change in ({}, *changes, {"precision": "bf16"})]
    modules = [other, nn.Sequential(nn.Sequential(resnet)), nn.Sequential(nn.Sequential(resnet, Scale(-1.0)))]
    variants += [cam, *map(cam_of, modules)]
    assert len({v.fingerprint for v in variants}) == len(variants) == 11
    assert cam_of(resnet).fingerprint == cam.fingerprint and LayerCAMExtractor().fingerprint == variants[0].fingerprint
