"""What counts as an image, and its conversion to the input of the method: uint8 [N, 3, H, W]."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias, TypeGuard, cast

import numpy as np
import numpy.typing as npt
import PIL.Image
import torch
from torch import Tensor
from torchvision import tv_tensors

from .arguments import MeanStd

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
# Bicubic resizing overshoots [0, 1] by less than this; larger values mean another range.
OVERSHOOT = 0.25

ImageLike: TypeAlias = PIL.Image.Image | Tensor  # [C, H, W] or [N, C, H, W]; a tv_tensors.Image is a tensor
Reasons = Mapping[str, str]  # refused type -> reason
_REFUSED = {
    "BoundingBoxes": "boxes do not follow swapped pixels; apply the transform to the image alone, before they are added",
    "KeyPoints": "key points do not follow swapped pixels; apply the transform to the image alone",
    "Video": "frames would share one pair; pass the frames as a batch of images, tv_tensors.Image(video)",
}


# ---- samples ----------------------------------------------------------------------------------------------------------


def is_image(leaf: object) -> TypeGuard[ImageLike]:
    """True for PIL images, `tv_tensors.Image` and plain tensors (torchvision decides which ones it transforms)."""
    return isinstance(leaf, (PIL.Image.Image, tv_tensors.Image)) or (
        isinstance(leaf, Tensor) and not isinstance(leaf, tv_tensors.TVTensor)
    )


def as_image(leaf: ImageLike) -> ImageLike:
    """A plain tensor as `tv_tensors.Image`, so that it counts as an image among others."""
    if not isinstance(leaf, Tensor) or isinstance(leaf, tv_tensors.TVTensor):
        return leaf
    return cast(Tensor, tv_tensors.Image(leaf, device=leaf.device))


def image_size(leaf: ImageLike) -> tuple[int, int]:
    """(H, W) of an image leaf."""
    if isinstance(leaf, PIL.Image.Image):
        return leaf.height, leaf.width
    return int(leaf.shape[-2]), int(leaf.shape[-1])


def batch_size(leaf: ImageLike) -> int:
    """N of a batch [N, C, H, W]; 1 for a single image."""
    return int(leaf.shape[0]) if isinstance(leaf, Tensor) and leaf.ndim == 4 else 1


def image_leaves(flat_inputs: Sequence[object]) -> list[ImageLike]:
    """The images of a sample by torchvision's rule; the first one guides.

    A plain tensor is an image only if the sample has no PIL image and no `tv_tensors.Image`, and then only the
    first plain tensor is one.

    Raises:
        TypeError: the sample holds no image.
    """
    explicit = [x for x in flat_inputs if isinstance(x, (PIL.Image.Image, tv_tensors.Image))]
    images = explicit or [x for x in flat_inputs if is_image(x)][:1]
    if not images:
        kinds = ", ".join(sorted({type(x).__name__ for x in flat_inputs})) or "nothing"
        remedy = "; pass dict(sample)" if any(isinstance(x, Mapping) for x in flat_inputs) else ""
        raise TypeError(f"`sample` must hold an image (a PIL image, a tensor or a tv_tensors.Image), got {kinds}{remedy}")
    return images


def check_sample(flat_inputs: Sequence[object], reasons: Reasons = _REFUSED) -> None:
    """Refuse a sample that cannot be transformed consistently: it needs at least one image, all of one size.

    Raises:
        TypeError: boxes, key points, videos or arrays in the sample, images in a mapping other than a dict, no image, or
            tensors inside `torch.vmap`.
        ValueError: an image of wrong rank, images of different sizes, or a mask whose size differs from the image.
    """
    check_not_vmapped(flat_inputs)
    for leaf in flat_inputs:
        _check_kind(leaf, reasons)
    images = image_leaves(flat_inputs)
    for image in images:
        if isinstance(image, Tensor):
            _check_tensor(image, flat_inputs)
    if len(images) > 1:
        grids = {(*image_size(x), batch_size(x)) for x in images}
        if len(grids) > 1:
            sizes = sorted(grids)
            raise ValueError(f"`sample` must hold images of one size, got (H, W, N) {sizes}; transform them one by one")
    for leaf in flat_inputs:
        if isinstance(leaf, tv_tensors.Mask):
            _check_mask(leaf, images[0])


def check_not_vmapped(leaves: Iterable[object]) -> None:
    """Raises TypeError for tensors inside `torch.vmap`, whose pixels cannot be read."""
    if any(isinstance(leaf, Tensor) and torch._C._functorch.is_batchedtensor(leaf) for leaf in leaves):
        raise TypeError("`image` must be a tensor outside of torch.vmap, got one inside; pass the batch [N, C, H, W] itself")


def refusal(kind: str, reasons: Reasons = _REFUSED) -> TypeError:
    """The error for boxes, key points or a video, shared with the adapters."""
    return TypeError(f"`sample` must not hold {kind}: {reasons[kind]}")


def _check_kind(leaf: object, reasons: Reasons) -> None:
    if isinstance(leaf, np.ndarray) and leaf.ndim >= 2:
        raise TypeError(
            f"`image` must be a PIL image or a tensor, got numpy.ndarray of shape {leaf.shape}; "
            "put v2.ToImage() first, and note that OpenCV reads BGR: array[..., ::-1].copy() is RGB"
        )
    name = type(leaf).__name__
    if isinstance(leaf, Mapping) and any(is_image(x) or isinstance(x, tv_tensors.TVTensor) for x in leaf.values()):
        raise TypeError(f"`sample` must hold its images in a dict, a list or a tuple, got {name}; pass dict(sample)")
    if name in reasons and isinstance(leaf, tv_tensors.TVTensor):
        raise refusal(name, reasons)


def _check_tensor(image: Tensor, sample: Sequence[object]) -> None:
    if image.is_nested or image.layout != torch.strided:
        kind = "a nested tensor; use images of one size" if image.is_nested else f"{image.layout}; use image.to_dense()"
        raise TypeError(f"`image` must be a dense tensor, got {kind}")
    shape = list(image.shape)
    if len(shape) not in (3, 4):
        raise ValueError(f"`image` must have shape [C, H, W] or [N, C, H, W], got {shape}{_other_rank(image, sample)}")
    if shape[-1] in (1, 3, 4) and shape[-3] > 4 and image.stride(-3) != 1:
        _judge_narrow(shape, image.dtype)


def _other_rank(image: Tensor, sample: Sequence[object]) -> str:
    """The remedy for a tensor whose rank is not that of an image: a label before the image, or a gray image."""
    others = [x for x in sample if x is not image and is_image(x)]
    if others and not isinstance(image, tv_tensors.Image):
        return "; the first plain tensor of a sample is its image: put the image first, or make it a tv_tensors.Image"
    return "; a gray image is image[None]" if image.ndim == 2 else ""


def _judge_narrow(shape: list[int], dtype: torch.dtype) -> None:
    """More than four channels and a width of 1, 3 or 4: a photograph [H, W, C], or a strip of a hyperspectral image.
    Decoded photographs have 8 bits, so uint8 is refused and other dtypes get a warning. Channels-last memory is accepted."""
    if dtype == torch.uint8:
        raise ValueError(
            f"`image` must have shape [C, H, W] or [N, C, H, W], got {shape}, which looks like [H, W, C]; use "
            f"image.movedim(-1, -3), or, if it has {shape[-3]} channels, a floating-point image in [0, 1]"
        )
    warnings.warn(
        f"`image` of shape {shape} is read as {shape[-3]} channels of {shape[-2]} x {shape[-1]} pixels; "
        "if it is [H, W, C], use image.movedim(-1, -3)",
        UserWarning,
        stacklevel=2,
    )


def _check_mask(mask: tv_tensors.Mask, image: ImageLike) -> None:
    if image_size(mask) != image_size(image):
        raise ValueError(f"`sample` must hold masks of the image's size {image_size(image)}, got {list(mask.shape)}")
    n = batch_size(image)
    if n > 1 and (mask.ndim < 3 or mask.shape[0] != n):
        raise ValueError(f"`sample` must hold a mask for each of the {n} images, got {list(mask.shape)}")


# ---- pixels -----------------------------------------------------------------------------------------------------------


def pil_array(image: PIL.Image.Image) -> npt.NDArray[np.uint8]:
    """A PIL image as the method sees it: uint8 [H, W, 3], read-only.

    Raises:
        TypeError: PIL modes 1, I and F, which have no fixed value range.
    """
    if image.mode in ("1", "I", "F"):
        remedy = "use image.convert('L')" if image.mode == "1" else "make it 'I;16' or a float tensor in [0, 1]"
        raise TypeError(f"`image` must be of a PIL mode with 8 or 16 bits, got mode {image.mode!r}; {remedy}")
    if image.mode.startswith("I;16"):
        high = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(high[..., None], 3, axis=2)
    if image.mode == "P":  # by way of RGBA, which handles palettes with transparency
        image = image.convert("RGBA")
    image = image if image.mode == "RGB" else image.convert("RGB")
    return np.frombuffer(image.tobytes(), np.uint8).reshape(image.height, image.width, 3)  # faster than `asarray`


def net_input(leaf: ImageLike, normalized: MeanStd | None = None) -> Tensor:
    """An image leaf or batch as input of a saliency net: [N, 3, H, W], 8 bits as uint8, floats as float32 in [0, 1].

    uint16 keeps its high byte. Floats must be in [0, 1], except for the overshoot of bicubic resizing, and are clamped.
    A single channel is repeated; of more than three the first three are used. Values are not checked on a device,
    because that would wait for it.

    Args:
        normalized: (mean, std) of normalized float images; the normalization is undone first.

    Raises:
        TypeError: dtypes other than uint8, uint16 and floats.
        ValueError: non-finite pixels, floats outside [-0.25, 1.25], two channels, other ranks.
    """
    if isinstance(leaf, PIL.Image.Image):
        return torch.from_numpy(pil_array(leaf).copy()).permute(2, 0, 1)[None]
    x: Tensor = leaf.as_subclass(Tensor).detach().resolve_neg()  # NumPy does not support the negative bit
    if x.ndim not in (3, 4):
        raise ValueError(f"`image` must have shape [C, H, W] or [N, C, H, W], got {list(x.shape)}")
    x = x if x.ndim == 4 else x[None]
    if x.shape[1] == 2 or x.shape[1] == 0:
        remedy = "; for gray and alpha, use image[..., :1, :, :]" if x.shape[1] else ""
        raise ValueError(f"`image` must have 1 channel or at least 3, got {x.shape[1]} in shape {list(x.shape)}{remedy}")
    if x.dtype == torch.uint16:
        x = (x.to(torch.int32) >> 8).to(torch.uint8)
    elif x.dtype in FLOATS:
        x = _clamped(_denormalized(x.to(torch.float32), normalized), normalized is not None)
    elif x.dtype != torch.uint8:
        raise TypeError(f"`image` must be uint8, uint16 or floating point, got {x.dtype}; {_accepted_form(x)}")
    return x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x[:, :3]


def _accepted_form(x: Tensor) -> str:
    if x.is_quantized:
        return "use image.dequantize()"
    if x.is_floating_point():  # 8 bits and less
        return "use image.to(torch.float16)"
    if x.is_complex():
        return "use its real part"
    return "use image.float()" if x.dtype == torch.bool else _unsigned_form(x)


def _unsigned_form(x: Tensor) -> str:
    """The conversion of integers to 8 or 16 bits in which no value wraps; both if the values are unknown."""
    if x.is_meta or not x.numel():
        return "values 0..255 fit image.to(torch.uint8), values 0..65535 image.to(torch.uint16)"
    low, high = (int(v) for v in x.to(torch.int64).aminmax())
    if low >= 0 and high < 2**16:
        kind = "uint8" if high < 2**8 else "uint16"
        return f"values 0..{2**8 - 1 if high < 2**8 else 2**16 - 1} fit image.to(torch.{kind})"
    remedy = f"scale its values from {low} to {high} to floating point in [0, 1]"
    return f"{remedy}, or, if 16 bits were read as signed, use image.view(torch.uint16)" if x.dtype == torch.int16 else remedy


def eight_bits(leaf: ImageLike, normalized: MeanStd | None = None) -> Tensor:
    """An image leaf or batch as the method sees it: uint8 [N, 3, H, W]. Arguments and errors as `net_input`.

    Maps, colors and cache keys depend on these values only, so a float image and its 8-bit file are one image here.
    """
    x = net_input(leaf, normalized)
    return x if x.dtype == torch.uint8 else (x * 255).round().to(torch.uint8)


def pil_order(images: Tensor) -> npt.NDArray[np.uint8]:
    """uint8 [N, 3, H, W] -> contiguous [N, H, W, 3]."""
    array = images.numpy().transpose(0, 2, 3, 1)
    # Copying plane by plane is four times as fast as ascontiguousarray.
    return array if array.flags.c_contiguous else np.stack([images[:, c].numpy() for c in range(3)], -1)


def _denormalized(x: Tensor, normalized: MeanStd | None) -> Tensor:
    if normalized is None:
        return x
    mean, std = (torch.tensor(tuple(v), dtype=x.dtype, device="cpu").to(x.device, non_blocking=True) for v in normalized)
    if x.shape[1] != len(mean) and len(mean) != 1:
        raise ValueError(f"`normalized` must have one value or one per channel ({x.shape[1]}), got {len(mean)}")
    return x * std[:, None, None] + mean[:, None, None]


def _clamped(x: Tensor, denormalized: bool) -> Tensor:
    if x.device.type == "cpu" and x.numel():
        low, high = (float(v) for v in torch.aminmax(x))
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError(f"`image` must have finite pixels, got values from {low} to {high}")
        if low < -OVERSHOOT or high > 1 + OVERSHOOT:
            remedy = (
                "the mean and std passed as `normalized` are not those it was normalized with"
                if denormalized
                else ("place the transform before Normalize (SaliencySwap takes normalized=(mean, std)); divide 0..255 by 255")
            )
            raise ValueError(f"`image` of floating point must be in [0, 1], got values from {low:.4g} to {high:.4g}; {remedy}")
        if low >= 0 and high <= 1:
            return x
    return x.clamp(0, 1)
