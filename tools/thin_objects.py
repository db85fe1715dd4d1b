"""Draws thin and branched objects: screws, springs, wires, keys, chains, letters, clips, twigs, forks, rings.

A small net misses these first on a strong texture. Each generator returns a picture and its matte, uint8 [side, side, 4]. A
form is made of round strokes, of a turned profile, or cut from a plate, and then lit like metal or plastic. Tweezers, pliers
and scissors are not used for training: they are for evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from sample_studio import Array, Picture, mixed, noise, smooth
from scipy import ndimage

Drawn = Callable[..., Picture]
TAU = 2 * np.pi


@dataclass
class Form:
    """The visible surface of a body, per pixel."""

    matte: Array
    slope: Array  # [side, side, 2]: x and y of the surface's normal
    part: Array  # index of the color
    along: Array  # position along the body, in sides


@dataclass
class Line:
    """A round stroke through `points` [n, 2], x and y in half sides from the middle."""

    points: Array
    radius: Array | float
    z: Array | float = 0.0  # which stroke is on top where they cross
    part: int = 0


# ---- round strokes ---------------------------------------------------------------------------------------------------


def fitted(lines: Sequence[Line], fill: float = 0.95) -> list[Line]:
    """The same strokes, moved and scaled so that their longer direction fills the frame."""
    reach = [np.broadcast_to(np.asarray(line.radius), len(line.points))[:, None] for line in lines]
    low = np.min([(line.points - r).min(0) for line, r in zip(lines, reach, strict=True)], 0)
    high = np.max([(line.points + r).max(0) for line, r in zip(lines, reach, strict=True)], 0)
    scale = 2 * fill / (high - low).max()
    middle = (low + high) / 2
    return [Line((line.points - middle) * scale, line.radius * scale, line.z * scale, line.part) for line in lines]


def beads(line: Line, side: int) -> Array:
    """[n, 9]: x, y, direction x and y, radius, height, part, position along it, half the step; in pixels, closely spaced."""
    points = (np.asarray(line.points) + 1) * side / 2
    steps = np.hypot(*np.diff(points, axis=0).T)
    at = np.concatenate([[0], steps.cumsum()])
    radius, z = (np.broadcast_to(np.asarray(a, float) * side / 2, len(at)) for a in (line.radius, line.z))
    step = np.clip(radius.mean() / 3, 0.6, 2.0)
    s = np.linspace(0, at[-1], max(2, int(at[-1] / step) + 1))
    xy = np.stack([np.interp(s, at, points[:, k]) for k in (0, 1)], 1)
    ahead = np.gradient(xy, axis=0)
    ahead /= np.hypot(*ahead.T)[:, None] + 1e-9
    r, high = np.interp(s, at, radius), np.interp(s, at, z)
    half = (s[1] - s[0]) / 2
    return np.column_stack([xy, ahead, r, high, np.full(len(s), line.part), s / side, np.full(len(s), half)]).astype("f4")


def offsets(x: Array, y: Array, bead: Array) -> tuple[Array, Array]:
    """Distances of pixels across a bead, and along the line beyond the bead's piece of it."""
    dx, dy = x - bead[..., 0], y - bead[..., 1]
    tx, ty, half = bead[..., 2], bead[..., 3], bead[..., 8]
    ahead = dx * tx + dy * ty
    return dy * tx - dx * ty, np.sign(ahead) * np.maximum(np.abs(ahead) - half, 0)


def stroked(lines: Sequence[Line], side: int, flat: float = 0.0) -> Form:
    """Strokes as round bodies: each pixel shows the highest bead that covers it. `flat` flattens all but the rims."""
    bead = np.concatenate([beads(line, side) for line in fitted(lines)])
    best = np.zeros(side * side, np.int64)
    size = np.ceil(bead[:, 4]).astype(int) + 1
    for reach in np.unique(size):  # equal sizes together, so that thin strokes need no large patches
        cover(best, bead, np.flatnonzero(size == reach), int(reach), side)
    best = best.reshape(side, side)
    y, x = np.mgrid[0:side, 0:side].astype("f4") + 0.5
    won = bead[best & 0xFFFFF]
    beside, ahead = offsets(x, y, won)
    tx, ty, r = won[..., 2], won[..., 3], won[..., 4]
    matte = (r - np.hypot(beside, ahead) + 0.5).clip(0, 1) * r.clip(0, 0.5) * 2 * (best > 0)
    slope = np.stack([ahead * tx - beside * ty, ahead * ty + beside * tx], -1) / np.maximum(r, 0.5)[..., None]
    steep = np.hypot(slope[..., 0], slope[..., 1])[..., None]
    slope = slope / np.maximum(steep, 1) * steep.clip(0, 1) ** flat
    return Form(matte, slope, won[..., 6].astype(int), won[..., 7])


