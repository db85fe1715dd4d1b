"""Variants of the saliency-guided swap for ablations, not in the library: other rules for the pair, softer seams."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision import tv_tensors

from cutswap_transforms import SaliencySwap, functional

CANDIDATES = 8
VISIBLE = 2.0  # mean change of a patch in gray levels of 255; a smaller one is invisible


class VariedSwap(SaliencySwap):
    """Draws eight swaps of one patch size, keeps the one that the rule prefers, and blends the patches in.

    Args:
        rule: "near", "far" (distance of the two boxes), "alike", "unlike" (mean difference of their pixels), or
            "visible" (the first that changes more than two gray levels), else "any".
        feather: width in pixels inside the patches' edges over which they fade into the image.
        jitter: each color channel of a patch is multiplied by a factor in [1 - jitter, 1 + jitter].

    Images are uint8 tensors [3, H, W] or [N, 3, H, W]. Everything else is as in SaliencySwap.
    """

    def __init__(self, *args: Any, rule: str = "any", feather: int = 0, jitter: float = 0.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if rule != "any" and rule not in RULES:
            raise ValueError(f"`rule` must be any, {', '.join(RULES)}, got {rule!r}")
        self.rule, self.feather, self.jitter = rule, feather, jitter

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        image = next(x for x in flat_inputs if isinstance(x, Tensor) and not isinstance(x, tv_tensors.Mask))
        images = image if image.ndim == 4 else image[None]
        pairs = torch.cat([self._chosen(x) for x in images.as_subclass(Tensor)])
        gain = 1 + self.jitter * (2 * torch.rand(len(pairs), 3, 1, 1, device=image.device) - 1)
        return {"pairs": pairs, "gain": gain}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        out = super().transform(inpt, params)
        if isinstance(inpt, tv_tensors.Mask) or not isinstance(inpt, Tensor) or not (self.feather or self.jitter):
            return out
        before, after = (x.as_subclass(Tensor).float().reshape(-1, *inpt.shape[-3:]) for x in (inpt, out))
        share = functional.patch_mask(params["pairs"], inpt.shape[-2:]).float()
        if self.feather:
            width = 2 * self.feather + 1
            share = share * F.avg_pool2d(share, width, 1, self.feather, count_include_pad=False)
        blended = before + share * (after * params["gain"] - before)
        return tv_tensors.wrap(blended.round().clamp(0, 255).to(torch.uint8).reshape(inpt.shape), like=inpt)

    def _chosen(self, image: Tensor) -> Tensor:
        """[1, S, 7]"""
        if self.rule == "any":
            return super().make_params([image])["pairs"]
        ranges = self.scale, self.ratio
        u = torch.rand(2).tolist()
        area = ranges[0][0] + u[0] * (ranges[0][1] - ranges[0][0])
        aspect = math.exp(math.log(ranges[1][0]) + u[1] * math.log(ranges[1][1] / ranges[1][0]))
        try:
            self.scale, self.ratio = (area, area), (aspect, aspect)  # otherwise "near" would prefer small patches
            drawn = [super(VariedSwap, self).make_params([image])["pairs"] for _ in range(CANDIDATES)]
        finally:
            self.scale, self.ratio = ranges
        return max(drawn, key=lambda pairs: RULES[self.rule](image, pairs))


def distance(pairs: Tensor) -> float:
    """Distance between the corners of the two boxes, in pixels; the mean over the swaps of an image [1, S, 7]."""
    swaps = pairs[0][pairs[0, :, 5] > 0].float()
    return float((swaps[:, 1:3] - swaps[:, 3:5]).norm(dim=1).mean())


def visible_change(image: Tensor, pairs: Tensor) -> float:
    return mean_change(image, functional.swap_patches(image, pairs), pairs)


def mean_change(image: Tensor, changed: Tensor, pairs: Tensor) -> float:
    """Mean absolute difference inside the boxes, in gray levels of 255."""
    inside = functional.patch_mask(pairs, image.shape[-2:])[0, 0].bool()
    return float((changed.float() - image.float()).abs().mean(0)[inside].mean())


RULES: dict[str, Callable[[Tensor, Tensor], float]] = {
    "near": lambda image, pairs: -distance(pairs),
    "far": lambda image, pairs: distance(pairs),
    "alike": lambda image, pairs: -visible_change(image, pairs),
    "unlike": visible_change,
    "visible": lambda image, pairs: min(visible_change(image, pairs), VISIBLE),  # the first of equals wins
}


def describe_swaps(swap: SaliencySwap, images: Tensor, object_maps: Callable[[Tensor], Tensor]) -> dict[str, float]:
    """Share of patches on the object (by their centers), share of negatives with hardly any change, and the mean change inside
    the boxes in gray levels.

    Args:
        images: uint8 [N, 3, H, W], one negative of each.
        object_maps: float images [N, 3, H, W] in [0, 1] -> [N, 1, H, W], 1 on the object.
    """
    objects = object_maps(images.float() / 255)[:, 0] > 0.5
    hits, changes = [], []
    for image, where in zip(images, objects, strict=True):
        params = swap.make_params([image])
        pairs = params["pairs"]
        for _, *corners, h, w in pairs[0][pairs[0, :, 5] > 0].tolist():
            hits += [float(where[t + h // 2, left + w // 2]) for t, left in (corners[:2], corners[2:])]
        changes.append(mean_change(image, swap.transform(image, params), pairs))
    faint = sum(change < VISIBLE for change in changes) / len(changes)
    return {"on_object": sum(hits) / len(hits), "faint": faint, "change": sum(changes) / len(changes)}
