"""Hugging Face datasets: `set_transform`, `with_transform` and `map` give a mapping of lists, one entry per image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten
from torchvision import tv_tensors

from ..images import as_image, is_image
from ..swap import empty_mask
from ..transform import SaliencySwap
from .samples import own_swap

FOLLOWING = (PIL.Image.Image, tv_tensors.Image, tv_tensors.Mask)


class HuggingFaceSwap:
    """A function for `dataset.with_transform` or `dataset.map`, batched or not: every sample is swapped on its own.

    Within a sample the rules of `SaliencySwap` apply: the image in `column` guides (the first one of a list), and all
    other PIL images and `tv_tensors.Image` of the sample get the same pairs, so a mask stored as an image is swapped with
    its image. A `tv_tensors.Mask` gets 1 in the swapped area. Unchanged columns are returned as the same objects.

    Args:
        swap: by default `SaliencySwap()`.
        column: the column of the images, PIL or tensors.
        mask: the name of a new column for the masks, `tv_tensors.Mask` uint8 [1, H, W]; None for no masks.

    Raises:
        KeyError: the batch has no such column.
        TypeError: a value in it is not an image; boxes, key points, videos or arrays in other columns.
        ValueError: `mask` names an existing column; images of one sample have unequal size.
    """

    def __init__(self, swap: SaliencySwap | None = None, column: str = "image", mask: str | None = None) -> None:
        if mask == column:
            raise ValueError(f"`mask` must name a new column, got {mask!r}, which is that of the images")
        self.swap, self.column, self.mask = own_swap(swap), column, mask

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        if not isinstance(batch, Mapping):
            raise TypeError(f"`batch` must be a mapping of columns, got {type(batch).__name__}")
        if self.column not in batch:
            raise KeyError(f"`column` must be one of {', '.join(batch)}, got {self.column!r}")
        columns = dict(batch)
        if self.mask in columns:
            raise ValueError(f"`mask` must name a new column, got {self.mask!r}, which exists and would be overwritten")
        images = columns[self.column]
        several = isinstance(images, (list, tuple)) or (isinstance(images, Tensor) and images.ndim == 4)
        if not several or type(batch).__name__ == "LazyRow":  # as in `map` without `batched`
            return {**columns, **self._changed(columns)}
        rows = [{name: _entry(values, i, len(images)) for name, values in columns.items()} for i in range(len(images))]
        changed = [self._changed(row) for row in rows]
        masks = {name: [part[name] for part in changed] for name in (self.mask,) if name is not None}
        for name, values in columns.items():
            if any(name in part for part in changed):
                parts = [part.get(name, row[name]) for part, row in zip(changed, rows, strict=True)]
                columns[name] = torch.stack(parts) if isinstance(values, Tensor) else parts
        return {**columns, **masks}

    def _changed(self, sample: dict[str, Any]) -> dict[str, Any]:
        """What the swap changes in a sample, and its mask."""
        flat = {name: tree_flatten(sample[name]) for name in (self.column, *sample)}  # the image guides
        guides = flat[self.column][0]
        wrong = [x for x in guides if not is_image(x) and not isinstance(x, np.ndarray)]  # `draw` reports the remedy for arrays
        if wrong or not guides:
            got = type(wrong[0] if wrong else sample[self.column]).__name__
            raise TypeError(f"`column` {self.column!r} must hold PIL images or tensors, got {got}")
        others = [x for name, (leaves, _) in flat.items() if name != self.column for x in leaves]
        params = self.swap.draw([*map(as_image, guides), *others])

        def moved(name: str, leaf: object) -> Any:
            return self.swap.transform(leaf, params) if name == self.column or isinstance(leaf, FOLLOWING) else leaf

        updated = {}
        for name, (leaves, spec) in flat.items():
            after = [moved(name, leaf) for leaf in leaves]
            if any(a is not b for a, b in zip(after, leaves, strict=True)):
                updated[name] = tree_unflatten(after, spec)
        return updated if self.mask is None else {**updated, self.mask: self.swap.transform(empty_mask(guides[0]), params)}


def _entry(values: Any, index: int, count: int) -> Any:
    """The entry of one sample in a column; a column without one entry per sample belongs to all of them."""
    listed = isinstance(values, (list, tuple)) or (isinstance(values, (Tensor, np.ndarray)) and values.ndim > 0)
    return values[index] if listed and len(values) == count else values