def cover(best: Array, bead: Array, which: Array, reach: int, side: int) -> None:
    """Store for each pixel the highest of the beads `which`: height and index are packed into one integer."""
    j, i = (a.ravel() for a in np.mgrid[-reach : reach + 1, -reach : reach + 1])
    own = bead[which][:, None]
    x, y = np.floor(own[..., 0]) + i, np.floor(own[..., 1]) + j
    beside, ahead = offsets(x + 0.5, y + 0.5, own)
    d2, r = beside**2 + ahead**2, own[..., 4]
    seen = (d2 < (r + 0.6) ** 2) & (x >= 0) & (x < side) & (y >= 0) & (y < side)
    height = np.where(d2 < r**2, own[..., 5] + np.sqrt(np.maximum(r**2 - d2, 0)) + 600, 90 - np.sqrt(d2) + r)
    number = np.broadcast_to(which[:, None], seen.shape)
    key = (height[seen] * 1024).astype(np.int64) << 20 | number[seen]
    np.maximum.at(best, (y[seen] * side + x[seen]).astype(np.int64), key)


# ---- turned bodies and plates ----------------------------------------------------------------------------------------


def turned(x: Array, radius: Array, ridge: Array, part: Array, side: int, slant: float) -> Form:
    """A body of revolution along x. `ridge` [n, 2] is the pitch and the depth of its thread."""
    y, at = ((np.mgrid[0:side, 0:side] + 0.5) / side * 2 - 1).astype("f4")
    bend = 1 / max(x[-1], -x[0])
    r, pitch, deep = (np.interp(at[0], x, a).astype("f4")[None] for a in (radius, ridge[:, 0], ridge[:, 1]))
    across = y / np.maximum(r, 1e-3)
    phase = TAU * (at * bend / pitch + slant * across.clip(-1, 1) / 2)
    edge = r * (1 - deep * (0.5 + 0.5 * np.cos(phase)))
    matte = ((edge - np.abs(y)) * side / 2 + 0.5).clip(0, 1) * (np.abs(at) < 0.96)
    lean = -np.gradient(r[0], 2 / side)[None].clip(-1.5, 1.5) * 0.5 + deep * 3 * np.sin(phase)
    slope = np.stack([np.broadcast_to(lean, y.shape), across.clip(-1, 1)], -1)
    return Form(matte, unit(slope), np.broadcast_to(np.interp(at[0], x, part).round().astype(int), y.shape), at / 2)


def unit(slope: Array) -> Array:
    return slope / np.maximum(np.hypot(slope[..., 0], slope[..., 1]), 1)[..., None]


def plate(matte: Array, bevel: float, flat: float = 0.8, raised: Array | float = 0.0) -> Form:
    """A sheet of the shape of `matte` with rims `bevel` pixels wide; `raised` adds to its height, in pixels."""
    side = len(matte)
    depth = np.minimum(ndimage.distance_transform_edt(matte > 0.5) / bevel, 1)
    height = ndimage.gaussian_filter((np.sqrt(depth * (2 - depth)) * bevel + raised).astype("f4"), 0.7)
    dy, dx = np.gradient(height)
    x = np.broadcast_to(np.arange(side) / side, (side, side))
    return Form(matte, unit(-np.stack([dx, dy], -1) * flat), np.zeros((side, side), int), x)


