"""Tracing, folding and finding levels, on nets of a few lines: the cases that the torchvision models do not show."""

from __future__ import annotations

import contextlib
import copy
import io
import multiprocessing
import pickle
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm
from torch.nn.utils.parametrize import is_parametrized

from cutswap_transforms import LayerCAMExtractor
from cutswap_transforms.saliency.traced.fold import fold_batch_norms
from cutswap_transforms.saliency.traced.stages import find_layers, record_calls
from cutswap_transforms.saliency.traced.trace import TracedCAM

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


def weight_normed() -> Small:
    """Its first weight is computed from others."""
    model = Small()
    model.first = weight_norm(model.first)
    return model


@pytest.mark.parametrize("make", [Small, Pads, Views, weight_normed])
def test_one_trace_is_right_for_any_batch_size(make: Callable[[], Small]) -> None:
    assert_expected(cam_of(make()), Small() if make is weight_normed else make(), 1, 2, 5, 20)


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


class Aside(Small):
    def forward(self, x: Tensor) -> Tensor:
        self.second(self.first(x).detach())
        return self.head(x.mean((2, 3)) @ torch.ones(3, 8))


def test_modules_and_layers_that_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`layers` must lie on the way to the logits, got \('second',\) of Aside"):
        cam_of(Aside(), layers=["second"])
    with pytest.raises(ValueError, match=r"`layers` of 'net' cannot be found automatically: it has no stages of square maps"):
        layers_of(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 5))
    model = Small()
    model.spare = nn.Conv2d(3, 3, 1)
    with pytest.raises(ValueError, match=r"`layers` must be modules that return square maps .* 'spare' returned no tensor"):
        cam_of(model, layers=["spare"])
    model.activation = model.first(images()).relu()
    with pytest.raises(TypeError, match=r"`model` must be a module that copy.deepcopy can copy, Small is not"):
        cam_of(model)


def on_meta() -> nn.Module:
    return Small().to("meta")


def fake() -> nn.Module:
    with FakeTensorMode():
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


def lazy() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.Sequential(nn.LazyConv2d(4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        return torch.jit.trace(Small().eval(), images())


def scripted_within() -> nn.Module:
    return nn.Sequential(scripted())


def old_weight_norm() -> nn.Module:
    model = Small()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.weight_norm(model.first)
    return model


NO_WEIGHTS = "`model` must hold its weights, {} has "


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (on_meta, ValueError, NO_WEIGHTS.format("Small") + "some on the meta device .* model.to_empty"),
        (fake, ValueError, NO_WEIGHTS.format("Sequential") + "some on the meta device or fake ones"),
        (lazy, ValueError, NO_WEIGHTS.format("Sequential") + "lazy ones; call it on images once"),
        (
            scripted,
            TypeError,
            "`model` must be a module of Python code, .* was compiled by torch.jit; pass what it was made from",
        ),
        (scripted_within, TypeError, "`model` must be a module of Python code, Sequential was compiled by torch.jit"),
        (old_weight_norm, TypeError, "copy.deepcopy can copy, Small is not .* torch.nn.utils.parametrizations in place of"),
    ],
)
def test_modules_that_cannot_be_copied_as_they_are(make: Callable[[], Any], error: type[Exception], message: str) -> None:
    model = make()
    with pytest.raises(error, match=message) as caught:
        LayerCAMExtractor(model, input_size=SIZE)
    assert "\n" not in str(caught.value)


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


class Flow(Normed):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum() > 0 else x


def test_folding_changes_no_output_and_leaves_what_is_used_twice_wanted_itself_or_in_control_flow() -> None:
    model, x = Normed(), images()
    before = model(x)
    assert fold_batch_norms(model, keep=()) == 1
    assert isinstance(model.norm, nn.Identity) and isinstance(model.after, nn.BatchNorm2d)
    torch.testing.assert_close(model(x), before, rtol=1e-5, atol=1e-5)
    assert fold_batch_norms(Normed(), keep=["conv"]) == fold_batch_norms(Flow(), keep=()) == 0


def layers_of(*modules: nn.Module) -> tuple[str, ...]:
    calls, _ = record_calls(nn.Sequential(*modules), images(1))
    return find_layers(calls, "net")


def conv(before: int, after: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, stride=stride, padding=1)


def block() -> nn.Module:
    return nn.Sequential(conv(4, 4), nn.ReLU())


def reducing() -> nn.Module:
    return nn.Sequential(nn.Sequential(conv(4, 8), nn.ReLU()), conv(8, 4, 2))


