"""The region of interest: where an image may be changed, as pixels of the image and as cells of the grid."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision import tv_tensors

from .._images import ImageLike, image_size

MaskLike: TypeAlias = PIL.Image.Image | Tensor | npt.NDArray[Any]  # [H, W]
_KEPT = 16  # sizes of images


class GivenRegion(tv_tensors.Mask):
    """The mask of a sample that says where this image may be changed; it is not changed itself."""


class Inside(NamedTuple):
    """A region of interest at the size of an image: M masks, one for each image or one for all."""

    pixels: Tensor  # bool [M, H, W]
    cells: Tensor  # bool [M, G * G]: those that lie inside by half


class Roi:
    """One mask for all images, of any size: it is resized to that of the image, nearest neighbor.

    Args:
        mask: PIL image, array or tensor [H, W], also [1, H, W]; above zero where pixels may be swapped.

    Raises:
        TypeError: something else than a mask.
        ValueError: another shape, or a mask without a true pixel.
    """

    def __init__(self, mask: MaskLike) -> None:
        self.mask = _as_mask(mask)
        if not self.mask.any():
            raise ValueError(
                f"`roi` must be true where pixels may be swapped, got {_size(self.mask)} pixels that are all false"
            )
        self._sized: dict[tuple[Any, ...], Inside] = {}

    def __repr__(self) -> str:
        return f"<mask of {_size(self.mask)}, {float(self.mask.float().mean()):.0%} true>"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_sized": {}}

    def at(self, size: tuple[int, int], grid: int, device: torch.device) -> Inside:
        """The mask for images of (H, W) = `size`. Errors as `cells_inside`."""
        key = (size, grid, device)
        if key not in self._sized:
            if len(self._sized) >= _KEPT:
                self._sized.clear()
            pixels = _resized(self.mask[None], size)
            self._sized[key] = Inside(pixels.to(device), cells_inside(pixels, grid).to(device))
        return self._sized[key]


RoiLike: TypeAlias = MaskLike | Roi | str


def checked_roi(roi: RoiLike | None) -> Roi | str | None:
    """The argument `roi`: a mask for all images, the key of the masks in the samples, or none."""
    return roi if roi is None or isinstance(roi, (str, Roi)) else Roi(roi)


def with_given_region(sample: object, key: str) -> Any:
    """A copy of a sample, a dict, in which the mask under `key` says where the image may be changed.

    Raises:
        TypeError: no dict, or no `tv_tensors.Mask` under that key.
    """
    found = sample.get(key) if isinstance(sample, dict) else None
    if not isinstance(sample, dict) or not isinstance(found, tv_tensors.Mask):
        got = f"{type(found).__name__} under it" if isinstance(sample, dict) else type(sample).__name__
        raise TypeError(f"`roi={key!r}` must be the key of a tv_tensors.Mask in each sample, a dict, got {got}")
    marked = copy.copy(sample)
    marked[key] = GivenRegion(found.as_subclass(Tensor))
    return marked


def inside_of(roi: Roi | str | None, leaves: Sequence[object], image: ImageLike, grid: int) -> Inside | None:
    """The region of interest of the guiding image of a sample, on the image's device.

    Raises:
        TypeError: `roi` is a key, and the sample has no mask under it.
        ValueError: as `cells_inside`.
    """
    if roi is None:
        return None
    if isinstance(roi, Roi):
        return roi.at(image_size(image), grid, image.device if isinstance(image, Tensor) else torch.device("cpu"))
    mask = next((x for x in leaves if isinstance(x, GivenRegion)), None)
    if mask is None:
        raise TypeError(
            f"`roi={roi!r}` takes the mask from the sample, {{'image': ..., {roi!r}: tv_tensors.Mask}}, got images alone"
        )
    pixels = mask.as_subclass(Tensor).reshape(-1, *mask.shape[-2:]) > 0
    return Inside(pixels, cells_inside(pixels, grid))


def _as_mask(mask: MaskLike) -> Tensor:
    """bool [H, W]"""
    if isinstance(mask, PIL.Image.Image):
        mask = np.array(mask.convert("L") if mask.mode == "P" else mask)
    if isinstance(mask, Tensor):
        found = mask.detach().cpu()
    elif isinstance(mask, np.ndarray):
        found = torch.from_numpy(np.ascontiguousarray(mask > 0))
    else:
        raise TypeError(f"`roi` must be a mask (PIL image, array or tensor [H, W]), the key of one or None, got {mask!r}")
    found = found[0] if found.ndim == 3 and len(found) == 1 else found
    if found.ndim != 2 or 0 in found.shape:
        raise ValueError(f"`roi` must have shape [H, W], got {list(found.shape)}")
    return found.as_subclass(Tensor) > 0


def _size(mask: Tensor) -> str:
    return f"{mask.shape[-2]} x {mask.shape[-1]}"


def _resized(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """bool [M, h, w] -> [M, H, W]"""
    if masks.shape[-2:] == size:
        return masks
    return F.interpolate(masks[:, None].to(torch.uint8), size, mode="nearest-exact")[:, 0].bool()


def cells_inside(roi: Tensor, grid: int) -> Tensor:
    """The cells [M, G * G] of which at least half lies inside of masks bool [M, H, W].

    Raises:
        ValueError: on the CPU, a mask without such a cell, or with one pixel alone. On a device it stands for the whole image.
    """
    share = F.adaptive_avg_pool2d(roi[:, None].float(), grid).flatten(1)  # its windows are the pixels of the cells
    found = share >= 0.5
    if roi.device.type != "cpu":
        return found | ~found.any(1, keepdim=True)
    if not found.any(1).all():
        most = float(share.amax(1).min())
        raise ValueError(
            f"`roi` must hold a cell of the grid by half, got {most:.0%} of one at most; enlarge it or raise `grid`"
        )
    if int(roi.sum((1, 2)).min()) < 2:
        raise ValueError(f"`roi` must hold two pixels at the size of the image, {_size(roi)}, got one")
    return found