class Sheet:
    """Draws with coordinates in half sides from the middle, at three times the picture's resolution."""

    def __init__(self, side: int) -> None:
        self.image = Image.new("L", (side * 3, side * 3))
        self.draw, self.unit = ImageDraw.Draw(self.image), side * 1.5

    def polygon(self, points: Array, inside: int = 255) -> None:
        self.draw.polygon([tuple(p) for p in ((np.asarray(points) + 1) * self.unit).tolist()], fill=inside)

    def box(self, left: float, top: float, right: float, bottom: float, inside: int = 255) -> None:
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], inside)

    def oval(self, x: float, y: float, rx: float, ry: float, inside: int = 255) -> None:
        self.polygon(np.array([x, y]) + ring_points(64) * [rx, ry], inside)

    def matte(self) -> Array:
        return np.asarray(self.image.reduce(3), np.float32) / 255


# ---- light and color -------------------------------------------------------------------------------------------------


def color(rng: np.random.Generator, dark: float = 0.35) -> Array:
    """Very dark, metal gray, brass, copper, or any color of plastic."""
    if rng.random() < dark:
        return (rng.uniform(0.02, 0.14) * (1 + 0.25 * rng.standard_normal(3))).clip(0.01, 0.2).astype("f4")
    kind = rng.integers(4)
    if kind < 2:
        return (rng.uniform(0.25, 0.8) * (1 + 0.03 * rng.standard_normal(3))).astype("f4")
    if kind == 2:
        metal = [(0.75, 0.6, 0.3), (0.7, 0.42, 0.28), (0.45, 0.32, 0.24)][rng.integers(3)]
        return (rng.uniform(0.6, 1.1) * np.array(metal)).astype("f4")
    return rng.uniform(0.03, 0.95, 3).astype("f4")


def towards(rng: np.random.Generator) -> Array:
    """A direction to a light above the table."""
    angle, high = rng.uniform(0, TAU), rng.uniform(0.35, 1.2)
    light = np.array([np.cos(angle), np.sin(angle), high], np.float32)
    return light / np.linalg.norm(light)


def lobe(slope: Array, up: Array, light: Array, power: float) -> Array:
    half = light + np.array([0, 0, 1], np.float32)
    half = half / np.linalg.norm(half)
    return np.maximum(slope[..., 0] * half[0] + slope[..., 1] * half[1] + up * half[2], 0) ** power


def shaded(rng: np.random.Generator, form: Form, colors: Array | None = None) -> Picture:
    """The form under a light and its reflection, more or less glossy, a little worn."""
    if colors is None:
        first = color(rng)
        colors = np.stack([first, color(rng) if rng.random() < 0.5 else first, color(rng)])
    side, light = len(form.matte), towards(rng)
    up = np.sqrt(np.maximum(1 - (form.slope**2).sum(-1), 0))
    lit = np.maximum(form.slope @ light[:2] + up * light[2], 0)
    ambient = rng.uniform(0.15, 0.6)
    shade = ambient + (1.25 - ambient) * lit
    shade *= 1 + rng.uniform(0, 0.12) * noise(rng, side, (12, 12), 3)
    gloss = rng.choice([0.0, 0.25, 0.7]) * lobe(form.slope, up, light, 2 ** rng.uniform(2, 6))
    gloss = gloss + rng.uniform(0, 0.25) * lobe(form.slope, up, towards(rng), 2 ** rng.uniform(2, 5))
    base = colors[form.part % len(colors)]
    tint = mixed(np.ones(3, np.float32), colors.max(0), rng.uniform(0, 0.5))
    image = base * shade[..., None] + gloss[..., None] * tint
    if rng.random() < 0.3:  # dust or rust
        image = mixed(image, color(rng), smooth(1.0, 2.2, noise(rng, side, (25, 25), 2))[..., None] * rng.uniform(0.2, 0.8))
    return (np.dstack([image.clip(0, 1), form.matte]) * 255 + 0.5).astype(np.uint8)


# ---- the objects -----------------------------------------------------------------------------------------------------


def curve(rng: np.random.Generator, knots: int, wild: float, count: int = 240) -> Array:
    """A smooth line from left to right through random points."""
    x = np.linspace(-1, 1, knots) + rng.normal(0, wild / knots, knots)
    points = np.stack([x, rng.normal(0, wild, knots)], 1)
    fine = ndimage.zoom(points, (count / knots, 1), order=3, mode="nearest")
    return ndimage.gaussian_filter1d(fine, 3, axis=0)


