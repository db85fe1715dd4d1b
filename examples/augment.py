"""Ways to turn a normal image into a negative: the saliency-guided swap, its controls, and CutPaste.

The three swaps are one transform, `SaliencySwap`, with different maps: a network's saliency, the object by Otsu's threshold, or
a constant. So patch sizes, pairs and masks are drawn in the same way, and only the location differs.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from cutpaste import CutPaste, CutPasteScar
from data import DataError
from torch import Tensor, nn
from torchvision import tv_tensors
from varied_swap import VariedSwap

from cutswap_transforms import KMeans, LayerCAMExtractor, SaliencySwap

Negative = Callable[[Any], Any]
LEVELS = 3  # of the guided swap with its own net
SWAPS = ("random-swap", "object-swap", "saliency-swap")  # a SaliencySwap and nothing else
AUGMENTATIONS = (
    "none",
    *SWAPS,
    "cutpaste",
    "scar",
    "3way-cutpaste",
    "3way-saliency",
)


def make_negatives(
    augmentation: str,
    saliency: str = "tiny",
    *,
    saliency_size: int | None = None,
    kmeans: KMeans | None = None,
    variation: dict[str, Any] | None = None,
    **swap: Any,
) -> list[Negative]:
    """The transforms whose results the classifier must separate from normal images: one, two for 3-way, none for "none".

    Args:
        augmentation: one of AUGMENTATIONS.
        saliency: for `load_saliency`; the controls do not use it.
        saliency_size: the side of the saliency net's input.
        kmeans: clusters the cells of the guided swap; by default `KMeans()`.
        variation: rule, feather and jitter of VariedSwap, for the controls too.
        swap: levels, scale, grid, region and roi of SaliencySwap. The controls get the same map at each of three levels, so
            they make as many swaps.
    """
    if augmentation not in AUGMENTATIONS:
        raise ValueError(f"`augmentation` must be one of {', '.join(AUGMENTATIONS)}, got {augmentation!r}")

    def make(source: Any, **options: Any) -> Negative:
        return VariedSwap(source, **variation, **options) if variation else SaliencySwap(source, **options)

    def guided() -> Negative:
        return make(load_saliency(saliency, saliency_size), clustering=kmeans or KMeans(), **swap)

    makers: dict[str, list[Callable[[], Negative]]] = {
        "none": [],
        "random-swap": [lambda: make(Anywhere(LEVELS), **swap)],
        "object-swap": [lambda: make(OtsuObject(LEVELS), **swap)],
        "saliency-swap": [guided],
        "cutpaste": [CutPaste],
        "scar": [CutPasteScar],
        "3way-cutpaste": [CutPaste, CutPasteScar],
        "3way-saliency": [guided, CutPasteScar],
    }
    return [maker() for maker in makers[augmentation]]


def load_saliency(spec: str, size: int | None = None) -> Any:
    """A source of saliency maps: "tiny", "random" (the same net with random weights), a torchvision model's name, or
    "module:factory", a function without arguments that returns a net, images in [0, 1] -> logits, or a source."""
    if spec == "random":
        return LayerCAMExtractor("tiny", weights=None, input_size=size)
    if ":" not in spec:
        return LayerCAMExtractor(spec, input_size=size)
    made = load_factory(spec)
    is_net = isinstance(made, nn.Module) and not hasattr(made, "native_maps")
    return LayerCAMExtractor(made, mean_std=None, input_size=size) if is_net else made


def load_factory(spec: str) -> Any:
    """The return value of `module:factory`; the module must be on PYTHONPATH."""
    module, _, factory = spec.partition(":")
    try:
        found = getattr(importlib.import_module(module), factory)
    except (ModuleNotFoundError, AttributeError) as error:
        raise DataError(f"`module:factory` must name a function in a module on PYTHONPATH, got {spec!r}: {error}") from error
    return found()


class Anywhere:
    """Every pixel is equally salient, so the swap is random. images [N, 3, H, W] -> `levels` maps [N, L, 1, 1]."""

    def __init__(self, levels: int = 1) -> None:
        self.levels, self.fingerprint = levels, f"anywhere-{levels}"

    def __call__(self, images: Tensor) -> Tensor:
        return images.new_zeros(len(images), self.levels, 1, 1)


class BothWays:
    """The mean of a source's maps of an image and the flipped maps of its mirror image, so that both images get the same maps.

    The net runs twice, in one batch.
    """

    def __init__(self, source: LayerCAMExtractor) -> None:
        self.source, self.fingerprint = source, source.fingerprint and f"both-ways {source.fingerprint}"

    def native_maps(self, images: Tensor) -> list[Tensor]:
        halves = [maps.chunk(2) for maps in self.source.native_maps(torch.cat((images, images.flip(-1))))]
        return [(seen + mirrored.flip(-1)) / 2 for seen, mirrored in halves]


class OtsuObject:
    """The object by Otsu's threshold of brightness: the class that covers less of the border.

    images [N, 3, H, W] in [0, 1] -> `levels` equal maps [N, L, H, W], 1 on the object; on any device.
    """

    def __init__(self, levels: int = 1) -> None:
        self.levels, self.fingerprint = levels, f"otsu-object-{levels}"

    def __call__(self, images: Tensor) -> Tensor:
        weights = images.new_tensor([0.299, 0.587, 0.114])[:, None, None]
        grey = (images * weights).sum(1).mul(255).round().clamp(0, 255).long()  # [N, H, W]
        bright = grey > otsu_threshold(grey)[:, None, None]
        border = torch.cat((bright[:, 0], bright[:, -1], bright[:, :, 0], bright[:, :, -1]), 1)
        on_border = border.float().mean(1)[:, None, None]
        return torch.where(on_border > 0.5, ~bright, bright)[:, None].float().expand(-1, self.levels, -1, -1)


def otsu_threshold(grey: Tensor) -> Tensor:
    """int64 [N]: the level t that separates [0, t] from the rest with the greatest variance between the classes.

    grey: int64 [N, H, W] in [0, 255]. Among equally good levels, as between two separate peaks, the middle one (Otsu, 1979).
    """
    flat = grey.flatten(1)
    counts = torch.zeros(len(flat), 256, dtype=torch.int64, device=grey.device).scatter_add_(1, flat, torch.ones_like(flat))
    share = counts.cpu().double() / flat.shape[1]  # not every device has float64
    below = share.cumsum(1)
    mass = (share * torch.arange(256)).cumsum(1)
    between = (mass[:, -1:] * below - mass) ** 2 / (below * (1 - below)).clamp(min=1e-12)
    best = (between >= between.amax(1, keepdim=True) * (1 - 1e-9)).double()
    return ((best * torch.arange(256)).sum(1) / best.sum(1)).long().to(grey.device)


# ---- batches and masks ------------------------------------------------------------------------------------------------


def augment_batch(negative: Negative, images: Tensor) -> Tensor:
    """uint8 [N, 3, H, W] -> the same: a swap takes the whole batch, CutPaste one image after the other."""
    if isinstance(negative, SaliencySwap):
        return negative(images).as_subclass(Tensor)
    return torch.stack([negative(image) for image in images])


def with_mask(negative: Negative, image: Tensor) -> tuple[Tensor, Tensor]:
    """A negative and the mask of its change, uint8 {0, 1} [1, H, W]: both boxes of a swap, else the pixels that differ."""
    if isinstance(negative, SaliencySwap):
        sample = {"image": tv_tensors.Image(image), "mask": tv_tensors.Mask(torch.zeros_like(image[:1]))}
        out = negative(sample)
        return out["image"].as_subclass(Tensor), out["mask"].as_subclass(Tensor)
    out = negative(image)
    return out, (out != image).any(0, keepdim=True).to(torch.uint8)