@pytest.mark.parametrize(
    ("modules", "levels"),
    [
        # The last plain module of each stage where there are no blocks; one stage is one level.
        ((conv(3, 4), nn.ReLU(), nn.MaxPool2d(2), conv(4, 4), nn.ReLU(), nn.MaxPool2d(2)), ("1", "4")),
        ((conv(3, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1)), ("1",)),
        # The last block of each stage, without the stem and the inside of reducing blocks; four levels at most.
        ((conv(3, 4, 2), block(), reducing(), reducing(), block()), ("1", "2", "4")),
        ((conv(3, 4), *[conv(4, 4, 2) for _ in range(4)]), ("1", "2", "3", "4")),
    ],
    ids=["plain", "one", "blocks", "many"],
)
def test_levels_are_found(modules: tuple[nn.Module, ...], levels: tuple[str, ...]) -> None:
    assert layers_of(*modules) == levels


# ---- nets that mix a batch --------------------------------------------------------------------------------------------


class Mixing(Small):
    """Does something to the maps between its levels, and to its logits."""

    def __init__(self, between: Callable[[Tensor], Tensor] | None = None, at_end: Callable[[Tensor], Tensor] | None = None):
        super().__init__()
        self.relu, self.between, self.at_end = nn.ReLU(), between or nn.Identity(), at_end or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.at_end(self.classify(self.second(self.relu(self.between(self.first(x)))).relu()))


MIXING: dict[str, Callable[[], Small]] = {
    "batch_norm": lambda: Mixing(nn.BatchNorm2d(6, track_running_stats=False)),
    "batch_norm_function": lambda: Mixing(lambda x: nn.functional.batch_norm(x, None, None, training=True)),
    "a_little_of_the_mean": lambda: Mixing(lambda x: x - 0.001 * x.mean(0, keepdim=True)),
    "maximum": lambda: Mixing(lambda x: x / x.amax()),
    "neighbour": lambda: Mixing(lambda x: x + x.roll(1, 0)),
    "scale_of_the_logits": lambda: Mixing(at_end=lambda x: x / x.norm()),
    "attention": lambda: Mixing(at_end=lambda x: (x @ x.T).softmax(1) @ x),
    "size_of_the_batch": lambda: Mixing(at_end=lambda x: x / x.shape[0]),
    "one_image": lambda: Mixing(at_end=lambda x: x.reshape(1, -1)[:, :5]),
}
NOT_MIXING = {"group_norm": lambda: Mixing(nn.GroupNorm(1, 6)), "softmax": lambda: Mixing(at_end=nn.Softmax(1)), "none": Small}


@pytest.mark.parametrize(
    ("precision", "kind"), [*(("fp32", kind) for kind in MIXING), ("bf16", "batch_norm"), ("bf16", "size_of_the_batch")]
)
def test_a_net_that_mixes_its_batch_runs_on_one_image_at_a_time(kind: str, precision: str) -> None:
    cam, x = cam_of(MIXING[kind](), precision=precision), images(4)
    x[1] *= 0.1
    alone = [torch.cat(level) for level in zip(*map(cam.native_maps, x.split(1)), strict=True)]
    assert all(torch.equal(a, b) and b.any() for a, b in zip(cam.native_maps(x), alone, strict=True))
    assert [len(m) for m in pickle.loads(pickle.dumps(cam)).native_maps(x)] == [4, 4]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("make", NOT_MIXING.values(), ids=NOT_MIXING)
def test_a_net_that_does_not_mix_its_batch_runs_on_all_at_once(make: Callable[[], Small], precision: str) -> None:
    net: Any = cam_of(make(), precision=precision)._net
    assert not net.one_by_one


def test_maps_of_single_images_are_not_cached_under_the_fingerprint_of_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    now = cam_of(MIXING["batch_norm"]()).fingerprint
    monkeypatch.setattr(TracedCAM, "_mixes", lambda self: False)
    before = cam_of(MIXING["batch_norm"]()).fingerprint
    assert None not in (now, before) and now != before


def test_a_net_without_maps_of_a_single_image_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`model` must have maps of a single image, those of Mixing depend on the other"):
        cam_of(Mixing(at_end=nn.Softmax(0)))
    with pytest.raises(ValueError, match=r"more than 1 value per channel .*; two images it takes, but a net that needs others"):
        cam_of(Mixing(at_end=nn.BatchNorm1d(5, track_running_stats=False)))


# ---- norms of large means ---------------------------------------------------------------------------------------------


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