def stray(rng: np.random.Generator, count: int = 240) -> Array:
    """A smooth line with random turns, loops and coils."""
    turn = noise_line(rng, count, rng.uniform(8, 30)) * rng.uniform(1, 5) + rng.normal(0, 3)
    angle = turn.cumsum() * TAU / count
    return np.stack([np.cos(angle), np.sin(angle)], 1).cumsum(0) * 3 / count


def noise_line(rng: np.random.Generator, count: int, soft: float) -> Array:
    line = ndimage.gaussian_filter1d(rng.standard_normal(count), soft)
    return line / (line.std() + 1e-6)


def arc(x: float, y: float, radius: float, start: float, end: float, count: int = 24) -> Array:
    angle = np.linspace(start, end, count)
    return np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], 1)


def ring_points(count: int) -> Array:
    return arc(0, 0, 1, 0, TAU * (1 - 1 / count), count)


def screw(rng: np.random.Generator, side: int = 160) -> Picture:
    """A head, a plain and a threaded piece of shank, and a tip: wood screw, bolt, grub screw, nail."""
    thick, long = rng.uniform(0.06, 0.17), rng.uniform(0.16, 0.4)
    wide = thick * rng.uniform(1.6, 2.4)
    head = rng.choice(["dome", "cone", "block", "flat", "none"], p=[0.25, 0.25, 0.3, 0.12, 0.08])
    tall = {"dome": 0.9, "cone": 1.2, "block": 1.0, "flat": 0.25, "none": 0.01}[head] * thick
    t = np.linspace(0, 1, 8)
    outline = {"dome": np.sqrt(1 - (1 - t) ** 2), "cone": 1 - t * (1 - thick / wide)}.get(head, np.ones(8)) * wide
    x, radius = list(-0.95 + tall * t * 2), list(outline if head != "none" else outline * thick / wide)
    plain = x[-1] + 0.002 + rng.choice([0.0, rng.uniform(0, 0.7)])
    tip = rng.choice([0.1, long])
    x += [x[-1] + 0.002, plain, plain + 0.01, 0.95 - tip, 0.95]
    x = np.maximum.accumulate(np.clip(x, -0.95, 0.95))
    radius = np.array([*radius, thick * 0.9, thick * 0.9, thick, thick, thick * (0.6 if tip == 0.1 else 0.05)])
    deep = np.r_[np.zeros(len(x) - 3), np.full(3, rng.uniform(0.15, 0.35) if head != "flat" else 0.0)]
    ridge = np.stack([np.full(len(x), thick * rng.uniform(0.35, 0.9)), deep], 1)
    part = np.r_[np.zeros(8), np.ones(len(x) - 8)]
    return shaded(rng, turned(x, radius, ridge, part, side, rng.choice([-1, 1])))


def spring(rng: np.random.Generator, side: int = 160) -> Picture:
    """A coil seen from the side; its far halves are below its near ones. Some have hooks, some are conical."""
    turns, wire = int(rng.integers(5, 15)), rng.uniform(0.018, 0.05)
    wide, lean = rng.uniform(0.13, 0.35), rng.uniform(0, 0.04)
    t = np.linspace(0, turns, turns * 24)
    cone = 1 - rng.choice([0.0, 0.5]) * t / turns
    bend = rng.choice([0.0, 0.25]) * np.sin(np.pi * t / turns)
    turn = TAU * t
    coil = np.stack([-0.9 + 1.8 * t / turns + lean * np.cos(turn), wide * cone * np.sin(turn) + bend], 1)
    lines = [Line(coil, wire, wide * cone * np.cos(turn))]
    if rng.random() < 0.5:
        r = wide * 0.6
        lines.append(Line(arc(-0.9 - r, 0, r, 0, TAU * 0.8), wire))
        lines.append(Line(arc(0.9 + r, 0, r, np.pi, np.pi - TAU * 0.8), wire))
    return shaded(rng, stroked(lines, side))


