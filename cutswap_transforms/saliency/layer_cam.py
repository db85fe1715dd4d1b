"""LayerCAMExtractor: a transform that turns images into multilevel saliency maps."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Protocol

import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from ..arguments import MeanStd, checked_int, checked_mean_std
from ..images import ImageLike, check_not_vmapped, check_sample, eight_bits, net_input
from . import tiny
from .checks import WeightsLike
from .maps import normalize_maps, squashed
from .modes import real_tensors, without_autocast

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
_ALONE = "the saliency maps replace their image; apply the extractor to the image alone"
REFUSED = {
    "BoundingBoxes": _ALONE,
    "KeyPoints": _ALONE,
    "Video": "its frames are images of their own; pass them as a batch, tv_tensors.Image(video)",
}
SCHEMA = "layercam-2"  # part of the fingerprint: raise it when the same arguments give other maps


class Net(Protocol):
    """The net behind the extractor: LayerCAM without the autograd engine, and a digest."""

    @property
    def layers(self) -> tuple[str, ...]: ...
    @property
    def digest(self) -> str: ...
    @property
    def num_classes(self) -> int:
        """Number of logits; 0 if a callable computes the scores."""

    def maps(self, x: Tensor, classes: Tensor | None = None) -> list[Tensor]:
        """Normalized float32 images [N, 3, s, s] in channels_last -> L raw maps [N, h_l, w_l], float32, of the target or
        of the classes int64 [N]."""


def _plain_tensor(leaf: object) -> bool:
    return isinstance(leaf, Tensor) and not isinstance(leaf, tv_tensors.TVTensor)


class LayerCAMExtractor(v2.Transform):
    """Turn images into their multilevel saliency maps by LayerCAM.

    LayerCAM (Jiang et al., "LayerCAM: Exploring Hierarchical Class Activation Maps for Localization", IEEE TIP 2021) of
    level l is `relu(sum_k relu(dS/dA_lk) * A_lk)` with A_l the output of a layer and S the logit of a class. Each image
    leaf of a sample becomes a float32 tensor [L, H, W] (a batch: [N, L, H, W]) at the image's own size: the map of each
    level is upsampled bilinearly and min-max normalized to [0, 1]; a flat map becomes zeros. Everything else passes through.

    The maps are deterministic, and the autograd engine is not used, so forked workers on GPU machines are safe. The
    net is not a submodule: `parameters()`, `state_dict()`, `train()` and `to()` do not see it; it runs on the device of
    its input.

    Args:
        model: "tiny", a net of 0.94 M parameters that comes with the package; the name of a torchvision classification
            model; or your own `nn.Module` that maps [N, 3, s, s] to logits [N, classes]. Your module is copied at
            construction: it is not changed, and later changes to it have no effect. The copy runs in eval mode without
            your forward and backward hooks, and parametrizations are replaced by the weights they compute. DataParallel,
            DistributedDataParallel and torch.compile are unwrapped. A net whose maps depend on the other images of a batch
            runs on one image at a time.
        weights: "DEFAULT", a torchvision weights enum or its name, the path of a state_dict (read once: copies have its
            contents), or None for random weights (the same in every process). With your own module leave "DEFAULT".
        layers: names of the modules whose outputs are the levels, with or without wrapper prefixes. None: the last block
            of each resolution stage, at most four, from fine to coarse; in a transformer of one resolution the blocks at four
            evenly spaced depths; of "tiny" the first three of its four stages. Maps [N, K, h, w], [N, h, w, K] and tokens
            [N, T, K] are distinguished by running the net at two sizes, or by its patches; tokens before the patch tokens
            are left out.
        target: class index; None takes the arg-max class of each image; a callable maps the model's output (a dict, a
            tuple, embeddings, maps, ...) to scores [N]. It is traced at construction, with the model.
        input_size: images are squashed to (s, s) for the net, antialiased bilinear; at least 32. None: 128 for "tiny",
            the weights' crop size, else 224.
        mean_std: normalization of the input: "imagenet", ((mean, ...), (std, ...)) or None.
        precision: "fp32" or "bf16", which halves the time on CPUs with avx512_bf16 or amx_bf16.

    Attributes:
        layers: the names of the levels, given or found automatically.

    Raises:
        TypeError: an argument of a wrong type; a module that was compiled by torch.jit or cannot be copied; images inside
            `torch.vmap`.
        ValueError: an unknown model, layer or precision (near names are listed), a target that is not a class, layers
            without maps [N, K, h, w], a file of other weights, a module without memory for its weights (meta, lazy), one that
            cuts gradients off (no_grad, inference_mode, detach) or has no maps of a single image.
        FileNotFoundError: no file at the path `weights`.
        ConnectionError: weights that cannot be downloaded.

    Warns:
        UserWarning: a model whose Python code depends on values or on the batch size cannot be traced at construction;
            its maps are right, but need the autograd engine.

    >>> cam = LayerCAMExtractor()
    >>> cam(torch.zeros(3, 90, 70, dtype=torch.uint8)).shape
    torch.Size([3, 90, 70])
    >>> [tuple(m.shape) for m in cam.native_maps(torch.zeros(2, 3, 90, 70, dtype=torch.uint8))]
    [(2, 32, 32), (2, 16, 16), (2, 8, 8)]
    """

    _transformed_types = (_plain_tensor, tv_tensors.Image, PIL.Image.Image)

    def __init__(
        self,
        model: str | nn.Module = "tiny",
        *,
        weights: WeightsLike = "DEFAULT",
        layers: Sequence[str] | None = None,
        target: int | Callable[[Any], Tensor] | None = None,
        input_size: int | None = None,
        mean_std: str | MeanStd | None = "imagenet",
        precision: str = "fp32",
    ) -> None:
        super().__init__()
        if target is not None and not callable(target):
            target = checked_int("target", target, 0, kind="an int, a callable or None")
        input_size = input_size if input_size is None else checked_int("input_size", input_size, 32, kind="an int or None")
        if not isinstance(precision, str) or precision not in PRECISIONS:
            raise ValueError(f'`precision` must be "fp32" or "bf16", got {precision!r}')
        self._mean_std = _resolved_mean_std(mean_std)
        self._net, self.input_size = _resolve_net(model, weights, layers, target, input_size, PRECISIONS[precision])
        self.model = model if isinstance(model, str) else type(model).__name__
        self.weights = None if weights is None else str(weights)
        self.layers = self._net.layers
        self.target: Any = target
        self._by_callable = callable(target)
        self.mean_std = mean_std
        self.precision = precision

    def __getstate__(self) -> dict[str, Any]:
        """Without a callable target: the traced net contains it, and one from a notebook cannot be pickled."""
        return {**self.__dict__, "target": repr(self.target)} if self._by_callable else self.__dict__

    @property
    def fingerprint(self) -> str | None:
        """sha256 of all that the maps depend on: net and weights, layers, target, input size, mean_std and precision.

        None for your own module if it cannot be traced: nothing identifies what it computes."""
        if not self._net.digest:
            return None
        target = "callable" if self._by_callable else self.target  # its program is part of the net's digest
        parts = (SCHEMA, self._net.digest, self.layers, target, self.input_size, self._mean_std, self.precision)
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def native_maps(self, images: Tensor, target: Tensor | None = None) -> list[Tensor]:
        """Raw LayerCAM at the resolution of each level, for a batch in one pass.

        Args:
            images: [N, 3, H, W], uint8, uint16 or float in [0, 1] (clamped, see Raises), on any device.
            target: a class for each image, int64 [N] on the device of the images; None: as in the constructor.

        Returns:
            L tensors [N, h_l, w_l], float32, >= 0, not normalized, in the order of `layers`.

        Raises:
            TypeError: not a tensor, or another integer dtype.
            ValueError: wrong rank, non-finite pixels, floats outside [-0.25, 1.25]; a target that is not a class (on
                the CPU), or any if the constructor got a callable.
        """
        if not isinstance(images, Tensor):
            raise TypeError(f"`images` must be a tensor [N, 3, H, W], got {type(images).__name__}")
        check_not_vmapped([images])
        if images.ndim != 4 or 0 in images.shape[2:]:
            raise ValueError(f"`images` must have shape [N, 3, H, W], got {list(images.shape)}")
        if target is not None:
            self._check_classes(target, len(images))
        if len(images) == 0:
            return [m[:0] for m in self.native_maps(images.new_zeros(1, *images.shape[1:]))]
        with torch.no_grad(), without_autocast(images.device.type):
            return self._net.maps(self._prepared(net_input(images)), target)

    def _check_classes(self, target: Tensor, n: int) -> None:
        if not isinstance(target, Tensor) or target.dtype != torch.int64:
            got = target.dtype if isinstance(target, Tensor) else type(target).__name__
            raise TypeError(f"`target` must be a tensor int64 [N], a class for each image, got {got}")
        if target.shape != (n,):
            raise ValueError(f"`target` must have shape [{n}], a class for each image, got {list(target.shape)}")
        if not self._net.num_classes:
            raise ValueError("`target` must be None if the constructor got a callable, which has no classes")
        if target.device.type == "cpu" and n and not 0 <= int(target.min()) <= int(target.max()) < self._net.num_classes:
            classes = self._net.num_classes
            raise ValueError(f"`target` must be in [0, {classes - 1}] for {classes} classes, got {target.tolist()}")

    def check_inputs(self, flat_inputs: list[Any]) -> None:
        check_sample(flat_inputs, REFUSED)

    def transform(self, inpt: ImageLike, params: dict[str, Any]) -> Tensor:
        # A tensor stays as it is: `native_maps` makes it the net's input, with one pass over its values.
        images = inpt.as_subclass(Tensor) if isinstance(inpt, Tensor) else net_input(inpt)
        images = images if images.ndim == 4 else images[None]
        size = list(images.shape[-2:])
        with torch.no_grad():
            # Also normalized before upsampling, whose rounding would make a flat map uneven.
            levels = [normalize_maps(m)[:, None] for m in self.native_maps(images)]
            maps = [F.interpolate(m, size=size, mode="bilinear", align_corners=False) for m in levels]
            result = _stretched(torch.cat(maps, 1))  # [N, L, H, W]
        return result if isinstance(inpt, Tensor) and inpt.ndim == 4 else result[0]

    def overlay(self, image: ImageLike, level: int | None = None) -> PIL.Image.Image:
        """The colored saliency map of a single image over the gray image: all levels side by side, or one level.

        Raises:
            TypeError: a level that is not an int.
            ValueError: a batch, or a level out of range.
        """
        from ..preview.panels import heat_map, heat_maps, picture  # training does not need the drawing code

        self.check_inputs([image])
        x = eight_bits(image).cpu()
        if len(x) != 1:
            raise ValueError(f"`image` must be a single image, got a batch of {len(x)}")
        maps, photo = self.native_maps(x), picture(x[0])
        if level is None:
            return heat_maps(photo, maps)
        level = checked_int("level", level, kind="an int or None")
        if not -len(maps) <= level < len(maps):
            raise ValueError(f"`level` must be in [{-len(maps)}, {len(maps) - 1}] for {len(maps)} levels, got {level}")
        return heat_map(photo, maps[level])

    def _prepared(self, x: Tensor) -> Tensor:
        """uint8 or [0, 1] images [N, 3, H, W] -> normalized float32 [N, 3, s, s] in channels_last."""
        top = 1.0 if x.is_floating_point() else 255.0
        # uint8 resizing does not depend on the layout and is faster unconverted; floats would round in another order.
        x = x if x.dtype == torch.uint8 else x.contiguous(memory_format=torch.channels_last)
        x = squashed(x, self.input_size)
        scale, shift = _scale_and_shift(*self._mean_std, top, x.device)
        return torch.addcmul(shift, x, scale).contiguous(memory_format=torch.channels_last)


@lru_cache(maxsize=64)  # cached, because each copy to an accelerator would wait for it
def _scale_and_shift(
    mean: tuple[float, ...], std: tuple[float, ...], top: float, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Normalization of pixels in [0, top] as x * scale + shift, each [1, 3, 1, 1]."""
    with real_tensors():
        m, s = (torch.tensor(v, device=device, dtype=torch.float32).reshape(1, 3, 1, 1) for v in (mean, std))
        return 1 / (top * s), -m / s


