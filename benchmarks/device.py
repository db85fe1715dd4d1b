"""The augmentation as part of a training step, on a GPU if there is one, else on one core of the CPU.

    python benchmarks/device.py [--quick] [--rounds N] [--out FOLDER]

`SaliencySwap(cache=None)` on batches on the device, as CutMix is used after a loader: images per second of the whole
augmentation, its peak memory, and its share of a self-supervised training step. In the step, negatives are made from the
batch, and ResNet-18 learns to separate them from the originals (2 N images of 256 px, cross-entropy, SGD). The share is
the extra time compared with the same step on ready-made negatives. On a GPU the augmentation is measured eagerly and, if
it can be captured, as a CUDA graph, and the step in float32 (torch's defaults) and under bf16 autocast. A graph allocates
its memory at capture, which the peak of a replay does not show.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import torch
import torchvision
from _harness import Case, Figure, Timing, measure, quartiles
from _images import batch, pictures
from _report import Result, bar_plot, run_alone
from torch import Tensor

from cutswap_transforms import LayerCAMExtractor, SaliencySwap

Augmentation = Callable[[Tensor], Tensor]


class Step:
    """One step of training ResNet-18 to separate normal images from negatives."""

    def __init__(self, device: torch.device, autocast: bool) -> None:
        torch.manual_seed(0)
        self.device, self.autocast = device, autocast
        model = torchvision.models.resnet18(num_classes=2).to(device)
        self.model = model.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)

    def __call__(self, images: Tensor, negatives: Tensor) -> None:
        both = torch.cat((images, negatives)).contiguous(memory_format=torch.channels_last)
        labels = torch.arange(2, device=self.device).repeat_interleave(len(images))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            loss = torch.nn.functional.cross_entropy(self.model(both), labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()


def synced(call: Callable[[], object], device: torch.device) -> Callable[[], None]:
    """The call, followed by a wait until the device is done."""

    def timed() -> None:
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return timed


def captured(augment: Augmentation, images: Tensor) -> Augmentation:
    """The augmentation as a CUDA graph for batches of this shape; it raises RuntimeError if it cannot be captured."""
    place = images.clone()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            augment(place)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = augment(place)

    def replay(x: Tensor) -> Tensor:
        place.copy_(x)
        graph.replay()
        return out

    first, second = replay(images).clone(), replay(images).clone()
    if torch.equal(first, second) or torch.equal(first, images):
        raise RuntimeError("the captured swap does not draw anew at each replay")
    return replay


def augmentations(images: Tensor, result: Result) -> dict[str, Augmentation]:
    """SaliencySwap with "tiny" in both precisions; on a GPU also captured."""
    found: dict[str, Augmentation] = {}
    for precision in ("fp32", "bf16") if images.device.type == "cuda" else ("fp32",):
        swap = SaliencySwap(LayerCAMExtractor(precision=precision), cache=None)
        found[f"eager, {precision}"] = swap
        if images.device.type == "cuda":
            try:
                found[f"captured, {precision}"] = captured(swap, images)
            except RuntimeError as error:
                torch.cuda.synchronize()
                result.notes.append(f"No CUDA graph of the augmentation, {precision}: {str(error).splitlines()[0]}")
    return found


def peak_memory(call: Callable[[], object]) -> str:
    """Peak memory in MB that a call allocates on the GPU, beyond what was allocated before."""
    if not torch.cuda.is_available():
        return "-"
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return f"{(torch.cuda.max_memory_allocated() - before) / 2**20:,.0f}"


def share(with_it: Timing, without: Timing) -> Figure:
    """The augmentation's share of the whole step, from the medians and from the rounds."""
    each = [1 - wo / w for w, wo in zip(with_it.samples, without.samples, strict=True)]
    return Figure(1 - without.median / with_it.median, *quartiles(each))


def one_batch(result: Result, images: Tensor, args: argparse.Namespace) -> list[Timing]:
    device, n, side = images.device, len(images), images.shape[-1]
    swaps = augmentations(images, result)
    precisions = {"float32": False, "bf16 autocast": True} if device.type == "cuda" else {"float32": False}
    steps = {name: Step(device, autocast) for name, autocast in precisions.items()}
    ready = images.flip(0).contiguous()
    cases = [Case(f"augmentation, {name}", synced(lambda s=s: s(images), device), n) for name, s in swaps.items()]
    for name, step in steps.items():
        cases.append(Case(f"step {name}, ready negatives", synced(lambda step=step: step(images, ready), device), n))
        for kind, s in swaps.items():
            whole = synced(lambda step=step, s=s: step(images, s(images)), device)
            cases.append(Case(f"step {name}, {kind}", whole, n))
    rounds = args.rounds or (1 if args.quick else 15 if device.type == "cuda" else 5)
    on_gpu = device.type == "cuda"
    clock = time.perf_counter if on_gpu else time.process_time
    timings = measure(cases, rounds=rounds, min_time=0.2 * on_gpu, warm_up=1 + 2 * on_gpu, clock=clock)
    rows = [["", "images/s", "IQR", "share of the step", "peak MB"]]
    for case in cases:
        t = timings[case.name]
        part = ""
        if case.name.startswith("step") and not case.name.endswith("ready negatives"):
            name, kind = case.name.removeprefix("step ").split(", ", 1)
            found = share(t, timings[f"step {name}, ready negatives"])
            result.figures[f"share_{device.type}_{n}_{name}_{kind}".replace(", ", "_").replace(" ", "_")] = found
            part = f"{found.value:.1%}"
        rows.append([t.name, f"{t.rate:,.1f}", f"{t.spread:.0%}{' !' * t.unstable}", part, peak_memory(case.call)])
    result.tables[f"{device.type}, batch of {n}, {side}x{side} float"] = rows
    shown = [Timing(f"{n}: {t.name}", t.samples) for t in timings.values()]
    result.keep({f"{device.type}, {t.name}": t for t in shown})
    return shown


def run(args: argparse.Namespace) -> Result:
    result = Result("device")
    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    sizes, side = ((2,), 64) if args.quick else ((64, 256), 256) if gpu else ((4,), 256)
    if not gpu:
        result.notes.append("No GPU here: the augmentation and the training step were measured on one core of the CPU.")
    pool = batch(pictures(min(max(sizes), 14), side)).float() / 255
    bars: list[Timing] = []
    for n in sizes:
        images = pool[torch.arange(n) % len(pool)].to(device)
        bars += one_batch(result, images, args)
    bar_plot(args.out / "device.png", f"Augmentation and training step, {device.type}, {side}x{side}", bars, rates=True)
    return result


if __name__ == "__main__":
    sys.exit(run_alone(__doc__, run))
