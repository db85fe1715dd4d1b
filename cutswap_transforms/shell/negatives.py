"""The negative of each number: its image, its seed, its pictures. The images are taken in turn.

An image that cannot be read leaves its negatives, and their seeds, to the next image that can, so a rank need not know which
images of the others can be read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as tvf

from ..cache.precompute import progress
from ..draw import PatchPair
from ..seeds import negative_seed, own_seed
from ..swap import empty_mask, swaps_made
from ..transform import SaliencySwap
from .files import ImageFiles
from .messages import UserError

T = TypeVar("T")


class Negative(NamedTuple):
    """A negative: the index of its image; the image, the negative and the mask; pairs and whether it differs from its image."""

    which: int
    normal: Image.Image
    swap: Image.Image
    mask: Image.Image
    told: dict[str, Any]


class Negatives:
    """Makes the negative of a number; together with its settings and its images, the number decides everything."""

    def __init__(self, images: ImageFiles, keys: Sequence[str], swap: SaliencySwap, seed: int) -> None:
        self.images, self.keys, self.swap, self.seed = images, keys, swap, seed

    def make(self, number: int) -> Negative | None:
        """None if no image can be read."""
        turn, own = divmod(number, len(self.images))
        found = self._readable(own)
        if found is None:
            return None
        which, image = found
        with own_seed(negative_seed(self.seed, self.keys[own], turn)):
            params = self.swap.make_params([image])
        negative, mask = self.swap.transform(image, params), self.swap.transform(empty_mask(image), params)
        pairs = [PatchPair(*row)._asdict() for row in params["pairs"][0][swaps_made(params["pairs"][0])].tolist()]
        told = {"pairs": pairs, "changed": negative.tobytes() != image.tobytes()}
        return Negative(which, image, negative, tvf.to_pil_image(mask * 255), told)

    def _readable(self, which: int) -> tuple[int, Image.Image] | None:
        """The image of that index or, in a circle, the next one that can be read."""
        outcomes = self.images.outcomes.numpy()  # shared with other workers
        while outcomes[which] == 2 or not isinstance(image := self.images[which], Image.Image):
            left = np.flatnonzero(outcomes != 2)
            if not len(left):
                return None
            which = int(left[np.searchsorted(left, which) % len(left)])
        return which, image

    def each(self, written: Dataset[T], numbers: Iterable[int], count: int, num_workers: int) -> Iterator[T]:
        """The items of a data set of these negatives, in the order of their `count` numbers; workers make them.

        Raises:
            UserError: no image can be read; the data set then gives an item that is false.
        """
        own = torch.Generator()  # the loader would draw a seed from the global generator
        loader = DataLoader(written, batch_size=None, sampler=numbers, num_workers=min(num_workers, count), generator=own)
        for batch in progress(([item] for item in loader), count, "negatives") if count else ():
            if not batch[0]:
                raise UserError(f"none of the {len(self.images)} images tried could be read")
            yield batch[0]
