"""Draws what `train_backbone.py` teaches grounds with: objects laid on textures, and the mask of where they lie.

    python examples/composites.py OUT.png

Grounds are textures of eight kinds, drawn from seeds, three materials of `make_samples.py`, and photographs that are tiled or
zoomed into. Objects are drawn shapes, scenes' objects, and cut-outs of photographs. Two scenes, cloth and tiles, and two
kinds of drawn objects, screws and circuit boards, take no part: they are for measuring. The command draws a sheet to look at.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from make_samples import SCENES, Scene, belt, make_scene, steel
from PIL import Image
from sample_studio import Array, Picture, noise, resized, smooth
from scipy import ndimage
from scipy.spatial import cKDTree
from torch import Tensor

SIDE = 160  # of a ground; a composite shows a window of it
Drawn = Callable[[np.random.Generator, int], Array]


# ---- grounds: float32 [side, side, 3] in [0, 1] ----------------------------------------------------------------------


def palette(rng: np.random.Generator, count: int) -> Array:
    """`count` colors around one: mostly dull ones, from nearly equal to far apart."""
    base, spread = rng.uniform(0.05, 0.95), 10 ** rng.uniform(-1.5, -0.4)
    tint = rng.normal(0, 1, 3) * rng.choice([0.02, 0.08, 0.2])
    own = rng.normal(0, 1, (count, 1)) * spread + rng.normal(0, 1, (count, 3)) * spread * rng.uniform(0, 1)
    return (base + tint + own).clip(0, 1).astype(np.float32)


def axes(rng: np.random.Generator, side: int) -> tuple[Array, Array]:
    """Coordinates along a random direction and across it, in sides, slightly bent."""
    y, x = (np.mgrid[0:side, 0:side] / side).astype(np.float32)
    angle = rng.uniform(0, np.pi)
    bend = rng.choice([0.0, 0.005, 0.02]) * noise(rng, side, (3, 3), 2)
    return x * np.cos(angle) + y * np.sin(angle) + bend + 9, y * np.cos(angle) - x * np.sin(angle) + bend + 9


def blended(colours: Array, t: Array) -> Array:
    return colours[0] + (colours[1] - colours[0]) * t[..., None]


def gradient(rng: np.random.Generator, side: int) -> Array:
    u, _ = axes(rng, side)
    u = u - u.min()
    return blended(palette(rng, 2), u / u.max()) + rng.uniform(0, 0.03) * rng.standard_normal((side, side, 1)).astype("f4")


def clouds(rng: np.random.Generator, side: int) -> Array:
    waves = 2 ** rng.uniform(1, 6)
    stretch = 2 ** rng.uniform(0, 4) if rng.random() < 0.5 else 1.0
    field = noise(rng, side, (waves, max(1.0, waves / stretch)), int(rng.integers(1, 6)), rng.uniform(0.3, 1.0))
    return blended(palette(rng, 2), smooth(-1.5, 1.5, field))


def grating(rng: np.random.Generator, side: int) -> Array:
    (u, v), waves = axes(rng, side), 2 ** rng.uniform(1.5, 5.8)
    t = np.sin(2 * np.pi * waves * u)
    if rng.random() < 0.4:
        t = t * np.sin(2 * np.pi * waves * rng.uniform(0.5, 2) * v)
    hard = 10 ** rng.uniform(0, 1)
    return blended(palette(rng, 2), 0.5 + 0.5 * np.tanh(hard * t) / np.tanh(hard))


def stripes(rng: np.random.Generator, side: int) -> Array:
    (u, _), count = axes(rng, side), 2 ** rng.uniform(1.5, 5.5)
    colours = palette(rng, int(rng.integers(2, 6)))
    return colours[rng.integers(len(colours), size=4096)[(u * count).astype(int)]]


def checks(rng: np.random.Generator, side: int) -> Array:
    (u, v), count = axes(rng, side), 2 ** rng.uniform(1.5, 5.5)
    i, j = (u * count).astype(int), (v * count * rng.uniform(0.7, 1.4)).astype(int)
    plaid, colours = rng.random() < 0.5, palette(rng, 4)
    a, b = (rng.integers(2, size=4096) if plaid else np.arange(4096) % 2 for _ in range(2))
    which = a[i] + 2 * b[j] if plaid else a[i] ^ b[j]
    return colours[which]


def weave(rng: np.random.Generator, side: int) -> Array:
    """Two sets of round threads that go over and under each other; plain, twill, basket or satin."""
    (u, v), count = axes(rng, side), 2 ** rng.uniform(3, 5.5)
    p, q = u * count, v * count * rng.uniform(0.8, 1.25)
    i, j = np.floor(p), np.floor(q)
    step, size = rng.choice([1, 2, 3]), rng.choice([2, 4, 5])
    over = (i + step * j) % size < size / 2
    across_p, across_q = 2 * (p - i) - 1, 2 * (q - j) - 1
    round_p, round_q = (np.sqrt(np.clip(1 - (t * rng.uniform(0.8, 1.1)) ** 2, 0, 1)) for t in (across_p, across_q))
    fall = rng.uniform(0, 0.6)
    shade = np.where(over, round_p * (1 - fall * across_q**2), round_q * (1 - fall * across_p**2))
    yarn = 1 + rng.uniform(0, 0.2) * rng.standard_normal(4096)[np.where(over, i, j + 2000).astype(int) % 4096]
    twist = 1 + rng.uniform(0, 0.15) * np.sin(2 * np.pi * np.where(over, 3 * q + p, 3 * p + q))
    deep = rng.uniform(0.2, 0.8)
    return blended(palette(rng, 2), over.astype("f4")) * ((1 - deep + deep * shade) * yarn * twist)[..., None]


def gravel(rng: np.random.Generator, side: int) -> Array:
    """Cells around random or regular points, with joints between them or domed like pebbles."""
    count = int(2 ** rng.uniform(4, 10))
    points = rng.random((count, 2)) * side * 1.1 - 0.05 * side
    yx = np.mgrid[0:side, 0:side].reshape(2, -1).T
    (near, far), which = (a.T for a in cKDTree(points).query(yx, 2))
    wide = rng.uniform(0.2, 0.6) * side / np.sqrt(count)
    dome = np.clip((far - near) / wide, 0, 1) ** rng.uniform(0.3, 1)
    colours = palette(rng, 64)
    image = colours[which[0] % 64]
    deep = rng.uniform(0, 0.8)
    return (image * (1 - deep + deep * dome)[:, None]).reshape(side, side, 3)


def spots(rng: np.random.Generator, side: int) -> Array:
    """Dots, holes or flakes in rows or anywhere."""
    (u, v), count = axes(rng, side), 2 ** rng.uniform(2, 5)
    p, q = u * count, v * count
    q = q + 0.5 * (np.floor(p) % 2) if rng.random() < 0.5 else q
    loose = rng.choice([0.0, 0.3])
    shift = loose * rng.standard_normal((2, 64, 64)).astype("f4")
    i, j = np.floor(p).astype(int) % 64, np.floor(q).astype(int) % 64
    r = np.hypot(p - np.floor(p) - 0.5 + shift[0, i, j], q - np.floor(q) - 0.5 + shift[1, i, j])
    return blended(palette(rng, 2), smooth(0.02, -0.02, r - rng.uniform(0.15, 0.45)))


def scene(lay_out: Scene) -> Drawn:
    return lambda rng, side: lay_out(rng, side).astype(np.float32) / 255


TEXTURES: dict[str, Drawn] = {f.__name__: f for f in (gradient, clouds, grating, stripes, checks, weave, gravel, spots)}
TEXTURES |= {
    "wood": scene(SCENES["wood"]),
    "steel": scene(Scene(steel)),
    "belt": scene(Scene(lambda rng, size, variant=None: belt(rng, size, rng.uniform(0.05, 0.6, 3)))),
}


def draw_ground(rng: np.random.Generator, side: int = SIDE) -> Picture:
    """uint8 [side, side, 3]: one texture, or one that shines through another, lit unevenly, more or less in focus."""
    image = TEXTURES[rng.choice(list(TEXTURES))](rng, side)
    if rng.random() < 0.35:
        other = TEXTURES[rng.choice(list(TEXTURES))](rng, side)
        image = image * (1 + rng.uniform(0.1, 0.7) * (other - other.mean()))
    if rng.random() < 0.5:
        image = image * (1 + rng.uniform(0, 0.25) * noise(rng, side, (1.5, 1.5), 2)[..., None])
    if rng.random() < 0.4:
        blur = rng.uniform(0.3, 1.2)
        image = ndimage.gaussian_filter(image, (blur, blur, 0))
    image = image + rng.choice([0.0, 0.01, 0.04]) * rng.standard_normal((side, side, 1)).astype("f4")
    return (image.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def photo_ground(rng: np.random.Generator, photo: Picture, side: int = SIDE) -> Picture:
    """A photograph's texture: a small window, mirrored until it fills the ground, or enlarged."""
    size = int(rng.integers(16, 57))
    y, x = (int(rng.integers(0, n - size + 1)) for n in photo.shape[:2])
    window = photo[y : y + size, x : x + size]
    if rng.random() < 0.6:
        repeat = int(rng.integers(32, 97))
        window = np.asarray(Image.fromarray(window).resize((repeat, repeat)))
        return np.pad(window, ((0, side - repeat),) * 2 + ((0, 0),), "symmetric") if repeat < side else window[:side, :side]
    return np.asarray(Image.fromarray(window).resize((side, side), Image.Resampling.BICUBIC))


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
    colours = rng.uniform(0.03, 0.97, (3, 3)).astype("f4")
    if rng.random() < 0.5:
        colours = colours.mean(1, keepdims=True) + rng.uniform(0, 0.4) * (colours - colours.mean(1, keepdims=True))
    image = np.broadcast_to(colours[0], (side, side, 3)).copy()
    kind = rng.integers(4)
    if kind == 1:
        image = draw_ground(rng, side).astype(np.float32) / 255
    elif kind == 2:  # two parts
        u, _ = axes(rng, side)
        image = blended(colours, smooth(-0.02, 0.02, u - np.median(u)))
    elif kind == 3:  # prints and holes
        inner = outline(rng, side // 2)
        top, left = rng.integers(side // 2, size=2)
        patch = smooth(0.05, -0.05, inner)[..., None]
        window = image[top : top + side // 2, left : left + side // 2]
        window += (colours[2] - window) * patch
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
    """The salient object of a photograph with a soft matte, or None where it is unclear.

    The matte is where the teacher's map is high, cut along colors: pixels vote for inside or outside by their distance
    to the mean colors of the most and the least salient parts."""
    h, w = photo.shape[:2]
    m = resized(saliency, (h, w)).clip(0, 1)
    border = np.concatenate([photo[:3].reshape(-1, 3), photo[-3:].reshape(-1, 3), photo[:, :3].reshape(-1, 3)]).astype("f4")
    ground = np.median(border, 0)
    pixels = photo.astype("f4")
    if np.mean(np.abs(border - ground).max(1) < 20) > 0.85:  # a plain ground gives the outline away
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
    """[N, 3, side, side] float: of each ground uint8 [N, 3, S, S] a window of random place and turn."""
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


def lay(images: Tensor, covered: Tensor, objects: Tensor, which: Tensor, generator: torch.Generator) -> None:
    """Lay objects uint8 [M, 4, s, s] on images [N, 3, S, S] (in place) where `which`, and note it in masks [N, S, S]."""
    n, side = int(which.sum()), images.shape[-1]
    if not n:
        return
    u = torch.rand(n, 9, generator=generator)
    rgba = objects[torch.randint(len(objects), (n,), generator=generator)].float() / 255
    fill = rgba[:, 3].mean((1, 2)).clamp(min=0.05)
    share = 0.05 + 0.65 * u[:, 0] ** 1.5  # of the frame
    scale = (share / fill).sqrt().clamp(0.2, 1.4)  # side of the object's box over the side of the image
    turn = u[:, 1] * 2 * torch.pi
    stretch = 0.85 + 0.3 * u[:, 2]
    flip = torch.where(u[:, 3] < 0.5, -1.0, 1.0)
    centre = (u[:, 4:6] * 2 - 1) * (1.05 - 0.8 * scale).clamp(min=0.08)[:, None]
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = turn.cos() / scale * flip, -turn.sin() / scale * flip
    theta[:, 1, 0], theta[:, 1, 1] = turn.sin() / scale / stretch, turn.cos() / scale / stretch
    theta[:, :, 2] = -(theta[:, :, :2] @ centre[:, :, None])[..., 0]
    fine = scale * side < 0.75 * rgba.shape[-1]
    soft = F.interpolate(F.avg_pool2d(rgba, 2), scale_factor=2.0, mode="bilinear")  # a small object is seen less finely
    rgba = torch.where(fine[:, None, None, None], soft, rgba)
    grid = F.affine_grid(theta, [n, 4, side, side], align_corners=False)
    laid = F.grid_sample(rgba, grid, align_corners=False)
    matte = laid[:, 3:].clamp(0, 1)
    light = 0.6 + 0.6 * u[:, 6]
    here = images[which]
    blur = F.avg_pool2d(F.avg_pool2d(matte, 9, 1, 4), 9, 1, 4).roll((3, 2), (2, 3))
    here = here * (1 - 0.7 * (u[:, 7] * (u[:, 8] < 0.6))[:, None, None, None] * blur)
    images[which] = here * (1 - matte) + (laid[:, :3] * 255 * light[:, None, None, None]).clamp(0, 255) * matte
    covered[which] = torch.maximum(covered[which], matte[:, 0])


def compose(grounds: Tensor, objects: Sequence[Tensor], side: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Composites float [N, 3, side, side] in [0, 255] on the grounds, and how much of each pixel an object covers,
    float [N, side, side]. One in ten has no object, one in five two or three. `objects` are kinds, drawn alike often."""
    images = windows(grounds, side, generator)
    n = len(images)
    covered = torch.zeros(n, side, side)
    how_many = torch.tensor([0, 1, 1, 1, 1, 1, 1, 1, 2, 3])[torch.randint(10, (n,), generator=generator)]
    for layer in range(3):
        kind = torch.randint(len(objects), (n,), generator=generator)
        for k, bank in enumerate(objects):
            lay(images, covered, bank, (how_many > layer) & (kind == k), generator)
    return images.clamp(0, 255), covered  # blending rounds


def as_bank(pictures: Sequence[Picture]) -> Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, help="a PNG file: composites, each above its mask")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    rng = np.random.default_rng(args.seed)
    grounds = as_bank([draw_ground(rng) for _ in range(48)])
    objects = [as_bank([draw_object(rng) for _ in range(32)]), as_bank([scene_object(rng) for _ in range(8)])]
    images, covered = compose(grounds, objects, 128, torch.Generator().manual_seed(args.seed))
    tiles = torch.cat([images, covered[:, None].expand(-1, 3, -1, -1) * 255], 2)  # [48, 3, 256, 128]
    sheet = tiles.reshape(4, 12, 3, 256, 128).permute(0, 3, 1, 4, 2).reshape(4 * 256, 12 * 128, 3)
    Image.fromarray(sheet.byte().numpy()).save(args.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
