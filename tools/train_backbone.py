"""Train the embedded saliency net ("tiny") from folders of photographs by distillation from an ImageNet teacher.

    python tools/train_backbone.py --data caltech101 grocery --teacher efficientnet-lite0 --out runs/tiny

The teacher is a net as `detect.py --features` takes it: "efficientnet-lite0", a torchvision name, or module:factory, a net of
float images [N, 3, S, S] in [0, 1] with logits [N, 1000]. Its answers are kept on disk, so an epoch costs only the
student's time:
- for views of photographs, its logits and LayerCAM maps (the folders' names are labels of an auxiliary head);
- for composites, objects on grounds with known masks, its LayerCAM maps;
- for pictures of 256 px, photographs and surfaces, the features of its cells at strides 8, 16 and 32.
A fifth of the photographs (a seeded hash of their paths decides) is held out. There are three phases: without maps; with maps,
for which a gradient is differentiated; and a short one with batch norm folded, as the net is shipped. `--start` continues from
a shipped file. Everything is seeded, and both the teacher's pass and the training resume where they were stopped. The result
is `tiny.npz`: float16, no pickle.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import _examples  # noqa: F401
import numpy as np
import torch
import torch.nn.functional as F
from backbone.losses import cell_loss, class_loss, flipped, ground_loss, jitter, map_loss
from backbone.photographs import is_held_out, list_photographs, load_rgb, render_views
from backbone.pictures import draw_banks, draw_composites, draw_large, kept
from backbone.student import SIDE, Student, fold, layer_cam, mixed, state_of, unfold
from backbone.teacher import Answers, cells_of, logits_of, maps_of, principal_axes
from data import DataError
from detector.networks import Features
from torch import Tensor, nn
from tqdm import tqdm

PHASES = ("classes", "maps", "folded")
LOSSES = ("logits", "labels", "cells", "maps", "grounds", "composites' maps")


class Lesson(NamedTuple):
    """All training data, and the teacher's answers to them."""

    photographs: Answers
    labels: Tensor  # int64, of each photograph
    composites: Answers
    covered: Tensor  # uint8 [M, 32, 32]
    large: Answers


