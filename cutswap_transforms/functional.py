"""The method as pure functions on batches, in the order of the data: maps, regions, pairs, swap, mask.

Nothing here draws random numbers, changes its inputs or waits for an accelerator. Where the method is random, a function
takes the uniform numbers `u` as an argument.
"""

from __future__ import annotations

from .draw import PatchPair, all_pairs
from .regions.cells import salient_regions
from .saliency.maps import layer_cam, normalize_maps
from .swap import patch_mask, swap_patches

__all__ = ["PatchPair", "all_pairs", "layer_cam", "normalize_maps", "patch_mask", "salient_regions", "swap_patches"]
