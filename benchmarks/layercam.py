"""Four-level LayerCAM of ResNet-18 at 224x224: this package, pytorch-grad-cam, torch-cam and captum, on one thread.

    python benchmarks/layercam.py [--quick] [--rounds N] [--out FOLDER]

One seeded ResNet-18 (random weights) in eval mode for all, layer1 to layer4, target: the arg-max class. Each library is
called as its documentation says. The peers get the normalized batch; our time includes normalizing it. captum gets the
target classes and need not choose them; grad-cam always enlarges the maps to the image and averages them. The maps of
torch-cam and captum are compared with ours before anything is timed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import torch
import torchvision
from _harness import Case, Timing, cpu_has_bf16, measure, speed_ratio
from _images import batch, pictures
from _report import Result, bar_plot, run_alone
from torch import Tensor, nn

from cutswap_transforms import LayerCAMExtractor
from cutswap_transforms.seeds import own_seed

MEAN, STD = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
LEVELS = ("layer1", "layer2", "layer3", "layer4")
CAM = Callable[[Tensor], Any]


def network() -> nn.Module:
    """The same ResNet-18 at every call."""
    with own_seed(0):
        return torchvision.models.resnet18(weights=None).eval()


def grad_cam(model: nn.Module) -> CAM:
    from pytorch_grad_cam import LayerCAM

    cam = LayerCAM(model=model, target_layers=[model.get_submodule(name) for name in LEVELS])
    return lambda x: cam(input_tensor=x, targets=None)


def torch_cam(model: nn.Module) -> Callable[[Tensor], list[Tensor]]:
    from torchcam.methods import LayerCAM

    cam = LayerCAM(model, list(LEVELS))

    def maps(x: Tensor) -> list[Tensor]:
        scores = model(x)
        found: list[Tensor] = cam(scores.argmax(1).tolist(), scores, normalized=False)
        return found

    return maps


def captum(model: nn.Module, targets: Tensor) -> Callable[[Tensor], list[Tensor]]:
    from captum.attr import LayerGradientXActivation

    cam = LayerGradientXActivation(model, [model.get_submodule(name) for name in LEVELS])
    return lambda x: [a.relu().sum(1) for a in cam.attribute(x, target=targets)]


PEERS = {"grad-cam": "pytorch_grad_cam", "torch-cam": "torchcam", "captum": "captum"}


def peer(name: str, x: Tensor) -> CAM | None:
    """A peer with its own network, ready for batches like x; None if it is not installed."""
    model = network()
    try:
        if name == "captum":
            with torch.no_grad():
                targets = model(x).argmax(1)
            return captum(model, targets)
        return {"grad-cam": grad_cam, "torch-cam": torch_cam}[name](model)
    except ImportError:
        return None


def check_equal(ours: list[Tensor], theirs: list[Tensor], name: str) -> None:
    """Check that the maps agree except in a few cells: a ReLU flipped by rounding changes the gradient there."""
    for level, a, b in zip(LEVELS, ours, theirs, strict=True):
        b = b.detach()
        if a.shape != b.shape or (a - b).abs().mean() > 0.005 * b.mean():
            raise RuntimeError(f"{name} gives other maps at {level}: the comparison would be void")


def run(args: argparse.Namespace) -> Result:
    rounds = {n: args.rounds or (1 if args.quick else 5 if n > 8 else 9) for n in (1, 8, 32)}  # a large batch varies less
    sizes, side = ((1,), 64) if args.quick else ((1, 8, 32), 224)
    result = Result("layercam", {"rounds": rounds, "batches": sizes, "size": side})
    pool = batch(pictures(min(max(sizes), 14), side)).float() / 255
    ours = {"ours, fp32": LayerCAMExtractor(network(), layers=LEVELS, input_size=side)}
    if cpu_has_bf16():
        ours["ours, bf16"] = LayerCAMExtractor(network(), layers=LEVELS, input_size=side, precision="bf16")
    else:
        result.notes.append("bf16 is left out: this CPU has neither avx512_bf16 nor amx_bf16.")
    ours["ours, fp32, tiny"] = LayerCAMExtractor()
    bars: list[Timing] = []
    for n in sizes:
        images = pool[torch.arange(n) % len(pool)]
        x = (images - MEAN[:, None, None]) / STD[:, None, None]
        peers = {name: cam for name in PEERS if (cam := peer(name, x)) is not None}
        expected = ours["ours, fp32"].native_maps(images)
        for name in peers.keys() - {"grad-cam"}:
            check_equal(expected, peers[name](x), name)
        cases = [Case(name, lambda cam=cam, x=x: cam(x), n) for name, cam in peers.items()]
        cases += [Case(name, lambda e=e, images=images: e.native_maps(images), n) for name, e in ours.items()]
        timings = measure(cases, rounds=rounds[n], min_time=0.0 if args.quick else 0.3)
        result.add_rates(f"LayerCAM, {len(LEVELS)} levels, {side}x{side}, B = {n}", timings.values(), timings.get("torch-cam"))
        result.keep({f"B={n}: {name}": t for name, t in timings.items()})
        bars += [Timing(f"B={n}: {t.name}", t.samples) for t in timings.values()]
        for label in ("fp32", "bf16"):
            for name in peers:
                if f"ours, {label}" in timings:
                    key = f"{label}_over_{name.replace('-', '')}_b{n}"
                    result.figures[key] = speed_ratio(timings[f"ours, {label}"], timings[name])
    missing = [name for name in PEERS if not any(name in key for key in result.timings)]
    if missing:
        result.notes.append(f"Not installed: {', '.join(missing)}; pip install 'cutswap-transforms[test]'.")
    bar_plot(args.out / "layercam.png", f"LayerCAM of ResNet-18, 4 levels, {side}x{side}, one thread", bars, rates=True)
    return result


if __name__ == "__main__":
    sys.exit(run_alone(__doc__, run))
