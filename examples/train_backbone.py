"""Train the embedded saliency net ("tiny") from folders of photographs by distillation from an ImageNet teacher.

    python examples/train_backbone.py --data caltech101 grocery --teacher my_module:factory --out runs/tiny

The teacher is a module that maps float images [N, 3, S, S] in [0, 1] to logits [N, 1000], with a method `stages(images)` that
returns its feature maps, fine to coarse, of which the last two are distilled as well. It runs once: for every photograph
`--views` random views are drawn, and the teacher's answers to them are kept on disk, so an epoch costs the student's time
only. A fifth of the photographs (a seeded hash of their paths decides) is held out and never seen; the names of the folders
serve as labels of an auxiliary head that is thrown away. In a second phase, with batch norm folded, the LayerCAM maps of
the student are brought to those of the teacher. Everything is seeded, and both the teacher's pass and the
training go on where they were stopped. The result is `tiny.npz`: batch norm folded, float16, no pickle.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import importlib
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from composites import as_bank, compose, cut_photograph, draw_ground, draw_object, photo_ground, scene_object
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.transforms.v2 import functional as tvF
from tqdm import tqdm

from cutswap_transforms import LayerCAMExtractor
from cutswap_transforms.shell.decode import decoded, opened

WIDTHS, RESIDUALS, STEM, SIDE = (24, 48, 96, 192), (1, 1, 2, 1), 6, 128
GRIDS = (32, 16, 8, 4)  # the sides of the four maps at SIDE
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


# ---- photographs ----------------------------------------------------------------------------------------------------


def list_photographs(folders: list[Path]) -> list[tuple[Path, str]]:
    """(path, name) of every photograph; the name starts with its data folder and is what the split is made from."""
    found = [
        (path, f"{folder.name}/{path.relative_to(folder).as_posix()}")
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SUFFIXES and path.is_file()  # a pipe would be read for ever
    ]
    if not found:
        raise SystemExit(f"`--data` holds no photograph ({', '.join(sorted(SUFFIXES))}): {[str(f) for f in folders]}")
    return found


def is_held_out(name: str, seed: int, share: float = 0.2) -> bool:
    """A seeded coin per photograph that depends on nothing but its name."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return int.from_bytes(digest[:4], "big") < share * 2**32


def load_rgb(path: Path) -> Tensor:
    with opened(path) as file:
        return tvF.pil_to_tensor(decoded(file).image)


def draw_views(rng: np.random.Generator, count: int, zoomed_out: float = 1 / 3) -> np.ndarray:
    """[count, 3]: zoom (side of the window over the short side of the photograph) and the window's position in [0, 1].

    A share of the views zooms out: the photograph shrinks on an edge-padded canvas, because defects' objects are small."""
    out = rng.random((count, 3)).astype("f4")
    zoom = np.where(rng.random(count) < zoomed_out, rng.uniform(1, 2.0, count), np.sqrt(rng.uniform(0.3, 1, count)))
    out[:, 0] = zoom
    return out


def render_view(photo: Tensor, view: np.ndarray, side: int) -> Tensor:
    """uint8 [3, side, side]: the window of `draw_views`, padded with the edge's pixels where it leaves the photograph."""
    h, w = photo.shape[-2:]
    size = max(16, round(float(view[0]) * min(h, w)))
    pad_h, pad_w = max(0, size - h), max(0, size - w)
    top = round(float(view[1]) * abs(h - size)) - (pad_h if size > h else 0)
    left = round(float(view[2]) * abs(w - size)) - (pad_w if size > w else 0)
    y0, x0, y1, x1 = max(top, 0), max(left, 0), min(top + size, h), min(left + size, w)
    crop = photo[:, y0:y1, x0:x1]
    if crop.shape[1] < size or crop.shape[2] < size:
        pads = (x0 - left, left + size - x1, y0 - top, top + size - y1)
        crop = F.pad(crop[None].float(), pads, mode="replicate")[0].byte()
    return tvF.resize(crop, [side, side], antialias=True)


# ---- the teacher's pass ---------------------------------------------------------------------------------------------


