"""The region of interest: where an image may be changed, as pixels of the image and as cells of the grid."""

from __future__ import annotations

import copy
import hashlib
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import PIL.Image
import PIL.ImageOps
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torchvision import tv_tensors

from ..adapters.items import is_item
from ..images import ImageLike, batch_size, image_size

MaskLike: TypeAlias = PIL.Image.Image | Tensor | npt.NDArray[Any]  # [H, W]
_KEPT = 16  # image sizes


class GivenRegion(tv_tensors.Mask):
    """The mask of a sample that marks where this image may be changed; the mask passes unchanged."""


class Inside(NamedTuple):
    """A region of interest at image size: M masks, one for each image or one for all."""

    pixels: Tensor  # bool [M, H, W]
    cells: Tensor  # bool [M, G * G]: the cells at least half inside


class Roi:
    """One mask for all images, of any size: it is resized to each image by nearest neighbor.

    Args:
        mask: PIL image, read by `picture_mask`; array or tensor [H, W] or [1, H, W]. Above zero where pixels may be
            swapped.

    Raises:
        TypeError: not a mask.
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
        return f"<mask of {_size(self.mask)}, {self.share:.0%} true>"

    @property
    def share(self) -> float:
        """Fraction of true pixels."""
        return float(self.mask.float().mean())

    @property
    def fingerprint(self) -> str:
        """A digest of the mask."""
        return hashlib.sha256(_size(self.mask).encode() + self._bits()).hexdigest()[:16]

    def _bits(self) -> bytes:
        return np.packbits(self.mask.numpy()).tobytes()

    def __getstate__(self) -> tuple[tuple[int, ...], bytes]:
        """The shape and packed bits: a worker gets a few kB, not one byte per pixel."""
        return tuple(self.mask.shape), zlib.compress(self._bits())

    def __setstate__(self, state: tuple[tuple[int, ...], bytes]) -> None:
        shape, packed = state
        bits = np.unpackbits(np.frombuffer(zlib.decompress(packed), np.uint8), count=shape[0] * shape[1])
        self.mask, self._sized = torch.from_numpy(bits.view(np.bool_).reshape(shape)), {}

    def at(self, size: tuple[int, int], grid: int, device: torch.device) -> Inside:
        """The mask for images of (H, W) = `size`. Errors as `cells_inside`."""
        key = (size, grid, device)
        entry = self._sized.get(key)
        if entry is None:
            if len(self._sized) >= _KEPT:
                self._sized.clear()  # as one operation: other threads may be reading
            pixels = _resized(self.mask[None], size)
            entry = self._sized[key] = Inside(pixels.to(device), cells_inside(pixels, grid).to(device))
        return entry


RoiLike: TypeAlias = MaskLike | Roi | str


def checked_roi(roi: RoiLike | None) -> Roi | str | None:
    """The argument `roi`: a mask for all images, the key of the masks in the samples, or none. Errors as `Roi`."""
    return roi if roi is None or isinstance(roi, (str, Roi)) else Roi(roi)


def with_given_region(sample: object, key: str) -> Any:
    """A copy of a sample, a dict, in which the mask under `key` marks where the image may be changed.

    Raises:
        TypeError: not a dict, or no `tv_tensors.Mask` of real numbers under that key.
    """
    mask = sample.get(key) if isinstance(sample, dict) else None
    if not isinstance(sample, dict) or not isinstance(mask, tv_tensors.Mask) or not _has_values(mask):
        kind = f"{type(mask).__name__}{f' of {mask.dtype}' if isinstance(mask, tv_tensors.Mask) else ''}"
        got = f"{kind} under it" if isinstance(sample, dict) else type(sample).__name__
        raise TypeError(f"`roi={key!r}` must be the key of a tv_tensors.Mask in each sample, a dict, got {got}")
    marked = copy.copy(sample)
    marked[key] = GivenRegion(mask.as_subclass(Tensor))
    return marked


def sample_leaves(sample: object, roi: Roi | str | None) -> list[Any]:
    """The leaves of a sample (of an anomalib item: of its image); the mask under the key `roi` is a `GivenRegion`.

    Raises:
        TypeError: as `with_given_region`.
    """
    sample = with_given_region(sample, roi) if isinstance(roi, str) else sample
    return tree_leaves(sample.image if is_item(sample) else sample)


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
            f"`roi={roi!r}` takes the mask from the sample, {{'image': ..., {roi!r}: tv_tensors.Mask}}, got only images"
        )
    masks = mask.as_subclass(Tensor).reshape(-1, *mask.shape[-2:])
    if len(masks) != batch_size(image):
        raise ValueError(f"`roi={roi!r}` must name one mask for each image, got shape {list(mask.shape)}")
    return inside_at(_above_zero(masks).to(image.device if isinstance(image, Tensor) else "cpu"), grid)


def inside_at(pixels: Tensor, grid: int) -> Inside:
    """`Inside` of masks bool [M, H, W]. On a device a mask without a cell counts as the whole image.

    Raises:
        ValueError: as `cells_inside`.
    """
    cells = cells_inside(pixels, grid)
    if pixels.device.type != "cpu":
        pixels = pixels | ~_has_room(pixels, _half_inside(pixels, grid))[:, None, None]
    return Inside(pixels, cells)


def picture_mask(image: PIL.Image.Image, upright: bool = False) -> npt.NDArray[np.bool_]:
    """bool [H, W], true where a picture of a mask is not black, in any PIL mode, and not transparent. Lossy files have
    ringing at edges, so there the threshold is half of white.

    Args:
        upright: rotate by the EXIF orientation.
    """
    limit = 127 if _is_lossy(image) else 0
    image = PIL.ImageOps.exif_transpose(image) if upright else image
    if image.mode[0] in "IF":  # grays of any depth are compared unscaled
        return np.asarray(np.asarray(image) > limit)
    rgba = np.asarray(image.convert("RGBA"))
    return np.asarray((rgba[..., :3] > limit).any(-1) & (rgba[..., 3] > limit))


def _is_lossy(image: PIL.Image.Image) -> bool:
    """By the file format. Call it before the image is loaded; otherwise a WebP counts as lossy."""
    if image.format == "WEBP":
        stream: Any = getattr(image, "fp", None)
        return stream is None or b"VP8L" not in _content(stream)  # the chunk of lossless data
    return image.format in ("JPEG", "MPO", "JPEG2000", "AVIF") or "jpeg" in str(image.info.get("compression"))


def _content(stream: Any) -> bytes:
    at = stream.tell()
    stream.seek(0)
    content: bytes = stream.read()
    stream.seek(at)
    return content


def _as_mask(mask: MaskLike) -> Tensor:
    """bool [H, W]"""
    if isinstance(mask, PIL.Image.Image):
        return torch.from_numpy(picture_mask(mask))
    if isinstance(mask, np.ndarray) and mask.dtype.kind in "biuf":
        pixels = torch.from_numpy(np.ascontiguousarray(mask > 0))
    elif isinstance(mask, Tensor) and _has_values(mask):
        pixels = _above_zero(mask.detach().as_subclass(Tensor).cpu())
    else:
        kind = f" of {mask.dtype}" if isinstance(mask, (np.ndarray, Tensor)) else ""
        got = f"{type(mask).__name__}{kind}" if kind else repr(mask)
        raise TypeError(f"`roi` must be a mask (PIL image, array or tensor [H, W]), the key of one or None, got {got}")
    pixels = pixels[0] if pixels.ndim == 3 and len(pixels) == 1 else pixels
    if pixels.ndim != 2 or 0 in pixels.shape:
        raise ValueError(f"`roi` must have shape [H, W], got {list(pixels.shape)}")
    return pixels


def _has_values(mask: Tensor) -> bool:
    """Whether it has real numbers, one for each pixel."""
    return not (mask.is_nested or mask.layout != torch.strided or mask.is_meta or mask.is_complex() or mask.is_quantized)


def _above_zero(masks: Tensor) -> Tensor:
    wide = masks.dtype in (torch.uint16, torch.uint32, torch.uint64)  # torch compares signed integers only
    return (masks != 0) if wide else masks > 0


def _size(mask: Tensor) -> str:
    return f"{mask.shape[-2]} x {mask.shape[-1]}"


def _resized(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """bool [M, h, w] -> [M, H, W]"""
    if masks.shape[-2:] == size:
        return masks
    return F.interpolate(masks[:, None].to(torch.uint8), size, mode="nearest-exact")[:, 0].bool()


def cells_inside(roi: Tensor, grid: int) -> Tensor:
    """The cells [M, G * G] of which at least half is inside the masks bool [M, H, W].

    Raises:
        ValueError: on the CPU, a mask without such a cell, or with one pixel. On a device it counts as the whole image.
    """
    cells = _half_inside(roi, grid)
    if roi.device.type != "cpu":
        return cells | ~_has_room(roi, cells)[:, None]
    if not cells.any(1).all():
        most = float(_share_inside(roi, grid).amax(1).min())
        raise ValueError(
            f"`roi` must cover at least half of a cell of the grid, got at most {most:.0%} of one; enlarge it or raise `grid`"
        )
    if not _has_room(roi, cells).all():
        raise ValueError(f"`roi` must have two pixels at the size of the image, {_size(roi)}, got one")
    return cells


def _share_inside(roi: Tensor, grid: int) -> Tensor:
    """[M, G * G], per cell; the pooling windows are the pixels of the cells."""
    return F.adaptive_avg_pool2d(roi[:, None].float(), grid).flatten(1)


def _half_inside(roi: Tensor, grid: int) -> Tensor:
    return _share_inside(roi, grid) >= 0.5


def _has_room(roi: Tensor, cells: Tensor) -> Tensor:
    """Whether each mask [M] has a cell, and a pixel for each patch."""
    return cells.any(1) & (roi.flatten(1).sum(1) >= 2)
