"""How well the salient region matches the object, and how stable it is when the image changes a little.

    python benchmarks/regions.py [--data NAME=FOLDER ...] [--images NAME=FOLDER ...] [--net MODULE:FACTORY ...] [--count N]
    python benchmarks/regions.py --grid 16 24 --clusters 4 --saliency-weight 0.5 0.7 --color --no-color --region salient top

Always measured on the drawn scenes that have an object (of the board: its components), on drawn tweezers on drawn cloth and
tiles, which the embedded net was not trained on, and on the normal training images of each FOLDER, a category in MVTec AD's
layout. The object's mask is FOLDER/object_mask, as `examples/lay_on_ground.py` writes it, else it is segmented from the plain
ground. A region is enlarged to the image by the nearest cell, as the swap reads it.
Stability needs no masks: `--images` takes any folder of images. It is the intersection over union of the region of an
image and the region of the changed image, after undoing the change, for each level of each image.
Compared with the embedded net are: Otsu's threshold of brightness; clusters of the saliency values of each level's own map,
without color; the embedded net with random weights, and with the maps of an image and its mirror image averaged; ImageNet nets
on request. Every option of the second line takes several values, and each combination gets a row.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from _changes import CHANGES, Change
from _harness import Figure, one_thread, quartiles
from _images import example
from _report import Result, finish, parser
from torch import Tensor

from cutswap_transforms import KMeans, LayerCAMExtractor
from cutswap_transforms.functional import salient_regions

SCENES = ("screws", "flange", "blister", "board")
KEPT_OUT = ("cloth", "tiles")  # grounds that the embedded net was not trained on
Finder = Callable[[Tensor], list[Tensor]]


@dataclass(frozen=True)
class Objects:
    """Normal images, uint8 [N, 3, H, W], and where their object is, bool [N, H, W]."""

    name: str
    images: Tensor
    masks: Tensor


# ---- data ---------------------------------------------------------------------------------------------------------


def drawn(name: str, count: int, size: int) -> Objects:
    make_scene = example("make_samples").make_scene
    pictures, masks = zip(*(make_scene(name, seed, size, return_mask=True) for seed in range(count)), strict=True)
    return Objects(name, torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2), torch.from_numpy(np.stack(masks)) > 0)


def thin(ground: str, count: int, size: int) -> Objects:
    """Stout tweezers or pliers, randomly rotated and about as long as the image, on a drawn ground.

    Slim ones would be narrower than a cell, which no region can follow."""
    composites, objects = example("composites", "tools"), example("thin_objects", "tools")
    generator, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    pictures = composites.as_bank([example("make_samples").make_scene(ground, seed, size) for seed in range(count)])
    images, covered = pictures.float(), torch.zeros(count, size, size)
    bank = composites.as_bank([objects.thicker(draw(rng), 2) for _ in range(count) for draw in objects.KEPT_OUT.values()])
    composites.lay(images, covered, bank, torch.ones(count, dtype=torch.bool), generator, smallest=0.9)
    return Objects(f"tweezers on {ground}", images.clamp(0, 255).byte(), covered > 0.5)


def normal_images(folder: Path, count: int, size: int) -> tuple[Tensor, list[Any]]:
    """At most `count` images of a folder, or of its train/good, evenly spaced, and their samples."""
    data = example("data")
    samples = data.read_normal(folder).train
    chosen = [samples[i] for i in np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(int)]
    images, chosen = data.decode(chosen, size)
    return images, chosen


def photographed(name: str, folder: Path, count: int, size: int) -> Objects:
    data, cut_out = example("data"), example("lay_on_ground").cut_out
    images, chosen = normal_images(folder, count, size)
    known = folder / "object_mask"
    if known.is_dir():
        paths = [(known / s.path.relative_to(folder)).with_suffix(".png") for s in chosen]
        masks = data.decode_masks([data.Sample(p, "object", p) for p in paths], size) > 0
    else:
        mattes = [cut_out(image.permute(1, 2, 0).numpy().astype(np.float32))[0] for image in images]
        masks = torch.from_numpy(np.stack(mattes)) > 0.5
    return Objects(name, images, masks)


# ---- regions ------------------------------------------------------------------------------------------------------


def highest_values(saliency: Tensor, clusters: int = 4) -> Tensor:
    """Where [N, h, w] is in the highest of `clusters` k-means clusters of its values: the method without color."""
    flat = saliency.flatten(1)
    centres = flat.quantile((torch.arange(clusters).to(flat) + 0.5) / clusters, 1).T  # [N, K], ascending
    for _ in range(20):
        labels = (flat[..., None] - centres[:, None]).abs().argmin(2)
        member = F.one_hot(labels, clusters).to(flat.dtype)  # [N, P, K]
        mean = (member * flat[..., None]).sum(1) / member.sum(1)
        centres = torch.where(mean.isnan(), centres, mean)
    return (labels == centres.argmax(1, keepdim=True)).view_as(saliency)


def finders(args: argparse.Namespace) -> Iterator[tuple[str, Finder]]:
    """The rows of the table: images -> one region per level, bool [N, h_l, w_l]."""
    augment = example("augment")
    otsu, tiny, untrained = augment.OtsuObject(), LayerCAMExtractor(), LayerCAMExtractor("tiny", weights=None)
    yield "Otsu", lambda images: [otsu(images.float() / 255)[:, 0] > 0.5]
    yield "tiny, values alone, 4 clusters", lambda images: [highest_values(m) for m in tiny.native_maps(images)]

    def clustered(source: Any, clustering: KMeans, grid: int, rule: str) -> Finder:
        return lambda images: list(salient_regions(source.native_maps(images), images, clustering, grid, region=rule).unbind(1))

    sources: dict[str, Any] = {"tiny": tiny, "tiny, both ways": augment.BothWays(tiny), "random weights": untrained}
    sources |= {net: augment.load_saliency(net) for net in args.net}
    choices = itertools.product(args.grid, args.clusters, args.saliency_weight, args.color, args.region)
    for grid, clusters, weight, color, region in choices:
        kmeans = KMeans(clusters, saliency_weight=weight, color=color)
        settings = f"{clusters} clusters, weight {weight:g}, grid {grid}"
        settings += f"{'' if region == 'salient' else ', highest cluster'}{'' if color else ', no color'}"
        for name, source in sources.items():
            yield f"{name}, {settings}", clustered(source, kmeans, grid, region)


def levels(finder: Finder, images: Tensor) -> list[Tensor]:
    """The regions of all images, bool [N, h_l, w_l] per level, fine to coarse."""
    return [torch.cat(level) for level in zip(*map(finder, images.split(32)), strict=True)]


def shares(region: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Per image, the share of the region [N, h, w] on the object, and the share of the object that it covers; float64 [N]."""
    found = F.interpolate(region[:, None].float(), size=masks.shape[-2:], mode="nearest-exact")[:, 0] > 0.5
    both = (found & masks).sum((1, 2)).double()
    return both / found.sum((1, 2)).clamp(min=1), both / masks.sum((1, 2)).clamp(min=1)