def load_factory(spec: str, args: list[str]) -> nn.Module:
    module, _, factory = spec.partition(":")
    if not factory:
        raise SystemExit(f"`--teacher` must be module:factory, got {spec!r}")
    teacher = getattr(importlib.import_module(module), factory)(*args)
    if not hasattr(teacher, "stages"):
        raise SystemExit(
            f"`--teacher` must have a method stages(images) that returns feature maps, got {type(teacher).__name__}"
        )
    return teacher


class TeacherCache:
    """Memory-mapped answers of the teacher: logits and two projected feature maps per (photograph, view)."""

    def __init__(self, folder: Path, photos: int, views: int, dims: tuple[int, int], mode: str):
        folder.mkdir(parents=True, exist_ok=True)
        cells = sum(side * side for side in GRIDS)
        shapes = {"logits": (1000,), "mid": (dims[0], 8, 8), "deep": (dims[1], 4, 4), "maps": (cells,)}
        for name, shape in shapes.items():
            path, full = folder / f"{name}.f2", (photos, views, *shape)
            fresh = not path.exists()
            setattr(self, name, np.memmap(path, "<f2", "w+" if fresh else mode, shape=full))
        self.done_path = folder / "done.npy"
        self.done = np.load(self.done_path) if self.done_path.exists() else np.zeros((views, photos), bool)
        self.mapped_path = folder / "mapped.npy"
        self.mapped = np.load(self.mapped_path) if self.mapped_path.exists() else np.zeros((views, photos), bool)

    logits: np.ndarray
    mid: np.ndarray
    deep: np.ndarray
    maps: np.ndarray


def principal_axes(features: Tensor, dims: int) -> tuple[Tensor, Tensor]:
    """(mean [C], axes [C, dims]) of feature maps [N, C, h, w], scaled so that the projected channels have unit mean square."""
    flat = features.permute(0, 2, 3, 1).reshape(-1, features.shape[1]).double()
    mean = flat.mean(0)
    _, vectors = torch.linalg.eigh(torch.cov((flat - mean).T))
    axes = vectors[:, -dims:].flip(1)
    axes = axes / ((flat - mean) @ axes).square().mean().sqrt()
    return mean.float(), axes.float()


def run_teacher(teacher, photos: list[Tensor], views: np.ndarray, cache: TeacherCache, args, share: tuple[int, int]) -> None:
    """Fill the cache, one view of all photographs after the other; `share` = (k, of n) takes every n-th batch."""
    n, batch = len(photos), 32

    def answers(index: np.ndarray, view: int):
        images = torch.stack([render_view(photos[i], views[i, view], args.teacher_size) for i in index])
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            images = (images.float() / 255).contiguous(memory_format=torch.channels_last)
            stages = teacher.stages(images)
            logits = teacher.fc(stages[-1].mean((2, 3))) if hasattr(teacher, "fc") else teacher(images)
        return (
            logits.float(),
            F.adaptive_avg_pool2d(stages[-2].float(), 8),
            F.adaptive_avg_pool2d(stages[-1].float(), 4),
        )

    axes_path = cache.done_path.with_name("axes.pt")
    if not axes_path.exists():
        _, mid, deep = answers(np.linspace(0, n - 1, 512).astype(int), 0)
        torch.save(
            [principal_axes(x, x.shape[1] if d is None else d) for x, d in ((mid, args.dims[0]), (deep, args.dims[1]))],
            axes_path,
        )
    axes = torch.load(axes_path, weights_only=True)
    jobs = [(v, s) for v in range(views.shape[1]) for s in range(0, n, batch)]
    for v, start in tqdm(jobs[share[0] :: share[1]], desc="teacher", unit="batch"):
        index = np.arange(start, min(n, start + batch))
        if cache.done[v, index].all():
            continue
        logits, mid, deep = answers(index, v)
        cache.logits[index, v] = logits.numpy()
        for name, x, (mean, basis) in (("mid", mid, axes[0]), ("deep", deep, axes[1])):
            getattr(cache, name)[index, v] = torch.einsum("nchw,cd->ndhw", x - mean[:, None, None], basis).numpy()
        cache.done[v, index] = True
        if share[1] == 1 and start % (batch * 50) == 0:
            np.save(cache.done_path, cache.done)
    np.save(cache.done_path if share[1] == 1 else cache.done_path.with_name(f"done{share[0]}.npy"), cache.done)