def _stretched(maps: Tensor) -> Tensor:
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return (maps - low) / torch.where(high == low, 1.0, high - low)


def _resolve_net(
    model: str | nn.Module,
    weights: WeightsLike,
    layers: Sequence[str] | None,
    target: int | Callable[[Any], Tensor] | None,
    size: int | None,
    dtype: torch.dtype,
) -> tuple[Net, int]:
    if isinstance(model, str) and model == "tiny":
        if weights is not None and not isinstance(weights, (str, os.PathLike)):
            raise TypeError(f'`weights` of "tiny" must be "DEFAULT", a path or None, got {weights!r}')
        if callable(target):
            raise TypeError('`target` of "tiny" must be a class index or None, because it returns only logits')
        weights = weights if weights is None else os.fspath(weights)
        return tiny.TinyCAM(weights, layers=layers, target=target, dtype=dtype), size or tiny.INPUT_SIZE
    from .traced.nets import build_net  # "tiny" needs neither tracing nor the model zoo

    return build_net(model, weights, layers, target, size, dtype)


def _resolved_mean_std(mean_std: str | MeanStd | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if mean_std is None:
        return (0.0,) * 3, (1.0,) * 3
    if isinstance(mean_std, str) and mean_std == "imagenet":
        return IMAGENET
    return checked_mean_std("mean_std", mean_std, 3, '"imagenet", None or ')