def score(finder: Finder, objects: Objects) -> tuple[Tensor, Tensor]:
    """`shares` of each level, fine to coarse: two tensors [L, N]."""
    each = [torch.stack(shares(level, objects.masks)) for level in levels(finder, objects.images)]
    on, covered = torch.stack(each, 1)  # [2, L, N]
    return on, covered


# ---- stability ----------------------------------------------------------------------------------------------------


def overlap(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union of regions bool [N, h, w], 1 where both are empty; float64 [N]."""
    both, either = (one & other).sum((1, 2)).double(), (one | other).sum((1, 2))
    return torch.where(either > 0, both / either.clamp(min=1), 1.0)


def stability(finder: Finder, images: Tensor) -> dict[str, list[float]]:
    """`overlap` of the regions before and after each change, of each level of each image."""
    before = levels(finder, images)

    def kept(change: Change) -> list[float]:
        after = map(change.undone, levels(finder, change.done(images)))
        return torch.cat([overlap(*pair) for pair in zip(before, after, strict=True)]).tolist()

    return {change.name: kept(change) for change in CHANGES}


# ---- all ----------------------------------------------------------------------------------------------------------


def figure(per_image: Tensor) -> Figure:
    return Figure(per_image.mean().item(), *quartiles(per_image.tolist()))


def add_objects(result: Result, args: argparse.Namespace, sets: Sequence[Objects]) -> None:
    rows = [["", "region", "fine to coarse", "worst on object", "best covered", "mean covered"]]
    for objects in sets:
        for name, finder in finders(args):
            on, covered = score(finder, objects)
            means, best = (on.mean(1), covered.mean(1)), int(covered.mean(1).argmax())
            worst = int(means[0].argmin())
            each = " ".join(f"{a:.2f}/{b:.2f}" for a, b in zip(*means, strict=True))
            rows.append([objects.name, name, each, *(f"{v:.2f}" for v in (means[0][worst], means[1][best], means[1].mean()))])
            result.figures[f"{objects.name}: {name}: worst on object"] = figure(on[worst])
            result.figures[f"{objects.name}: {name}: best covered"] = figure(covered[best])
    result.tables["Share of the region on the object / share of the object covered, means over the images"] = rows


def add_stability(result: Result, args: argparse.Namespace, sets: dict[str, Tensor]) -> None:
    rows = [["", "region", *(change.name for change in CHANGES)]]
    for title, images in sets.items():
        for name, finder in finders(args):
            kept = {change: Figure(median(v), *quartiles(v)) for change, v in stability(finder, images).items()}
            rows.append([title, name, *(f"{f.value:.2f}" for f in kept.values())])
            result.figures |= {f"{title}: {name}: {change}": f for change, f in kept.items()}
    result.tables["Intersection over union with the region of the changed image, medians over images and levels"] = rows


def run(args: argparse.Namespace) -> Result:
    count, size = (2, 64) if args.quick else (args.count, args.size)
    result = Result("regions", {"images": count, "size": size, "net": args.net})
    sets = [photographed(name, Path(folder), count, size) for name, folder in args.data]
    sets += [drawn(name, count, size) for name in SCENES] + [thin(ground, count, size) for ground in KEPT_OUT]
    others = {name: normal_images(Path(folder), count, size)[0] for name, folder in args.images}
    add_objects(result, args, sets)
    add_stability(result, args, others | {objects.name: objects.images for objects in sets})
    return result


def named_folder(text: str) -> tuple[str, str]:
    name, separator, folder = text.partition("=")
    if not (name and separator and folder):
        raise argparse.ArgumentTypeError(f"must be NAME=FOLDER, got {text!r}")
    return name, folder


def main(argv: Sequence[str] | None = None) -> int:
    found = parser(__doc__)
    found.add_argument("--data", nargs="+", type=named_folder, default=[], metavar="NAME=FOLDER", help="MVTec layout")
    more = "images without objects' masks, for stability alone"
    found.add_argument("--images", nargs="+", type=named_folder, default=[], metavar="NAME=FOLDER", help=more)
    found.add_argument("--net", nargs="+", default=[], metavar="MODULE:FACTORY", help="nets of images in [0, 1] beside `tiny`")
    found.add_argument("--count", type=int, default=60, help="images per data set at most (default 60)")
    found.add_argument("--size", type=int, default=256, help="side of the images (default 256)")
    found.add_argument("--grid", nargs="+", type=int, default=[24], help="cells along a side (default 24)")
    found.add_argument("--clusters", nargs="+", type=int, default=[4], help="of k-means (default 4)")
    found.add_argument("--saliency-weight", nargs="+", type=float, default=[0.5], help="of k-means (default 0.5)")
    found.add_argument("--color", action="append_const", const=True, help="cluster by color too (default)")
    found.add_argument("--no-color", dest="color", action="append_const", const=False, help="cluster by saliency alone")
    found.add_argument("--region", nargs="+", choices=("salient", "top"), default=["salient"], help="(default salient)")
    args = found.parse_args(argv)
    args.color = args.color or [True]
    one_thread()
    torch.manual_seed(0)
    try:
        return finish(run(args), args.out)
    except example("data").DataError as error:
        found.error(str(error))


if __name__ == "__main__":
    sys.exit(main())