def run_teacher_maps(teacher, photos: list[Tensor], views: np.ndarray, cache: TeacherCache, args) -> None:
    """Fill the cache's LayerCAM maps of the first `--map-views` views, on the student's grids, greatest value 1."""
    layers = [teacher.plan[i][2] for i in teacher.stage_ends[-4:]] if hasattr(teacher, "stage_ends") else None
    extractor = LayerCAMExtractor(teacher, layers=layers, mean_std=None, input_size=args.teacher_size)
    jobs = [(v, s) for v in range(args.map_views) for s in range(0, len(photos), 32)]
    for n, (v, start) in enumerate(tqdm(jobs, desc="teacher's maps", unit="batch", mininterval=10)):
        index = np.arange(start, min(len(photos), start + 32))
        if cache.mapped[v, index].all():
            continue
        images = torch.stack([render_view(photos[i], views[i, v], args.teacher_size) for i in index])
        grids = [F.adaptive_avg_pool2d(m[:, None], side) for m, side in zip(extractor.native_maps(images), GRIDS, strict=True)]
        rows = [g.flatten(1) / g.flatten(1).amax(1, keepdim=True).clamp(min=1e-12) for g in grids]
        cache.maps[index, v] = torch.cat(rows, 1).numpy()
        cache.mapped[v, index] = True
        if n % 50 == 49 or n == len(jobs) - 1:
            np.save(cache.mapped_path, cache.mapped)


# ---- the student ----------------------------------------------------------------------------------------------------


class Stage(nn.Module):
    """x -> d = relu(bn(conv, stride)), then y = relu(y + bn(conv(y))) `residuals` times."""

    def __init__(self, cin: int, cout: int, residuals: int, kernel: int, stride: int):
        super().__init__()
        pad = (kernel - stride + 1) // 2
        convs = [nn.Conv2d(cin, cout, kernel, stride, pad, bias=False)]
        convs += [nn.Conv2d(cout, cout, 3, 1, 1, bias=False) for _ in range(residuals)]
        self.convs, self.norms = nn.ModuleList(convs), nn.ModuleList(nn.BatchNorm2d(cout) for _ in convs)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norms[0](self.convs[0](x)))
        for conv, norm in zip(self.convs[1:], self.norms[1:], strict=True):
            x = F.relu(x + norm(conv(x)))
        return x


