"""SaliencySwap: swap two patches of an image's salient region to make a negative."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from .adapters.items import is_item
from .adapters.samples import AnomalyGenerator, swapped_fields, warn_of_lists
from .arguments import (
    MeanStd,
    check_tensor,
    checked_bool,
    checked_int,
    checked_levels,
    checked_mean_std,
    checked_probability,
    checked_range,
)
from .cache.entry import Regions
from .cache.memory import MemoryCache
from .cache.precompute import holds, precompute
from .cache.store import RegionCache
from .draw import HEAD, NUMBERS, draw_pairs, first_pairs
from .images import ImageLike, batch_size, check_sample, image_leaves, image_size, is_image
from .regions.clustering import Clustering, ClusteringLike
from .regions.finder import CacheLike, Lookup, RegionFinder
from .regions.roi import GivenRegion, Inside, RoiLike, checked_roi, inside_of, sample_leaves, with_given_region
from .saliency.source import SaliencyLike, SaliencySource
from .swap import HEIGHT, empty_mask, mark_leaf, swap_in_pil, swap_leaf
from .views import SwapViews


class SaliencySwap(v2.Transform):
    """Swap two patches of the salient region: a normal image becomes a synthetic anomaly that keeps its local appearance.

    Each image is divided into cells of saliency and color, one set per level of the saliency net. The cells are
    clustered; the region of a level is the union of the clusters with high mean saliency. Two pixels of a
    region are drawn, and the boxes around them are swapped. The pixels of the image are permuted, nothing is blended,
    and applying the same pairs again restores it. Method: CutSwap (Qin, Gu, Yu, Zhang, arXiv 2311.18332); backbone,
    levels, cells, number of clusters, sizes and sampling rule are choices of this library.

    All randomness comes from one `torch.rand` per call on the global generator of the image's device. A batch
    [N, C, H, W] gets N independent draws and equals a loop over its images.

    Args:
        saliency: a model's name for `LayerCAMExtractor` ("tiny" needs no download), an object with
            `native_maps(images uint8 [N, 3, H, W]) -> list of [N, h_l, w_l]`, or a callable that takes float images
            [N, 3, H, W] in [0, 1] and returns [N, L, h, w] or a list of [N, h_l, w_l]. A map of two values is a mask: it
            is used as the region.
        clustering: "kmeans", "sklearn", "opencv", a `KMeans`, a callable points [P, 4] -> labels [P], or an object with
            `fit_predict`. The columns are saliency in [0, 1] and three opponent colors; the label -1 is noise.
        levels: "all" (one swap per level, boxes disjoint; levels that do not fit are dropped), "random" (one swap, on a
            level drawn for each image), an index or indices (one swap each), fine to coarse.
        scale: range of the area of a patch as a fraction of the image, shared among the swaps of an image: each of three gets
            a third, so that together they change as much as one; a size without room for two disjoint patches in the
            region is halved until they fit.
        ratio: range of a patch's aspect, height / width, drawn log-uniformly.
        p: probability that an image is changed.
        grid: number of cells along each side of the image, 2 to 255.
        region: the clusters that form the salient region of a map: "salient", all with mean saliency at or above the
            midpoint between the highest and the lowest mean, so an object of several colors is one region; "top", only
            the one with the highest mean.
        roi: where images may be changed: a mask (array or tensor [H, W], above zero = inside; PIL image, not black = inside)
            for all images, resized to each of them, or the key of a `tv_tensors.Mask` in each sample, a dict, which passes
            unchanged. Cells with less than half inside are neither clustered nor drawn from, and the centers of both
            patches are inside. None: everywhere.
        return_mask: return `(image, tv_tensors.Mask)` for one bare image or batch; uint8 [1, H, W] or [N, 1, H, W] in
            {0, 1}.
        cache: where the regions of images on the CPU are stored, keyed by pixel values: "memory" (this process, 16 MB at most,
            shared by transforms with equal settings, freed with the last of them), a folder or `RegionCache` (shared by
            workers and runs), or None. Its `hits` and `misses` count the look-ups of this process. Put deterministic steps
            such as Resize before this transform and random ones after it. A callable without a string attribute
            `fingerprint` is assumed not to change during the life of the transform: pass None if it does.
        normalized: (mean, std) if the transform comes after Normalize.

    Images are PIL images or tensors [C, H, W] or [N, C, H, W], plain or `tv_tensors.Image`: uint8, uint16, or floating
    point in [0, 1]. The method sees 8 bits of each; the swap moves the original pixels. In a sample (dict, tuple, ...)
    all images get the same pairs, the first guides; only the first plain tensor is an image, and none is if the sample has
    a PIL image or `tv_tensors.Image` (torchvision's rule). A `tv_tensors.Mask` gets 1 in the swapped area; everything
    else passes through. Type, dtype, device and PIL mode are kept, subclasses of Tensor as in torchvision's kernels. For
    items and batches of anomalib, image, depth map, mask and label are updated. A Hugging Face batch, a dict of lists, is
    one sample here, with a warning.

    Raises:
        TypeError: no image in the sample; boxes, key points, videos or arrays in it; unsupported dtypes.
        ValueError: arguments out of range, images smaller than two disjoint patches or of unequal size, non-finite
            pixels, floats outside [-0.25, 1.25] without `normalized`, a `roi` without a cell of the grid.

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
        saliency: SaliencyLike = "tiny",
        clustering: ClusteringLike = "kmeans",
        *,
        levels: str | int | Sequence[int] = "all",
        scale: tuple[float, float] = (0.002, 0.03),
        ratio: tuple[float, float] = (0.3, 3.3),
        p: float = 1.0,
        grid: int = 24,
        region: str = "salient",
        roi: RoiLike | None = None,
        return_mask: bool = False,
        cache: CacheLike = "memory",
        normalized: MeanStd | None = None,
    ) -> None:
        super().__init__()
        self.scale, self.ratio = checked_range("scale", scale, 1.0), checked_range("ratio", ratio, float("inf"))
        self.levels, self.p = checked_levels(levels), checked_probability(p)
        self.return_mask = checked_bool("return_mask", return_mask)
        self.normalized = None if normalized is None else checked_mean_std("normalized", normalized)
        self.roi = checked_roi(roi)
        if return_mask and isinstance(self.roi, str):
            raise ValueError(
                f"`return_mask` must be False if `roi` is a key, {roi!r}: it takes bare images; put a tv_tensors.Mask of "
                "zeros beside the image instead"
            )
        self._given = {"saliency": saliency, "clustering": clustering}  # names, for adapters that write the swap to a file
        # The finder is not an nn.Module, so the net is not part of parameters(), state_dict() or train().
        self._finder = RegionFinder(saliency, clustering, grid, region, cache, self.normalized)
        if self._finder.num_levels is not None:  # L is known: check the indices now
            self._chosen_levels(self._finder.num_levels)

    @property
    def saliency(self) -> SaliencySource:
        """The saliency source: an object with `native_maps`."""
        return self._finder.saliency

    @property
    def clustering(self) -> Clustering:
        """The clustering backend, points [P, 4] -> labels [P]."""
        return self._finder.clustering

    @property
    def grid(self) -> int:
        """Cells along each side of the image."""
        return self._finder.grid

    @property
    def region(self) -> str:
        """Which clusters form the region: "salient" or "top"."""
        return self._finder.region

    @property
    def cache(self) -> MemoryCache | RegionCache | Any:
        """The cache of regions, whose `hits` and `misses` count the look-ups of this process, or None."""
        # Any in place of None, as in typeshed: callers who pass a cache need not check for None.
        return self._finder.cache

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # a compiled model breaks its graph here
    def forward(self, *inputs: Any) -> Any:
        if isinstance(self.roi, str):
            out = self._swapped(with_given_region(inputs[0] if len(inputs) == 1 else inputs, self.roi))
            out[self.roi] = inputs[0][self.roi]
            return out
        return self._swapped(*inputs)

    def _swapped(self, *inputs: Any) -> Any:
        if len(inputs) == 1 and is_item(inputs[0]):
            return inputs[0].update(in_place=False, **swapped_fields(self, inputs[0]))
        if not self.return_mask:
            if len(inputs) == 1 and is_image(inputs[0]):  # no tree to walk through
                self.check_inputs([inputs[0]])
                return self.transform(inputs[0], self.make_params([inputs[0]]))
            swapped = super().forward(*inputs)
            if len(inputs) == 1 and isinstance(inputs[0], dict) and self.p > 0:
                warn_of_lists(inputs[0])
            return swapped
        if not (len(inputs) == 1 and is_image(inputs[0])):
            kinds = ", ".join(type(x).__name__ for x in inputs)
            raise TypeError(
                f"`return_mask=True` takes one bare image or batch, got {kinds}; "
                "in a sample, put a tv_tensors.Mask of zeros beside the image instead"
            )
        return super().forward(inputs[0], empty_mask(inputs[0]))

    def check_inputs(self, flat_inputs: list[Any]) -> None:
        check_sample(flat_inputs)

    def draw(self, sample: Any) -> dict[str, Any]:
        """Check a sample and draw its random parameters: `make_params` for a sample as passed to the transform.

        Returns, raises:
            Same as `make_params`; errors as `SaliencySwap`.

        >>> swap, image = SaliencySwap(), torch.zeros(3, 32, 32, dtype=torch.uint8)
        >>> swap.draw({"image": image, "label": 1})["pairs"].shape
        torch.Size([1, 3, 7])
        """
        leaves = sample_leaves(sample, self.roi)
        self.check_inputs(leaves)
        return self.make_params(leaves)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw all random parameters: patch pairs for every image of the batch.

        Args:
            flat_inputs: leaves of the sample; the first image guides.

        Returns:
            "pairs": int64 [N, S, 7] on the image's device, rows as `functional.PatchPair`; height 0 = no swap. "size":
            the (H, W) they are valid for.
        """
        image = image_leaves(flat_inputs)[0]
        size, n = image_size(image), batch_size(image)
        device = image.device if isinstance(image, Tensor) else torch.device("cpu")
        if n == 0:
            return {"pairs": torch.zeros(0, 1, 7, dtype=torch.int64, device=device), "size": size}
        if size[0] * size[1] < 2:
            raise ValueError(f"`image` must have room for two disjoint patches, got (H, W) = {size}")
        inside = inside_of(self.roi, flat_inputs, image, self.grid)
        lookup = Lookup(self._finder, image, inside and inside.cells)
        levels = None if self.levels == "random" else self._chosen_levels(lookup.num_levels)
        numbers = 1 + HEAD + (1 if levels is None else len(levels)) * NUMBERS  # the first is compared with p
        u = torch.rand(n, numbers, dtype=torch.float32, device=device)
        pairs_of = self._pairs_on_host if device.type == "cpu" else self._pairs_on_device
        pairs = pairs_of(lookup, u, levels, size, inside)
        return {"pairs": pairs, "size": size}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Apply `params` to one leaf: images are swapped, masks get 1 in the swapped area, others pass. Not random.

        Raises:
            TypeError: params that are not from `make_params`.
            ValueError: params drawn for an image of another size.
        """
        if not isinstance(params, dict) or "pairs" not in params:
            raise TypeError(f"`params` must be what `make_params` returns, got {params!r}")
        pairs: Tensor = params["pairs"]
        check_tensor("pairs", pairs, "[N, S, 7]", 3)
        mask = isinstance(inpt, tv_tensors.Mask)
        if isinstance(inpt, GivenRegion) or not (mask or is_image(inpt)):
            return inpt
        if image_size(inpt) != params.get("size", image_size(inpt)):
            raise ValueError(
                f"`params` must be drawn for an image of (H, W) = {image_size(inpt)}, got those for {params['size']}"
            )
        if pairs.device.type == "cpu":
            rows = pairs.tolist()  # read once: between other code, each operator of torch takes 10 us
            if not any(row[HEIGHT] > 0 for of_image in rows for row in of_image):
                return inpt  # no swap was drawn: returns the input itself
            if isinstance(inpt, PIL.Image.Image):
                return swap_in_pil(inpt, rows[0])
        return mark_leaf(inpt, pairs) if mask else swap_leaf(inpt, pairs)

    def precompute(
        self,
        dataset: Dataset[Any],
        batch_size: int = 64,
        num_workers: int = 0,
        device: torch.device | str | None = None,
    ) -> int:
        """Fill the cache with the regions of a data set's images, so that the first epoch is as fast as the others.

        Stored regions are skipped, so an interrupted run continues where it stopped. Under `torchrun` or `srun`, or in a
        process group, each rank takes its share; a `Subset` may be a share already, so each rank then takes the rest, too.

        Args:
            dataset: a map-style data set that returns samples as they arrive at this transform: with the steps before it
                applied, without the swap itself (otherwise it warns). `SwapViews` may follow, because the first view
                is the image.
            batch_size: images per pass of the net; images are grouped by size.
            num_workers: loader workers that read and decode.
            device: where the net runs; by default the CPU.

        Returns:
            The number of images whose regions were computed.

        Raises:
            ValueError: `cache=None`, or a read-only cache; numbers out of range; a device unknown to torch.
            TypeError: a data set without a length.
            RuntimeError: the folder cannot be written (any more); the message has the number of images kept.
        """
        batch_size, num_workers = checked_int("batch_size", batch_size, 1), checked_int("num_workers", num_workers, 0)
        try:
            device = torch.device(device or "cpu")
        except (RuntimeError, TypeError):
            raise ValueError(f"`device` must be a device of torch such as 'cuda', got {device!r}") from None
        if holds(dataset, lambda x: isinstance(x, SaliencySwap) and x.p > 0, SwapViews):
            warnings.warn(
                f"`dataset` must give samples without the swap, got a {type(dataset).__name__} that holds a SaliencySwap; the "
                "regions of swapped images are never looked up: pass a data set with only the steps before the swap",
                UserWarning,
                stacklevel=2,
            )
        return precompute(self._finder, self.roi, dataset, batch_size, num_workers, device)

    def preview(self, images: Sequence[ImageLike] | Tensor, rows: int = 8) -> PIL.Image.Image:
        """A contact sheet of this swap: maps, clusters, boxes, negative and mask, one row per image.

        Args:
            images: single images, PIL or tensor [C, H, W], or samples with one; sizes may differ.
            rows: maximum number of rows, spread evenly over `images`; the sheet says of how many.

        Returns:
            An RGB image, which Jupyter displays.

        Raises:
            TypeError: `roi` is a key, and the images are not samples with a mask under it.
            ValueError: no images, or `rows` below 1.
        """
        from .preview.sheet import overview  # training does not need the drawing code

        return overview(cast(Sequence[ImageLike], images), self, rows)

    def as_anomaly_generator(self) -> AnomalyGenerator:
        """The swap as a module `x -> (augmented, mask)`, mask float [N, 1, H, W]: anomalib's generator interface."""
        return AnomalyGenerator(self)

    def extra_repr(self) -> str:
        names = (
            "saliency",
            "clustering",
            "levels",
            "scale",
            "ratio",
            "p",
            "grid",
            "region",
            "roi",
            "return_mask",
            "cache",
            "normalized",
        )
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)

    # ---- regions and uniform numbers -> patch pairs --------------------------------------------------------------------

    def _chosen_levels(self, count: int) -> list[int]:
        """The levels, out of `count`, that the argument names."""
        if isinstance(self.levels, str):
            return list(range(count))
        for level in self.levels:
            if not -count <= level < count:
                raise ValueError(f"`levels` must be in [{-count}, {count - 1}] for {count} saliency maps, got {level}")
        chosen = [level % count for level in self.levels]
        if len(set(chosen)) < len(chosen):
            raise ValueError(
                f"`levels` must be distinct, got {self.levels}, of which two are the same of {count} saliency maps"
            )
        return chosen

    def _pairs_on_host(
        self, lookup: Lookup, u: Tensor, levels: list[int] | None, size: tuple[int, int], inside: Inside | None
    ) -> Tensor:
        numbers = u.tolist()
        hits = [i for i, row in enumerate(numbers) if row[0] < self.p]
        rows = [[[0] * 7] * (1 if levels is None else len(levels))] * len(numbers)
        if hits:
            regions = cast(Regions, lookup.regions(hits))
            masks = inside and inside.pixels.expand(len(numbers), -1, -1).numpy()
            for i, region in zip(hits, regions, strict=True):
                mask = None if masks is None else masks[i]
                rows[i] = first_pairs(region, numbers[i][1:], levels, size, self.scale, self.ratio, mask)
        return torch.from_numpy(np.array(rows, dtype=np.int64))  # three times as fast as torch.tensor

    def _pairs_on_device(
        self, lookup: Lookup, u: Tensor, levels: list[int] | None, size: tuple[int, int], inside: Inside | None
    ) -> Tensor:
        regions = cast(Tensor, lookup.regions())
        pairs = draw_pairs(regions, u[:, 1:], levels, size, self.scale, self.ratio, inside and inside.pixels)
        return pairs * (u[:, 0] < self.p)[:, None, None]
