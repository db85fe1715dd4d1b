"""anomalib: negatives in the training batches, with masks and labels.

A transform in `train_augmentations` sees only the image, so anomalib would label every negative as normal. A callback sees
the batch. It runs before anomalib's own pre-processor, which normalizes the images.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback

from ..transform import SaliencySwap
from .items import is_item
from .samples import own_swap, swapped_fields


class AnomalibSwap(Callback):
    """Turn a share of each training batch into negatives: `Engine(callbacks=[AnomalibSwap()])`.

    `batch.image` is swapped, and `batch.depth_map` with it; `batch.gt_mask` gets 1 in the swapped area and `batch.gt_label`
    becomes True for swapped images. Missing masks and labels are created. It is for models that learn from labels or
    masks. Do not use it for one-class models (PatchCore, PaDiM and others that assume every training image to be
    normal).

    Args:
        swap: by default `SaliencySwap(p=0.5)`, so that half of the images stay normal.

    Raises:
        TypeError: `swap` is not a SaliencySwap; a batch of videos, or one that is not anomalib's.
        TypeError, ValueError: as `SaliencySwap`, also for a depth map, a mask or labels that do not match the images.
    """

    def __init__(self, swap: SaliencySwap | None = None) -> None:
        self.swap = own_swap(swap, p=0.5)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if not is_item(batch):
            raise TypeError(f"`batch` must be an item or a batch of anomalib, such as ImageBatch, got {type(batch).__name__}")
        batch.update(**swapped_fields(self.swap, batch))
