"""The swap itself: patches trade places in PIL images, tensors and device batches; masks show where."""

from __future__ import annotations

from typing import cast

import PIL.Image
import torch
from torch import Tensor
from torchvision import tv_tensors

from .arguments import check_tensor, checked_size
from .draw import Box, PatchPair, fits
from .images import ImageLike

HEIGHT = PatchPair._fields.index("height")  # 0 where nothing is swapped


def swap_patches(image: Tensor, pairs: Tensor) -> Tensor:
    """Swap the two patches of every pair: a permutation of the pixels that undoes itself when applied again.

    Args:
        image: [C, H, W] or [N, C, H, W] (an [H, W] mask works too), any dtype and memory format.
        pairs: int64 [N, S, 7], rows as `PatchPair`, N = 1 for a single image; boxes mutually disjoint.

    Returns:
        A new tensor of the same shape, type, dtype and device. A subclass of Tensor is treated as in torchvision's kernels:
        its own `__torch_function__` decides the output type.

    Raises:
        TypeError: `pairs` are not integers.
        ValueError: shapes that do not match, or (on the CPU) boxes that leave the image or share a pixel.

    >>> swap_patches(torch.arange(4).reshape(1, 1, 4), torch.tensor([[[0, 0, 0, 0, 3, 1, 1]]]))
    tensor([[[3, 1, 2, 0]]])
    """
    if isinstance(image, tv_tensors.TVTensor):
        return cast(Tensor, tv_tensors.wrap(swap_patches(image.as_subclass(Tensor), pairs), like=image))
    _check_pairs(pairs)
    if not isinstance(image, Tensor):
        raise TypeError(f"`image` must be a tensor, got {type(image).__name__}; SaliencySwap takes PIL images")
    batch = image if image.ndim == 4 else image[None] if image.ndim == 3 else image[None, None]
    if image.ndim not in (2, 3, 4) or batch.shape[0] != pairs.shape[0]:
        raise ValueError(f"`image` must hold as many images as `pairs` ({pairs.shape[0]}), got shape {list(image.shape)}")
    if batch.device.type != "cpu":
        return _gathered(batch, pairs.to(batch.device)).reshape(image.shape)
    out = batch.clone()
    for i, rows in enumerate(pairs.tolist()):
        for _, ta, la, tb, lb, h, w in swaps(rows, batch.shape[2], batch.shape[3]):
            out[i, :, ta : ta + h, la : la + w] = batch[i, :, tb : tb + h, lb : lb + w]
            out[i, :, tb : tb + h, lb : lb + w] = batch[i, :, ta : ta + h, la : la + w]
    return out.reshape(image.shape) if image.ndim == 2 else out if image.ndim == 4 else out[0]


def _check_pairs(pairs: Tensor) -> None:
    check_tensor("pairs", pairs, "[N, S, 7]", 3)
    if pairs.shape[-1] != 7:
        raise ValueError(f"`pairs` must have shape [N, S, 7], got {list(pairs.shape)}")
    if pairs.is_floating_point() or pairs.is_complex() or pairs.dtype == torch.bool:
        raise TypeError(f"`pairs` must be integers, got {pairs.dtype}")


def swaps(rows: list[list[int]], height: int, width: int) -> list[list[int]]:
    """The rows with a swap, checked: only disjoint boxes inside the image give a permutation of its pixels."""
    kept = [row for row in rows if row[HEIGHT]]
    taken: list[Box[int]] = []
    for row in kept:
        _, ta, la, tb, lb, h, w = row
        if h < 1 or w < 1 or min(ta, la, tb, lb) < 0 or max(ta, tb) + h > height or max(la, lb) + w > width:
            raise ValueError(f"`pairs` must be inside the image, got {PatchPair(*row)} for (H, W) = {(height, width)}")
        a, b = (ta, la, h, w), (tb, lb, h, w)
        if not fits(a, b, taken):
            raise ValueError(f"`pairs` must have boxes that share no pixel, got {PatchPair(*row)} among {len(kept)} pairs")
        taken += (a, b)
    return kept


def swap_in_pil(image: PIL.Image.Image, pairs: list[list[int]]) -> PIL.Image.Image:
    """`swap_patches` for a PIL image of any mode; mode, palette and info are kept."""
    out = image.copy()
    for _, ta, la, tb, lb, h, w in swaps(pairs, image.height, image.width):
        a, b = (la, ta, la + w, ta + h), (lb, tb, lb + w, tb + h)
        patch = image.crop(a)
        out.paste(image.crop(b), a)
        out.paste(patch, b)
    return out


def swap_leaf(leaf: ImageLike, pairs: Tensor) -> ImageLike:
    """Swap in one image leaf of a sample; type, dtype, device and PIL mode are kept."""
    return swap_in_pil(leaf, pairs.tolist()[0]) if isinstance(leaf, PIL.Image.Image) else swap_patches(leaf, pairs)


