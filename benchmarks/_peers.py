"""The augmentations that SaliencySwap is compared with: CutPaste from the examples, a swap without guidance, Perlin noise."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from _images import example
from torch import Tensor

from cutswap_transforms.draw import HEAD, NUMBERS, first_pairs
from cutswap_transforms.swap import swap_leaf

_cutpaste = example("cutpaste")
CutPaste, CutPasteScar = _cutpaste.CutPaste, _cutpaste.CutPasteScar


class RandomSwap:
    """SaliencySwap without guidance: two disjoint boxes anywhere in the image, of the same sizes, swapped.

    It only draws boxes, copies the image and moves the patches: a lower bound.
    """

    anywhere = np.ones((1, 1, 1), bool)  # one level, one cell

    def __call__(self, image: Any) -> Any:
        u = torch.rand(1, HEAD + NUMBERS).tolist()[0]
        rows = first_pairs(self.anywhere, u, [0], _cutpaste.size_of(image), (0.002, 0.03), (0.3, 3.3))
        return swap_leaf(image, torch.from_numpy(np.array([rows])))


def perlin() -> Callable[[Tensor], Any] | None:
    """anomalib's Perlin noise generator, applied to every image; None without anomalib."""
    try:
        generators = importlib.import_module("anomalib.data.utils.generators")
    except ImportError:
        return None
    found: Callable[[Tensor], Any] = generators.PerlinAnomalyGenerator(probability=1.0)
    return found
