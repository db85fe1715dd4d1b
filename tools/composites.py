"""Draws composites for `train_backbone.py`: objects on textured grounds, with masks.

    python tools/composites.py OUT.png

Grounds are those of `grounds.py`. Objects are drawn solids, the thin ones of `thin_objects.py`, objects of scenes, and
cut-outs of photographs. Cloth, tiles, screws and circuit boards of `make_samples.py` are not used: they are for evaluation.
The command draws a sheet of examples.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import _examples  # noqa: F401
import numpy as np
import torch
import torch.nn.functional as F
from grounds import axes, blended, draw_ground
from make_samples import make_scene
from PIL import Image
from sample_studio import Array, Picture, noise, resized, smooth
from scipy import ndimage
from thin_objects import draw_thin
from torch import Tensor

# ---- objects: uint8 [side, side, 4], color and matte -------------------------------------------------------------------


def outline(rng: np.random.Generator, side: int) -> Array:
    """Signed distance in half sides, negative inside: ellipse, box, rod, ring, polygon or blob that fills the frame."""
    y, x = ((np.mgrid[0:side, 0:side] + 0.5) / side * 2 - 1).astype(np.float32)
    r, angle = np.hypot(x, y), np.arctan2(y, x)
    kind, thin = rng.integers(7), 2 ** rng.uniform(-2.2, 0)
    if kind == 0:
        power = rng.choice([2.0, 2.5, 4.0])
        return ((np.abs(x) / 0.95) ** power + (np.abs(y) / (0.95 * thin)) ** power) ** (1 / power) - 1
    if kind == 1:
        corner = rng.uniform(0, 0.9) * 0.9 * thin
        dx, dy = np.abs(x) - 0.92 + corner, np.abs(y) - 0.92 * thin + corner
        return np.hypot(np.maximum(dx, 0), np.maximum(dy, 0)) + np.minimum(np.maximum(dx, dy), 0) - corner
    if kind == 2:  # a rod with a head
        head = np.maximum(np.abs(x + 0.75) - 0.2, np.abs(y) - min(0.6, 1.8 * 0.5 * thin))
        return np.minimum(np.maximum(np.abs(x) - 0.92, np.abs(y) - 0.4 * thin * (1 - 0.4 * (x > 0.7))), head)
    if kind == 3:
        return np.abs(r - 0.66) - rng.uniform(0.1, 0.27)
    if kind == 4:
        corners, sharp = rng.integers(3, 9), rng.uniform(0.5, 1)
        turn = np.abs((angle / (2 * np.pi) * corners) % 1 - 0.5) * 2 * np.pi / corners
        return r * (1 - sharp + sharp * np.cos(turn) / np.cos(np.pi / corners)) - 0.7
    if kind == 5 and rng.random() < 0.5:  # two parts that touch
        return np.minimum(np.hypot(x + 0.4, y / thin) - 0.5, np.maximum(np.abs(x - 0.4), np.abs(y) / thin) - 0.45)
    waves = sum(rng.normal(0, 0.5 / k) * np.sin(k * angle + rng.uniform(0, 6.3)) for k in range(1, 7))
    wide = 1 + 0.45 * waves
    return r - 0.9 * wide / max(wide.max(), 0.3)


def draw_object(rng: np.random.Generator, side: int = 96) -> Picture:
    """A solid of one or two colors, rounded, printed, speckled or grained, and lit from one side."""
    distance = outline(rng, side)
    matte = smooth(1.5 / side, -1.5 / side, distance)
    colors = rng.uniform(0.03, 0.97, (3, 3)).astype("f4")
    if rng.random() < 0.5:
        colors = colors.mean(1, keepdims=True) + rng.uniform(0, 0.4) * (colors - colors.mean(1, keepdims=True))
    image = np.broadcast_to(colors[0], (side, side, 3)).copy()
    kind = rng.integers(4)
    if kind == 1:
        image = draw_ground(rng, side).astype(np.float32) / 255
    elif kind == 2:  # two parts
        u, _ = axes(rng, side)
        image = blended(colors, smooth(-0.02, 0.02, u - np.median(u)))
    elif kind == 3:  # prints and holes
        inner = outline(rng, side // 2)
        top, left = rng.integers(side // 2, size=2)
        patch = smooth(0.05, -0.05, inner)[..., None]
        window = image[top : top + side // 2, left : left + side // 2]
        window += (colors[2] - window) * patch
    if rng.random() < 0.5:
        speck = smooth(1.0, 2.0, noise(rng, side, (30, 30), 2))[..., None]
        image = image + rng.uniform(-0.4, 0.4) * speck
    image = image * (1 + rng.uniform(0, 0.12) * noise(rng, side, (8, 8), 3)[..., None])
    depth = np.sqrt(np.clip(ndimage.distance_transform_edt(matte > 0.5) / side / rng.uniform(0.05, 0.4), 0, 1))
    dy, dx = np.gradient(ndimage.gaussian_filter(depth.astype("f4"), 1.5))
    light = rng.normal(0, 1, 2)
    image = image * (1 + (light[0] * dy + light[1] * dx)[..., None] * rng.uniform(0, 8))
    image = image + rng.uniform(0, 0.5) * (smooth(0.9, 1.0, depth) * (noise(rng, side, (4, 4), 1) > 1))[..., None]
    return (np.dstack([image.clip(0, 1), matte]) * 255).astype(np.uint8)


def scene_object(rng: np.random.Generator, side: int = 96) -> Picture:
    """A flange or a blister pack of `make_samples.py`."""
    picture, mask = make_scene(str(rng.choice(["flange", "blister"])), int(rng.integers(2**31)), side, return_mask=True)
    return np.dstack([picture, mask * 255])


def cut_photograph(photo: Picture, saliency: Array, side: int = 96) -> Picture | None:
    """The salient object of a photograph with a soft matte, or None if it is unclear.

    The matte combines the teacher's map with color: pixels vote for inside or outside by their distance to the mean
    colors of the most and the least salient parts."""
    h, w = photo.shape[:2]
    m = resized(saliency, (h, w)).clip(0, 1)
    border = np.concatenate([photo[:3].reshape(-1, 3), photo[-3:].reshape(-1, 3), photo[:, :3].reshape(-1, 3)]).astype("f4")
    ground = np.median(border, 0)
    pixels = photo.astype("f4")
    if np.mean(np.abs(border - ground).max(1) < 20) > 0.85:  # on a plain ground, the difference from it gives the outline
        off = ndimage.gaussian_filter(np.abs(pixels - ground).max(2), 0.7)
        inside = off > 22
    else:
        core, rest = m > np.quantile(m, 0.85), m < np.quantile(m, 0.4)
        near = [((pixels - pixels[where].mean(0)) ** 2).sum(2) / pixels[where].var(0).sum().clip(100) for where in (core, rest)]
        inside = (near[0] - near[1]) * 0.15 < (m - 0.35) * 4
    parts, _ = ndimage.label(ndimage.binary_opening(inside))
    sizes = np.bincount(parts.ravel())[1:]
    if not len(sizes):
        return None
    solid = ndimage.binary_fill_holes(parts == 1 + sizes.argmax())
    share = solid.mean()
    ys, xs = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
    edges = sum((solid[0].mean() > 0.3, solid[-1].mean() > 0.3, solid[:, 0].mean() > 0.3, solid[:, -1].mean() > 0.3))
    if not 0.06 < share < 0.75 or edges > 1 or m[solid].mean() < 1.3 * m.mean():
        return None
    matte = ndimage.gaussian_filter(solid.astype("f4"), 0.8)
    size = max(ys[-1] - ys[0], xs[-1] - xs[0]) + 1
    canvas = np.zeros((size, size, 4), np.uint8)
    top, left = (size - (ys[-1] - ys[0] + 1)) // 2, (size - (xs[-1] - xs[0] + 1)) // 2
    rgba = np.dstack([photo, (matte * 255).astype(np.uint8)])[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1]
    canvas[top : top + rgba.shape[0], left : left + rgba.shape[1]] = rgba
    return np.asarray(Image.fromarray(canvas, "RGBA").resize((side, side), Image.Resampling.BILINEAR))


# ---- composites --------------------------------------------------------------------------------------------------------


def windows(grounds: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """[N, 3, side, side] float: a window of each ground, uint8 [N, 3, S, S], with random position and rotation."""
    n = len(grounds)
    u = torch.rand(n, 4, generator=generator)
    zoom = side / grounds.shape[-1] * (0.6 + 0.65 * u[:, 0]).clamp(max=grounds.shape[-1] / side)
    turn = (u[:, 1] * 4).floor() * (torch.pi / 2)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = zoom * turn.cos(), -zoom * turn.sin()
    theta[:, 1, 0], theta[:, 1, 1] = zoom * turn.sin(), zoom * turn.cos()
    theta[:, :, 2] = (u[:, 2:] * 2 - 1) * (1 - zoom[:, None]).clamp(min=0)
    grid = F.affine_grid(theta, [n, 3, side, side], align_corners=False)
    return F.grid_sample(grounds.float(), grid, padding_mode="reflection", align_corners=False)


def lay(
    images: Tensor, covered: Tensor, objects: Tensor, which: Tensor, generator: torch.Generator, smallest: float = 0.0
) -> None:
    """Lay objects uint8 [M, 4, s, s] on the images [N, 3, S, S] of `which`, in place, and update the masks [N, S, S].

    Their sizes are those of `sizes` from `smallest` on: 0 for all, 1 for only the largest."""
    n, side = int(which.sum()), images.shape[-1]
    if not n:
        return
    u = torch.rand(n, 11, generator=generator)
    rgba = objects[torch.randint(len(objects), (n,), generator=generator)].float() / 255
    scale = sizes(rgba[:, 3].mean((1, 2)), smallest + (1 - smallest) * u[:, 0])
    grid = F.affine_grid(placed(scale, u[:, 1:6]), [n, 4, side, side], align_corners=False)
    rgba[:, :3] *= rgba[:, 3:]  # pixels outside the matte must not affect the colors of reduced pictures
    laid = F.grid_sample(as_fine(rgba, scale * side), grid, align_corners=False)
    matte, here = laid[:, 3:].clamp(0, 1), images[which]
    color = torch.minimum(laid[:, :3] * 255 * (0.6 + 0.6 * u[:, 6, None, None, None]), 255 * matte)
    color = like_ground(color, matte, here, torch.where(u[:, 9] < 0.2, 0.7 + 0.2 * u[:, 10], 0.0))
    here = here * (1 - 0.7 * (u[:, 7] * (u[:, 8] < 0.6))[:, None, None, None] * shadow(matte))
    images[which] = here * (1 - matte) + color
    covered[which] = torch.maximum(covered[which], matte[:, 0])


def shadow(matte: Tensor) -> Tensor:
    """The matte, blurred and shifted down and right in proportion to the image. Blurring a reduced matte is faster."""
    side = matte.shape[-1]
    small = F.avg_pool2d(F.interpolate(matte, size=(32, 32), mode="area"), 3, 1, 1)
    return F.interpolate(small, size=(side, side), mode="bilinear").roll((round(3 * side / 128), side // 64), (2, 3))


def sizes(fill: Tensor, u: Tensor) -> Tensor:
    """Sides of the objects' boxes over the image's: objects cover 2 % to 75 % of it, half of the solid ones over a fourth.

    Where small and large ones are drawn alike often, the net forgets to see a large object as a whole.
    A thin object would have to be larger than the image to cover much of it, so its box is at most about as large."""
    fill = fill.clamp(min=0.01)
    top = (fill * (0.95 + fill).clamp(max=1.5) ** 2).clamp(max=0.75)
    low = torch.minimum(torch.full_like(top, 0.02), top / 4)
    return (low * (top / low) ** u.sqrt() / fill).sqrt().clamp(0.15, 1.5)


def placed(scale: Tensor, u: Tensor) -> Tensor:
    """[N, 2, 3]: random rotation, slight stretch, mirroring, and a position where most of the object is inside."""
    n, turn, stretch = len(scale), u[:, 0] * 2 * torch.pi, 0.85 + 0.3 * u[:, 1]
    flip = torch.where(u[:, 2] < 0.5, -1.0, 1.0)
    middle = (u[:, 3:5] * 2 - 1) * (1 - 0.85 * scale).clamp(min=0.08)[:, None]
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = turn.cos() / scale * flip, -turn.sin() / scale * flip
    theta[:, 1, 0], theta[:, 1, 1] = turn.sin() / scale / stretch, turn.cos() / scale / stretch
    theta[:, :, 2] = -(theta[:, :, :2] @ middle[:, :, None])[..., 0]
    return theta


def as_fine(rgba: Tensor, size: Tensor) -> Tensor:
    """Pictures blurred for a width of `size` pixels: sampling alone would break thin lines."""
    shrink = rgba.shape[-1] / size
    shown = rgba.clone()
    for k, where in ((2, (shrink > 1.33) & (shrink <= 2.66)), (4, shrink > 2.66)):
        if where.any():
            shown[where] = F.interpolate(F.avg_pool2d(rgba[where], k), size=rgba.shape[-2:], mode="bilinear")
    return shown


def like_ground(color: Tensor, matte: Tensor, ground: Tensor, pull: Tensor) -> Tensor:
    """Objects' colors (times the matte), with their mean pulled toward that of the ground below: then only edges and
    shading distinguish them."""
    weight = matte.sum((2, 3)) + 1e-3
    gap = ((ground * matte).sum((2, 3)) - color.sum((2, 3))) / weight
    moved = color + (pull[:, None] * gap)[:, :, None, None] * matte
    return torch.minimum(moved.clamp(min=0), 255 * matte)


def compose(grounds: Tensor, objects: Sequence[Tensor], side: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Composites float [N, 3, side, side] in [0, 255] on the grounds, and how much of each pixel an object covers,
    float [N, side, side]. One in ten has no object, one in five two or three. `objects` are kinds, drawn equally often."""
    images = windows(grounds, side, generator)
    n = len(images)
    covered = torch.zeros(n, side, side)
    how_many = torch.tensor([0, 1, 1, 1, 1, 1, 1, 1, 2, 3])[torch.randint(10, (n,), generator=generator)]
    for layer in range(3):
        kind = torch.randint(len(objects), (n,), generator=generator)
        for k, bank in enumerate(objects):
            lay(images, covered, bank, (how_many > layer) & (kind == k), generator)
    return images.clamp(0, 255), covered  # blending may exceed the range by rounding


def as_bank(pictures: Sequence[Picture]) -> Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, help="a PNG file: composites, each above its mask")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    rng = np.random.default_rng(args.seed)
    grounds = as_bank([draw_ground(rng) for _ in range(48)])
    objects = [as_bank([draw_thin(rng) for _ in range(48)]), as_bank([draw_object(rng) for _ in range(32)])]
    objects += [as_bank([scene_object(rng) for _ in range(8)])]
    images, covered = compose(grounds, objects, 128, torch.Generator().manual_seed(args.seed))
    tiles = torch.cat([images, covered[:, None].expand(-1, 3, -1, -1) * 255], 2)  # [48, 3, 256, 128]
    sheet = tiles.reshape(4, 12, 3, 256, 128).permute(0, 3, 1, 4, 2).reshape(4 * 256, 12 * 128, 3)
    Image.fromarray(sheet.byte().numpy()).save(args.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
