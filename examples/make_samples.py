"""Draws synthetic photographs of factory goods: seeded normal images for the demo, the examples and the tests.

    python examples/make_samples.py OUT --size 256 --count 2 --seed 0

A scene lays materials on a `Surface` (height, color, metal, roughness ...; lengths in image widths); `photograph` puts
it under soft boxes and a camera. A defect is an edit of the surface (`make_scene(..., edit=...)`), so it gets light,
shadow and noise like everything else. It needs only NumPy and Pillow.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sample_board import board
from sample_studio import (
    EVERYWHERE,
    Array,
    Picture,
    Surface,
    Window,
    box,
    colour,
    grooves,
    hexagon,
    mixed,
    noise,
    photograph,
    pick,
    resized,
    smooth,
    tinted,
)


def screws(rng: np.random.Generator, size: int, variant: int | None = None) -> Surface:
    """Wood screws and nuts, thrown on a brushed steel table."""
    table = steel(rng, size)
    finish = pick(rng, [(0.88, 0.88, 0.89), (0.9, 0.76, 0.46), (0.84, 0.8, 0.74)], variant)
    taken: list[tuple[float, float]] = []
    for kind in ["screw"] * 4 + ["nut"] * 5:
        for _attempt in range(80):
            y, x, angle = *rng.uniform(0.09, 0.91, 2), rng.uniform(0, 2 * np.pi)
            reach = np.linspace(-0.18, 0.18, 6) if kind == "screw" else np.zeros(1)
            new = [(y + t * np.sin(angle), x + t * np.cos(angle)) for t in reach]
            inside = all(0.06 < c < 0.94 for point in new for c in point)
            if inside and all(np.hypot(a - c, b - d) > 0.115 for a, b in new for c, d in taken):
                break
        else:
            continue
        taken += new
        if kind == "screw":
            lay_screw(table, rng, y, x, angle, tinted(rng, finish, 0.01))
        else:
            lay_nut(table, y, x, angle, tinted(rng, (0.78, 0.78, 0.8), 0.01))
    return table


def steel(rng: np.random.Generator, size: int, variant: int | None = None) -> Surface:
    """A brushed steel table with nothing on it."""
    table = Surface.of(size, tinted(rng, (0.66, 0.67, 0.69), 0.01), metal=1, rough=0.75)
    lean = rng.uniform(-0.5, 0.5)
    _, _, v = table.frame(0.5, 0.5, lean, 2)
    patch = smooth(-1, 1, noise(rng, size, (2, 6), 3))
    brush = mixed(grooves(rng, v + 3 + 0.002 * noise(rng, size, (2, 2), 2), 240), grooves(rng, v + 3, 420), patch)
    table.height += 0.00009 * brush + 0.0016 * noise(rng, size, (2, 2), 2)
    table.albedo *= (1 + 0.06 * brush + 0.05 * noise(rng, size, (3, 3), 5))[..., None]
    table.brush_y[...], table.brush_x[...] = 0.1 * np.cos(lean), -0.1 * np.sin(lean)
    return table


def lay_screw(table: Surface, rng: np.random.Generator, y: float, x: float, angle: float, metal: Array) -> None:
    """A solid of revolution lying on its side: head, shank, thread with a helix, tip."""
    at, u, v = table.frame(y, x, angle, 0.26)
    along = u + 0.19  # 0 at the face of the head, 0.38 at the tip
    head = np.minimum(0.052, np.where(along < 0.012, 0.046 + 0.5 * along, 0.052 - 0.75 * (along - 0.012)))
    core = np.where(along > 0.32, np.maximum(0.0, 0.021 * (0.385 - along) / 0.065), 0.021)
    turn = (along + 0.006 * np.sign(v) * np.clip(np.abs(v) / 0.027, 0, 1)) / 0.0225 + rng.uniform()
    ridge = np.clip(1 - 2.6 * np.abs(turn - np.floor(turn) - 0.5), 0, 1)
    thread = 0.0085 * ridge * smooth(0.125, 0.145, along) * smooth(0.385, 0.345, along)
    radius = np.where((along < 0) | (along > 0.385), 0, np.maximum(core + thread, np.where(along < 0.05, head, 0)))
    alpha = table.cover(np.maximum(np.abs(v) - radius, np.maximum(-along, along - 0.385)))
    round_side = np.sqrt(np.clip(radius**2 - v**2, 0, None))
    wear = 1 + 0.08 * noise(rng, table.size, (12, 12), 3)[at]
    albedo = metal * (wear * (0.55 + 0.45 * smooth(0.0, 0.006, radius - 0.021 + 0.006 * (along < 0.13))))[..., None]
    table.lay(at, alpha, height=0.03 + round_side, albedo=albedo, metal=1.0, rough=0.3, part=True)


def lay_nut(table: Surface, y: float, x: float, angle: float, metal: Array) -> None:
    at, u, v = table.frame(y, x, angle, 0.075)
    r = np.hypot(u, v)
    outside = np.maximum(hexagon(u, v, 0.046), 0.025 - r)
    chamfer = 0.012 * smooth(0.043, 0.054, r) + 0.006 * smooth(0.031, 0.025, r)
    table.lay(at, table.cover(hexagon(u, v, 0.046)), height=0.004, albedo=metal * 0.25, metal=1.0, rough=0.8, part=True)
    table.lay(at, table.cover(outside), height=0.034 - chamfer, albedo=metal, metal=1.0, rough=0.45, part=True)


def cloth(rng: np.random.Generator, size: int, variant: int | None = None) -> Surface:
    """Twill of two yarns, photographed close, with soft folds."""
    blue, beige, grey = (
        ((0.74, 0.73, 0.69), (0.21, 0.3, 0.4)),
        ((0.74, 0.69, 0.6), (0.47, 0.41, 0.34)),
        ((0.62, 0.62, 0.6), (0.33, 0.34, 0.35)),
    )
    weft, warp = pick(rng, [blue, beige, grey], variant)
    cloth_ = Surface.of(size, colour(0.5, 0.5, 0.5), metal=0, rough=1)
    _, u, v = cloth_.frame(0.5, 0.5, rng.uniform(-0.25, 0.25), 2)
    count = rng.uniform(33, 37)
    p = (u + 0.006 * noise(rng, size, (3, 3), 3) + 4) * count
    q = (v + 0.006 * noise(rng, size, (3, 3), 3) + 4) * count
    thick = [1 + 0.07 * grooves(rng, np.floor(a), 1) for a in (p, q)]
    across_p, across_q = (p - np.floor(p) - 0.5) / (0.47 * thick[0]), (q - np.floor(q) - 0.5) / (0.47 * thick[1])

    def lifted(i: Array, j: Array) -> Array:
        return ((np.floor(i) + np.floor(j)) % 4 < 2).astype(np.float32)

    def over(i: Array, j: Array, step_i: float, step_j: float, t: Array) -> Array:
        """The pattern along one yarn, eased between the crossings."""
        back, here, front = lifted(i - step_i, j - step_j), lifted(i, j), lifted(i + step_i, j + step_j)
        edge = np.where(t > 0, front, back)
        return here + (edge - here) * smooth(0.1, 0.9, np.abs(t)) * 0.5

    rise_warp = over(p, q, 0, 1, 2 * (q - np.floor(q) - 0.5))
    rise_weft = 1 - over(p, q, 1, 0, 2 * (p - np.floor(p) - 0.5))
    yarn = 0.34 / count
    h_warp = yarn * (np.sqrt(np.clip(1 - across_p**2, 0, 1)) + 1.1 * rise_warp)
    h_weft = yarn * (np.sqrt(np.clip(1 - across_q**2, 0, 1)) + 1.1 * rise_weft)
    fibre_p = np.sin(2 * np.pi * (q * 1.9 + across_p * 1.1 + 0.5 * noise(rng, size, (40, 40), 2)))
    fibre_q = np.sin(2 * np.pi * (p * 1.9 + across_q * 1.1 + 0.5 * noise(rng, size, (40, 40), 2)))
    top = smooth(-0.06 * yarn, 0.06 * yarn, h_warp - h_weft)
    fuzz = noise(rng, size, (150, 150), 2)
    fold = noise(rng, size, (1.5, 2.5), 2)
    cloth_.height += (
        mixed(h_weft + 0.05 * yarn * fibre_q, h_warp + 0.05 * yarn * fibre_p, top) + 0.06 * yarn * fuzz + 0.008 * fold
    )
    shade_p = 1 + 0.1 * grooves(rng, np.floor(p), 1) + 0.1 * fibre_p
    shade_q = 1 + 0.06 * grooves(rng, np.floor(q), 1) + 0.08 * fibre_q
    light = mixed(np.maximum(shade_q, 0.3), np.maximum(shade_p, 0.3), top) * (1 + 0.07 * fuzz)
    depth = smooth(0.1, 1.5, np.maximum(h_warp, h_weft) / yarn)
    cloth_.albedo[...] = (
        mixed(tinted(rng, weft, 0.015), tinted(rng, warp, 0.015), top[..., None]) * (light * (0.35 + 0.65 * depth))[..., None]
    )
    cloth_.mask[...] = 1
    return cloth_


def blister(rng: np.random.Generator, size: int, variant: int | None = None) -> Surface:
    """Scored tablets under clear domes on embossed aluminum foil, on a dark belt."""
    pack = belt(rng, size, (0.2, 0.21, 0.23))
    angle, y0, x0 = rng.normal(0, 0.06), 0.5 + rng.normal(0, 0.012), 0.5 + rng.normal(0, 0.012)
    at, u, v = pack.frame(y0, x0, angle, 1)
    card = box(u, v, 0.47, 0.45, 0.05)
    p, q = (u + v) * 58, (u - v) * 58
    knurl = np.cos(2 * np.pi * p) * np.cos(2 * np.pi * q)
    foil = 0.02 + 0.00042 * knurl + 0.0016 * noise(rng, size, (3, 3), 3)[at]
    grain = (0.96 + 0.05 * noise(rng, size, (20, 20), 3)[at])[..., None]
    pack.lay(
        at,
        pack.cover(card),
        height=foil,
        albedo=tinted(rng, (0.84, 0.84, 0.85), 0.008) * grain,
        metal=1.0,
        rough=0.85,
        part=True,
    )
    film = np.where(card < 0, np.float32(0.001), np.float32(0))
    coats = [(0.95, 0.94, 0.91), (0.93, 0.78, 0.62), (0.94, 0.82, 0.84), (0.8, 0.87, 0.93)]
    pill = tinted(rng, pick(rng, coats, variant), 0.01)
    for row in range(3):
        for column in range(3):
            cu, cv = (column - 1) * 0.29, (row - 1) * 0.28
            r = np.hypot(u - cu, v - cv)
            film = np.maximum(film, 0.075 * np.sqrt(np.clip(1 - (r / 0.123) ** 2.2, 0, None)) + 0.004 * smooth(0.136, 0.128, r))
            drift = rng.normal(0, 0.004, 2)
            lay_tablet(pack, rng, at, u - cu - drift[0], v - cv - drift[1], rng.uniform(0, np.pi), pill)
    pack.film[at] = film
    return pack


def lay_tablet(pack: Surface, rng: np.random.Generator, at: Window, u: Array, v: Array, turn: float, pill: Array) -> None:
    near = np.hypot(u, v) < 0.12
    rows, columns = np.flatnonzero(near.any(1)), np.flatnonzero(near.any(0))
    inner = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    u, v = u[inner], v[inner]
    here = (
        slice(at[0].start + rows[0], at[0].start + rows[-1] + 1),
        slice(at[1].start + columns[0], at[1].start + columns[-1] + 1),
    )
    r = np.hypot(u, v)
    score = np.abs(v * np.cos(turn) - u * np.sin(turn))
    profile = (
        0.05
        + 0.02 * np.sqrt(np.clip(1 - (r / 0.105) ** 2, 0, None))
        - 0.012 * smooth(0.082, 0.096, r)
        - 0.010 * smooth(0.008, 0.002, score)
    )
    powder = noise(rng, pack.size, (70, 70), 3)[here]
    pack.lay(here, pack.cover(r - 0.117), albedo=colour(0.5, 0.5, 0.52), rough=0.7)
    pack.lay(
        here,
        pack.cover(r - 0.096),
        height=profile + 0.0003 * powder,
        albedo=pill * (1 + 0.035 * powder)[..., None],
        metal=0.0,
        rough=0.9,
    )


def belt(rng: np.random.Generator, size: int, rgb: Sequence[float]) -> Surface:
    """A rubber conveyor belt: a worn diagonal weave."""
    rubber = Surface.of(size, tinted(rng, rgb, 0.01), metal=0, rough=0.8)
    _, u, v = rubber.frame(0.5, 0.5, rng.normal(0, 0.03), 2)
    weave = np.sin(2 * np.pi * (u + v) * 15) * np.sin(2 * np.pi * (u - v) * 15)
    worn = noise(rng, size, (3, 5), 5)
    rubber.height += 0.0028 * smooth(-0.5, 0.5, weave) * (1 - 0.3 * smooth(0, 2, worn)) + 0.0003 * noise(rng, size, (80, 80), 2)
    rubber.albedo *= (1 + 0.07 * worn + 0.1 * noise(rng, size, (60, 60), 3) + 0.15 * weave)[..., None].clip(0.3)
    return rubber


def flange(rng: np.random.Generator, size: int, variant: int | None = None) -> Surface:
    """A turned steel flange with six bolt holes, on a conveyor belt."""
    part = belt(rng, size, (0.22, 0.27, 0.25))
    y, x = 0.5 + rng.normal(0, 0.02, 2)
    at, u, v = part.frame(y, x, rng.uniform(0, 2 * np.pi), 0.5)
    _, u0, v0 = part.frame(y, x, 0, 0.5)
    r, around = np.hypot(u, v), np.arctan2(v, u)
    steel = tinted(rng, (0.76, 0.76, 0.77), 0.012)
    sector = (around / (2 * np.pi) * 6) % 1 - 0.5
    hole = np.hypot(r - 0.315, sector * 2 * np.pi / 6 * 0.315) - 0.036
    height = 0.055 - 0.014 * smooth(0.385, 0.4, r) - 0.014 * smooth(0.008, 0.0, hole)
    height = height + 0.07 * smooth(0.232, 0.205, r) - 0.012 * smooth(0.186, 0.2, r) * smooth(0.232, 0.205, r)
    height = height - 0.014 * smooth(0.125, 0.11, r) - 0.006 * smooth(0.262, 0.258, r) * smooth(0.246, 0.25, r)
    tool = grooves(rng, r + 0.0006 * np.sin(3 * around), 520)
    height = height + 0.0001 * tool * (1 + 0.4 * noise(rng, size, (4, 4), 2)[at])
    solid = np.maximum(np.maximum(r - 0.4, 0.11 - r), -hole)
    stain = 1 + 0.035 * tool + 0.05 * noise(rng, size, (5, 5), 5)[at]
    part.lay(at, part.cover(np.maximum(r - 0.4, 0.11 - r)), height=0.01, albedo=colour(0.1, 0.1, 0.1))
    marks = {"brush_y": 0.2 * v0 / np.maximum(r, 0.01), "brush_x": 0.2 * u0 / np.maximum(r, 0.01)}
    part.lay(at, part.cover(solid), height=height, albedo=steel * stain[..., None], metal=1.0, rough=0.55, part=True, **marks)
    return part


def wood(rng: np.random.Generator, size: int, variant: int | None = None) -> Surface:
    """Oiled planks with growth rings, pores and a knot here and there."""
    floor = Surface.of(size, colour(0.1, 0.07, 0.05), metal=0, rough=0.8)
    _, u, v = floor.frame(0.5, 0.5, rng.normal(0, 0.02), 2)
    light, dark = tinted(rng, (0.7, 0.56, 0.41), 0.006), tinted(rng, (0.43, 0.3, 0.2), 0.006)
    width, start = rng.uniform(0.27, 0.31), rng.uniform(0, 1)
    plank = np.floor(v / width + start + 8)
    beside = (v / width + start + 8 - plank - 0.5) * width
    wave, fine = noise(rng, size, (7, 1.2), 3, 0.4), noise(rng, size, (40, 3), 4, 0.6)
    bend, knots = np.zeros_like(wave), np.zeros_like(wave)
    for _ in range(2):
        ky, kx, strength = rng.uniform(-0.5, 0.5), rng.uniform(-0.5, 0.5), rng.uniform(0.5, 1)
        home = np.floor(ky / width + start + 8)
        kv = (home + 0.5 - 8 - start) * width + rng.uniform(-0.06, 0.06)
        far = np.hypot((u - kx) / 1.9, v - kv) + 0.004 * wave
        bend += 0.35 * strength * np.exp(-far / 0.03) * (plank == home)
        knots = np.maximum(knots, smooth(0.026, 0.016, far / strength) * (plank == home))
    shift, spread = grooves(rng, plank, 37), 15 + 4 * grooves(rng, plank, 53)
    arch = np.hypot(beside + 0.05 * shift, 0.04 + 0.1 * (u + 0.3 * grooves(rng, plank, 71)))  # rings cut at a slant
    ring = (arch * 2.4 + 0.25 * bend) * spread + 0.28 * wave + 0.06 * fine + 9
    phase = ring - np.floor(ring)
    late = smooth(0.0, 0.85, phase) ** 1.5 * smooth(1.0, 0.9, phase) * (0.75 + 0.25 * grooves(rng, np.floor(ring), 13))
    pores = smooth(0.9, 2.4, noise(rng, size, (size / 3, 16), 1)) * (0.35 + 0.65 * smooth(0.6, 0.1, phase))
    streak = noise(rng, size, (size / 4, 5), 2)
    gap = smooth(0.0, 0.005, width / 2 - np.abs(beside))
    tone = np.clip(0.16 + 0.6 * late + 0.09 * fine + 0.05 * streak + 0.08 * wave + 0.12 * shift, 0, 1.2)[..., None]
    grain = 1 + 0.07 * shift + 0.05 * streak - 0.4 * pores
    board = mixed(mixed(light, dark, tone).clip(0.01), colour(0.3, 0.18, 0.11), 0.85 * knots[..., None])
    floor.albedo[...] = board * (grain.clip(0.1) * (0.12 + 0.88 * gap))[..., None]
    floor.height += 0.012 * smooth(0, 0.012, width / 2 - np.abs(beside)) + 0.001 * wave
    floor.height += 0.0005 * late - 0.001 * pores + 0.0002 * streak
    floor.rough[...] = np.clip(0.6 + 0.15 * late + 0.3 * pores + 0.06 * fine, 0, 1)
    floor.mask[...] = 1
    return floor


def tiles(rng: np.random.Generator, size: int, variant: int | None = None) -> Surface:
    """Hand-glazed wall tiles: wavy gloss, pooled color at the edges, sandy joints."""
    wall = Surface.of(size, tinted(rng, (0.72, 0.7, 0.66), 0.01), metal=0, rough=1)
    _, u, v = wall.frame(0.5, 0.5, rng.normal(0, 0.015), 2)
    u, v = u + rng.uniform(-0.02, 0.02), v + rng.uniform(-0.02, 0.02)
    sand = noise(rng, size, (120, 120), 2)
    wall.height += 0.0012 * sand
    wall.albedo *= (1 + 0.12 * sand + 0.08 * noise(rng, size, (4, 4), 4))[..., None].clip(0.2)
    p, q = u / 0.32 + 20.5, v / 0.32 + 20.5
    which = np.floor(p) + 7 * np.floor(q)
    du, dv = (p - np.floor(p) - 0.5) * 0.32, (q - np.floor(q) - 0.5) * 0.32
    edge = box(du, dv, 0.15, 0.15, 0.012) + 0.0012 * noise(rng, size, (9, 9), 2)
    tilt = du * grooves(rng, which, 31) * 0.045 + dv * grooves(rng, which, 43) * 0.045
    wavy = noise(rng, size, (7, 7), 3, 0.45)
    speck = smooth(1.9, 2.5, noise(rng, size, (70, 70), 2))
    glaze = pick(rng, [(0.2, 0.36, 0.38), (0.22, 0.29, 0.42), (0.74, 0.71, 0.64), (0.3, 0.38, 0.3)], variant)
    pooled = smooth(-0.03, 0.0, edge) - 0.25 * wavy
    body = tinted(rng, glaze, 0.012) * (1 + 0.11 * grooves(rng, which, 17) - 0.12 * pooled + 0.04 * sand - 0.6 * speck)[
        ..., None
    ].clip(0.1)
    height = 0.022 - 0.012 * smooth(-0.016, 0.0, edge) ** 2 + tilt + 0.0011 * wavy
    wall.lay(EVERYWHERE, wall.cover(edge), height=height, albedo=body, rough=0.04, part=True)
    return wall


@dataclass(frozen=True)
class Scene:
    """Called with a generator and a size, it returns a photograph; `surface` is the scene before lighting."""

    lay_out: Callable[[np.random.Generator, int, int | None], Surface]

    def surface(self, rng: np.random.Generator, size: int, variant: int | None = None) -> Surface:
        return self.lay_out(rng, 2 * size, variant)

    def __call__(self, rng: np.random.Generator, size: int) -> Picture:
        return photograph(self.surface(rng, size), rng)


SCENES = {lay_out.__name__: Scene(lay_out) for lay_out in (screws, cloth, blister, board, flange, wood, tiles)}


def make_scene(
    name: str,
    seed: int,
    size: int = 256,
    *,
    variant: int | None = None,
    return_mask: bool = False,
    edit: Callable[[Surface], None] | None = None,
) -> Any:
    """Photograph number `seed` of scene `name`: uint8 [size, size, 3].

    With `return_mask` also the mask of the object: uint8 {0, 1} [size, size], all 1 where the scene is one material.
    `variant` fixes the product (the color of tablets, yarns, glaze, screws), which otherwise changes with the seed.
    `edit` may change the surface before lighting, to make a defect. Everything else stays the same.
    """
    if name not in SCENES:
        raise ValueError(f"`name` must be one of {', '.join(SCENES)}, got {name!r}")
    if size < 16:
        raise ValueError(f"`size` must be at least 16 pixels, got {size}")
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    surface = SCENES[name].surface(rng, size, variant)
    if edit is not None:
        edit(surface)
    picture = photograph(surface, rng)
    if not return_mask:
        return picture
    return picture, (resized(surface.mask, (size, size), Image.Resampling.BOX) > 0.5).astype(np.uint8)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, help="folder for <scene>_<number>.png")
    parser.add_argument("--size", type=int, default=256, help="side of the square pictures in pixels (default 256)")
    parser.add_argument("--count", type=int, default=2, help="pictures per scene (default 2)")
    parser.add_argument("--seed", type=int, default=0, help="number of the first picture (default 0)")
    parser.add_argument(
        "--scenes", nargs="+", choices=list(SCENES), default=list(SCENES), metavar="SCENE", help=", ".join(SCENES)
    )
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.scenes:
        for number in range(args.seed, args.seed + args.count):
            Image.fromarray(make_scene(name, number, args.size)).save(args.out / f"{name}_{number:03d}.png")
    made = len(args.scenes) * args.count
    print(f"{made} picture{'s' * (made != 1)} in {args.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
