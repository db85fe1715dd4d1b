"""albumentations 2.0 and AlbumentationsX: the swap as a transform for image and mask, seeded by its Compose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import albumentations as A
import numpy as np
import numpy.typing as npt
import torch
from torchvision import tv_tensors

from ..cache.store import RegionCache
from ..images import refusal
from ..seeds import own_seed
from ..swap import mark_leaf, swap_patches
from ..transform import SaliencySwap
from .samples import own_swap

_REFUSED = {
    "bboxes": "BoundingBoxes",
    "keypoints": "KeyPoints",
    **dict.fromkeys(("volume", "volumes", "mask3d", "masks3d"), "Video"),
}
_PLAIN = ("levels", "scale", "ratio", "p", "grid", "region", "roi", "return_mask", "normalized")


Array: TypeAlias = npt.NDArray[Any]  # [H, W] or [H, W, C]
Pairs: TypeAlias = list[list[list[int]]]  # [1, S, 7], rows as `PatchPair`


class AlbumentationsSwap(A.DualTransform):
    """`SaliencySwap` for albumentations: images [H, W, C] are swapped, masks [H, W] or [H, W, C] get 1 in the swapped area.

    The random numbers come from the generator of the transform, so `Compose(..., seed=0)` fixes them. All images of a call
    (`image`, `images`, additional targets) get the same pairs, and the first guides. `A.save` and `A.load` work if the
    arguments of the swap are names and numbers; pickle others.

    Args:
        swap: by default `SaliencySwap()`, or its arguments as a dict; the probability is `p` here, not that of the swap.
        p: probability of a swap.

    Raises:
        TypeError: bounding boxes, key points or volumes; images or masks that are not arrays.
        ValueError: images or masks of unequal size; see also `SaliencySwap`.
    """

    _targets = (A.core.type_definitions.Targets.IMAGE, A.core.type_definitions.Targets.MASK)

    def __init__(self, swap: SaliencySwap | Mapping[str, Any] | None = None, p: float = 1.0) -> None:
        super().__init__(p=p)
        self.swap = SaliencySwap(**swap) if isinstance(swap, Mapping) else own_swap(swap)

    @property
    def targets(self) -> dict[str, Any]:
        """AlbumentationsX leaves `images` and `masks` out, so they would pass unchanged."""
        return {**super().targets, "images": self.apply_to_images, "masks": self.apply_to_masks}

    # Checked before the probability is drawn, so that errors do not depend on it.
    if hasattr(A.DualTransform, "apply_in_invocation"):  # AlbumentationsX, whose Compose does not use __call__

        def apply_in_invocation(self, *args: Any, **kwargs: Any) -> Any:
            self._checked(kwargs)
            return super().apply_in_invocation(*args, **kwargs)
    else:

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            self._checked(kwargs)
            return super().__call__(*args, **kwargs)

    def _checked(self, data: Mapping[str, Any]) -> torch.Tensor:
        """The first image of a call; everything in it is checked."""
        images: list[Any] = []
        masks: list[Any] = []
        for name, value in data.items():
            target = self._additional_targets.get(name, name)
            if target in _REFUSED and value is not None:
                raise refusal(_REFUSED[target])
            for kind, group in (("image", images), ("mask", masks)):
                if target in (kind, f"{kind}s") and value is not None:
                    parts = [value] if target == kind else list(value)
                    for part in parts:
                        _check_array(name, part)
                    group += parts
        sizes = {part.shape[:2] for part in (*images, *masks)}
        if len(sizes) > 1:
            raise ValueError(f"`image`, `images` and masks must be of one size, got (H, W) {sorted(sizes)}")
        planes = [_planes(image) for image in images[:1]]
        self.swap.check_inputs(planes)
        return planes[0]

    def _pairs(self, data: Mapping[str, Any], generator: np.random.Generator) -> Pairs:
        image = self._checked(data)
        with own_seed(int(generator.integers(2**63))):
            pairs: Pairs = self.swap.make_params([image])["pairs"].tolist()  # a list, so that replays can be saved as JSON
        return pairs

    if hasattr(A.DualTransform, "sample_parameters"):  # AlbumentationsX, which rejects the other name

        def sample_parameters(self, params: Any, data: Any, targets: Any, sampling: Any) -> Any:
            from albumentations.core.transform_params import SampledParams

            return SampledParams(params={"pairs": self._pairs(data, sampling.random_generator)})
    else:

        def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
            return {"pairs": self._pairs(data, self.random_generator)}

    def apply(self, img: Array, pairs: Pairs, **params: Any) -> Array:
        return _pixels(swap_patches(_planes(img), torch.tensor(pairs)), img)

    def apply_to_images(self, images: Array | list[Array], pairs: Pairs, **params: Any) -> Array | list[Array]:
        return _like(images, [self.apply(image, pairs) for image in images])

    def apply_to_mask(self, mask: Array, pairs: Pairs, **params: Any) -> Array:
        return _pixels(mark_leaf(tv_tensors.Mask(_planes(mask)), torch.tensor(pairs)).as_subclass(torch.Tensor), mask)

    def apply_to_masks(self, masks: Array | list[Array], pairs: Pairs, **params: Any) -> Array | list[Array]:
        return _like(masks, [self.apply_to_mask(mask, pairs) for mask in masks])

    def get_transform_init_args_names(self) -> tuple[str, ...]:
        return ("swap",)

    def to_dict_private(self) -> dict[str, Any]:
        return {**super().to_dict_private(), "swap": _arguments(self.swap)}

    def get_dict_with_id(self) -> dict[str, Any]:
        """For replays in memory, which also work for swaps that cannot be saved."""
        try:
            config: dict[str, Any] = super().get_dict_with_id()
        except TypeError:
            config = {**super().to_dict_private(), "id": id(self)}
        return config


def _check_array(name: str, part: object) -> None:
    if not isinstance(part, np.ndarray):
        raise TypeError(
            f"`{name}` must be a numpy.ndarray [H, W] or [H, W, C], got {type(part).__name__}; SaliencySwap itself takes PIL "
            "images and tensors"
        )
    if part.ndim not in (2, 3):
        raise ValueError(f"`{name}` must have shape [H, W] or [H, W, C], got {list(part.shape)}")


def _planes(image: Array) -> torch.Tensor:
    """[H, W] or [H, W, C] of NumPy -> tensor [C, H, W]."""
    array = np.require(image, requirements=("C", "W"))  # torch has no negative strides and warns of read-only arrays
    return torch.from_numpy(array if array.ndim == 3 else array[..., None]).movedim(-1, 0)


def _pixels(image: torch.Tensor, like: Array) -> Array:
    return image.movedim(0, -1).contiguous().numpy().reshape(like.shape)


def _like(before: Array | list[Array], after: list[Array]) -> Array | list[Array]:
    """A stack if the input was one, else a list."""
    return np.stack(after) if isinstance(before, np.ndarray) and after else after


def _arguments(swap: SaliencySwap) -> dict[str, Any]:
    """Arguments of an equal swap, as plain data."""
    cache = str(swap.cache.folder) if isinstance(swap.cache, RegionCache) else swap.cache and "memory"
    arguments = {**swap._given, "cache": cache, **{name: getattr(swap, name) for name in _PLAIN}}
    objects = [name for name in swap._given if not isinstance(arguments[name], str)]
    objects += [] if isinstance(swap.roi, (str, type(None))) else ["roi"]
    if type(swap) is not SaliencySwap or objects:
        got = ", ".join(f"{name}={arguments[name]!r}" for name in objects) or f"a {type(swap).__name__}"
        raise TypeError(f"`swap` must be a SaliencySwap of names and numbers to be written to a file, got {got}; pickle it")
    return {name: _listed(value) for name, value in arguments.items()}


def _listed(value: object) -> object:
    return [_listed(x) for x in value] if isinstance(value, (tuple, list)) else value
