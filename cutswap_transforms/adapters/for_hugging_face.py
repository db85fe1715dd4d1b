"""Hugging Face datasets: `set_transform` and `with_transform` give a dict of lists, one entry per image."""

from __future__ import annotations

from typing import Any

from .._images import is_image
from ..transform import SaliencySwap, empty_mask


class HuggingFaceSwap:
    """A function for `dataset.with_transform`: every image of the batch is swapped on its own.

    Args:
        swap: by default `SaliencySwap()`.
        column: the column of the images, PIL or tensors.
        mask: the name of a new column for the masks, `tv_tensors.Mask` uint8 [1, H, W]; None for no masks.

    Raises:
        KeyError: the batch has no such column.
        TypeError: a value in it is no image.
    """

    def __init__(self, swap: SaliencySwap | None = None, column: str = "image", mask: str | None = None) -> None:
        self.swap, self.column, self.mask = swap or SaliencySwap(), column, mask

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        if self.column not in batch:
            raise KeyError(f"`column` must be one of {', '.join(batch)}, got {self.column!r}")
        wrong = next((image for image in batch[self.column] if not is_image(image)), self)
        if wrong is not self:
            raise TypeError(f"`column` {self.column!r} must hold PIL images or tensors, got {type(wrong).__name__}")
        found = [self.swap((image, empty_mask(image))) for image in batch[self.column]]
        columns = dict(zip((self.column, self.mask), zip(*found, strict=True), strict=True)) if found else {}
        return {**batch, **{name: list(values) for name, values in columns.items() if name is not None}}