def wire(rng: np.random.Generator, side: int = 160) -> Picture:
    """A bent cable: one strand, several side by side, or two that are twisted; with bare ends or plugs."""
    middle = stray(rng) if rng.random() < 0.5 else curve(rng, int(rng.integers(3, 8)), rng.uniform(0.1, 0.6))
    thick = np.ptp(middle, 0).max() * rng.uniform(0.012, 0.03)
    ahead = np.gradient(middle, axis=0)
    normal = ahead[:, ::-1] * [-1, 1] / np.maximum(np.hypot(*ahead.T), 1e-6)[:, None]
    strands, twist = int(rng.choice([1, 1, 2, 3])), rng.random() < 0.5
    phase, lines = np.linspace(0, TAU * rng.uniform(4, 12), len(middle)), []
    for k in range(strands):
        swing = np.sin(phase + TAU * k / strands) * 0.9 if twist else np.full(len(phase), k * 2.0 - strands + 1)
        high = np.cos(phase + TAU * k / strands) if twist else np.linspace(0, 5, len(phase))  # crosses over itself
        path = middle + normal * (swing * thick * (strands > 1))[:, None]
        lines.append(Line(path, thick, high * thick, part=k % 2 * 2))
        if rng.random() < 0.6:  # bare ends, or a plug
            bare = thick * (0.5 if rng.random() < 0.6 else 1.8)
            lines += [Line(end, bare, 0.1, part=1) for end in (path[-14:], path[:14])]
    return shaded(rng, stroked(lines, side))


def key(rng: np.random.Generator, side: int = 160) -> Picture:
    """A bow with a hole, and a shank with bits or a blade with cuts."""
    sheet, bow, thin = Sheet(side), rng.uniform(0.24, 0.38), rng.uniform(0.04, 0.09)
    left, flat = -0.95 + bow, rng.random() < 0.5
    (blade if flat else shank)(rng, sheet, left, bow, thin)
    round_off = rng.choice([1 / 0.7, 0.5, 0.33])  # of the bow: pointed, like a pillow, nearly square
    rim = np.sign(ring_points(64)) * np.abs(ring_points(64)) ** round_off
    sheet.polygon([left, 0] + rim * [bow, bow * rng.uniform(0.8, 1.2)])
    hole = bow * (rng.uniform(0.15, 0.4) if flat else rng.uniform(0.4, 0.75))
    sheet.oval(left - (0.7 * bow - hole if flat else 0), 0, hole, hole, 0)
    y = np.mgrid[0:side, 0:side][0] / side * 2 - 1
    groove = -1.5 * smooth(0.03, 0.0, np.abs(y + 0.2 * thin)) * (flat and rng.random() < 0.6)
    return shaded(rng, plate(sheet.matte(), rng.uniform(2, 6) * side / 160, raised=groove))


def blade(rng: np.random.Generator, sheet: Sheet, left: float, bow: float, thin: float) -> None:
    cuts = int(rng.integers(4, 8))
    x = np.linspace(left + bow + 0.1, 0.85, cuts * 3)
    y = np.repeat(rng.uniform(-0.4, 1.3, cuts), 3) * thin * np.tile([1, 1, 1.3], cuts)
    tip, back = [(0.9, -1.3 * thin), (0.95, -0.3 * thin)], [(left + bow, 1.6 * thin), (left, 1.6 * thin)]
    sheet.polygon(np.array([(left, -1.3 * thin), *tip, *np.stack([x, y], 1)[::-1], *back]))


def shank(rng: np.random.Generator, sheet: Sheet, left: float, bow: float, thin: float) -> None:
    sheet.box(left, -thin, 0.95, thin)
    for x in np.arange(0.9, rng.uniform(0.45, 0.7), -0.11):
        sheet.box(x - rng.uniform(0.05, 0.1), 0, x, thin + rng.uniform(0.1, 0.3))
    for x in rng.uniform(left + bow, 0.3, int(rng.integers(0, 3))):
        sheet.box(x, -1.6 * thin, x + 0.06, 1.6 * thin)


