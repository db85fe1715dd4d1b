"""LayerCAMExtractor: the maps are LayerCAM by four independent oracles, and computing them leaves no trace anywhere."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import torchvision
from images import as_kind, pil, scene
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision import tv_tensors
from torchvision.transforms import Compose, v2

from cutswap_transforms import LayerCAMExtractor
from cutswap_transforms.saliency._layer_cam import IMAGENET

LAYERS = ("layer1", "layer2", "layer3", "layer4")
SIZE = 64  # small, and no resizing where the images are of this size


def randomise(model: nn.Module) -> nn.Module:
    """Batch norms as after training: each channel with a scale and statistics of its own."""
    rng = torch.Generator().manual_seed(1)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.copy_(torch.randn(m.num_features, generator=rng) * 0.1)
            m.running_var.copy_(torch.rand(m.num_features, generator=rng) + 0.5)
            m.weight.data.copy_(torch.rand(m.num_features, generator=rng) + 0.5)
            m.bias.data.copy_(torch.randn(m.num_features, generator=rng) * 0.1)
    return model


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return randomise(torchvision.models.resnet18(weights=None)).eval()


@pytest.fixture(scope="module")
def cam(resnet: nn.Module) -> LayerCAMExtractor:
    return LayerCAMExtractor(resnet, input_size=SIZE)


@pytest.fixture(scope="module")
def tiny() -> LayerCAMExtractor:
    return LayerCAMExtractor()


@pytest.fixture(params=["tiny", "resnet18"])
def either(request: pytest.FixtureRequest, tiny: LayerCAMExtractor, cam: LayerCAMExtractor) -> LayerCAMExtractor:
    return tiny if request.param == "tiny" else cam


def batch(n: int = 2, size: int = SIZE) -> Tensor:
    """float32 [n, 3, size, size] in [0, 1]."""
    return torch.stack([scene(size, size, seed=i) for i in range(n)]).float() / 255


def normalised(x: Tensor) -> Tensor:
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in IMAGENET)
    return (x - mean) / std


def assert_maps_close(got: list[Tensor], expected: list[Tensor], rtol: float = 1e-3) -> None:
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert float(b.max()) > 0
        torch.testing.assert_close(a.double(), b.double(), rtol=rtol, atol=1e-6 * float(b.max()))


def relative_errors(got: list[Tensor], expected: list[Tensor]) -> Tensor:
    """[levels, images]: Euclidean distance of the maps over the length of the expected one."""
    pairs = zip(got, expected, strict=True)
    return torch.stack([(a.double() - b).flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1) for a, b in pairs])


# Oracles


def by_loop(model: nn.Module, x: Tensor) -> list[Tensor]:
    """ResNet, image by image in float64, its layers called by hand."""
    net = copy.deepcopy(model).double().eval()
    maps: list[list[Tensor]] = []
    for image in x.double():
        a = net.maxpool(net.relu(net.bn1(net.conv1(image[None]))))
        levels = []
        for name in LAYERS:
            a = getattr(net, name)(a)
            levels.append(a)
        logits = net.fc(torch.flatten(net.avgpool(a), 1))[0]
        gradients = torch.autograd.grad(logits[logits.argmax()], levels)
        maps.append([((g * (g > 0)) * a).sum(1).clamp(min=0)[0] for g, a in zip(gradients, levels, strict=True)])
    return [torch.stack(level).detach() for level in zip(*maps, strict=True)]


def by_hooks(model: nn.Module, layers: tuple[str, ...], x: Tensor) -> list[Tensor]:
    """A net of one's own in float64 by autograd. Clones guard against what changes a layer's output in place."""
    net, taps = model.double().eval(), {}

    def tap(name: str) -> Callable[..., Tensor]:
        return lambda m, args, out: taps.__setitem__(name, out) or out.clone()

    handles = [net.get_submodule(name).register_forward_hook(tap(name)) for name in layers]
    logits = net(x.double().requires_grad_())
    gradients = torch.autograd.grad(logits.amax(1).sum(), [taps[name] for name in layers])
    for handle in handles:
        handle.remove()
    return [((g.relu() * taps[n]).sum(1)).relu().detach() for g, n in zip(gradients, layers, strict=True)]


def test_equals_a_float64_loop(resnet: nn.Module, cam: LayerCAMExtractor) -> None:
    x = batch(3)
    assert_maps_close(cam.native_maps(x), by_loop(resnet, normalised(x)))


def test_equals_torch_cam(resnet: nn.Module, cam: LayerCAMExtractor) -> None:
    from torchcam.methods import LayerCAM

    x = normalised(batch())
    with LayerCAM(copy.deepcopy(resnet), list(LAYERS), input_shape=(3, SIZE, SIZE)) as peer:
        scores = peer.model(x.clone().requires_grad_())
        expected = peer(scores.argmax(1).tolist(), scores, normalized=False)
    assert_maps_close(cam.native_maps(batch()), [m.detach() for m in expected])


def test_equals_captum(resnet: nn.Module, cam: LayerCAMExtractor) -> None:
    from captum.attr import LayerGradientXActivation

    model, x = copy.deepcopy(resnet), normalised(batch())
    target = model(x).argmax(1)
    for i, name in enumerate(LAYERS):
        # Activations of a ResNet's blocks are never negative, so relu(g * a) is relu(g) * a.
        product = LayerGradientXActivation(model, model.get_submodule(name)).attribute(x, target=target)
        assert_maps_close(cam.native_maps(batch())[i : i + 1], [product.relu().sum(1).detach()])


def test_equals_grad_cam(resnet: nn.Module) -> None:
    from pytorch_grad_cam import LayerCAM

    # It adds 1e-7 to each maximum, so the score is made large.
    model = nn.Sequential(copy.deepcopy(resnet), Scale(1e4))
    with LayerCAM(model, [model[0].layer3]) as peer:
        expected = torch.from_numpy(peer(normalised(batch()), None))
    ours = LayerCAMExtractor(model, layers=["0.layer3"], input_size=SIZE)(batch())
    torch.testing.assert_close(ours[:, 0], expected, rtol=0, atol=1e-4)


class Scale(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


ZOO = {
    "resnet18": 4,
    "resnet50": 4,
    "resnext50_32x4d": 4,
    "wide_resnet50_2": 4,
    "mobilenet_v2": 4,
    "mobilenet_v3_small": 4,
    "efficientnet_b0": 4,
    "densenet121": 4,
    "vgg11_bn": 4,
    "squeezenet1_1": 3,
    "shufflenet_v2_x0_5": 4,
    "regnet_y_400mf": 4,
    "convnext_tiny": 4,
    "mnasnet0_5": 4,
    "googlenet": 4,
}


@pytest.mark.parametrize("name", ZOO)
def test_torchvision_models_by_name(name: str) -> None:
    zoo = LayerCAMExtractor(name, weights=None, input_size=SIZE)
    x = batch(2)
    maps = zoo.native_maps(x)
    assert len(maps) == len(zoo.layers) == ZOO[name]
    sides = [m.shape[-1] for m in maps]
    assert sides == sorted(sides, reverse=True)
    assert len(set(sides)) == len(sides)
    # Where an activation lies within rounding of zero, a ReLU may open in one net and not in the other. That is rare.
    errors = relative_errors(maps, by_hooks(seeded(name), zoo.layers, normalised(x)))
    assert errors.median() < 1e-5
    assert errors.max() < 2e-2
    assert_maps_close([m[1:2] for m in maps], zoo.native_maps(x[1:2]))  # the trace is for any batch size


def seeded(name: str) -> nn.Module:
    """The model that `weights=None` means, made by other means."""
    extra = {"init_weights": False} if name == "googlenet" else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = torchvision.models.get_model(name, weights=None, **extra)
    return model


# What the maps do not depend on


def test_composable_output(either: LayerCAMExtractor) -> None:
    image = scene(70, 51)
    out = either(image)
    assert type(out) is Tensor
    assert (out.dtype, out.shape) == (torch.float32, (4, 70, 51))
    assert not out.requires_grad
    assert torch.equal(out.amin((1, 2)), torch.zeros(4))
    assert torch.equal(out.amax((1, 2)), torch.ones(4))


def test_composable_output_is_the_native_map_upsampled_and_normalised(either: LayerCAMExtractor) -> None:
    image = scene(70, 51)
    for native, level in zip(either.native_maps(image[None]), either(image), strict=True):
        up = nn.functional.interpolate(native[None].double(), size=(70, 51), mode="bilinear", align_corners=False)[0, 0]
        torch.testing.assert_close(level.double(), (up - up.min()) / (up.max() - up.min()), rtol=1e-4, atol=1e-5)


def test_a_batch_equals_its_images_one_by_one(either: LayerCAMExtractor) -> None:
    images = torch.stack([scene(70, 51, seed=i) for i in range(5)])
    out = either(images)
    assert out.shape == (5, 4, 70, 51)
    torch.testing.assert_close(out, torch.stack([either(i) for i in images]), rtol=1e-4, atol=1e-5)


def test_empty_batch(either: LayerCAMExtractor) -> None:
    assert either(torch.zeros(0, 3, 20, 30)).shape == (0, 4, 20, 30)
    assert [len(m) for m in either.native_maps(torch.zeros(0, 3, 20, 30))] == [0] * 4


def test_kinds_of_image_agree(either: LayerCAMExtractor) -> None:
    image = scene(70, 51)
    expected = either(image)
    same = [as_kind("PIL", image), tv_tensors.Image(image), image.contiguous(memory_format=torch.contiguous_format)]
    same += [image.permute(2, 1, 0).contiguous().permute(2, 1, 0), torch.cat((image, image[:1]))]
    for kind in same:
        assert torch.equal(either(kind), expected)
    for kind in (image.float() / 255, image.double() / 255, image.to(torch.uint16) * 257):
        # Resizing in uint8 rounds to 1/255.
        assert (either(kind) - expected).abs().mean() < 0.02


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "I;16"])
def test_modes_of_pil(tiny: LayerCAMExtractor, mode: str) -> None:
    assert tiny(pil(mode, 30, 41)).shape == (4, 30, 41)
    assert tiny(pil(mode, 30, 41)).isfinite().all()


def test_one_channel_is_repeated(either: LayerCAMExtractor) -> None:
    gray = scene(40, 33, channels=1)
    assert torch.equal(either(gray), either(gray.repeat(3, 1, 1)))


def test_samples_keep_their_structure(tiny: LayerCAMExtractor) -> None:
    sample = {"image": tv_tensors.Image(scene()), "mask": tv_tensors.Mask(torch.ones(40, 33)), "label": 3, "x": [None]}
    out = tiny(sample)
    assert out["image"].shape == (4, 40, 33)
    assert all(out[k] is sample[k] for k in ("mask", "label"))
    image, label = tiny(pil("RGB"), torch.tensor(3))
    assert image.shape == (4, 40, 33)
    assert label == 3


@pytest.mark.parametrize("compose", [Compose, v2.Compose])
def test_compose(tiny: LayerCAMExtractor, compose: Any) -> None:
    assert compose([v2.Resize(50), tiny])(pil("RGB", 80, 64)).shape == (4, 62, 50)


def test_input_is_not_modified(either: LayerCAMExtractor) -> None:
    for image in (scene(), scene().float() / 255, batch()):
        before = image.clone()
        either(image)
        assert torch.equal(image, before)


@pytest.mark.parametrize("factor", [1e-6, 1e3])
def test_scale_of_the_score_does_not_matter(resnet: nn.Module, cam: LayerCAMExtractor, factor: float) -> None:
    scaled = LayerCAMExtractor(nn.Sequential(resnet, Scale(factor)), input_size=SIZE)
    assert scaled.layers == tuple(f"0.{name}" for name in LAYERS)
    torch.testing.assert_close(scaled(batch()), cam(batch()), rtol=1e-4, atol=1e-5)


def test_flat_maps_are_zeros(tiny: LayerCAMExtractor) -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 1), nn.Linear(4, 2)
            for p in self.parameters():
                nn.init.constant_(p, 2.0)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.conv(x).relu().mean((2, 3)))

    flat = LayerCAMExtractor(Flat(), layers="conv", input_size=SIZE)
    image = torch.full((3, 41, 37), 0.9)  # above the mean, so that what follows the ReLU is not zero
    native = flat.native_maps(image[None])[0]
    assert native.max() == native.min() > 0
    assert torch.equal(flat(image), torch.zeros(1, 41, 37))


def test_target_none_is_the_arg_max_class(resnet: nn.Module, cam: LayerCAMExtractor) -> None:
    best = int(resnet(normalised(batch(1))).argmax())
    fixed, other = (LayerCAMExtractor(resnet, input_size=SIZE, target=t) for t in (best, (best + 1) % 1000))
    assert_maps_close(fixed.native_maps(batch(1)), cam.native_maps(batch(1)))
    assert not torch.allclose(other.native_maps(batch(1))[3], cam.native_maps(batch(1))[3], rtol=1e-2)


def test_mean_std(resnet: nn.Module, cam: LayerCAMExtractor) -> None:
    none = LayerCAMExtractor(resnet, input_size=SIZE, mean_std=None)
    mine = LayerCAMExtractor(resnet, input_size=SIZE, mean_std=([0.5] * 3, [0.25] * 3))
    x = batch(2)
    assert_maps_close(none.native_maps(x), by_loop(resnet, x))
    assert_maps_close(mine.native_maps(x), by_loop(resnet, (x - 0.5) / 0.25))


def test_bf16_is_near_fp32(resnet: nn.Module, cam: LayerCAMExtractor) -> None:
    rough = LayerCAMExtractor(resnet, input_size=SIZE, precision="bf16", target=7).native_maps(batch())
    exact = LayerCAMExtractor(resnet, input_size=SIZE, target=7).native_maps(batch())
    for a, b in zip(exact, rough, strict=True):
        assert b.dtype == torch.float32
        assert torch.corrcoef(torch.stack((a.flatten(), b.flatten())))[0, 1] > 0.95


# Where it runs


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize(
    "mode",
    [
        torch.no_grad,
        torch.enable_grad,
        torch.inference_mode,
        lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        lambda: torch.device("meta"),
        lambda: default_dtype(torch.float64),
    ],
    ids=["no_grad", "enable_grad", "inference_mode", "autocast", "default_device", "default_dtype"],
)
def test_modes_of_the_caller_change_nothing(either: LayerCAMExtractor, mode: Callable[[], Any]) -> None:
    image = scene(70, 51)
    expected = either(image)
    with mode():
        out = either(image)
    assert torch.equal(out, expected)
    assert not out.requires_grad


def test_made_in_odd_modes_it_works_everywhere(resnet: nn.Module, cam: LayerCAMExtractor) -> None:
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16), default_dtype(torch.float64):
        made = LayerCAMExtractor(resnet, input_size=SIZE)
    assert_maps_close(made.native_maps(batch()), cam.native_maps(batch()))


def test_four_threads_on_one_extractor(either: LayerCAMExtractor) -> None:
    images = [scene(40, 33, seed=i) for i in range(16)]
    expected = [either(i) for i in images]
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(a, b) for a, b in zip(pool.map(either, images), expected, strict=True))


def test_flops_are_at_the_floor() -> None:
    full = LayerCAMExtractor("resnet18", weights=None)
    assert full.input_size == 224
    with FlopCounterMode(display=False) as counter:
        full.native_maps(torch.zeros(1, 3, 224, 224))
    assert counter.get_total_flops() == pytest.approx(6096e6, rel=0.02)


def test_no_graph_and_no_tensor_is_retained(either: LayerCAMExtractor) -> None:
    def living() -> int:
        gc.collect()
        return sum(issubclass(type(o), Tensor) for o in gc.get_objects())

    x = batch(1)
    either(x)
    before = living()
    for _ in range(50):
        maps = either.native_maps(x)
    assert all(m.grad_fn is None for m in maps)
    del maps
    assert living() == before


class Forbidden:
    """Stands for the autograd engine on a GPU machine, in a worker: it must not be entered."""

    def run_backward(self, *args: Any, **kwargs: Any) -> None:
        raise AssertionError("the autograd engine was entered")


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.autograd.Variable, "_execution_engine", Forbidden())
    with pytest.raises(AssertionError, match="engine was entered"):
        torch.ones(1, requires_grad=True).sum().backward()
    yield


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
@pytest.mark.usefixtures("no_engine")
def test_no_engine_at_call_time(either: LayerCAMExtractor, n: int, mode: Callable[[], Any]) -> None:
    with mode():
        assert all(len(m) == n and m.max() > 0 for m in either.native_maps(batch(n)))


@pytest.mark.usefixtures("no_engine")
def test_no_engine_when_unpickled(either: LayerCAMExtractor) -> None:
    twin = pickle.loads(pickle.dumps(either))
    assert all(torch.equal(a, b) for a, b in zip(twin.native_maps(batch()), either.native_maps(batch()), strict=True))


def _send_maps(extractor: LayerCAMExtractor, pipe: Any) -> None:
    pipe.send([[m.numpy() for m in extractor.native_maps(batch(n))] for n in (1, 3)])


@pytest.mark.usefixtures("no_engine")
def test_no_engine_in_a_forked_child(either: LayerCAMExtractor) -> None:
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_send_maps, args=(either, sender))
    child.start()
    assert receiver.poll(60)
    for n, maps in zip((1, 3), receiver.recv(), strict=True):
        assert_maps_close([torch.from_numpy(m) for m in maps], either.native_maps(batch(n)))
    child.join(60)
    assert child.exitcode == 0


class Scenes(Dataset[Tensor]):
    def __init__(self, transform: Callable[[Tensor], Tensor]) -> None:
        self.transform = transform

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(scene(40, 33, seed=index))


@pytest.mark.usefixtures("no_engine")
def test_no_engine_in_a_loader_with_two_workers(either: LayerCAMExtractor) -> None:
    loader = DataLoader(Scenes(either), batch_size=2, num_workers=2, multiprocessing_context="fork")
    got = torch.cat(list(loader))
    torch.testing.assert_close(got, torch.stack([either(scene(40, 33, seed=i)) for i in range(4)]), rtol=1e-4, atol=1e-5)


# What it leaves alone


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
        flags = [m.training for m in model.modules()]
        grads = [(p.requires_grad, None if p.grad is None else p.grad.numpy().tobytes()) for p in model.parameters()]
        hooks = [(len(m._forward_hooks), len(m._backward_hooks)) for m in model.modules()]
        return [state, flags, grads, hooks, [(id(p), p.dtype, p.stride()) for p in model.parameters()]]

    before = condition()
    mine = LayerCAMExtractor(model, input_size=SIZE)
    mine(batch())
    with pytest.raises(ValueError, match="finite"):
        mine(batch() * torch.nan)
    with pytest.raises(ValueError, match="`layers`"):
        LayerCAMExtractor(model, layers=["fc"], input_size=SIZE)
    assert condition() == before
    assert not seen


def test_your_module_is_a_snapshot(resnet: nn.Module, cam: LayerCAMExtractor) -> None:
    model = copy.deepcopy(resnet)
    mine = LayerCAMExtractor(model, input_size=SIZE)
    nn.init.zeros_(model.conv1.weight)
    assert_maps_close(mine.native_maps(batch()), cam.native_maps(batch()))


def test_frozen_half_precision_models_work(resnet: nn.Module, cam: LayerCAMExtractor) -> None:
    frozen = copy.deepcopy(resnet).requires_grad_(False).double()
    assert_maps_close(LayerCAMExtractor(frozen, input_size=SIZE).native_maps(batch()), cam.native_maps(batch()))
    assert next(frozen.parameters()).dtype == torch.float64


def test_net_is_no_submodule(either: LayerCAMExtractor) -> None:
    holder = nn.Sequential(either)
    assert not list(holder.parameters()) and not list(holder.buffers()) and not holder.state_dict()
    assert len(list(holder.modules())) == 2
    assert "Conv" not in repr(holder)
    expected = either(scene())
    holder.train().to(torch.float64)
    assert torch.equal(either(scene()), expected)


def test_repr_names_the_arguments(cam: LayerCAMExtractor) -> None:
    assert all(part in repr(cam) for part in ("model=ResNet", "layers=('layer1'", f"input_size={SIZE}", "precision=fp32"))


def test_generators_do_not_move(resnet: nn.Module) -> None:
    state = torch.get_rng_state()
    LayerCAMExtractor("squeezenet1_1", weights=None, input_size=SIZE)(scene())
    LayerCAMExtractor(resnet, input_size=SIZE)(scene())
    assert torch.equal(torch.get_rng_state(), state)


def test_copies_are_small_and_give_the_same_maps(tiny: LayerCAMExtractor) -> None:
    fresh = LayerCAMExtractor()
    sizes = [len(pickle.dumps(fresh))]
    expected = fresh(scene())
    sizes.append(len(pickle.dumps(fresh)))
    assert max(sizes) < 10_000
    for twin in (pickle.loads(pickle.dumps(fresh)), copy.deepcopy(fresh)):
        assert torch.equal(twin(scene()), expected)
        assert twin.fingerprint == fresh.fingerprint == tiny.fingerprint


def test_copies_of_other_models_share_the_net(cam: LayerCAMExtractor) -> None:
    assert copy.deepcopy(cam)._net is cam._net
    twin = pickle.loads(pickle.dumps(cam))
    assert twin.fingerprint == cam.fingerprint
    again = LayerCAMExtractor("squeezenet1_1", weights=None, input_size=SIZE)
    assert LayerCAMExtractor("squeezenet1_1", weights=None, input_size=SIZE, mean_std=None)._net is again._net


def test_fingerprint_changes_with_all_that_changes_the_maps(resnet: nn.Module, cam: LayerCAMExtractor) -> None:
    other = copy.deepcopy(resnet)
    other.fc.bias.data[0] += 1
    variants = [
        LayerCAMExtractor(),
        LayerCAMExtractor(weights=None),
        LayerCAMExtractor(layers=["stage1"]),
        LayerCAMExtractor(target=1),
        LayerCAMExtractor(input_size=64),
        LayerCAMExtractor(mean_std=None),
        LayerCAMExtractor(precision="bf16"),
        cam,
        LayerCAMExtractor(other, input_size=SIZE),
        LayerCAMExtractor(nn.Sequential(nn.Sequential(resnet)), input_size=SIZE),
        LayerCAMExtractor(nn.Sequential(nn.Sequential(resnet, Scale(-1.0))), input_size=SIZE),
    ]
    assert len({v.fingerprint for v in variants}) == len(variants)
    assert LayerCAMExtractor(resnet, input_size=SIZE).fingerprint == cam.fingerprint


# Refusals


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model": "resnet81"}, ValueError, r"`model` must be .* got 'resnet81'; near names are .*'resnet18'"),
        ({"model": "tinny"}, ValueError, r"`model` must be .* near names are 'tiny'"),
        ({"model": 3}, TypeError, r"`model` must be a name or an nn.Module, got 3"),
        ({"model": torchvision.models.resnet18}, TypeError, r"`model` must be a name or an nn.Module, got <function"),
        ({"layers": ["stag1"]}, ValueError, r"`layers` must be .* 'tiny', got 'stag1'; near names are 'stage1'"),
        ({"layers": []}, ValueError, r"`layers` must name at least one module"),
        ({"layers": [1]}, TypeError, r"`layers` must be None or a sequence of module names, got \[1\]"),
        ({"target": 1000}, ValueError, r"`target` must lie in \[0, 999\] for 1000 classes, got 1000"),
        ({"target": -1}, ValueError, r"`target` must be at least 0, got -1"),
        ({"target": 1.0}, TypeError, r"`target` must be an int or None, got 1.0"),
        ({"precision": "fp16"}, ValueError, r"`precision` must be \"fp32\" or \"bf16\", got 'fp16'"),
        ({"input_size": 8}, ValueError, r"`input_size` must be at least 32, got 8"),
        ({"input_size": (64, 64)}, TypeError, r"`input_size` must be an int or None, got \(64, 64\)"),
        ({"input_size": True}, TypeError, r"`input_size` must be an int or None, got True"),
        ({"mean_std": "clip"}, TypeError, r"`mean_std` must be \"imagenet\", None or .*got 'clip'"),
        ({"mean_std": ((0.5,) * 3, (0.0,) * 3)}, ValueError, r"`mean_std` must be .* std > 0, got"),
        ({"mean_std": ((0.5,), (0.5,))}, ValueError, r"`mean_std` must be .*, got \(\(0.5,\)"),
        ({"model": "resnet18", "weights": "IMAGENET1K_V9"}, ValueError, r"`weights` of 'resnet18' must be .*IMAGENET1K_V1"),
        ({"model": "resnet18", "weights": "no/such.pth"}, FileNotFoundError, r"`weights` must be a file .*'no/such.pth'"),
        (
            {"model": "resnet18", "weights": torchvision.models.VGG11_Weights.DEFAULT},
            ValueError,
            r"`weights` of 'resnet18' must be",
        ),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        LayerCAMExtractor(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": None}, r"`weights` must stay \"DEFAULT\" with your own module, .* got None"),
        ({"layers": ["layer5"]}, r"`layers` must be names of modules of 'ResNet', got 'layer5'; near names are .*'layer1'"),
        ({"layers": ["fc"]}, r"`layers` must be modules that return maps \[N, K, h, w\] .*'fc' returned \[1, 1000\]"),
        ({"target": 1000}, r"`target` must lie in \[0, 999\]"),
    ],
)
def test_bad_arguments_with_your_module(resnet: nn.Module, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LayerCAMExtractor(resnet, input_size=SIZE, **arguments)


@pytest.mark.parametrize("name", ["vit_b_16", "swin_t"])
def test_transformers_are_told_what_to_pass(name: str) -> None:
    with pytest.raises(ValueError, match=rf"`layers` of '{name}' cannot be found.* pass layers=\[\.\.\.\] .*convolutional"):
        LayerCAMExtractor(name, weights=None)


def test_modules_that_are_no_classifiers() -> None:
    with pytest.raises(ValueError, match=r"`model` must map images .* to logits .* Conv2d returned \[1, 4, 62, 62\]"):
        LayerCAMExtractor(nn.Conv2d(3, 4, 3), input_size=SIZE)
    with pytest.raises(ValueError, match=r"`model` must map .* Conv2d failed at s = 64, which `input_size` sets"):
        LayerCAMExtractor(nn.Conv2d(1, 4, 3), input_size=SIZE)


@pytest.mark.parametrize(
    ("sample", "error", "message"),
    [
        (np.zeros((8, 8, 3), np.uint8), TypeError, r"`image` .*v2\.ToImage\(\)"),
        (torch.zeros(8, 8), ValueError, r"must have shape \[C, H, W\] or \[N, C, H, W\]"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), TypeError, "must be uint8, uint16 or floating point"),
        (torch.full((3, 8, 8), 3.0), ValueError, "must lie in"),
        (torch.full((3, 8, 8), torch.inf), ValueError, "finite"),
        ({"label": 3}, TypeError, "must hold an image"),
        (PIL.Image.new("F", (8, 8)), TypeError, "got mode 'F'"),
    ],
)
def test_bad_samples(tiny: LayerCAMExtractor, sample: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        tiny(sample)


def test_native_maps_take_batches_only(tiny: LayerCAMExtractor) -> None:
    with pytest.raises(ValueError, match=r"`images` must have shape \[N, 3, H, W\], got \[3, 8, 8\]"):
        tiny.native_maps(torch.zeros(3, 8, 8))
    with pytest.raises(TypeError, match=r"`images` must be a tensor \[N, 3, H, W\], got Image"):
        tiny.native_maps(pil("RGB"))


# Weights of torchvision


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Any:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError("network is unreachable")

    monkeypatch.setattr(torch.hub, "urlopen", fail)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    return tmp_path / "checkpoints"


def test_without_a_network_the_error_says_the_ways_out(offline: Any) -> None:
    with pytest.raises(ConnectionError) as caught:
        LayerCAMExtractor("squeezenet1_1")
    message = str(caught.value)
    for part in ("'squeezenet1_1'", "network is unreachable", str(offline), "weights=None", "path of a", 'model="tiny"'):
        assert part in message
    assert LayerCAMExtractor("squeezenet1_1", weights=None, input_size=SIZE)


def test_cached_weights_paths_and_names_are_the_same_net(offline: Any) -> None:
    weights = torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = torchvision.models.squeezenet1_1(weights=None)
    offline.mkdir()
    path = offline / weights.url.rsplit("/", 1)[1]
    torch.save(model.state_dict(), path)
    names = ("DEFAULT", weights, "IMAGENET1K_V1", "SqueezeNet1_1_Weights.IMAGENET1K_V1", path, str(path))
    before = torch.get_rng_state()
    extractors = [LayerCAMExtractor("squeezenet1_1", weights=w, input_size=SIZE) for w in names]
    assert torch.equal(torch.get_rng_state(), before)
    assert len({e.fingerprint for e in extractors}) == 1
    mine = extractors[-1]
    assert_maps_close(mine.native_maps(batch()), by_hooks(model, mine.layers, normalised(batch())))


def test_a_state_dict_of_another_model(tmp_path: Any) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"(?s)`weights` must be a state_dict of 'squeezenet1_1'.*passed as nn.Module"):
        LayerCAMExtractor("squeezenet1_1", weights=tmp_path / "other.pth")


def test_a_module_that_cannot_be_traced_has_no_fingerprint() -> None:
    """Two such modules of one class and equal weights may compute different things, and nothing would tell them apart."""

    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x).relu()
            return self.head((x * 2 if x.mean() > 1e9 else x).mean((2, 3)))

    with pytest.warns(UserWarning, match="Branching cannot be traced"):
        extractor = LayerCAMExtractor(Branching(), layers="conv", input_size=SIZE)
    assert extractor.fingerprint is None
