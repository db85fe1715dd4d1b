"""The embedded net during training: with batch norm or folded, and with heads that are discarded."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from detector.networks import unit_length
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cutswap_transforms.saliency.tiny import CLASSES, CONVS, INPUT_SIZE, STEM, WIDTHS

SIDE = INPUT_SIZE
GRIDS = (32, 16, 8, 4)  # the sides of the four maps at SIDE
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Stage(nn.Module):
    """x -> d = relu(bn(conv, stride)), then y = relu(y + bn(conv(y))) for the other convolutions."""

    def __init__(self, cin: int, cout: int, count: int, kernel: int, stride: int):
        super().__init__()
        pad = (kernel - stride + 1) // 2
        convs = [nn.Conv2d(cin, cout, kernel, stride, pad, bias=False)]
        convs += [nn.Conv2d(cout, cout, 3, 1, 1, bias=False) for _ in range(count - 1)]
        self.convs, self.norms = nn.ModuleList(convs), nn.ModuleList(nn.BatchNorm2d(cout) for _ in convs)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norms[0](self.convs[0](x)))
        for conv, norm in zip(self.convs[1:], self.norms[1:], strict=True):
            x = F.relu(x + norm(conv(x)))
        return x


class Student(nn.Module):
    """Images [N, 3, s, s] -> the maps of its four stages; heads for the teacher's classes, its cells and the folders."""

    def __init__(self, labels: int, dims: tuple[int, int, int]):
        super().__init__()
        inputs = (3, *WIDTHS[:-1])
        sizes = enumerate(zip(inputs, WIDTHS, CONVS, strict=True))
        self.stages = nn.ModuleList(Stage(i, o, n, 3 if k else STEM, 2 if k else 4) for k, (i, o, n) in sizes)
        self.head = nn.Linear(WIDTHS[-1], CLASSES)
        self.labels = nn.Linear(WIDTHS[-1], labels)
        self.cells = nn.ModuleList(nn.Conv2d(width, dim, 1) for width, dim in zip(WIDTHS[1:], dims, strict=True))

    def forward(self, images: Tensor) -> list[Tensor]:
        x, features = images, []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features

    def said(self, features: list[Tensor]) -> Tensor:
        """Logits [N, 1000]."""
        return self.head(features[-1].mean((2, 3)))

    def projected(self, features: list[Tensor]) -> list[Tensor]:
        """The cells of strides 8, 16 and 32, each of unit length as in the detector, on the teacher's axes."""
        return [cell(unit_length(x)) for cell, x in zip(self.cells, features[1:], strict=True)]


def fold(student: Student) -> Student:
    """A copy with bias and batch norm folded into the convolutions, as in the shipped net."""
    folded = copy.deepcopy(student).eval()
    for stage in folded.stages:
        stage.convs = nn.ModuleList(fuse_conv_bn_eval(c, n) for c, n in zip(stage.convs, stage.norms, strict=True))
        stage.norms = nn.ModuleList(nn.Identity() for _ in stage.convs)
    return folded.to(memory_format=torch.channels_last)


@torch.no_grad()
def unfold(student: Student, path: Path, images: Tensor) -> None:
    """Load a shipped file into the student, with batch norms that change nothing for these images [N, 3, s, s].

    Batch norm allows steps five times as large; the auxiliary heads are not changed."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: torch.from_numpy(file[name].astype("f4")) for name in file.files}
    student.head.load_state_dict({"weight": arrays["head.weight"], "bias": arrays["head.bias"]})
    x = images
    for i, stage in enumerate(student.stages, 1):
        for j, (conv, norm) in enumerate(zip(stage.convs, stage.norms, strict=True)):
            conv.weight.copy_(arrays[f"stage{i}.conv{j}.weight"])
            y, bias = conv(x), arrays[f"stage{i}.conv{j}.bias"]
            variance, mean = torch.var_mean(y, (0, 2, 3))
            norm.load_state_dict(
                norm.state_dict()
                | {
                    "running_mean": mean,
                    "running_var": variance,
                    "weight": (variance + norm.eps).sqrt(),
                    "bias": mean + bias,
                }
            )
            y = y + bias[:, None, None]
            x = F.relu(x + y if j else y)


def tensors_of(folded: Student) -> dict[str, Tensor]:
    """The shipped tensors, by name: `stage{i}.conv{j}.weight/bias` and `head.*`."""
    tensors = {"head.weight": folded.head.weight, "head.bias": folded.head.bias}
    for i, stage in enumerate(folded.stages, 1):
        for j, conv in enumerate(stage.convs):
            tensors |= {f"stage{i}.conv{j}.weight": conv.weight, f"stage{i}.conv{j}.bias": conv.bias}
    return tensors


def state_of(folded: Student) -> dict[str, np.ndarray]:
    """The arrays of the shipped file, float16."""
    return {name: tensor.detach().half().contiguous().numpy() for name, tensor in tensors_of(folded).items()}


def mixed(arrays: dict[str, np.ndarray], start: Path, keep: Sequence[float]) -> dict[str, np.ndarray]:
    """`keep` times the arrays of the file that the training started from, plus the rest of the new ones, float16.

    The shares are those of the four stages and the head. Between the two, a net keeps most of what it knew and most of what
    it has learned (as in WiSE-FT, arXiv 2109.01903)."""
    shares = dict(zip(("stage1", "stage2", "stage3", "stage4", "head"), keep, strict=True))
    with np.load(start, allow_pickle=False) as file:
        old = {name: file[name].astype("f4") for name in arrays}
    return {n: (old[n] + (1 - shares[n.split(".")[0]]) * (x.astype("f4") - old[n])).astype("f2") for n, x in arrays.items()}


def layer_cam(logits: Tensor, features: list[Tensor]) -> list[Tensor]:
    """LayerCAM of the net's own arg-max class, as in the shipped net: [N, h, w] per stage, with the graph of the gradient."""
    gradients = torch.autograd.grad(logits.amax(1).sum(), features, create_graph=True)
    return [(g.relu() * a).sum(1) for a, g in zip(features, gradients, strict=True)]