def _gathered(batch: Tensor, pairs: Tensor) -> Tensor:
    """The swap as one gather, for accelerators: no loop over images or pixels, no synchronization."""
    n, c, height, width = batch.shape
    y = torch.arange(height, device=batch.device)[None, :, None]
    x = torch.arange(width, device=batch.device)[None, None, :]
    source = (y * width + x).expand(n, -1, -1)  # [N, H, W]: flat index of each source pixel
    for s in range(pairs.shape[1]):
        _, ta, la, tb, lb, h, w = (v[:, None, None] for v in pairs[:, s].unbind(1))
        shift = (tb - ta) * width + (lb - la)
        source = torch.where(_inside(y, x, ta, la, h, w), source + shift, source)
        source = torch.where(_inside(y, x, tb, lb, h, w), source - shift, source)
    bits = batch.view(torch.int16) if batch.dtype == torch.uint16 else batch  # gather does not support uint16
    if batch.is_contiguous(memory_format=torch.channels_last) and not batch.is_contiguous():  # keep the format
        index = source.reshape(n, height * width, 1).expand(-1, -1, c)
        moved = bits.permute(0, 2, 3, 1).reshape(n, height * width, c).gather(1, index)
        return moved.view(batch.dtype).reshape(n, height, width, c).permute(0, 3, 1, 2)
    index = source.reshape(n, 1, height * width).expand(-1, c, -1)
    return bits.reshape(n, c, height * width).gather(2, index).view(batch.dtype).reshape(batch.shape)


def _inside(y: Tensor, x: Tensor, top: Tensor, left: Tensor, h: Tensor, w: Tensor) -> Tensor:
    return (y >= top) & (y < top + h) & (x >= left) & (x < left + w)


def swaps_made(pairs: Tensor) -> Tensor:
    """bool [N, S]: True for the pairs that swap something."""
    return pairs[..., HEIGHT] > 0


# ---- masks ------------------------------------------------------------------------------------------------------------


def patch_mask(pairs: Tensor, image_size: tuple[int, int]) -> Tensor:
    """The swapped area as a mask: 1 in both boxes of every pair, 0 elsewhere.

    Args:
        pairs: int64 [N, S, 7].
        image_size: (H, W).

    Returns:
        uint8 [N, 1, H, W].

    Raises:
        TypeError, ValueError: same as `swap_patches`.

    >>> patch_mask(torch.tensor([[[0, 0, 0, 0, 3, 1, 1]]]), (1, 4))
    tensor([[[[1, 0, 0, 1]]]], dtype=torch.uint8)
    """
    _check_pairs(pairs)
    height, width = checked_size("image_size", image_size)
    if pairs.device.type != "cpu":
        y = torch.arange(height, device=pairs.device)[:, None]
        x = torch.arange(width, device=pairs.device)[None, :]
        _, *corners, h, w = (v[:, :, None, None] for v in pairs.unbind(2))
        a, b = (_inside(y, x, top, left, h, w) for top, left in (corners[:2], corners[2:]))
        return (a | b).any(1, keepdim=True).to(torch.uint8)
    mask = torch.zeros(pairs.shape[0], 1, height, width, dtype=torch.uint8, device="cpu")
    for i, rows in enumerate(pairs.tolist()):
        for pair in map(PatchPair._make, swaps(rows, height, width)):
            for top, left in ((pair.top_a, pair.left_a), (pair.top_b, pair.left_b)):
                mask[i, 0, top : top + pair.height, left : left + pair.width] = 1
    return mask


def mark_leaf(mask: tv_tensors.Mask, pairs: Tensor) -> tv_tensors.Mask:
    """A mask leaf [..., H, W] of a sample, set to 1 in the swapped area, unchanged elsewhere."""
    plain = mask.as_subclass(Tensor)
    region = patch_mask(pairs.to(plain.device), (int(mask.shape[-2]), int(mask.shape[-1])))  # [N, 1, H, W]
    if len(region) == 1 and plain.ndim < 4:
        region = region[0, 0] if plain.ndim == 2 else region[0]
    elif plain.ndim == 3:
        region = region[:, 0]
    out = torch.where(region.bool(), torch.ones((), dtype=plain.dtype, device=plain.device), plain)
    return cast(tv_tensors.Mask, tv_tensors.wrap(out, like=mask))


def empty_mask(image: ImageLike) -> tv_tensors.Mask:
    """uint8 zeros [1, H, W], or [N, 1, H, W] for a batch, on the image's device."""
    if isinstance(image, Tensor):
        zeros = torch.zeros((*image.shape[:-3], 1, *image.shape[-2:]), dtype=torch.uint8, device=image.device)
    else:
        zeros = torch.zeros((1, image.height, image.width), dtype=torch.uint8, device="cpu")
    return tv_tensors.Mask(zeros, device=zeros.device)
