"""The student's losses against its teacher and the known masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .student import GRIDS, MEAN, STD


def unlike(mine: Tensor, theirs: Tensor) -> Tensor:
    """1 - Pearson correlation of maps [N, P]; float [N]."""
    return 1 - F.cosine_similarity(mine - mine.mean(1, keepdim=True), theirs - theirs.mean(1, keepdim=True), eps=1e-6)


def weighted(lost: list[Tensor], weights: Sequence[float]) -> Tensor:
    return torch.stack(lost) @ torch.tensor(weights, dtype=torch.float32) / sum(weights)


def flipped(x: Tensor, flip: Tensor) -> Tensor:
    """[N, ..., W], mirrored where `flip` [N] is true."""
    return torch.where(flip.view(-1, *[1] * (x.ndim - 1)), x.flip(-1), x)


def map_loss(maps: list[Tensor], teacher: Tensor, flip: Tensor, weights: Sequence[float]) -> Tensor:
    """`unlike` of the student's maps and the teacher's [N, cells of all grids], weighted mean over levels, mean over images."""
    levels = teacher.split([side * side for side in GRIDS], 1)
    return weighted([unlike(flipped(a, flip).flatten(1), b).mean() for a, b in zip(maps, levels, strict=True)], weights)


def ground_loss(maps: list[Tensor], covered: Tensor, weights: Sequence[float], even_weight: float) -> Tensor:
    """The loss of the maps of composites, weighted mean over levels, mean over images.

    With an object, the map should be like the mask and have its mass on the object (-log of the share). Without one, it
    should be even (squared coefficient of variation, times `even_weight`). Masks are float [N, S, S]."""
    shown = covered.mean((1, 2)) > 0.005
    lost = []
    for mine in maps:
        wanted, m = F.adaptive_avg_pool2d(covered, mine.shape[-1]).flatten(1), mine.flatten(1)
        total = m.sum(1) + 1e-6
        share = ((m * wanted).sum(1) / total).clamp(min=1e-3)
        even = (m.square().mean(1) / (total / m.shape[1]).square() - 1).clamp(max=20)
        lost.append(torch.where(shown, unlike(m, wanted) - share.log(), even_weight * even).mean())
    return weighted(lost, weights)


def cell_loss(mine: list[Tensor], theirs: list[Tensor], flip: Tensor) -> Tensor:
    """Mean squared difference of the student's and the teacher's whitened cells, mean over strides; 1 for zero features."""
    lost = [(flipped(a, flip) - b).square().mean() / b.square().mean() for a, b in zip(mine, theirs, strict=True)]
    return torch.stack(lost).mean()


def class_loss(said: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    t = temperature
    mine, theirs = F.log_softmax(said / t, 1), F.log_softmax(teacher / t, 1)
    return F.kl_div(mine, theirs, log_target=True, reduction="batchmean") * t * t


def jitter(images: Tensor, flip: Tensor, generator: torch.Generator, strength: float = 1.0) -> Tensor:
    """Per-image flip, brightness, contrast, saturation (a tenth to gray); uint8 in, normalized float32 out."""
    n = len(images)
    x = flipped(images.float() / 255, flip)
    u = torch.rand(n, 4, 1, 1, 1, generator=generator)
    gray = x.mean(1, keepdim=True)
    saturation = torch.where(u[:, 0] < 0.1 * strength, torch.zeros(()), 1 + strength * (0.8 * u[:, 1] - 0.4))
    x = gray + (x - gray) * saturation
    mean = x.mean((1, 2, 3), keepdim=True)
    contrast, light = (1 + strength * (0.8 * u[:, i] - 0.4) for i in (2, 3))
    x = ((x - mean) * contrast + mean * light).clamp(0, 1)
    return ((x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]).contiguous(
        memory_format=torch.channels_last
    )