def chain(rng: np.random.Generator, side: int = 160) -> Picture:
    """Links on a curve, in turn seen from their faces and from their edges."""
    path, links = curve(rng, int(rng.integers(3, 6)), rng.uniform(0, 0.35)), int(rng.integers(7, 16))
    at = np.concatenate([[0], np.hypot(*np.diff(path, axis=0).T).cumsum()])
    pitch, lines = at[-1] / links, []
    thick, wide = pitch * rng.uniform(0.12, 0.2), pitch * rng.uniform(0.35, 0.5)
    tilt = rng.choice([0.0, 0.45])  # how much is visible of the links seen from their edges
    for k in range(links):
        middle, ahead = (np.array([np.interp((k + d) * pitch, at, path[:, c]) for c in (0, 1)]) for d in (0.5, 0.9))
        ahead = (ahead - middle) / (np.linalg.norm(ahead - middle) + 1e-9)
        link = oval(wide, wide * (1 if k % 2 else tilt), max(0.75 * pitch - wide, 0))
        over = (link[:, 0] > 0) * 1.5 * thick  # each end is above the next link
        lines.append(Line(middle + link @ np.stack([ahead, ahead[::-1] * [-1, 1]]), thick, over))
    return shaded(rng, stroked(lines, side))


def oval(rx: float, ry: float, straight: float) -> Array:
    """A closed line of two half ellipses that two straight pieces join."""
    ends = [arc(0, 0, 1, a, a + np.pi) * [rx, ry] + [way * straight, 0] for a, way in ((-np.pi / 2, 1), (np.pi / 2, -1))]
    return np.concatenate([*ends, ends[0][:1]])


