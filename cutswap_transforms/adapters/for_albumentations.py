"""albumentations 2.0 and AlbumentationsX: the swap as a transform for image and mask, seeded by its Compose."""

from __future__ import annotations

from typing import Any

import albumentations as A
import numpy as np
import torch

from ..swap import patch_mask, swap_patches
from ..transform import SaliencySwap


class AlbumentationsSwap(A.DualTransform):
    """`SaliencySwap` for albumentations: images [H, W, C] are swapped, masks [H, W] or [H, W, C] get 1 in the swapped area.

    The random numbers come from the generator of the transform, so `Compose(..., seed=0)` fixes them.

    Args:
        swap: by default `SaliencySwap()`; the probability is `p` here, not that of the swap.
        p: probability of a swap.
    """

    _targets = (A.core.type_definitions.Targets.IMAGE, A.core.type_definitions.Targets.MASK)

    def __init__(self, swap: SaliencySwap | None = None, p: float = 1.0) -> None:
        super().__init__(p=p)
        self.swap = swap or SaliencySwap()

    def _pairs(self, data: Any, generator: Any) -> Any:
        image = _planes(data["image"])
        self.swap.check_inputs([image])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(generator.integers(2**63)))
            return self.swap.make_params([image])["pairs"]

    if hasattr(A.DualTransform, "sample_parameters"):  # AlbumentationsX, which refuses the other name

        def sample_parameters(self, params: Any, data: Any, targets: Any, sampling: Any) -> Any:
            from albumentations.core.transform_params import SampledParams

            return SampledParams(params={"pairs": self._pairs(data, sampling.random_generator)})
    else:

        def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
            return {"pairs": self._pairs(data, self.random_generator)}

    def apply(self, img: Any, pairs: Any, **params: Any) -> Any:
        return _pixels(swap_patches(_planes(img), pairs), img)

    def apply_to_mask(self, mask: Any, pairs: Any, **params: Any) -> Any:
        area = patch_mask(pairs, mask.shape[:2])[0, 0].numpy().astype(bool)
        found = mask.copy()
        found[area] = 1
        return found

    def get_transform_init_args_names(self) -> tuple[str, ...]:
        return ("swap",)


def _planes(image: Any) -> Any:
    """[H, W] or [H, W, C] of NumPy -> tensor [C, H, W]."""
    array = np.ascontiguousarray(image)  # a flipped view has negative strides, which torch does not know
    return torch.from_numpy(array if array.ndim == 3 else array[..., None]).movedim(-1, 0)


def _pixels(image: Any, like: Any) -> Any:
    return image.movedim(0, -1).contiguous().numpy().reshape(like.shape)
