"""kornia: the swap as an augmentation of `AugmentationSequential`, with masks that follow."""

from __future__ import annotations

from typing import Any

import kornia.augmentation as K
import torch
from torch import Tensor
from torchvision import tv_tensors

from ..images import refusal
from ..transform import SaliencySwap
from .samples import own_swap


class KorniaSwap(K.IntensityAugmentationBase2D):
    """`SaliencySwap` for kornia: images [N, C, H, W] are swapped, masks [N, 1, H, W] get 1 in the swapped area.

    The pairs are drawn with the image and kept in the parameters, so replay by `params=` repeats the same swap. The
    probability is that of the swap, `SaliencySwap(p=...)`. The frames of a `VideoSequential` need `same_on_frame=False`.

    Args:
        swap: by default `SaliencySwap()`.
        same_on_batch: the first image of a batch guides, and all images get its pairs.
        keepdim: a single image [C, H, W] is returned without a batch dimension.

    Raises:
        TypeError: boxes, key points, or a video whose frames would share one pair.
        TypeError, ValueError: as `SaliencySwap`.
    """

    def __init__(self, swap: SaliencySwap | None = None, same_on_batch: bool = False, keepdim: bool = False) -> None:
        super().__init__(p=1.0, same_on_batch=same_on_batch, keepdim=keepdim)
        self.swap = own_swap(swap)

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # as SaliencySwap.forward
    def forward(self, input: Tensor, params: dict[str, Any] | None = None, **kwargs: Any) -> Tensor:
        self.swap.check_inputs([input])
        images = self.transform_tensor(input)
        params = self.forward_parameters(images.shape) if params is None else params
        if "pairs" not in params:  # updated in place: kornia copies the dict for every other input
            params.update(self._drawn(images, params))
        return super().forward(input, params=params, **kwargs)  # type: ignore[no-any-return]

    def _drawn(self, images: Tensor, params: dict[str, Any]) -> dict[str, Tensor]:
        if "video_batch_size" in params and int(params["forward_input_shape"][0]) != len(images):
            raise TypeError(f"{refusal('Video')}, or use VideoSequential(..., same_on_frame=False)")
        pairs = self.swap.make_params([images[:1] if self.same_on_batch else images])["pairs"]
        size = torch.tensor([images.shape[-2:]], dtype=torch.int64, device="cpu")  # a row, as in all parameters
        return {"pairs": pairs.expand(len(images), -1, -1), "size": size}

    def apply_transform(
        self, input: Tensor, params: dict[str, Any], flags: dict[str, Any], transform: Tensor | None = None
    ) -> Tensor:
        swapped: Tensor = self.swap.transform(input, {"pairs": params["pairs"], "size": tuple(params["size"][0].tolist())})
        return swapped

    def apply_transform_mask(
        self, input: Tensor, params: dict[str, Any], flags: dict[str, Any], transform: Tensor | None = None
    ) -> Tensor:
        return self.apply_transform(tv_tensors.Mask(input), params, flags).as_subclass(Tensor)

    def transform_boxes(self, input: Any, *args: Any, **kwargs: Any) -> Any:
        raise refusal("BoundingBoxes")

    def transform_keypoints(self, input: Any, *args: Any, **kwargs: Any) -> Any:
        raise refusal("KeyPoints")
