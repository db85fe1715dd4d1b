"""The method as pure functions on batches, in the order of the data: maps, regions, pairs, swap, mask.

Nothing here draws random numbers, changes its inputs or waits for an accelerator. Functions of random steps
take the uniform numbers `u` as an argument.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from .draw import PatchPair, draw_pairs
from .regions.cells import salient_regions
from .saliency.maps import layer_cam, normalize_maps
from .seeds import negative_seed
from .swap import patch_mask, swap_patches

__all__ = [
    "PatchPair",
    "draw_pairs",
    "layer_cam",
    "negative_seed",
    "normalize_maps",
    "patch_mask",
    "salient_regions",
    "swap_patches",
]

if not TYPE_CHECKING:  # otherwise mypy would accept any name

    def __getattr__(name: str) -> Any:
        if name != "all_pairs":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
        warnings.warn(
            "`functional.all_pairs` is deprecated and will be removed: draw_pairs(regions, u[:, 1:], ...) does the same, "
            "without the first column of `u`, which was not used",
            DeprecationWarning,
            stacklevel=2,
        )
        return lambda regions, u, *args, **kwargs: draw_pairs(regions, u[:, 1:], *args, **kwargs)
