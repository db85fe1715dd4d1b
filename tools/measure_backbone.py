"""Measure a saliency net: the figures of the embedded net's model card.

    python tools/measure_backbone.py --caltech caltech101 --photographs caltech101 grocery --object pill/train/good \
        --nets efficientnet-lite0 --weights runs/tiny/tiny.npz

(a) probe: logistic regression on pooled features of Caltech-101, on the fifth that was not used for training;
(b) object: photographs of one object, shifted at random on an edge-padded canvas of twice the side: the share of the
    5 % most salient pixels on the object, minus the share on another image's object (a mere center bias scores zero),
    per level;
(c) agreement: mean Spearman correlation of the maps with those of the first of `--nets` on held-out photographs, per level.
The tables also have those nets and the same net with random weights. Needs scikit-learn and OpenCV; prints Markdown.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import _examples  # noqa: F401
import cv2
import numpy as np
import torch
import torch.nn.functional as F
from backbone.photographs import is_held_out, list_photographs, load_rgb
from backbone.student import MEAN, SIDE, STD
from backbone.teacher import as_input, extractor_of
from detector.networks import Features
from detector.tables import markdown
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torchvision.transforms.v2 import functional as tvF

from cutswap_transforms import LayerCAMExtractor
from cutswap_transforms.functional import normalize_maps
from cutswap_transforms.saliency import tiny as tiny_net


def pooled_tiny(weights: str | None):
    """Global average pool of the last stage, the features that the net's own head reads."""
    net = tiny_net.load(weights)

    def features(images: Tensor) -> Tensor:
        images = tvF.normalize(tvF.resize(images, [SIDE, SIDE], antialias=True).float() / 255, list(MEAN), list(STD))
        return net.forward(images)[0][-1][-1].mean((2, 3))

    return features


def pooled_net(net: Features):
    return lambda images: net.raw(as_input(images, net.size))[-1].mean((2, 3))


def probe(features, listed, seed: int) -> float:
    """Top-1 accuracy of logistic regression on Caltech-101 without its background class, trained on the other photographs."""
    xs, ys, held = [], [], []
    with torch.inference_mode():
        for path, name in listed:
            label = path.parent.name
            if label != "BACKGROUND_Google":
                photo = tvF.resize(load_rgb(path), [128, 128], antialias=True)
                xs.append(features(photo[None])[0].float().numpy())
                ys.append(label)
                held.append(is_held_out(name, seed))
    x, y, test = np.stack(xs), np.array(ys), np.array(held)
    x = StandardScaler().fit(x[~test]).transform(x)
    model = LogisticRegression(C=0.03, max_iter=300).fit(x[~test], y[~test])
    return float((model.predict(x[test]) == y[test]).mean())


