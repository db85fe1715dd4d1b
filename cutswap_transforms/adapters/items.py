"""anomalib's items and batches, described without importing anomalib."""

from __future__ import annotations

from typing import Any, Protocol, TypeGuard

from torch import Tensor


class Item(Protocol):
    """anomalib's `ImageItem` and `ImageBatch`, with image, mask and label as attributes."""

    image: Tensor
    gt_mask: Tensor | None
    gt_label: Tensor | None

    def update(self, in_place: bool = True, **fields: Any) -> Any: ...


def is_item(sample: object) -> TypeGuard[Item]:
    """True for anomalib's `ImageItem` and `ImageBatch`."""
    return hasattr(sample, "gt_label") and hasattr(sample, "gt_mask")