class Student(nn.Module):
    def __init__(self, labels: int, dims: tuple[int, int]):
        super().__init__()
        inputs = (3, *WIDTHS[:-1])
        self.stages = nn.ModuleList(
            Stage(i, o, r, 3 if k else STEM, 2 if k else 4)
            for k, (i, o, r) in enumerate(zip(inputs, WIDTHS, RESIDUALS, strict=True))
        )
        self.head = nn.Linear(WIDTHS[-1], 1000)
        self.labels = nn.Linear(WIDTHS[-1], labels)
        self.mid, self.deep = nn.Conv2d(WIDTHS[2], dims[0], 1), nn.Conv2d(WIDTHS[3], dims[1], 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
        x, features = images, []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        pooled = x.mean((2, 3))
        return self.head(pooled), self.labels(pooled), self.mid(features[2]), self.deep(features[3]), features


def fold(student: Student) -> Student:
    """A copy whose convolutions carry bias and batch norm, as the shipped net's do."""
    folded = copy.deepcopy(student).eval()
    for stage in folded.stages:
        stage.convs = nn.ModuleList(fuse_conv_bn_eval(c, n) for c, n in zip(stage.convs, stage.norms, strict=True))
        stage.norms = nn.ModuleList(nn.Identity() for _ in stage.convs)
    return folded.to(memory_format=torch.channels_last)


def start_from(student: Student, path: Path) -> Student:
    """The folded student with the arrays of a shipped file; the auxiliary heads stay random."""
    folded = fold(student)
    with np.load(path, allow_pickle=False) as arrays, torch.no_grad():
        for name, tensor in tensors_of(folded).items():
            tensor.copy_(torch.from_numpy(arrays[name]))
    return folded


def tensors_of(folded: Student) -> dict[str, Tensor]:
    """What is shipped, by name: `stage{i}.conv{j}.weight/bias` and `head.*`."""
    tensors = {"head.weight": folded.head.weight, "head.bias": folded.head.bias}
    for i, stage in enumerate(folded.stages, 1):
        for j, conv in enumerate(stage.convs):
            tensors |= {f"stage{i}.conv{j}.weight": conv.weight, f"stage{i}.conv{j}.bias": conv.bias}
    return tensors


def state_of(folded: Student) -> dict[str, np.ndarray]:
    """The arrays of the shipped file, float16."""
    return {name: tensor.detach().half().contiguous().numpy() for name, tensor in tensors_of(folded).items()}


def layer_cam(logits: Tensor, features: list[Tensor]) -> list[Tensor]:
    """LayerCAM of each net's own arg-max class, as in use: [N, h, w] per stage, with the graph of the gradient."""
    gradients = torch.autograd.grad(logits.amax(1).sum(), features, create_graph=True)
    return [(g.relu() * a).sum(1) for a, g in zip(features, gradients, strict=True)]


def unlike(mine: Tensor, theirs: Tensor) -> Tensor:
    """1 - Pearson correlation of maps [N, P]; float [N]."""
    return 1 - F.cosine_similarity(mine - mine.mean(1, keepdim=True), theirs - theirs.mean(1, keepdim=True), eps=1e-6)


def map_loss(maps: list[Tensor], teacher: Tensor, flip: Tensor, weights: Sequence[float]) -> Tensor:
    """How unlike the teacher's maps [N, cells of all grids] the student's are, weighted mean over levels, and images."""
    lost = []
    for mine, theirs in zip(maps, teacher.split([side * side for side in GRIDS], 1), strict=True):
        lost.append(unlike(torch.where(flip[:, None, None], mine.flip(2), mine).flatten(1), theirs).mean())
    return torch.stack(lost) @ torch.tensor(weights, dtype=torch.float32) / sum(weights)


def ground_loss(maps: list[Tensor], covered: Tensor, weights: Sequence[float], even_weight: float) -> Tensor:
    """What a map must do on a composite, weighted mean over levels, and images.

    With an object: be like the mask, and have its weight on the object (-log of the share). Without one: be even (squared
    coefficient of variation, times `even_weight`). Masks are float [N, S, S]."""
    shown = covered.mean((1, 2)) > 0.01
    lost = []
    for mine in maps:
        wanted, m = F.adaptive_avg_pool2d(covered, mine.shape[-1]).flatten(1), mine.flatten(1)
        total = m.sum(1) + 1e-6
        share = ((m * wanted).sum(1) / total).clamp(min=1e-3)
        even = (m.square().mean(1) / (total / m.shape[1]).square() - 1).clamp(max=20)
        lost.append(torch.where(shown, unlike(m, wanted) - share.log(), even_weight * even).mean())
    return torch.stack(lost) @ torch.tensor(weights, dtype=torch.float32) / sum(weights)


def jitter(images: Tensor, flip: Tensor, generator: torch.Generator) -> Tensor:
    """Per-image flip, brightness, contrast, saturation (a tenth to gray); uint8 in, normalized float32 out."""
    n = len(images)
    x = images.float() / 255
    x = torch.where(flip[:, None, None, None], x.flip(3), x)
    u = torch.rand(n, 4, 1, 1, 1, generator=generator)
    grey = x.mean(1, keepdim=True)
    saturation = torch.where(u[:, 0] < 0.1, torch.zeros(()), 0.6 + 0.8 * u[:, 1])
    x = grey + (x - grey) * saturation
    x = (x - x.mean((1, 2, 3), keepdim=True)) * (0.6 + 0.8 * u[:, 2]) + x.mean((1, 2, 3), keepdim=True) * (0.6 + 0.8 * u[:, 3])
    x = x.clamp(0, 1)
    return ((x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]).contiguous(
        memory_format=torch.channels_last
    )


def train(student: Student, photos, labels: Tensor, views, cache: TeacherCache, args, maps: bool) -> None:
    """One phase: with batch norm on all views, or with `maps` on the folded net and the views that have maps."""
    name, epochs, lr = ("maps", args.map_epochs, args.map_lr) if maps else ("classes", args.epochs, args.lr)
    count = args.map_views if maps else views.shape[1]
    composites = draw_composites(photos, views, cache, args) if maps and args.composites else None
    decay = [p for p in student.parameters() if p.ndim > 1]
    plain = [p for p in student.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW([{"params": decay, "weight_decay": 0.02}, {"params": plain, "weight_decay": 0.0}], lr=lr)
    per_epoch = len(photos) // args.batch_size
    total = per_epoch * epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda s: min(1.0, (s + 1) / 300) * (0.5 + 0.5 * math.cos(math.pi * min(1.0, s / total)))
    )
    checkpoint, first = args.out / f"checkpoint_{name}.pt", 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        student.load_state_dict(saved["student"])
        optimiser.load_state_dict(saved["optimiser"])
        schedule.load_state_dict(saved["schedule"])
        first = saved["epoch"]
    for epoch in range(first, epochs):
        generator = torch.Generator().manual_seed(args.seed * 10_000 + epoch + 5_000 * maps)
        order = torch.randperm(len(photos), generator=generator)
        which = torch.randint(count, (len(photos),), generator=generator)
        sums, begin = torch.zeros(6), time.time()
        for step in tqdm(range(per_epoch), desc=f"{name} {epoch + 1}/{epochs}", mininterval=10):
            index = order[step * args.batch_size : (step + 1) * args.batch_size]
            losses = batch_losses(student, photos, labels, views, cache, index, which[index], generator, args, maps, composites)
            optimiser.zero_grad(set_to_none=True)
            losses.sum().backward()
            nn.utils.clip_grad_norm_(student.parameters(), 5.0)
            optimiser.step()
            schedule.step()
            sums += losses.detach()
        state = {"student": student.state_dict(), "optimiser": optimiser.state_dict(), "schedule": schedule.state_dict()}
        torch.save({**state, "epoch": epoch + 1}, f"{checkpoint}.new")
        Path(f"{checkpoint}.new").replace(checkpoint)
        means = [round(v, 4) for v in (sums / per_epoch).tolist()]
        record = dict(zip(("logits", "labels", "mid", "deep", "maps", "grounds"), means, strict=True))
        print(json.dumps({"phase": name, "epoch": epoch + 1, "seconds": round(time.time() - begin), **record}), flush=True)


def batch_losses(student, photos, labels, views, cache, index, view, generator, args, maps: bool, composites) -> Tensor:
    """[6]: logits, labels, middle and deep features, maps, composites."""
    raw = [render_view(photos[i], views[i, v], SIDE) for i, v in zip(index.tolist(), view.tolist(), strict=True)]
    flip = torch.rand(len(index), generator=generator) < 0.5
    images = jitter(torch.stack(raw), flip, generator)

    def answer(kind: str) -> Tensor:
        return torch.from_numpy(getattr(cache, kind)[index.numpy(), view.numpy()].astype("f4"))

    # The second phase differentiates a gradient, which bfloat16 is too coarse for.
    with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16 and not maps):
        *outputs, features = student(images)
    said, labelled, mid, deep = (o.float() for o in outputs)
    mid, deep = (torch.where(flip[:, None, None, None], m.flip(3), m) for m in (mid, deep))
    t, wanted = args.temperature, F.log_softmax(answer("logits") / args.temperature, 1)
    found = layer_cam(said, features) if maps else []
    return torch.stack(
        (
            F.kl_div(F.log_softmax(said / t, 1), wanted, log_target=True, reduction="batchmean") * t * t * args.logit_weight,
            args.label_weight * F.cross_entropy(labelled, labels[index], label_smoothing=0.1),
            args.feature_weight * F.mse_loss(mid, answer("mid")),
            args.feature_weight * F.mse_loss(deep, answer("deep")),
            args.map_weight * map_loss(found, answer("maps"), flip, args.level_weights) if maps else torch.zeros(()),
            composite_loss(student, composites, generator, args) if composites else torch.zeros(()),
        )
    )


