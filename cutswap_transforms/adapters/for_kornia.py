"""kornia: the swap as an augmentation of `AugmentationSequential`, with masks that follow."""

from __future__ import annotations

from typing import Any

import kornia.augmentation as K
from torch import Tensor

from ..swap import patch_mask, swap_patches
from ..transform import SaliencySwap


class KorniaSwap(K.IntensityAugmentationBase2D):
    """`SaliencySwap` for kornia: images [N, C, H, W] are swapped, masks [N, 1, H, W] get 1 in the swapped area.

    The pairs are drawn when the image is seen and kept in the parameters, so replay by `params=` repeats the very swap. The
    probability is that of the swap, `SaliencySwap(p=...)`.

    Args:
        swap: by default `SaliencySwap()`.
    """

    def __init__(self, swap: SaliencySwap | None = None) -> None:
        super().__init__(p=1.0)
        self.swap = swap or SaliencySwap()

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> dict[str, Any]:
        return {"pairs": []}  # kornia copies the dict for every input, not what is in it

    def apply_transform(
        self, input: Tensor, params: dict[str, Any], flags: dict[str, Any], transform: Tensor | None = None
    ) -> Tensor:
        if not params["pairs"]:
            self.swap.check_inputs([input])
            params["pairs"].append(self.swap.make_params([input])["pairs"])
        return swap_patches(input, params["pairs"][0])

    def apply_transform_mask(
        self, input: Tensor, params: dict[str, Any], flags: dict[str, Any], transform: Tensor | None = None
    ) -> Tensor:
        size = (int(input.shape[-2]), int(input.shape[-1]))
        return input.masked_fill(patch_mask(params["pairs"][0], size).to(input.device).bool(), 1)
