"""LayerCAMExtractor: the maps are LayerCAM by four independent oracles, for every kind of image; wrong arguments are told."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from helpers.images import as_kind, pil, scene
from helpers.layer_cam import LAYERS, SIZE, Scale, assert_maps_close, batch, by_hooks, cam_of, normalised, scenes
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models, tv_tensors
from torchvision.transforms import Compose, v2

import cutswap_transforms.images as conversion
from cutswap_transforms import LayerCAMExtractor
from cutswap_transforms.saliency.layer_cam import IMAGENET


def by_loop(model: nn.Module, x: Tensor, target: int | None) -> list[Tensor]:
    """ResNet, image by image in float64, its layers called by hand."""
    net, maps = copy.deepcopy(model).double().eval(), []
    for image in x.double():
        levels = [net.maxpool(net.relu(net.bn1(net.conv1(image[None]))))]
        for name in LAYERS:
            levels.append(getattr(net, name)(levels[-1]))
        logits = net.fc(torch.flatten(net.avgpool(levels[-1]), 1))[0]
        gradients = torch.autograd.grad(logits[logits.argmax() if target is None else target], levels[1:])
        maps.append([((g * (g > 0)) * a).sum(1).clamp(min=0)[0] for g, a in zip(gradients, levels[1:], strict=True)])
    return [torch.stack(level).detach() for level in zip(*maps, strict=True)]


HALF = ([0.5] * 3, [0.25] * 3)
NEUTRAL = ([0.0] * 3, [1.0] * 3)


@pytest.mark.parametrize(("mean_std", "numbers"), [("imagenet", IMAGENET), (None, NEUTRAL), (HALF, HALF)])
@pytest.mark.parametrize("target", [None, 7])
def test_equals_a_float64_loop(resnet: nn.Module, mean_std: Any, numbers: Any, target: int | None) -> None:
    x = batch(3)
    ours = cam_of(resnet, mean_std=mean_std, target=target)
    assert_maps_close(ours.native_maps(x), by_loop(resnet, normalised(x, numbers), target))
    assert torch.equal(x, batch(3))  # left as it was


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
    products = [LayerGradientXActivation(model, getattr(model, n)).attribute(x, target=model(x).argmax(1)) for n in LAYERS]
    # Activations of a ResNet's blocks are never negative, so relu(g * a) is relu(g) * a.
    assert_maps_close(cam.native_maps(batch()), [p.relu().sum(1).detach() for p in products])


def test_equals_grad_cam(resnet: nn.Module) -> None:
    from pytorch_grad_cam import LayerCAM

    # It adds 1e-7 to each maximum, so the score is made large.
    model = nn.Sequential(copy.deepcopy(resnet), Scale(1e4))
    with LayerCAM(model, [model[0].layer3]) as peer:
        expected = torch.from_numpy(peer(normalised(batch()), None))
    ours = cam_of(model, layers=["0.layer3"])(batch())
    torch.testing.assert_close(ours[:, 0], expected, rtol=0, atol=1e-4)


ZOO = ["resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "squeezenet1_1"]
ZOO += ["shufflenet_v2_x0_5", "mnasnet0_5"]
SLOW = ("convnext_tiny", "densenet121", "googlenet", "regnet_y_400mf", "resnext50_32x4d", "vgg11_bn", "wide_resnet50_2")
ZOO += [pytest.param(name, marks=pytest.mark.slow) for name in SLOW]


@pytest.mark.parametrize("name", ZOO)
def test_torchvision_models_by_name(name: str) -> None:
    zoo, x = cam_of(name, weights=None), batch()
    maps = zoo.native_maps(x)
    assert len(maps) == len(zoo.layers) == (3 if name == "squeezenet1_1" else 4)
    sides = [m.shape[-1] for m in maps]
    assert sides == sorted(set(sides), reverse=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # what `weights=None` means
        model = models.get_model(name, **{"init_weights": False} if name == "googlenet" else {})
    # Where an activation lies within rounding of zero, a ReLU may open in one net and not in the other. That is rare.
    pairs = zip(maps, by_hooks(model, zoo.layers, normalised(x)), strict=True)
    errors = torch.stack([(a.double() - b).flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1) for a, b in pairs])
    assert errors.median() < 1e-5
    assert errors.max() < 2e-2
    assert_maps_close([m[1:2] for m in maps], zoo.native_maps(x[1:2]))  # the trace is for any batch size


def test_levels_are_native_maps_upsampled_and_normalised_and_a_batch_equals_its_images(either: LayerCAMExtractor) -> None:
    images, levels = scenes(5, 70, 51), len(either.layers)
    out = either(images)
    assert type(out) is Tensor and not out.requires_grad
    assert (out.dtype, out.shape) == (torch.float32, (5, levels, 70, 51))
    torch.testing.assert_close(out, torch.stack([either(i) for i in images]), rtol=1e-4, atol=1e-5)
    assert torch.equal(images, scenes(5, 70, 51))  # left as they were
    assert torch.equal(out.amin((2, 3)), torch.zeros(5, levels)) and torch.equal(out.amax((2, 3)), torch.ones(5, levels))
    for native, level in zip(either.native_maps(images), out.unbind(1), strict=True):
        up = nn.functional.interpolate(native[:, None].double(), size=(70, 51), mode="bilinear", align_corners=False)[:, 0]
        low, high = up.amin((1, 2), keepdim=True), up.amax((1, 2), keepdim=True)
        torch.testing.assert_close(level.double(), (up - low) / (high - low), rtol=1e-4, atol=1e-5)
    assert either(torch.zeros(0, 3, 20, 30)).shape == (0, levels, 20, 30)
    assert [len(m) for m in either.native_maps(torch.zeros(0, 3, 20, 30))] == [0] * levels


def test_kinds_of_image_agree(either: LayerCAMExtractor) -> None:
    image, grey = scene(70, 51), scene(40, 33, channels=1)
    expected = either(image)
    transposed = image.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    for kind in (as_kind("PIL", image), tv_tensors.Image(image), transposed, torch.cat((image, image[:1]))):
        assert torch.equal(either(kind), expected)
    for kind in (image.float() / 255, image.double() / 255, image.to(torch.uint16) * 257):
        before = kind.clone()
        assert (either(kind) - expected).abs().mean() < 0.02  # resizing in uint8 rounds to 1/255
        assert torch.equal(kind, before)
    assert torch.equal(either(grey), either(grey.repeat(3, 1, 1)))
    for mode in ("L", "P", "RGBA", "I;16"):
        maps = either(pil(mode, 30, 41))
        assert maps.shape == (len(either.layers), 30, 41) and maps.isfinite().all(), mode


def test_one_pass_over_the_values_checks_and_clamps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    passes, clamped = [], conversion._clamped
    monkeypatch.setattr(conversion, "_clamped", lambda *given: passes.append(1) or clamped(*given))
    LayerCAMExtractor()(torch.rand(3, 17, 11))
    assert len(passes) == 1


def test_samples_and_batches_are_told_apart_and_both_generations_of_compose_take_it() -> None:
    tiny = LayerCAMExtractor()
    sample = {"image": tv_tensors.Image(scene()), "mask": tv_tensors.Mask(torch.ones(40, 33)), "label": torch.tensor(3)}
    out = tiny(sample)
    assert out["image"].shape == (3, 40, 33) and all(out[k] is sample[k] for k in ("mask", "label"))
    for compose in (Compose, v2.Compose):
        assert compose([v2.Resize(50), tiny])(pil("RGB", 80, 64)).shape == (3, 62, 50)
    with pytest.raises(ValueError, match=r"`images` must have shape \[N, 3, H, W\], got \[3, 8, 8\]"):
        tiny.native_maps(torch.zeros(3, 8, 8))
    with pytest.raises(TypeError, match=r"`images` must be a tensor \[N, 3, H, W\], got Image"):
        tiny.native_maps(pil("RGB"))


def test_scale_of_the_score_does_not_matter_and_flat_maps_are_zeros(resnet: nn.Module, cam: LayerCAMExtractor) -> None:
    for factor in (1e-6, 1e3):
        scaled = cam_of(nn.Sequential(resnet, Scale(factor)))
        assert scaled.layers == tuple(f"0.{name}" for name in LAYERS)
        torch.testing.assert_close(scaled(batch()), cam(batch()), rtol=1e-4, atol=1e-5)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    for p in net.parameters():
        nn.init.constant_(p, 2.0)
    flat, image = cam_of(net, layers="0"), torch.full((3, 41, 37), 0.9)  # above the mean, so that the ReLU lets it pass
    native = flat.native_maps(image[None])[0]
    assert native.max() == native.min() > 0
    assert torch.equal(flat(image), torch.zeros(1, 41, 37))


@pytest.mark.parametrize(("name", "least"), [("tiny", 0.98), ("resnet18", 0.95)])
def test_bf16_is_near_fp32(resnet: nn.Module, name: str, least: float) -> None:
    model = "tiny" if name == "tiny" else resnet
    exact, rough = (cam_of(model, precision=p, target=7).native_maps(batch()) for p in ("fp32", "bf16"))
    for a, b in zip(exact, rough, strict=True):
        assert b.dtype == torch.float32
        assert torch.corrcoef(torch.stack((a.flatten(), b.flatten())))[0, 1] > least


def test_flops_are_at_the_floor() -> None:
    full = LayerCAMExtractor("resnet18", weights=None)
    assert full.input_size == 224
    with FlopCounterMode(display=False) as counter:
        full.native_maps(torch.zeros(1, 3, 224, 224))
    assert counter.get_total_flops() == pytest.approx(6096e6, rel=0.02)


OWN = "the user's ResNet"
LOGITS = r"`model` must map images .* to logits .* Conv2d returned \[1, 4, 62, 62\]"
FAILED = r"`model` must map .* Conv2d failed at s = 64, which `input_size` sets"
NEAR_LAYERS = r"`layers` must be names of modules of 'ResNet', got 'layer5'; near names are .*'layer1'"
NO_MAPS = r"`layers` must be modules that return square maps .* 'fc' returned \[1, 1000\]; layers=\['layer1', .* would work"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model": "resnet81"}, ValueError, r"`model` must be .* got 'resnet81'; near names are .*'resnet18'"),
        ({"model": "tinny"}, ValueError, r"`model` must be .* near names are 'tiny'"),
        ({"model": 3}, TypeError, r"`model` must be a name or an nn.Module, got 3"),
        ({"model": nn.Conv2d}, TypeError, r"an nn.Module, got the class Conv2d; pass an instance of it"),
        ({"model": nn.ReLU().state_dict()}, TypeError, r"got OrderedDict; load a state dict into your module first"),
        ({"model": nn.Conv2d(3, 4, 3), "input_size": SIZE}, ValueError, LOGITS),
        ({"model": nn.Conv2d(1, 4, 3), "input_size": SIZE}, ValueError, FAILED),
        ({"layers": ["stag1"]}, ValueError, r"`layers` must be .* 'tiny', got 'stag1'; near names are 'stage1'"),
        ({"layers": []}, ValueError, r"`layers` must name at least one module"),
        (
            {"layers": [1]},
            TypeError,
            r"`layers` must be None or a sequence of module names, got \[1\]; named_modules\(\) has the names",
        ),
        ({"model": OWN, "layers": ["layer5"]}, ValueError, NEAR_LAYERS),
        ({"model": OWN, "layers": ["fc"]}, ValueError, NO_MAPS),
        ({"target": 1000}, ValueError, r"`target` must be in \[0, 999\] for 1000 classes, got 1000"),
        ({"model": OWN, "target": 1000}, ValueError, r"`target` must be in \[0, 999\]"),
        ({"target": -1}, ValueError, r"`target` must be at least 0, got -1"),
        ({"target": 1.0}, TypeError, r"`target` must be an int, a callable or None, got 1.0"),
        ({"precision": "fp16"}, ValueError, r"`precision` must be \"fp32\" or \"bf16\", got 'fp16'"),
        ({"input_size": 8}, ValueError, r"`input_size` must be at least 32, got 8"),
        ({"input_size": True}, TypeError, r"`input_size` must be an int or None, got True"),
        ({"mean_std": "clip"}, TypeError, r"`mean_std` must be \"imagenet\", None or .*got 'clip'"),
        ({"mean_std": ((0.5,) * 3, (0.0,) * 3)}, ValueError, r"`mean_std` must be .* std > 0, got"),
        ({"mean_std": ((0.5,), (0.5,))}, ValueError, r"`mean_std` must be .*, got \(\(0.5,\)"),
        ({"weights": "none.npz"}, FileNotFoundError, r"`weights` must be a file.*none\.npz"),
        ({"weights": "IMAGENET1K_V1"}, ValueError, r"`weights` of \"tiny\" must be .* got 'IMAGENET1K_V1'"),
        ({"weights": 3}, TypeError, r"`weights` of \"tiny\" must be .* got 3"),
        ({"model": OWN, "weights": None}, ValueError, r"`weights` must stay \"DEFAULT\" with your own module, .* got None"),
        ({"model": "resnet18", "weights": "IMAGENET1K_V9"}, ValueError, r"`weights` of 'resnet18' must be .*IMAGENET1K_V1"),
        ({"model": "resnet18", "weights": "no/such.pth"}, FileNotFoundError, r"`weights` must be a file .*'no/such.pth'"),
        ({"model": "resnet18", "weights": models.VGG11_Weights.DEFAULT}, ValueError, r"`weights` of 'resnet18' must be"),
    ],
)
def test_bad_arguments(resnet: nn.Module, arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    own = {"model": resnet, "input_size": SIZE} if arguments.get("model") == OWN else {}
    with pytest.raises(error, match=message):
        LayerCAMExtractor(**arguments | own)