def shifted(photo: Tensor, rng: np.random.Generator) -> tuple[Tensor, np.ndarray]:
    """The photograph at a random position on a canvas of twice its side, edges replicated, and its object's mask (Otsu)."""
    _, h, w = photo.shape
    grey = cv2.GaussianBlur(cv2.cvtColor(photo.permute(1, 2, 0).numpy(), cv2.COLOR_RGB2GRAY), (5, 5), 0)
    mask = cv2.threshold(grey, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[1]
    top, left = int(rng.integers(0, h + 1)), int(rng.integers(0, w + 1))
    pads = (left, w - left, top, h - top)
    canvas = F.pad(photo[None].float(), pads, mode="replicate")[0].byte()
    return canvas, np.pad(mask, ((top, h - top), (left, w - left))).astype(bool)


def object_share(extractor, scenes) -> np.ndarray:
    """[L]: mean share of the top 5 % on the object, minus that on the next image's object."""
    rows = []
    for i, (canvas, mask) in enumerate(scenes):
        other = scenes[(i + 1) % len(scenes)][1]
        row = []
        for m in extractor.native_maps(canvas[None]):
            full = F.interpolate(m[:, None], size=list(canvas.shape[1:]), mode="bilinear")[0, 0].numpy()
            top = np.zeros(full.size, bool)
            top[np.argpartition(full.ravel(), -full.size // 20)[-full.size // 20 :]] = True
            row.append(mask.ravel()[top].mean() - other.ravel()[top].mean())
        rows.append(row)
    return np.mean(rows, 0)


def agreement(extractor, reference, photos: list[Tensor]) -> np.ndarray:
    """[L]: mean Spearman correlation of maps with the reference's, on the coarser grid of the two."""
    rows = []
    for photo in photos:
        row = []
        for mine, theirs in zip(extractor.native_maps(photo[None]), reference.native_maps(photo[None]), strict=True):
            grid = [min(mine.shape[i], theirs.shape[i]) for i in (1, 2)]
            a, b = (F.interpolate(normalize_maps(m)[:, None], size=grid, mode="area").flatten().numpy() for m in (mine, theirs))
            row.append(spearmanr(a, b).statistic if a.std() > 0 and b.std() > 0 else 0.0)
        rows.append(row)
    return np.mean(rows, 0)


def milliseconds(extractor, images: Tensor, repeats: int = 50) -> float:
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        extractor.native_maps(images)
        times.append(time.perf_counter() - begin)
    return float(np.median(times)) * 1e3 / len(images)


def table(title: str, rows: dict[str, list[str]], heads: list[str]) -> None:
    print(f"\n### {title}\n")
    print(markdown(["net", *heads], [[name, *cells] for name, cells in rows.items()]), end="")


def times(tiny: LayerCAMExtractor, photo: Tensor) -> str:
    photo = tvF.resize(photo[None], [256, 256], antialias=True)
    single = milliseconds(tiny, photo)
    batch = milliseconds(tiny, photo.expand(16, -1, -1, -1).contiguous(), 15)
    return f"tiny: {single:.2f} ms for a 256x256 uint8 image, {batch:.2f} ms in a batch of 16 (one thread, median)"


def probed(args: argparse.Namespace, others: dict[str, Features]) -> dict[str, list[str]]:
    listed = list_photographs([args.caltech])
    features = {"tiny": pooled_tiny(args.weights), "tiny, random weights": pooled_tiny(None)}
    features |= {name: pooled_net(net) for name, net in others.items()}
    return {name: [f"{probe(pooled, listed, args.seed):.3f}"] for name, pooled in features.items()}


def on_objects(args: argparse.Namespace, nets: dict[str, LayerCAMExtractor]) -> dict[str, list[str]]:
    rng = np.random.default_rng(args.seed)
    scenes = [shifted(load_rgb(p), rng) for p in sorted(args.object.iterdir())[: args.count]]
    return {name: [f"{v:.3f}" for v in object_share(net, scenes)] for name, net in nets.items()}


def agreeing(args: argparse.Namespace, nets: dict[str, LayerCAMExtractor], first: str) -> dict[str, list[str]]:
    held = [p for p, n in list_photographs(args.photographs) if is_held_out(n, args.seed)]
    chosen = [load_rgb(held[i]) for i in np.linspace(0, len(held) - 1, args.count).astype(int)]
    compared = {name: net for name, net in nets.items() if name != first}
    return {name: [f"{v:.3f}" for v in agreement(net, nets[first], chosen)] for name, net in compared.items()}


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="DEFAULT", help="tiny's .npz; default the shipped file")
    parser.add_argument("--caltech", type=Path, required=True)
    parser.add_argument("--photographs", type=Path, nargs="+", required=True, help="the folders the net was trained from")
    parser.add_argument("--object", type=Path, required=True, help="photographs of one object on a plain ground")
    parser.add_argument(
        "--nets",
        nargs="+",
        default=["efficientnet-lite0"],
        metavar="NET[@SIDE]",
        help="as `detect.py --features` takes them, and the side they look at (default 224); the first is the reference of (c)",
    )
    parser.add_argument("--count", type=int, default=300, help="images for (b) and (c), at most")
    parser.add_argument("--seed", type=int, default=0, help="the seed of the training, which made the split")
    parser.add_argument("--no-probe", action="store_true")
    return parser


def main() -> None:
    args = options().parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    others = {}
    for spec in args.nets:
        name, _, side = spec.partition("@")
        others[name] = Features(name, int(side or 224))
    tiny, untrained = (LayerCAMExtractor("tiny", weights=w, layers=tiny_net.LAYERS) for w in (args.weights, None))
    nets = {"tiny": tiny, "tiny, random weights": untrained} | {name: extractor_of(net) for name, net in others.items()}
    first = next(iter(others))
    print(times(tiny, load_rgb(sorted(args.object.iterdir())[0])))
    if not args.no_probe:
        table("(a) linear probe, Caltech-101, top-1 on the held-out fifth", probed(args, others), ["top-1"])
    levels = [f"stride {stride}" for stride in (4, 8, 16, 32)]
    table("(b) top 5 % of saliency on the object, less on another's", on_objects(args, nets), levels)
    table(f"(c) Spearman correlation with {first} on held-out photographs", agreeing(args, nets, first), levels)


if __name__ == "__main__":
    main()
