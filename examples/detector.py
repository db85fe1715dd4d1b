"""The networks of the trainers: a backbone that gives pooled features, a head that tells views apart, and the scorers."""

from __future__ import annotations

from importlib import resources

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from augment import load_factory
from data import DataError
from numpy.typing import NDArray
from sklearn.covariance import EmpiricalCovariance, LedoitWolf
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KernelDensity
from torch import Tensor, nn

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PAPER = "cutpaste-resnet18"
SCORERS = ("mahalanobis", "gde", "kde")
Array = NDArray[np.float64]


class Detector(nn.Module):
    """float images [N, 3, H, W] in [0, 1] -> logits [N, ways]; way 0 is normal."""

    def __init__(self, spec: str, ways: int, weights: str | None = "DEFAULT", size: int = 160) -> None:
        super().__init__()
        self.backbone = make_backbone(spec, weights)
        normalized = ":" not in spec  # a net of the user's gets images in [0, 1] as they are
        mean, std = IMAGENET if normalized else ((0.0,) * 3, (1.0,) * 3)
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])
        with torch.no_grad():
            probe = torch.zeros(1, 3, size, size)
            without_classifier(self.backbone.eval(), probe)
            width = self.features(probe).shape[1]
        self.train()
        self.head = projection_head(width, ways) if spec == PAPER else nn.Linear(width, ways)
        self.to(memory_format=torch.channels_last)

    def features(self, images: Tensor) -> Tensor:
        """[N, D]: what the density is estimated on."""
        images = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)  # a sixth faster
        out = self.backbone(images)
        return out.mean((2, 3)) if out.ndim == 4 else out

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def make_backbone(spec: str, weights: str | None) -> nn.Module:
    """A net of images: "tiny" (the package's saliency net), a torchvision model, a ResNet-18 without weights for the recipe
    of the CutPaste paper, or what "module:factory" returns."""
    if spec == "tiny":
        return TinyBackbone(pretrained=weights is not None)
    if ":" in spec:
        return load_factory(spec)
    if spec == PAPER:
        return torchvision.models.resnet18(weights=None)
    try:
        return torchvision.models.get_model(spec, weights=weights)
    except (ValueError, OSError) as error:  # an unknown name, or no network
        raise DataError(
            f"`backbone` {spec!r} with weights {weights!r} cannot be had ({error}); see --backbone and --weights"
        ) from error


def without_classifier(net: nn.Module, images: Tensor) -> None:
    """Takes off the linear layer whose output is the net's, so that its inputs become the features; others stay."""
    returned: dict[str, Tensor] = {}
    linear = [(name, module) for name, module in net.named_modules() if isinstance(module, nn.Linear)]
    hooks = [
        module.register_forward_hook(lambda _, __, out, name=name: returned.update({name: out})) for name, module in linear
    ]
    out = net(images)
    for hook in hooks:
        hook.remove()
    for name in [name for name, value in returned.items() if value is out]:
        parent, _, child = name.rpartition(".")
        setattr(net.get_submodule(parent), child, nn.Identity())


def projection_head(width: int, ways: int) -> nn.Sequential:
    """Eight layers of 512 and one of 128 with batch norm, as in CutPaste's public re-implementations, then the logits."""
    layers: list[nn.Module] = []
    for out in (512,) * 8 + (128,):
        layers += [nn.Linear(width, out, bias=False), nn.BatchNorm1d(out), nn.ReLU(inplace=True)]
        width = out
    return nn.Sequential(*layers, nn.Linear(width, ways))


class TinyBackbone(nn.Module):
    """The embedded saliency net as a module that can be trained: four residual stages, 192 channels at the end."""

    def __init__(self, pretrained: bool = True) -> None:
        super().__init__()
        file = resources.files("cutswap_transforms.saliency") / "weights" / "tiny.npz"
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            state = {name: torch.from_numpy(arrays[name].astype(np.float32)) for name in arrays.files}
        self.stages = nn.ModuleList()
        for i in range(1, 5):
            stage = nn.ModuleList()
            while (weight := state.get(f"stage{i}.conv{len(stage)}.weight")) is not None:
                bias = state[f"stage{i}.conv{len(stage)}.bias"]
                stride = 1 if stage else 4 if i == 1 else 2
                conv = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2], stride, padding=1)
                if pretrained:
                    conv.load_state_dict({"weight": weight, "bias": bias})
                stage.append(conv)
            self.stages.append(stage)

    def forward(self, x: Tensor) -> Tensor:
        return self.maps(x)[-1]

    def maps(self, x: Tensor) -> list[Tensor]:
        """The output of each stage, fine to coarse."""
        found = []
        for first, *residual in self.stages:
            x = F.relu(first(x))
            for conv in residual:
                x = F.relu(x + conv(x))
            found.append(x)
        return found


# ---- scores ------------------------------------------------------------------------------------------------------------


def score_features(scorer: str, train: Array, test: Array) -> Array:
    """Anomaly scores [M] of test features [M, D], the higher the stranger, from normal training features [N, D].

    "mahalanobis": squared Mahalanobis distance with the covariance of Ledoit and Wolf (2004), which can be inverted for
    N < D too. "gde": negative log density of the Gaussian of greatest likelihood; where N <= D a thousandth of the mean
    variance is added on the diagonal. "kde": negative log of a Gaussian kernel density on features of unit length, with
    the kernel exp(-10 r^2 / (D var)) of Sohn et al. (ICLR 2021).
    """
    if len(train) < 2:
        raise DataError(f"`data` must hold two normal training images or more to estimate a density, got {len(train)}")
    if scorer == "mahalanobis":
        return LedoitWolf().fit(train).mahalanobis(test)
    if scorer == "gde":
        return _gaussian_surprise(train, test)
    if scorer == "kde":
        train, test = (x / np.linalg.norm(x, axis=1, keepdims=True).clip(1e-12) for x in (train, test))
        bandwidth = (train.var() * train.shape[1] / 20) ** 0.5
        return -KernelDensity(bandwidth=max(bandwidth, 1e-6)).fit(train).score_samples(test)
    raise ValueError(f"`scorer` must be one of {', '.join(SCORERS)}, got {scorer!r}")


def _gaussian_surprise(train: Array, test: Array) -> Array:
    n, width = train.shape
    covariance = EmpiricalCovariance().fit(train).covariance_
    if n <= width:
        covariance = covariance + np.eye(width) * max(1e-3 * np.trace(covariance) / width, 1e-12)
    half = np.linalg.cholesky(covariance)
    white = np.linalg.solve(half, (test - train.mean(0)).T)
    return 0.5 * (white**2).sum(0) + np.log(np.diag(half)).sum() + 0.5 * width * np.log(2 * np.pi)


def area_under_roc(defective: NDArray[np.bool_], scores: Array) -> float | None:
    """None where one of the two classes is missing, because then it is undefined."""
    return float(roc_auc_score(defective, scores)) if 0 < defective.sum() < len(defective) else None
