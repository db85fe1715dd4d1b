"""Samples of other libraries inside `SaliencySwap`: anomalib's items and generators, Hugging Face's batches.

None of these libraries is imported.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision import tv_tensors

from ..images import as_image, image_size, is_image, refusal
from ..swap import patch_mask, swaps_made
from .items import Item

if TYPE_CHECKING:
    from ..transform import SaliencySwap


def own_swap(swap: SaliencySwap | None, p: float = 1.0) -> SaliencySwap:
    """The swap that an adapter was given, or the default one.

    Raises:
        TypeError: something else, such as the name of a net.
    """
    from ..transform import SaliencySwap  # which imports this file

    if swap is not None and not isinstance(swap, SaliencySwap):
        raise TypeError(f"`swap` must be a SaliencySwap, got {swap!r}; pass SaliencySwap(...) with its arguments")
    return SaliencySwap(p=p) if swap is None else swap


def swapped_fields(swap: SaliencySwap, item: Item) -> dict[str, Any]:
    """Image, depth map, mask and label of an item or a batch of anomalib after the swap.

    The depth map gets the same pairs. Missing masks and labels are created.

    Raises:
        TypeError, ValueError: as `SaliencySwap`, also for a depth map, a mask or labels that do not match the image.
    """
    image, mask, depth = item.image, item.gt_mask, getattr(item, "depth_map", None)
    if hasattr(item, "video_path"):
        raise refusal("Video")
    flat = depth is not None and depth.ndim < image.ndim  # [H, W] or [N, H, W]: no channel dimension
    depth = depth.unsqueeze(-3) if depth is not None and flat else depth
    marked = [] if mask is None else [tv_tensors.Mask(mask)]
    params = swap.draw([as_image(image), *([] if depth is None else [as_image(depth)]), *marked])
    made = swaps_made(params["pairs"]).any(1)
    made = made if image.ndim == 4 else made[0]
    if item.gt_label is not None and item.gt_label.numel() != made.numel():
        raise ValueError(
            f"`gt_label` must hold a label for each of the {made.numel()} images, got shape {list(item.gt_label.shape)}"
        )
    mask = marked[0] if marked else tv_tensors.Mask(torch.zeros_like(image[..., 0, :, :], dtype=torch.bool))
    label = torch.zeros_like(made) if item.gt_label is None else item.gt_label.bool().reshape(made.shape)
    fields = {"image": swap.transform(image, params), "gt_mask": swap.transform(mask, params), "gt_label": label | made}
    if depth is not None:
        moved = swap.transform(depth, params)
        fields["depth_map"] = moved.squeeze(-3) if flat else moved
    return fields


class AnomalyGenerator(nn.Module):
    """`x -> (augmented, mask)`: images [N, C, H, W] in, the same and a float mask [N, 1, H, W] out; N is optional."""

    def __init__(self, swap: SaliencySwap) -> None:
        super().__init__()
        self.swap = swap

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # as SaliencySwap.forward
    def forward(self, img: Tensor) -> tuple[Tensor, Tensor]:
        params = self.swap.draw(img)
        mask = patch_mask(params["pairs"], image_size(img)).to(torch.float32)
        return self.swap.transform(img, params), mask if img.ndim == 4 else mask[0]


def warn_of_lists(sample: dict[Any, Any]) -> None:
    """Warn of a dict of equally long lists, Hugging Face's form of a batch: as one sample, all images get the same pairs.

    Lists of only images are views, or images and their masks; a batch also has labels or names."""
    lists = [x for x in sample.values() if isinstance(x, (list, tuple))]
    others = [len(x) for x in lists if not any(is_image(y) or isinstance(y, tv_tensors.Mask) for y in x)]
    others += [len(x) for x in sample.values() if isinstance(x, (Tensor, np.ndarray)) and x.ndim == 1]
    images = max((len(x) for x in lists if all(map(is_image, x))), default=0)
    if images > 1 and images in others:
        warnings.warn(
            f"`sample` is a dict of lists, so its {images} images get the same swap, as views of one object (of plain tensors "
            "only the first is an image); if it is a batch of a Hugging Face data set, use "
            "cutswap_transforms.adapters.HuggingFaceSwap(swap)",
            UserWarning,
            stacklevel=3,
        )
