"""Fuses several maps: each is normalized on normal images, then they are added with weights >= 0."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor

CELL = 4  # pixels of a cell of the common grid
BLUR = 1.0  # standard deviation in cells: PaDiM's and PatchCore's four pixels


def on_one_grid(maps: Sequence[Tensor], side: int) -> Tensor:
    """Maps [N, h_k, w_k] -> [N, K, side, side], smoothed."""
    resized = [F.interpolate(m[:, None], (side, side), mode="bilinear", align_corners=False) for m in maps]
    return blurred(torch.cat(resized, 1))


def blurred(x: Tensor) -> Tensor:
    reach = round(3 * BLUR)
    places = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-0.5 * (places / BLUR) ** 2)
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, 1, -1)
    x = F.pad(x, (reach,) * 4, mode="replicate")
    groups = x.shape[1]
    return F.conv2d(F.conv2d(x, kernel, groups=groups), kernel.transpose(2, 3), groups=groups)


class Alignment:
    """How much of the features' variance the position in the image explains: 0 for a surface or parts that turn, near 1
    for parts that always have the same pose.

    Negatives rate maps fairly if positions differ. If all positions look alike, they favor the finest maps, which see a
    patch's seam, so the weights are pulled toward equal weights by the share that the position does not explain.
    """

    def __init__(self) -> None:
        self.count, self.sums, self.squares = 0, torch.zeros(()), torch.zeros(())

    def update(self, x: Tensor) -> None:
        """Add a part of the images' features [N, C, h, w]."""
        x = x.double()
        self.count += len(x)
        self.sums, self.squares = self.sums + x.sum(0), self.squares + x.square().sum(0)

    @property
    def share(self) -> float:
        """Between 0 and 1: 1 - variance within positions / total variance."""
        means, squares = self.sums / self.count, self.squares / self.count
        within = (squares - means.square()).mean()
        whole = (squares.mean((1, 2)) - means.mean((1, 2)).square()).mean()
        return float((1 - within / whole.clamp(min=1e-12)).clamp(0, 1))


def drawn_towards_mean(weights: Tensor, share: float) -> Tensor:
    """`share` times the weights plus (1 - `share`) times equal weights."""
    return share * weights + (1 - share) / len(weights)


def learnt_weights(cells: Tensor, altered: Tensor) -> Tensor:
    """[K], >= 0, of sum 1: logistic regression of altered cells on the maps' values.

    Args:
        cells: float [M, K], maps normalized on normal images.
        altered: bool [M].

    Altered and unaltered cells have equal weight in the sum; a ridge keeps the solution finite if the classes are separable.
    """
    x, y = cells.double().numpy(), altered.numpy()
    share = np.where(y, 0.5 / max(y.sum(), 1), 0.5 / max((~y).sum(), 1))

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        weights, bias = parameters[:-1], parameters[-1]
        logits = x @ weights + bias
        value = share @ (np.logaddexp(0, logits) - y * logits) + 0.5e-4 * weights @ weights
        slope = share * (expit(logits) - y)
        return value, np.append(slope @ x + 1e-4 * weights, slope.sum())

    count = x.shape[1]
    bounds = [(0, None)] * count + [(None, None)]
    found = minimize(loss, np.append(np.full(count, 1 / count), 0.0), jac=True, method="L-BFGS-B", bounds=bounds).x[:-1]
    total = found.sum()
    return torch.from_numpy(found / total if total > 0 else np.full(count, 1 / count)).float()