def prepare(args: argparse.Namespace) -> tuple[Lesson, int]:
    """Draw the pictures and compute the teacher's answers if they are missing; also returns the number of labels."""
    listed = [(p, n) for p, n in list_photographs(args.data) if not is_held_out(n, args.seed)]
    photos = [load_rgb(p) for p, _ in tqdm(listed, desc="photographs", mininterval=10)]
    folders = [n.rsplit("/", 1)[0] for _, n in listed]
    names = sorted(set(folders))
    teacher, bf16, folder = Features(args.teacher, args.teacher_size), args.bf16, args.out / "teacher"
    of_maps = Features(args.map_teacher, args.teacher_size) if args.map_teacher else teacher

    (views,) = kept(args.out / "views.pt", lambda: (render_views(photos, args.views, args.zoomed_out, SIDE, args.seed),))
    photographs = Answers(folder / "photographs", views)
    photographs.ask(maps_of(of_maps), first=len(photos))
    photographs.ask(logits_of(teacher, bf16))

    banks = functools.cache(lambda: draw_banks(args.out, views, photographs, args.grounds, args.seed))  # not read to go on
    drawn, covered = kept(args.out / "composites.pt", lambda: draw_composites(banks(), args.composites, SIDE, args.seed))
    (pictures,) = kept(args.out / "large.pt", lambda: (draw_large(args.out, views, banks(), args.large, args.seed),))
    composites, large = Answers(folder / "composites", drawn), Answers(folder / "large", pictures)
    spread = pictures[:: max(1, len(pictures) // 128)]
    axes = kept(folder / "axes.pt", lambda: principal_axes(teacher, spread, args.dims, bf16))
    large.ask(cells_of(teacher, axes, bf16))
    if args.composite_map_weight:
        composites.ask(maps_of(of_maps), first=min(len(drawn), args.composite_maps))
    return Lesson(photographs, torch.tensor([names.index(f) for f in folders]), composites, covered, large), len(names)


def some_images(lesson: Lesson) -> Tensor:
    """Normalized images of all kinds, for the statistics of batch norms."""
    large = F.interpolate(lesson.large.pictures[::64].float(), SIDE, mode="area").byte()
    parts = [x.pictures[:: max(1, len(x.pictures) // 128)] for x in (lesson.photographs, lesson.composites)]
    images = torch.cat((large, *parts))
    return jitter(images, torch.zeros(len(images), dtype=torch.bool), torch.Generator().manual_seed(0), strength=0.0)


def train(student: Student, lesson: Lesson, args: argparse.Namespace, name: str, epochs: int, lr: float) -> None:
    """One phase: "classes" without the maps, the others with all losses."""
    maps = name != "classes"
    decay = [p for p in student.parameters() if p.ndim > 1]
    plain = [p for p in student.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW([{"params": decay, "weight_decay": 0.02}, {"params": plain, "weight_decay": 0.0}], lr=lr)
    per_epoch = len(lesson.labels) // args.batch_size
    total = per_epoch * epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min(1.0, (s + 1) / 300) * (0.5 + 0.5 * math.cos(math.pi * min(1.0, s / max(total, 1))))
    )
    checkpoint, first = args.out / f"checkpoint_{name}.pt", 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        student.load_state_dict(saved["student"])
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        first = saved["epoch"]
    for epoch in range(first, epochs):
        generator = torch.Generator().manual_seed(args.seed * 10_000 + epoch + PHASES.index(name) * 1_000)
        order = torch.randperm(len(lesson.labels), generator=generator)
        sums, begin = torch.zeros(len(LOSSES)), time.time()
        for step in tqdm(range(per_epoch), desc=f"{name} {epoch + 1}/{epochs}", mininterval=10):
            losses = step_losses(student, lesson, order[step * args.batch_size :][: args.batch_size], generator, args, maps)
            optimizer.zero_grad(set_to_none=True)
            losses.sum().backward()
            nn.utils.clip_grad_norm_(student.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            sums += losses.detach()
        state = {"student": student.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
        torch.save({**state, "epoch": epoch + 1}, f"{checkpoint}.new")
        Path(f"{checkpoint}.new").replace(checkpoint)
        record = dict(zip(LOSSES, [round(v, 4) for v in (sums / per_epoch).tolist()], strict=True))
        print(json.dumps({"phase": name, "epoch": epoch + 1, "seconds": round(time.time() - begin), **record}), flush=True)


def step_losses(student, lesson: Lesson, index: Tensor, generator, args, maps: bool) -> Tensor:  # type: ignore[no-untyped-def]
    """float [6], weighted: see `LOSSES`. The maps are compared for half of the photographs."""
    count, half, none = len(lesson.labels), len(index) // 2 if maps else 0, torch.zeros(())
    other = index[half:] + count * torch.randint(args.views, (len(index) - half,), generator=generator)
    with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
        logits, labels, _ = photograph_losses(student, lesson, other, generator, args, maps=False)
        cells = args.cell_weight * large_loss(student, lesson.large, generator, args) if args.cell_weight else none
    parts = [logits, labels, cells, none, none, none]
    if maps:  # a gradient is differentiated, for which bfloat16 is too coarse
        with_maps = photograph_losses(student, lesson, index[:half], generator, args, maps=True)
        grounds = composite_losses(student, lesson, generator, args) if args.ground_batch else (none, none)
        parts = [(logits + with_maps[0]) / 2, (labels + with_maps[1]) / 2, cells, with_maps[2], *grounds]
    return torch.stack([part.float() for part in parts])


def photograph_losses(student, lesson: Lesson, picture: Tensor, generator, args, maps: bool) -> list[Tensor]:  # type: ignore[no-untyped-def]
    """Losses of logits, labels and maps. Only the first view of each photograph has the teacher's maps."""
    answers, flip = lesson.photographs, torch.rand(len(picture), generator=generator) < 0.5
    features = student(jitter(answers.pictures[picture], flip, generator))
    said, named = student.said(features), student.labels(features[-1].mean((2, 3)))
    like = torch.zeros(())
    if maps:
        like = args.map_weight * map_loss(layer_cam(said, features), answers("maps", picture), flip, args.level_weights)
    return [
        args.logit_weight * class_loss(said.float(), answers("logits", picture), args.temperature),
        args.label_weight * F.cross_entropy(named.float(), lesson.labels[picture % len(lesson.labels)], label_smoothing=0.1),
        like,
    ]


def large_loss(student, large: Answers, generator, args) -> Tensor:  # type: ignore[no-untyped-def]
    """`cell_loss` on pictures of 256 px, with little color jitter: a detector compares images that differ only in a defect."""
    index = torch.randint(len(large.pictures), (args.large_batch,), generator=generator)
    flip = torch.rand(len(index), generator=generator) < 0.5
    mine = student.projected(student(jitter(large.pictures[index], flip, generator, strength=0.25)))
    return cell_loss([x.float() for x in mine], [large(f"cells{stride}", index) for stride in (8, 16, 32)], flip)


def composite_losses(student, lesson: Lesson, generator, args) -> list[Tensor]:  # type: ignore[no-untyped-def]
    """What the maps of composites lack of the truth, and of the teacher's maps where it was asked for them."""
    mapped = args.ground_batch // 3 if args.composite_map_weight else 0
    asked, count = len(lesson.composites.arrays["maps"]) if mapped else 1, len(lesson.composites.pictures)
    index = torch.cat(
        [torch.randint(high, (n,), generator=generator) for high, n in ((asked, mapped), (count, args.ground_batch - mapped))]
    )
    flip = torch.rand(len(index), generator=generator) < 0.5
    covered = flipped(lesson.covered[index], flip).float() / 255
    features = student(jitter(lesson.composites.pictures[index], flip, generator))
    maps = layer_cam(student.said(features), features)
    grounds = args.ground_weight * ground_loss(maps, covered, args.ground_levels, args.even_weight)
    if not mapped:
        return [grounds, torch.zeros(())]
    theirs = lesson.composites("maps", index[:mapped])
    like = map_loss([m[:mapped] for m in maps], theirs, flip[:mapped], args.level_weights)
    return [grounds, args.composite_map_weight * like]


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", type=Path, required=True, help="folders of photographs; sub-folders are labels")
    parser.add_argument("--teacher", required=True, help="efficientnet-lite0, a torchvision name or module:factory")
    parser.add_argument("--map-teacher", help="another net whose maps are learned (default: the teacher's)")
    parser.add_argument("--teacher-size", type=int, default=224)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--views", type=int, default=2, help="views of each photograph; the first has the teacher's maps")
    parser.add_argument("--zoomed-out", type=float, default=0.5, help="share of the views in which the photograph is small")
    parser.add_argument("--grounds", type=int, default=4000, help="drawn for composites; also how many objects are drawn")
    parser.add_argument("--composites", type=int, default=30_000)
    parser.add_argument("--composite-maps", type=int, default=4_000, help="composites that the teacher is asked for maps of")
    parser.add_argument("--large", type=int, default=7_500, help="pictures of 256 px, for the cells' features")
    parser.add_argument("--dims", type=int, nargs=3, default=(40, 64, 64), help="principal axes of the cells, strides 8 to 32")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--map-epochs", type=int, default=24, help="epochs of the second phase, with maps")
    parser.add_argument("--map-lr", type=float, default=2e-3)
    parser.add_argument("--folded-epochs", type=int, default=2, help="epochs of the last phase, as the net is shipped")
    parser.add_argument("--folded-lr", type=float, default=2e-4)
    parser.add_argument("--batch-size", type=int, default=32, help="photographs in a step")
    parser.add_argument("--ground-batch", type=int, default=40, help="composites in a step of the second phase")
    parser.add_argument("--large-batch", type=int, default=12, help="pictures of 256 px in a step")
    parser.add_argument("--temperature", type=float, default=2.0)
    parser.add_argument("--logit-weight", type=float, default=1.0)
    parser.add_argument("--label-weight", type=float, default=0.3)
    parser.add_argument("--cell-weight", type=float, default=8.0)
    parser.add_argument("--map-weight", type=float, default=10.0)
    parser.add_argument("--level-weights", type=float, nargs=4, default=(1, 1, 1, 1), help="of the maps' loss, fine to coarse")
    parser.add_argument("--ground-weight", type=float, default=6.0)
    parser.add_argument("--ground-levels", type=float, nargs=4, default=(1, 1, 1, 1), help="of the composites' loss")
    parser.add_argument("--even-weight", type=float, default=0.3, help="of even maps where a composite has no object")
    parser.add_argument("--composite-map-weight", type=float, default=0.0)
    parser.add_argument("--start", type=Path, help="a tiny.npz to go on from")
    more = "share of the weights of --start in the result: one, or one for each stage and one for the head (default 0)"
    parser.add_argument("--keep", type=float, nargs="+", default=[0.0], metavar="SHARE", help=more)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bf16", action="store_true", help="bfloat16 wherever no maps are learnt")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    parser = options()
    args = parser.parse_args(argv)
    if len(args.keep) not in (1, 5) or min(args.keep) < 0 or max(args.keep) >= 1 or (any(args.keep) and not args.start):
        parser.error(
            f"`--keep` must be one share in [0, 1), or five, with --start, got {' '.join(map('{:g}'.format, args.keep))}"
        )
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)

    try:
        lesson, labels = prepare(args)
    except DataError as error:  # raised by `Features`, where this option has another name
        parser.error(str(error).replace("`features`", "`--teacher`"))
    student = Student(labels, tuple(args.dims)).to(memory_format=torch.channels_last)
    if args.start:
        unfold(student, args.start, some_images(lesson))
    train(student, lesson, args, "classes", args.epochs, args.lr)
    train(student, lesson, args, "maps", args.map_epochs, args.map_lr)
    folded = fold(student)
    train(folded, lesson, args, "folded", args.folded_epochs, args.folded_lr)
    state = state_of(folded)
    if any(args.keep):
        state = mixed(state, args.start, args.keep if len(args.keep) == 5 else args.keep * 5)
    np.savez(args.out / "tiny.npz", **state)
    print(f"{args.out / 'tiny.npz'}: {sum(v.size for v in state.values())} parameters")


if __name__ == "__main__":
    main()