def letters(rng: np.random.Generator, side: int = 160) -> Picture:
    """A word of one to five letters or digits, in Pillow's font, thin or bold."""
    text = "".join(rng.choice(list("ABCDEFGHJKLMNPRSTUVWXYZabdeghkmnrstz0123456789&?"), int(rng.integers(1, 6))))
    size = int(side * 1.5)
    font, bold = ImageFont.load_default(size), int(rng.integers(0, 2) * rng.integers(1, size // 22))
    left, top, right, bottom = (int(n) for n in font.getbbox(text, stroke_width=bold))
    image = Image.new("L", (right - left + 4, bottom - top + 4))
    ImageDraw.Draw(image).text((2 - left, 2 - top), text, 255, font, stroke_width=bold)
    image.thumbnail((int(side * 0.95),) * 2, Image.Resampling.BOX)
    canvas = Image.new("L", (side, side))
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return shaded(rng, plate(np.asarray(canvas, np.float32) / 255, rng.uniform(1.5, 6) * side / 160))


def clip(rng: np.random.Generator, side: int = 160) -> Picture:
    """A paper clip, a hairpin, a safety pin, a hook or an S."""
    thick = rng.uniform(0.02, 0.05)
    points = np.concatenate([np.asarray(p, float) for p in CLIPS[rng.integers(len(CLIPS))](rng)])
    return shaded(rng, stroked([Line(points, thick, np.linspace(0, 3 * thick, len(points)))], side))


DOWN, UP = np.pi / 2, np.pi * 1.5
Path = list[Array | list[tuple[float, float]]]


def paper_clip(rng: np.random.Generator) -> Path:
    a, b, c = np.array([0.3, 0.23, 0.17]) * rng.uniform(0.7, 1.3)
    low, high = a - 2 * b + c, a - 2 * b + 2 * c
    bends = [arc(0.6, 0, a, -DOWN, DOWN), arc(-0.65, a - b, b, DOWN, UP), arc(0.4, low, c, -DOWN, DOWN)]
    return [[(rng.uniform(-0.5, 0.1), -a)], *bends, [(rng.uniform(-0.5, 0), high)]]


def hairpin(rng: np.random.Generator) -> Path:
    r, x = rng.uniform(0.08, 0.2), np.linspace(-0.7, 0.95, 60)
    wave = rng.choice([0.0, 0.05]) * np.sin(x * 22) * (np.abs(x - 0.1) < 0.45)
    return [np.stack([x, r + wave], 1)[::-1], arc(-0.7, 0, r, DOWN, UP), np.stack([x, -r + 0.4 * wave], 1)]


def safety_pin(rng: np.random.Generator) -> Path:
    r = rng.uniform(0.12, 0.2)
    return [[(0.75, -r), (-0.6, -r)], arc(-0.7, 0, r, -DOWN, -UP - TAU), [(0.8, r * 0.8)], arc(0.8, 0, r * 0.8, DOWN, -DOWN)]


def eye_hook(rng: np.random.Generator) -> Path:
    r, eye = rng.uniform(0.2, 0.4), rng.uniform(0.08, 0.15)
    return [arc(-0.8, 0, eye, 0.3, TAU), [(0.3, 0)], arc(0.4, r, r, -DOWN, rng.uniform(1.8, 2.6))]


def double_hook(rng: np.random.Generator) -> Path:
    r, s = rng.uniform(0.2, 0.45, 2)
    return [arc(-0.5, r, r, np.pi * rng.uniform(0.7, 1), UP), [(0.4, 0)], arc(0.5, -s, s, DOWN, rng.uniform(-1.5, 0))]


CLIPS = (paper_clip, hairpin, safety_pin, eye_hook, double_hook)


def twig(rng: np.random.Generator, side: int = 160) -> Picture:
    """A stem that forks and forks again, like a twig, a root or a coral."""
    lines: list[Line] = []
    wide, crooked = rng.uniform(0.35, 0.9), rng.uniform(0.05, 0.3)

    def grow(start: Array, angle: float, long: float, thick: float, level: int) -> None:
        turn = angle + np.r_[0, rng.normal(0, crooked, 7)].cumsum()
        points = start + np.r_[[[0, 0]], (long / 8 * np.stack([np.cos(turn), np.sin(turn)], 1)).cumsum(0)]
        lines.append(Line(points, np.maximum(thick * np.linspace(1, 0.6, 9), 0.009), part=level > 1))
        for _ in range(int(rng.integers(2, 5)) if level < 3 and len(lines) < 60 else 0):
            at = int(rng.integers(3, 9))
            fork = turn[at - 1] + rng.choice([-1, 1]) * rng.uniform(0.4, 1) * wide
            grow(points[at], fork, long * rng.uniform(0.4, 0.8), thick * (1 - 0.05 * at) * 0.75, level + 1)

    grow(np.zeros(2), rng.uniform(-0.3, 0.3), 1.0, rng.uniform(0.025, 0.06), 0)
    bark = np.array([0.3, 0.22, 0.15], np.float32) * rng.uniform(0.2, 1.6)
    return shaded(rng, stroked(lines, side), np.stack([bark, bark * 1.2, bark]) if rng.random() < 0.5 else None)


def fork(rng: np.random.Generator, side: int = 160) -> Picture:
    """A handle and prongs: a table fork, a rake, a comb."""
    prongs, wide, long = int(rng.integers(2, 8)), rng.uniform(0.15, 0.45), rng.uniform(0.3, 0.7)
    thick = min(rng.uniform(0.018, 0.045), 0.6 * wide / prongs)
    root, tip = 0.95 - long, np.linspace(-wide, wide, prongs)
    handle = np.linspace(-0.95, root, 20)
    shape = thick * (1.3 + rng.uniform(0, 2) * smooth(0.2, -0.95, handle))
    lines = [Line(np.stack([handle, 0 * handle], 1), shape, part=int(rng.random() < 0.4))]
    square, flare = rng.choice([0.35, 1.0]), rng.uniform(0.7, 1.1)
    for y in tip:
        t = np.linspace(0, 1, 12)
        side_step = np.clip(t * 4, 0, 1) ** square
        lines.append(
            Line(
                np.stack([root + long * t ** (2 - square), y * side_step * (1 + (flare - 1) * t)], 1), thick * (1 - 0.4 * t**4)
            )
        )
    return shaded(rng, stroked(lines, side, rng.choice([0.0, 1.5])))


def ring(rng: np.random.Generator, side: int = 160) -> Picture:
    """A washer, a gear with spokes or an open ring, upright or seen at an angle."""
    sheet, thin, tall = Sheet(side), rng.uniform(0.1, 0.26), rng.choice([1.0, rng.uniform(0.45, 1)])
    kind, angle = rng.choice(["washer", "gear", "open"]), np.linspace(0, TAU, 720)
    teeth = np.tanh(3 * np.sin(rng.integers(8, 28) * angle)) * 0.055 if kind == "gear" else 0.05
    rim = np.stack([np.cos(angle), np.sin(angle) * tall], 1)
    sheet.polygon(rim * np.broadcast_to(0.9 + teeth, angle.shape)[:, None])
    sheet.polygon(rim * (0.88 - thin), 0)
    if kind == "gear":
        spokes(rng, sheet, tall)
    elif kind == "open":
        sheet.polygon(np.array([(0, 0), (1, -rng.uniform(0.1, 0.5)), (1, rng.uniform(0.1, 0.5))]), 0)
    return shaded(rng, plate(sheet.matte(), rng.uniform(2, 10) * side / 160))


def spokes(rng: np.random.Generator, sheet: Sheet, tall: float) -> None:
    count = int(rng.integers(3, 7))
    for a in np.arange(count) * TAU / count + rng.uniform(0, 1):
        ahead, beside = np.array([np.cos(a), np.sin(a)]), np.array([-np.sin(a), np.cos(a)]) * 0.06
        sheet.polygon(np.array([beside, 0.8 * ahead + beside, 0.8 * ahead - beside, -beside]) * [1, tall])
    sheet.oval(0, 0, 0.22, 0.22 * tall)
    sheet.oval(0, 0, 0.1, 0.1 * tall, 0)


def tweezers(rng: np.random.Generator, side: int = 160) -> Picture:
    """Kept out of training: two long legs that are joined at an end, or that cross like pliers and scissors."""
    thick, gap, x = rng.uniform(0.025, 0.05), rng.uniform(0.08, 0.3), np.linspace(0, 1, 40)
    if rng.random() < 0.5:
        bow = gap * np.sin(rng.uniform(0.75, 0.97) * np.pi * x**0.8) * 0.8
        shape = thick * (0.5 + np.sin(np.pi * (0.15 + 0.75 * x)))
        return shaded(rng, stroked([Line(np.stack([1.9 * x, s * bow], 1), shape) for s in (-1, 1)], side, 1.0))
    lines, cross, loop = [], rng.uniform(0.45, 0.65), rng.uniform(0.12, 0.2) * rng.choice([0, 1])
    for s in (-1, 1):
        y = s * gap * (x - cross) * np.where(x < cross, 2.2, 0.8)
        lines.append(Line(np.stack([1.9 * x, y], 1), thick * (1.2 - 0.7 * x), s * thick))
        if loop:
            lines.append(Line(arc(-loop * 0.9, y[0], loop, 0, TAU, 40), thick * 0.9, part=1))
    lines.append(Line(np.array([[1.9 * cross - 0.01, 0], [1.9 * cross + 0.01, 0]]), thick * 1.5, 3 * thick, 1))
    return shaded(rng, stroked(lines, side, 0.7))


THIN: dict[str, Drawn] = {f.__name__: f for f in (screw, spring, wire, key, chain, letters, clip, twig, fork, ring)}
KEPT_OUT: dict[str, Drawn] = {"tweezers": tweezers}


def draw_thin(rng: np.random.Generator, side: int = 160) -> Picture:
    """One of `THIN`; half of them are thickened, so that the same form occurs slim and stout."""
    picture = THIN[str(rng.choice(list(THIN)))](rng, side)
    return thicker(picture, rng.uniform(1, 2.5)) if rng.random() < 0.5 else picture


def thicker(picture: Picture, factor: float) -> Picture:
    """Stretched across its length by `factor`, or less if it would leave its box."""
    side = len(picture)
    filled = np.flatnonzero(picture[..., 3].any(1))
    reach = max(side / 2 - filled[0], filled[-1] + 1 - side / 2)
    rows = round(side / 2 / max(1.0, min(factor, side / 2 / reach)))  # above and below the middle
    middle = Image.fromarray(picture[side // 2 - rows : side // 2 + rows])
    return np.asarray(middle.resize((side, side), Image.Resampling.BICUBIC))
