"""SaliencySwap: an image becomes a negative by swapping two patches of its salient region."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, cast

import numpy as np
import PIL.Image
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from . import functional as F
from ._guidance import Guidance, SaliencySource
from ._images import MeanStd, batch_size, check_sample, image_leaves, image_size, image_tensor, is_image, net_input
from ._precompute import precompute
from ._region_cache import count_levels, unpack
from ._sampling import NUMBERS, draw_pair, draw_size

_FUSED = -1  # the level that pairs of the fused map carry


class SaliencySwap(v2.Transform):
    """Swap two patches of the most salient region: a normal image becomes a negative that looks normal.

    Saliency maps of several levels are clustered; on a map, two pixels are drawn from the cluster of highest mean
    saliency and the boxes around them are swapped. The pixels of the image are permuted, nothing is blended, and the
    same pairs applied again restore it. Method: CutSwap (Qin, Gu, Yu, Zhang, arXiv 2311.18332); backbone, levels,
    number of clusters, sizes and sampling rule are choices of this library.

    All randomness comes from one `torch.rand` per call on the global generator of the image's device. A batch
    [N, C, H, W] gets N independent draws and equals a loop over its images.

    Args:
        saliency: a model's name for `LayerCAMExtractor` ("tiny" needs no download), an object with
            `native_maps(images) -> list of [N, h_l, w_l]`, or a callable that takes float images [N, 3, H, W] in [0, 1]
            and returns [N, L, h, w] or a list of [N, h_l, w_l].
        clustering: "kmeans", "sklearn", "opencv", a registered name, a callable points [P, D] -> labels [P], or an
            object with `fit_predict`.
        levels: "random" (one level is drawn per image), "all" (one swap per level, boxes disjoint; levels that do not
            fit are dropped), "fused" (one map: the mean of the min-max normalised levels), an index or indices (one
            swap each), fine to coarse.
        scale: range of a patch's area as a fraction of the image; a size that finds no room for two disjoint patches in
            the region is halved until it does.
        ratio: range of a patch's aspect, height/width, drawn log-uniformly.
        p: probability that an image is changed.
        return_mask: return `(image, tv_tensors.Mask)` for one bare image or batch; uint8 [1, H, W] or [N, 1, H, W] in
            {0, 1}.
        mask: "patch" marks both boxes, "changed" only pixels whose value changed.
        cache: where salient regions of images on the CPU are kept, by the values of the image: "memory" (this process,
            16 MB at most), a folder or `RegionCache` (shared by workers and runs), or None. Put deterministic steps
            such as Resize before this transform and random ones after it. A callable without a string attribute
            `fingerprint` is taken to be the same function for the life of the transform: pass None if it changes.
        normalized: (mean, std) if the transform stands after Normalize.

    Images are PIL images or tensors [C, H, W] or [N, C, H, W], plain or `tv_tensors.Image`: uint8, uint16, or floating
    point in [0, 1]. In a sample (dict, tuple, ...) all images get the same pairs, the first guides; of plain tensors the
    first alone is an image, and none is where a PIL image or `tv_tensors.Image` is (torchvision's rule). A `tv_tensors.Mask`
    gets 1 in the swapped region; everything else passes through. Type, dtype, device and PIL mode are kept.

    Raises:
        TypeError: no image in the sample; boxes, key points, videos or arrays in it; unsupported dtypes.
        ValueError: arguments out of range, images smaller than two disjoint patches or of unequal size, non-finite
            pixels, floats outside of [-0.25, 1.25] without `normalized`.

    >>> image = torch.arange(3 * 32 * 32).reshape(3, 32, 32).remainder(256).to(torch.uint8)
    >>> swap = SaliencySwap()
    >>> negative = swap(image)
    >>> negative.shape, bool((negative.flatten().sort()[0] == image.flatten().sort()[0]).all())
    (torch.Size([3, 32, 32]), True)
    >>> params = swap.make_params([image])
    >>> bool((swap.transform(swap.transform(image, params), params) == image).all())
    True
    """

    def __init__(
        self,
        saliency: Any = "tiny",
        clustering: Any = "kmeans",
        *,
        levels: str | int | Sequence[int] = "random",
        scale: tuple[float, float] = (0.002, 0.03),
        ratio: tuple[float, float] = (0.3, 3.3),
        p: float = 1.0,
        return_mask: bool = False,
        mask: str = "patch",
        cache: Any = "memory",
        normalized: MeanStd | None = None,
    ) -> None:
        super().__init__()
        _check_range("scale", scale, 1.0)
        _check_range("ratio", ratio, float("inf"))
        _check_probability(p)
        if mask not in ("patch", "changed"):
            raise ValueError(f"`mask` must be 'patch' or 'changed', got {mask!r}")
        self.levels = _checked_levels(levels)
        self.scale, self.ratio = (float(scale[0]), float(scale[1])), (float(ratio[0]), float(ratio[1]))
        self.p = float(p)
        self.return_mask, self.mask, self.normalized = bool(return_mask), mask, _checked_normalized(normalized)
        guidance = Guidance(saliency, clustering, cache, fused=self.levels == "fused", normalized=self.normalized)
        # Past nn.Module's bookkeeping: the net is no part of parameters(), state_dict(), repr() or train().
        self.__dict__["_guidance"] = guidance
        if guidance.num_levels is not None:
            self._chosen_levels(guidance.num_levels)  # indices out of range are told now, where that is known

    @property
    def saliency(self) -> SaliencySource:
        """The source of the maps: an object with `native_maps`."""
        return self._of_guidance.saliency

    @property
    def clustering(self) -> Any:
        """The clustering backend, points [P, D] -> labels [P]."""
        return self._of_guidance.clustering

    @property
    def cache(self) -> Any:
        """The store of salient regions, or None."""
        return self._of_guidance.cache

    @property
    def _of_guidance(self) -> Guidance:
        return cast(Guidance, self.__dict__["_guidance"])

    def forward(self, *inputs: Any) -> Any:
        if self.return_mask and not (len(inputs) == 1 and is_image(inputs[0])):
            kinds = ", ".join(type(x).__name__ for x in inputs)
            raise TypeError(
                f"`return_mask=True` takes one bare image or batch, got {kinds}; "
                "in a sample, put a tv_tensors.Mask of zeros beside the image instead"
            )
        return super().forward(*inputs)

    def check_inputs(self, flat_inputs: list[Any]) -> None:
        check_sample(flat_inputs)
        image = image_leaves(flat_inputs)[0]
        for leaf in flat_inputs:
            if isinstance(leaf, tv_tensors.Mask):
                _check_mask(leaf, image)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """All that is random: pairs of patches for every image of the batch.

        Args:
            flat_inputs: leaves of the sample; the first image guides.

        Returns:
            "pairs": int64 [N, S, 7] on the image's device, rows as `PatchPair`; height 0 = no swap. "size": the (H, W)
            that they hold for. With `mask="changed"` and a mask to fill, also "mask": uint8 [N, 1, H, W].
        """
        image = image_leaves(flat_inputs)[0]
        size, n = image_size(image), batch_size(image)
        device = image.device if isinstance(image, Tensor) else torch.device("cpu")
        if n == 0:
            return {"pairs": torch.zeros(0, 1, 7, dtype=torch.int64, device=device), "size": size}
        if size[0] * size[1] < 2:
            raise ValueError(f"`image` must have room for two disjoint patches, got (H, W) = {size}")
        u = torch.rand(n, 2 + self._swap_count(image) * NUMBERS, dtype=torch.float32, device=device)
        pairs = self._pairs_on_host(image, u) if device.type == "cpu" else self._pairs_on_device(image, u)
        params: dict[str, Any] = {"pairs": pairs, "size": size}
        if self.mask == "changed" and (self.return_mask or any(isinstance(x, tv_tensors.Mask) for x in flat_inputs)):
            params["mask"] = _changed(image, pairs)
        return params

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Apply `params` to one leaf: images are swapped, masks get 1 in the region, others pass. Draws nothing.

        Raises:
            ValueError: params that were drawn for an image of another size.
        """
        pairs: Tensor = params["pairs"]
        idle = pairs.device.type == "cpu" and not any(row[5] for rows in pairs.tolist() for row in rows)
        if isinstance(inpt, tv_tensors.Mask):
            return inpt if idle else _marked(inpt, self._region_mask(pairs, params, image_size(inpt)))
        if not is_image(inpt):
            return inpt
        if image_size(inpt) != params.get("size", image_size(inpt)):
            raise ValueError(f"`params` must be of an image of (H, W) = {image_size(inpt)}, got those of {params['size']}")
        out = inpt if idle else _swapped(inpt, pairs)
        if not self.return_mask:
            return out
        region = self._region_mask(pairs, params, image_size(inpt))
        batched = isinstance(inpt, Tensor) and inpt.ndim == 4
        return out, tv_tensors.Mask(region if batched else region[0], device=region.device)

    def precompute(
        self,
        dataset: Dataset[Any],
        batch_size: int = 64,
        num_workers: int = 0,
        device: torch.device | str | None = None,
    ) -> int:
        """Fill the cache with the regions of a data set's images, so that the first epoch is as fast as the others.

        What is there already is skipped, so an interrupted run goes on where it was; under `torchrun` (or in a process
        group) each rank takes its share.

        Args:
            dataset: a map-style data set that gives samples as they arrive at this transform: with the steps before it
                applied, without the swap itself.
            batch_size: images per pass of the net; images of unequal size are gathered by size.
            num_workers: loader workers that read and decode.
            device: where the net runs; by default the CPU.

        Returns:
            The number of images whose regions were computed.

        Raises:
            ValueError: `cache=None`, or a read-only cache.
            TypeError: a data set without a length.
        """
        return precompute(self._of_guidance, dataset, batch_size, num_workers, device)

    def as_anomaly_generator(self) -> AnomalyGenerator:
        """The swap as a module `x -> (augmented, mask)`, mask float [N, 1, H, W]: anomalib's contract of generators."""
        return AnomalyGenerator(self)

    def extra_repr(self) -> str:
        names = ("saliency", "clustering", "levels", "scale", "ratio", "p", "return_mask", "mask", "cache")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in (*names, "normalized"))

    # ---- salient regions -> patch pairs: a function of the uniform numbers ----------------------------------------

    def _swap_count(self, image: Any) -> int:
        if self.levels != "all":
            return 1 if isinstance(self.levels, str) else len(self.levels)
        guidance = self._of_guidance
        if guidance.num_levels is None:  # a callable's number of levels is known once it was asked
            guidance.native_maps(net_input(image, self.normalized)[:1])
        return cast(int, guidance.num_levels)

    def _chosen_levels(self, count: int) -> list[int] | None:
        """Levels to swap on, fine to coarse; None where one is drawn per image."""
        if self.levels == "random":
            return None
        if self.levels == "fused":
            return [0]
        if self.levels == "all":
            return list(range(count))
        for level in self.levels:
            if not -count <= int(level) < count:
                raise ValueError(f"`levels` must lie in [{-count}, {count - 1}] for {count} saliency maps, got {level}")
        chosen = [int(level) % count for level in self.levels]
        if len(set(chosen)) < len(chosen):
            raise ValueError(f"`levels` must be distinct, got {self.levels}, of which two are one of {count} saliency maps")
        return chosen

    def _pairs_on_host(self, image: Any, u: Tensor) -> Tensor:
        size, numbers = image_size(image), u.tolist()
        hits = [i for i, row in enumerate(numbers) if row[0] < self.p]
        rows = [[[0] * 7] * ((u.shape[1] - 2) // NUMBERS)] * len(numbers)
        for i, entry in zip(hits, self._of_guidance.entries(image, hits) if hits else (), strict=True):
            rows[i] = self._draw(entry, numbers[i], size)
        return torch.from_numpy(np.array(rows, dtype=np.int64))  # a third of the time of torch.tensor

    def _draw(self, entry: bytes, u: list[float], size: tuple[int, int]) -> list[list[int]]:
        levels = count_levels(entry)
        chosen = self._chosen_levels(levels)
        chosen = [min(int(u[1] * levels), levels - 1)] if chosen is None else chosen
        rows: list[list[int]] = []
        taken: list[tuple[int, int, int, int]] = []
        for s, level in enumerate(chosen):
            v = u[2 + s * NUMBERS : 2 + (s + 1) * NUMBERS]
            pair = draw_pair(unpack(entry, level), v[2:], draw_size(v, size, self.scale, self.ratio), size, taken)
            name = _FUSED if self.levels == "fused" else level
            rows.append([name, *(pair or (0, 0, 0, 0, 0, 0))])
            if pair:
                ta, la, tb, lb, h, w = pair
                taken += [(ta, la, h, w), (tb, lb, h, w)]
        return rows

    def _pairs_on_device(self, image: Tensor, u: Tensor) -> Tensor:
        """The same as `_draw` without reading anything back: every level's candidates for all images, then a choice."""
        size, n = image_size(image), len(u)
        regions = self._of_guidance.regions(net_input(image, self.normalized))
        chosen = self._chosen_levels(len(regions))
        rows: list[Tensor] = []
        for s in range((u.shape[1] - 2) // NUMBERS):
            v = u[:, 2 + s * NUMBERS : 2 + (s + 1) * NUMBERS]
            spots = v[:, 2:].reshape(n, F.CANDIDATES, 2, 3)
            if chosen is None:
                level = (u[:, 1].double() * len(regions)).long().clamp(max=len(regions) - 1)
                every = torch.stack([F.sample_pixel_pair(r, spots, size) for r in regions])  # [L, N, K, 2, 2]
                pixels = every.gather(0, level.reshape(1, n, 1, 1, 1).expand(1, n, F.CANDIDATES, 2, 2))[0]
            else:
                level = torch.full((n,), _FUSED if self.levels == "fused" else chosen[s], device=u.device)
                pixels = F.sample_pixel_pair(regions[chosen[s]], spots, size)
            side = F.patch_size(v[:, :2], size, self.scale, self.ratio)
            rows.append(F.patch_pair(pixels, side, size, level=level, taken=torch.stack(rows, 1) if rows else None))
        return torch.stack(rows, 1) * (u[:, 0] < self.p)[:, None, None]

    def _region_mask(self, pairs: Tensor, params: dict[str, Any], size: tuple[int, int]) -> Tensor:
        return cast(Tensor, params["mask"]) if "mask" in params else F.patch_mask(pairs, size)


class AnomalyGenerator(nn.Module):
    """`x -> (augmented, mask)`: images [N, C, H, W] in, the same and a float mask [N, 1, H, W] out; or without N both."""

    def __init__(self, swap: SaliencySwap) -> None:
        super().__init__()
        twin = SaliencySwap.__new__(SaliencySwap)
        twin.__dict__.update(swap.__dict__)
        twin.return_mask = True
        self.__dict__["swap"] = twin

    def forward(self, img: Tensor) -> tuple[Tensor, Tensor]:
        augmented, mask = self.__dict__["swap"](img)
        return augmented, mask.as_subclass(Tensor).to(torch.float32)


# ---- arguments ----------------------------------------------------------------------------------------------------


def _check_range(name: str, value: Any, top: float) -> None:
    try:
        low, high = (float(v) for v in value)
    except (TypeError, ValueError):
        raise TypeError(f"`{name}` must be two numbers (low, high), got {value!r}") from None
    if not 0 < low <= high <= top or high == float("inf"):
        bound = f"0 < low <= high <= {top:g}" if top < float("inf") else "0 < low <= high"
        raise ValueError(f"`{name}` must be {bound}, got {value!r}")


def _check_probability(p: Any) -> None:
    if isinstance(p, bool) or not isinstance(p, Real):
        raise TypeError(f"`p` must be a number in [0, 1], got {p!r}")
    if not 0 <= float(p) <= 1:
        raise ValueError(f"`p` must be a number in [0, 1], got {p!r}")


def _check_mask(mask: tv_tensors.Mask, image: Any) -> None:
    if image_size(mask) != image_size(image):
        raise ValueError(f"`sample` must hold masks of the image's size {image_size(image)}, got {list(mask.shape)}")
    n = batch_size(image)
    if n > 1 and (mask.ndim < 3 or mask.shape[0] != n):
        raise ValueError(f"`sample` must hold a mask for each of the {n} images, got {list(mask.shape)}")


def _checked_levels(levels: Any) -> str | tuple[int, ...]:
    if isinstance(levels, str):
        if levels not in ("random", "all", "fused"):
            raise ValueError(f"`levels` must be 'random', 'all', 'fused' or indices, got {levels!r}")
        return levels
    indices = (levels,) if isinstance(levels, Integral) else tuple(levels) if isinstance(levels, Sequence) else ()
    if (
        not indices
        or any(isinstance(i, bool) or not isinstance(i, Integral) for i in indices)
        or len(set(indices)) < len(indices)
    ):
        raise ValueError(f"`levels` must be 'random', 'all', 'fused' or distinct indices, got {levels!r}")
    return tuple(int(i) for i in indices)


def _checked_normalized(normalized: Any) -> MeanStd | None:
    if normalized is None:
        return None
    try:
        mean, std = (tuple(float(v) for v in part) for part in normalized)
    except (TypeError, ValueError):
        raise TypeError(f"`normalized` must be (mean, std), each a sequence of numbers, got {normalized!r}") from None
    if len(mean) != len(std) or not mean or not all(map(math.isfinite, mean + std)) or min(std) <= 0:
        raise ValueError(f"`normalized` must be (mean, std) of equal length, finite, with std > 0, got {normalized!r}")
    return mean, std


# ---- leaves -------------------------------------------------------------------------------------------------------


def _swapped(leaf: Any, pairs: Tensor) -> Any:
    if isinstance(leaf, PIL.Image.Image):
        return _swapped_pil(leaf, pairs[0].tolist())
    out = F.swap_patches(leaf.as_subclass(Tensor), pairs)
    return tv_tensors.wrap(out, like=leaf) if isinstance(leaf, tv_tensors.Image) else out


def _swapped_pil(image: PIL.Image.Image, rows: list[list[int]]) -> PIL.Image.Image:
    out = image.copy()  # keeps mode, palette and info
    for _, ta, la, tb, lb, h, w in rows:
        if h:
            a, b = (la, ta, la + w, ta + h), (lb, tb, lb + w, tb + h)
            patch = image.crop(a)
            out.paste(image.crop(b), a)
            out.paste(patch, b)
    return out


def _marked(mask: tv_tensors.Mask, region: Tensor) -> tv_tensors.Mask:
    plain = mask.as_subclass(Tensor)
    if region.shape[0] == 1 and plain.ndim < 4:
        region = region[0, 0] if plain.ndim == 2 else region[0]
    elif plain.ndim == 3:
        region = region[:, 0]
    out = torch.where(region.bool(), torch.ones((), dtype=plain.dtype, device=plain.device), plain)
    return cast(tv_tensors.Mask, tv_tensors.wrap(out, like=mask))


def _changed(image: Any, pairs: Tensor) -> Tensor:
    """uint8 [N, 1, H, W]: 1 where a pixel's value is another one after the swap, in the image's own mode."""
    if isinstance(image, PIL.Image.Image):
        bands = [np.asarray(x) for x in (image, _swapped_pil(image, pairs[0].tolist()))]
        changed = bands[0] != bands[1]
        return torch.from_numpy(changed.any(-1) if changed.ndim == 3 else changed)[None, None].to(torch.uint8)
    before = image_tensor(image)
    before = before if before.ndim == 4 else before[None]
    after = F.swap_patches(before, pairs)
    return (before != after).any(1, keepdim=True).to(torch.uint8)
