"""Arithmetic around a saliency net: images to its input size, the LayerCAM formula, maps to [0, 1]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..arguments import check_tensor


def layer_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """LayerCAM of one layer: `relu(sum_k relu(dS/dA_k) * A_k)` (Jiang et al., IEEE TIP 2021, equations 5 and 6).

    Args:
        activations: A, float [N, K, h, w].
        gradients: dS/dA of the target score S, the same shape.

    Returns:
        Saliency maps [N, h, w], >= 0, not normalized.

    Raises:
        TypeError: not tensors.
        ValueError: shapes that differ or are not [N, K, h, w].

    >>> a, g = torch.tensor([2.0, 3.0]).reshape(1, 2, 1, 1), torch.tensor([-1.0, 0.5]).reshape(1, 2, 1, 1)
    >>> layer_cam(a, g)
    tensor([[[1.5000]]])
    """
    check_tensor("activations", activations, "[N, K, h, w]", 4)
    check_tensor("gradients", gradients, "[N, K, h, w]", 4)
    if activations.shape != gradients.shape:
        raise ValueError(
            "`activations` and `gradients` must have one shape [N, K, h, w], "
            f"got {list(activations.shape)} and {list(gradients.shape)}"
        )
    return (gradients.relu() * activations).sum(1).relu()


def normalize_maps(maps: Tensor) -> Tensor:
    """Each map [..., h, w] scaled to [0, 1] by its lowest and highest finite value; a flat map becomes zeros.

    No epsilon is added, so the scale of a map does not matter. Non-finite values become NaN.

    Raises:
        TypeError: `maps` is not a tensor.
        ValueError: fewer than two dimensions.

    >>> normalize_maps(torch.tensor([[[1.0, 3.0], [2.0, float("nan")]]]))
    tensor([[[0.0000, 1.0000],
             [0.5000,    nan]]])
    """
    check_tensor("maps", maps, "[..., h, w]", max(2, getattr(maps, "ndim", 2)))
    maps = maps.float()
    finite = maps.isfinite()
    low = maps.masked_fill(~finite, torch.inf).amin((-2, -1), keepdim=True)
    high = maps.masked_fill(~finite, -torch.inf).amax((-2, -1), keepdim=True)
    spread = high - low
    scaled = torch.where(spread > 0, (maps - low) / spread, torch.zeros_like(maps))
    return torch.where(finite, scaled, torch.full_like(maps, torch.nan))


def squashed(x: Tensor, size: int) -> Tensor:
    """Images [N, C, H, W] as [N, C, size, size], float32 on the scale of x, antialiased bilinear."""
    if x.shape[-2:] == (size, size):
        return x.float()
    on_cpu = x.device.type == "cpu"
    # The CPU has a fast uint8 kernel. Elsewhere its rounding is applied explicitly, so that devices agree.
    y = F.interpolate(x if on_cpu else x.float(), size=(size, size), mode="bilinear", antialias=True)
    return y.float() if on_cpu or x.is_floating_point() else y.round()