def composite_loss(student, composites: tuple[Tensor, Tensor], generator: torch.Generator, args) -> Tensor:
    """`ground_loss` of a batch of composites, turned and mirrored."""
    index = torch.randint(len(composites[0]), (args.ground_batch,), generator=generator)
    turns, mirror = torch.randint(4, (1,), generator=generator).item(), torch.rand(len(index), generator=generator) < 0.5
    images, covered = (x[index].rot90(turns, (-2, -1)) for x in composites)
    covered = torch.where(mirror[:, None, None], covered.flip(2), covered).float() / 255
    said, *_, features = student(jitter(images, mirror, generator))
    return args.ground_weight * ground_loss(layer_cam(said, features), covered, args.ground_levels, args.even_weight)


def draw_composites(photos: list[Tensor], views: np.ndarray, cache: TeacherCache, args) -> tuple[Tensor, Tensor]:
    """Images uint8 [M, 3, SIDE, SIDE] and how much of each cell of the finest grid an object covers, uint8 [M, 32, 32]."""
    path = args.out / f"composites-{args.composites}-{args.grounds}-{args.seed}.pt"
    if not path.exists():
        grounds, objects = draw_banks(photos, views, cache, args)
        generator, made = torch.Generator().manual_seed(args.seed), []
        for _ in tqdm(range(max(1, args.composites // 64)), desc="composites", unit="batch", mininterval=10):
            index = torch.randint(len(grounds), (64,), generator=generator)
            images, covered = compose(grounds[index], objects, SIDE, generator)
            made.append((images.byte(), (F.adaptive_avg_pool2d(covered, GRIDS[0]) * 255).byte()))
        torch.save([torch.cat(parts) for parts in zip(*made, strict=True)], path)
    images, covered = torch.load(path, weights_only=True)
    return images, covered


def draw_banks(photos: list[Tensor], views: np.ndarray, cache: TeacherCache, args) -> tuple[Tensor, list[Tensor]]:
    """Grounds uint8 [M, 3, S, S], a quarter of them photographs' textures, and three kinds of objects uint8 [M, 4, s, s]:
    drawn ones, those of scenes, and cut-outs of the photographs by the teacher's maps."""
    rng = np.random.default_rng([args.seed, 1])
    count = args.grounds

    def photo() -> np.ndarray:
        return photos[rng.integers(len(photos))].permute(1, 2, 0).numpy()

    drawn = [draw_ground(rng) for _ in tqdm(range(count - count // 4), desc="grounds", mininterval=10)]
    drawn += [photo_ground(rng, photo()) for _ in range(count // 4)]
    shapes = [draw_object(rng) for _ in tqdm(range(count), desc="objects", mininterval=10)]
    scenes = [scene_object(rng) for _ in tqdm(range(max(1, count // 8)), desc="scenes", mininterval=10)]
    cut = []
    for i in tqdm(rng.permutation(len(photos)), desc="cut-outs", mininterval=10):
        levels = np.split(cache.maps[i, 0].astype("f4"), np.cumsum([side * side for side in GRIDS])[:-1])
        grids = [torch.from_numpy(v).view(1, 1, side, side) for v, side in zip(levels, GRIDS, strict=True)]
        fused = torch.stack([F.interpolate(g, size=(32, 32), mode="bilinear") for g in grids[:3]]).mean(0)[0, 0]
        view = render_view(photos[i], views[i, 0], SIDE).permute(1, 2, 0).numpy()
        image = cut_photograph(view, (fused / fused.max()).numpy())
        if image is not None:
            cut.append(image)
        if len(cut) == 2 * count:
            break
    objects = [as_bank(pictures) for pictures in (shapes, scenes, cut, cut) if pictures]  # photographs' objects twice as often
    return as_bank(drawn), objects


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", type=Path, required=True, help="folders of photographs; sub-folders are labels")
    parser.add_argument("--teacher", required=True, help="module:factory of the teacher")
    parser.add_argument("--teacher-args", nargs="*", default=[], help="strings that the factory is called with")
    parser.add_argument("--teacher-size", type=int, default=224)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--views", type=int, default=6, help="views per photograph that the teacher answers to")
    parser.add_argument("--zoomed-out", type=float, default=1 / 3, help="share of the views in which the photograph is small")
    parser.add_argument("--dims", type=int, nargs=2, default=(64, 128), help="principal axes kept of the teacher's features")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--map-views", type=int, default=2, help="of these views the teacher's LayerCAM maps are distilled")
    parser.add_argument("--map-epochs", type=int, default=12, help="epochs of the second phase, on the folded net")
    parser.add_argument("--map-lr", type=float, default=5e-4)
    parser.add_argument("--map-weight", type=float, default=4.0)
    parser.add_argument("--level-weights", type=float, nargs=4, default=(1, 1, 1, 1), help="of the maps' loss, fine to coarse")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--temperature", type=float, default=2.0)
    parser.add_argument("--label-weight", type=float, default=0.5)
    parser.add_argument("--feature-weight", type=float, default=1.0)
    parser.add_argument("--logit-weight", type=float, default=1.0)
    parser.add_argument("--composites", type=int, default=24_000, help="drawn for the second phase; 0 for none")
    parser.add_argument("--grounds", type=int, default=4000, help="drawn to lay them on; also how many objects are drawn")
    parser.add_argument("--ground-batch", type=int, default=64, help="composites in a step beside --batch-size photographs")
    parser.add_argument("--ground-weight", type=float, default=4.0)
    parser.add_argument("--ground-levels", type=float, nargs=4, default=(1, 1, 1, 1), help="of the composites' loss")
    parser.add_argument("--even-weight", type=float, default=0.1, help="of even maps where a composite has no object")
    parser.add_argument("--start", type=Path, help="a tiny.npz to go on from: the second phase alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bf16", action="store_true", help="bfloat16 autocast, where the CPU has the instructions")
    parser.add_argument(
        "--teacher-share",
        type=int,
        nargs=2,
        default=None,
        help="only this share (k n) of the teacher's pass, then stop",
    )
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)

    listed = [(p, n) for p, n in list_photographs(args.data) if not is_held_out(n, args.seed)]
    photos = [load_rgb(p) for p, _ in tqdm(listed, desc="photographs")]
    folders = [n.rsplit("/", 1)[0] for _, n in listed]
    names = sorted(set(folders))
    labels = torch.tensor([names.index(f) for f in folders])
    views = np.stack(
        [draw_views(np.random.default_rng([args.seed, i]), args.views, args.zoomed_out) for i in range(len(photos))]
    )

    cache = TeacherCache(args.out / "teacher", len(photos), args.views, tuple(args.dims), "r+")
    parts = sorted(cache.done_path.parent.glob("done[0-9]*.npy"))
    for part in parts:
        cache.done |= np.load(part)
    if not cache.done.all():
        teacher = load_factory(args.teacher, args.teacher_args).eval()
        run_teacher(teacher, photos, views, cache, args, tuple(args.teacher_share or (0, 1)))
    if args.map_epochs and not cache.mapped[: args.map_views].all():
        run_teacher_maps(load_factory(args.teacher, args.teacher_args).eval(), photos, views, cache, args)
    if args.teacher_share:
        return
    student = Student(len(names), tuple(args.dims)).to(memory_format=torch.channels_last)
    if args.start:
        folded = start_from(student, args.start)
    else:
        train(student, photos, labels, views, cache, args, maps=False)
        folded = fold(student)
    train(folded, photos, labels, views, cache, args, maps=True)
    state = state_of(folded)
    np.savez(args.out / "tiny.npz", **state)
    print(f"{args.out / 'tiny.npz'}: {sum(v.size for v in state.values())} parameters")


if __name__ == "__main__":
    main()
