"""SwapViews: an image and its negatives as one tuple, ready for a training loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchvision import tv_tensors

from .images import ImageLike, as_image, is_image


class SwapViews(nn.Module):
    """`image -> (image, t1(image), t2(image), ...)`: the views that a self-supervised head learns to distinguish.

    Plain tensors become `tv_tensors.Image`, so that later v2 transforms treat every view alike (with the same random
    parameters, as torchvision does for all images of a sample). If all views have the same Tensor subclass, they keep it,
    and later v2 transforms treat only the first as an image: put v2.ToImage() in front to treat all alike.

    Args:
        transforms: callables image -> image, at least one.

    Raises:
        TypeError: the input is not an image, or a transform is not callable.

    >>> views = SwapViews(lambda image: image.flip(-1), lambda image: image.flip(-2))
    >>> batch = [views(torch.rand(3, 8, 8)) for _ in range(5)]
    >>> images, labels = SwapViews.collate(batch)
    >>> images.shape, labels.tolist()
    (torch.Size([15, 3, 8, 8]), [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2])
    """

    def __init__(self, *transforms: Callable[[Any], Any]) -> None:
        super().__init__()
        wrong = [t for t in transforms if not callable(t)]
        if wrong or not transforms:
            raise TypeError(f"`transforms` must be one or more callables image -> image, got {wrong or 'none'}")
        self.transforms = transforms

    def forward(self, *inputs: Any) -> tuple[Any, ...]:
        if len(inputs) != 1:
            raise TypeError(f"`SwapViews` takes one image, got {len(inputs)} inputs; labels and masks do not follow views")
        image = inputs[0]
        if not is_image(image):
            raise TypeError(f"`image` must be a PIL image or a tensor, got {type(image).__name__}")
        made = (t(image) for t in self.transforms)
        # A transform that changes nothing may return the image or share its memory; views must not.
        views = (image, *(_copy(v) if _shares(v, image) else v for v in made))
        kinds = set(map(type, views))
        return views if len(kinds) == 1 and Tensor not in kinds else tuple(map(as_image, views))

    def extra_repr(self) -> str:
        return ", ".join(repr(t) for t in self.transforms)

    @staticmethod
    def collate(batch: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """Stack views for a loader: all first views, then all second views, and so on, with the view as label.

        Args:
            batch: N samples, each a tuple of k views [C, H, W], or (views, target) as in labeled data sets;
                the target is dropped.

        Returns:
            images [k*N, C, H, W] view-major, labels int64 [k*N] = arange(k).repeat_interleave(N).

        Raises:
            TypeError: samples that are not tuples, or views that are not image tensors.
            ValueError: an empty batch, or views that differ in number, shape or dtype.
        """
        samples = [_views_of(sample) for sample in batch]
        counts = {len(views) for views in samples}
        if len(counts) != 1 or counts == {0}:
            raise ValueError(f"`batch` must hold samples with the same number of views, got {sorted(counts) or 'none'}")
        forms = {(tuple(view.shape), view.dtype) for views in samples for view in views}
        if len(forms) > 1:
            listed = ", ".join(sorted(f"{list(shape)} of {dtype}" for shape, dtype in forms))
            raise ValueError(f"`batch` must hold views of one shape and dtype, got {listed}; resize and convert them first")
        k, n = counts.pop(), len(samples)
        images = torch.stack([views[i].as_subclass(Tensor) for i in range(k) for views in samples])
        return images, torch.arange(k, device=images.device).repeat_interleave(n)


def _views_of(sample: object) -> Sequence[Tensor]:
    """The views of a sample (v1, v2, ...) or (views, target), checked."""
    views = sample[0] if isinstance(sample, (tuple, list)) and sample and isinstance(sample[0], (tuple, list)) else sample
    if not isinstance(views, (tuple, list)):
        remedies = {dict: '; pass [sample["image"] for sample in batch]', type(None): "; leave such samples out"}
        kind = type(views)
        raise TypeError(f"`batch` must hold tuples of views, or (views, target), got {kind.__name__}{remedies.get(kind, '')}")
    for view in views:
        if isinstance(view, (tuple, list, tv_tensors.Mask)):
            raise TypeError(
                "`batch` must hold views as image tensors, got a view with its mask; "
                "SwapViews takes transforms without `return_mask`, and masks are stacked separately"
            )
        if not (isinstance(view, Tensor) and is_image(view)):
            hint = "; put v2.ToImage() before" if is_image(view) else ""
            raise TypeError(f"`batch` must hold views as image tensors, got {type(view).__name__}{hint}")
    return views


def _shares(a: object, b: object) -> bool:
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        return a is b
    return a is b or a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr() != 0


def _copy(image: ImageLike) -> ImageLike:
    if isinstance(image, tv_tensors.TVTensor):
        return cast(Tensor, tv_tensors.wrap(image.as_subclass(Tensor).clone(), like=image))
    return image.clone() if isinstance(image, Tensor) else image.copy()
