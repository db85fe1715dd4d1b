"""Draws grounds: textures of cloth, stone, wood, metal and print at every scale, and photographs' textures.

Each generator returns floats [side, side, 3], from 0 to about 1. Three materials come from `make_samples.py`; its cloth and
tiles are not used: they are for evaluation.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from make_samples import SCENES, Scene, belt, steel
from PIL import Image, ImageDraw, ImageFont
from sample_studio import Array, Picture, grooves, noise, smooth
from scipy import ndimage
from scipy.spatial import cKDTree

SIDE = 160  # pixels of a ground; a composite shows a window of it
Drawn = Callable[[np.random.Generator, int], Array]


def palette(rng: np.random.Generator, count: int) -> Array:
    """`count` colors around a base color: mostly dull, from nearly equal to far apart."""
    base, spread = rng.uniform(0.05, 0.95), 10 ** rng.uniform(-1.5, -0.4)
    tint = rng.normal(0, 1, 3) * rng.choice([0.02, 0.08, 0.2])
    own = rng.normal(0, 1, (count, 1)) * spread + rng.normal(0, 1, (count, 3)) * spread * rng.uniform(0, 1)
    return (base + tint + own).clip(0, 1).astype(np.float32)


def axes(rng: np.random.Generator, side: int, bends: tuple[float, ...] = (0.0, 0.005, 0.02)) -> tuple[Array, Array]:
    """Coordinates along a random direction and across it, in sides, slightly bent."""
    y, x = (np.mgrid[0:side, 0:side] / side).astype(np.float32)
    angle = rng.uniform(0, np.pi)
    bend = rng.choice(bends) * noise(rng, side, (3, 3), 2)
    return x * np.cos(angle) + y * np.sin(angle) + bend + 9, y * np.cos(angle) - x * np.sin(angle) + bend + 9


def blended(colors: Array, t: Array) -> Array:
    return colors[0] + (colors[1] - colors[0]) * t[..., None]


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
    colors = palette(rng, int(rng.integers(2, 6)))
    return colors[rng.integers(len(colors), size=4096)[(u * count).astype(int)]]


def checks(rng: np.random.Generator, side: int) -> Array:
    (u, v), count = axes(rng, side), 2 ** rng.uniform(1.5, 5.5)
    i, j = (u * count).astype(int), (v * count * rng.uniform(0.7, 1.4)).astype(int)
    plaid, colors = rng.random() < 0.5, palette(rng, 4)
    a, b = (rng.integers(2, size=4096) if plaid else np.arange(4096) % 2 for _ in range(2))
    which = a[i] + 2 * b[j] if plaid else a[i] ^ b[j]
    return colors[which]


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
    """Cells around random points, with joints between them or domed like pebbles, under a light."""
    image, dome = pebbles(rng, side, int(2 ** rng.uniform(3, 11)))
    deep = rng.uniform(0, 0.8)
    image = lit(rng, image * (1 - deep + deep * dome)[..., None], dome, rng.choice([0.0, rng.uniform(0.1, 0.6)]))
    return image * (1 + rng.uniform(0, 0.15) * noise(rng, side, (40, 40), 2))[..., None]


def pebbles(rng: np.random.Generator, side: int, count: int) -> tuple[Array, Array]:
    """Colors and heights of cells around `count` random points."""
    points = rng.random((count, 2)) * side * 1.1 - 0.05 * side
    yx = np.mgrid[0:side, 0:side].reshape(2, -1).T
    (near, far), which = (a.T for a in cKDTree(points).query(yx, 2))
    wide = rng.uniform(0.2, 0.6) * side / np.sqrt(count)
    dome = np.clip((far - near) / wide, 0, 1) ** rng.uniform(0.3, 1)
    return palette(rng, 64)[which[0] % 64].reshape(side, side, 3), dome.reshape(side, side).astype("f4")


def spots(rng: np.random.Generator, side: int) -> Array:
    """Dots, holes or flakes in rows or at random positions."""
    (u, v), count = axes(rng, side), 2 ** rng.uniform(2, 5)
    p, q = u * count, v * count
    q = q + 0.5 * (np.floor(p) % 2) if rng.random() < 0.5 else q
    loose = rng.choice([0.0, 0.3])
    shift = loose * rng.standard_normal((2, 64, 64)).astype("f4")
    i, j = np.floor(p).astype(int) % 64, np.floor(q).astype(int) % 64
    r = np.hypot(p - np.floor(p) - 0.5 + shift[0, i, j], q - np.floor(q) - 0.5 + shift[1, i, j])
    return blended(palette(rng, 2), smooth(0.02, -0.02, r - rng.uniform(0.15, 0.45)))


def periods(rng: np.random.Generator, side: int) -> float:
    """How often a structure repeats along a side: from twice to once in three pixels."""
    return float(2 ** rng.uniform(1, np.log2(side / 3)))


def lit(rng: np.random.Generator, image: Array, height: Array, strength: float) -> Array:
    """The image with slopes of `height` bright toward a light and dark away from it; equal slopes look alike at all scales."""
    dy, dx = np.gradient(ndimage.gaussian_filter(height.astype("f4"), 0.6))  # without steps
    angle = rng.uniform(0, 2 * np.pi)
    slope = np.cos(angle) * dx + np.sin(angle) * dy
    return image * (1 + strength * np.tanh(slope / (2 * slope.std() + 1e-6)))[..., None]


def per_cell(rng: np.random.Generator, i: Array, j: Array, spread: float) -> Array:
    """A factor around one for each cell of a grid."""
    return 1 + spread * rng.standard_normal((64, 64)).astype("f4")[i.astype(int) % 64, j.astype(int) % 64]


def knit(rng: np.random.Generator, side: int) -> Array:
    """Columns of V loops, each row tucked into the one below; sometimes ribbed or patterned."""
    (u, v), count = axes(rng, side), periods(rng, side)
    p, q = u * count, v * count * rng.uniform(1.0, 1.6)
    i, x = np.floor(p), 2 * (p - np.floor(p)) - 1
    q = q + rng.uniform(0.5, 1.1) * np.abs(x)
    j, t = np.floor(q), 2 * (q - np.floor(q)) - 1
    leg = np.clip(1 - (2 * np.abs(x) - 1) ** 2, 0, 1) ** 0.6
    yarn = leg * np.sqrt(np.clip(1 - (t * rng.uniform(0.85, 1.1)) ** 2, 0, 1))
    which = [np.zeros((8, 8), int), rng.integers(2, size=(8, 8)), np.arange(64).reshape(8, 8) // 8 % 2][rng.integers(3)]
    image = palette(rng, 2)[which[j.astype(int) % 8, i.astype(int) % 8]]
    deep, fuzz = rng.uniform(0.3, 0.9), rng.uniform(0, 0.12) * noise(rng, side, (60, 60), 2)
    rib = 1 - rng.choice([0.0, 0.4]) * (i.astype(int) // int(rng.integers(1, 4)) % 2)
    shade = (1 - deep + deep * yarn) * per_cell(rng, i, j, rng.uniform(0, 0.1)) * (1 + fuzz) * rib
    return lit(rng, image * shade[..., None], yarn, rng.uniform(0, 0.3))


def carpet(rng: np.random.Generator, side: int) -> Array:
    """Short fibers in all directions or nearly in one."""
    long = side * 2 ** rng.uniform(-5.5, -2.5)
    count = int(np.clip(rng.uniform(1, 6) * (side / long) ** 2, 300, 2500))
    middle, spread = rng.random((count, 2)) * side * 1.1 - side * 0.05, rng.choice([0.3, 3.0])
    angle = rng.uniform(0, 6.3) + spread * rng.standard_normal(count)
    step = np.stack([np.cos(angle), np.sin(angle)], 1) * long * rng.uniform(0.5, 1, (count, 1)) / 2
    shade = (128 + rng.uniform(15, 60) * rng.standard_normal(count)).clip(0, 255).astype(int).tolist()
    canvas, wide = Image.new("L", (side, side), int(rng.integers(20, 128))), int(rng.integers(1, max(2, int(long / 3) + 1)))
    draw = ImageDraw.Draw(canvas)
    for ends, value in zip(np.hstack([middle - step, middle + step]).tolist(), shade, strict=True):
        draw.line(ends, value, wide)
    pile = ndimage.gaussian_filter(np.asarray(canvas, np.float32) / 255, 0.5)
    deep = rng.uniform(0.2, 0.8)
    return lit(rng, blended(palette(rng, 2), pile) * (1 - deep + 1.6 * deep * pile)[..., None], pile, rng.uniform(0, 0.3))


def loops(rng: np.random.Generator, side: int) -> Array:
    """Loop pile or felt nubs: uneven domes in rows, each with its own shade."""
    (u, v), count = axes(rng, side), periods(rng, side)
    waves = min(count, side / 6)
    p, q = (w * count + rng.uniform(0.05, 0.3) * noise(rng, side, (waves, waves), 1) for w in (u, v))
    p = p + 0.5 * (np.floor(q) % 2)
    x, y = 2 * (p - np.floor(p)) - 1, 2 * (q - np.floor(q)) - 1
    dome = np.sqrt(np.clip(1 - x**2 * 0.9 - y**2 * 0.9, 0, 1))
    deep = rng.uniform(0.3, 0.9)
    shade = (1 - deep + deep * dome) * per_cell(rng, np.floor(p), np.floor(q), rng.uniform(0, 0.25))
    colors = palette(rng, 64)[np.floor(p).astype(int) * 7 % 64 * (rng.random() < 0.4)]
    return lit(rng, colors * shade[..., None], dome, rng.uniform(0.1, 0.5))


def brushed(rng: np.random.Generator, side: int) -> Array:
    """Metal with fine marks, along a line or around a point, and a few deeper scratches."""
    u, v = axes(rng, side, (0.0, 0.0, 0.004))
    middle = rng.uniform(-0.2, 1.2, 2)
    y, x = np.mgrid[0:side, 0:side] / side
    around = rng.random() < 0.4
    at = np.hypot(y - middle[0], x - middle[1]) if around else u
    marks = sum(grooves(rng, at, side * s) / (k + 1) for k, s in enumerate((1.0, 0.4, 0.12)))
    marks = marks * (1 + 0.4 * noise(rng, side, (6, 6), 2))
    sheen = (
        np.cos(2 * np.arctan2(y - middle[0], x - middle[1]) + rng.uniform(0, 6)) if around else np.sin(v * rng.uniform(2, 9))
    )
    shade = 1 + rng.uniform(0.02, 0.2) * marks + rng.uniform(0, 0.35) * sheen + scratches(rng, side)
    return palette(rng, 1)[0].clip(0.08) * shade[..., None].astype("f4")


def scratches(rng: np.random.Generator, side: int) -> Array:
    """Straight and round lines, bright or dark, up to a few dozen."""
    canvas = Image.new("L", (side * 2, side * 2), 128)
    draw = ImageDraw.Draw(canvas)
    for _ in range(int(2 ** rng.uniform(0, 6))):
        x, y, dx, dy = (rng.uniform(0, 2, 4) * side).tolist()
        value, long = int(rng.integers(0, 256)), rng.uniform(0.05, 0.6)
        if rng.random() < 0.3:
            draw.arc((x - dx, y - dx, x + dx, y + dx), dy, dy + 90 * long, value)
        else:
            draw.line((x, y, x + long * (dx - side), y + long * (dy - side)), value)
    return (np.asarray(canvas.reduce(2), np.float32) / 128 - 1) * rng.uniform(0, 0.8)


def perforated(rng: np.random.Generator, side: int) -> Array:
    """A sheet with round, slotted, square or six-sided holes in rows, with lit rims; or with bumps instead of holes."""
    (u, v), count = axes(rng, side, (0.0, 0.0, 0.004)), periods(rng, side)
    q = v * count
    p = u * count * rng.choice([1.0, 0.5, 0.87]) + 0.5 * (np.floor(q) % 2) * (rng.random() < 0.7)
    x, y = np.abs(p - np.floor(p) - 0.5), np.abs(q - np.floor(q) - 0.5)
    shapes = (np.hypot(x, y), np.hypot(np.maximum(x - 0.2, 0), y), np.maximum(x, y), np.maximum(x * 0.87 + y * 0.5, y), x + y)
    off = shapes[rng.integers(5)] - rng.uniform(0.2, 0.4)
    soft = max(0.04, 0.7 * count / side)
    hole, rim = smooth(soft, -soft, off), smooth(soft + rng.uniform(0.02, 0.15), -soft, off)
    colors = palette(rng, 2)
    sheet = colors[0] * (1 + rng.uniform(0, 0.15) * grooves(rng, u, side / 2))[..., None]
    below = colors[1] * rng.choice([0.1, 0.4, 1.0])
    return lit(rng, sheet + (below - sheet) * hole[..., None], -rim, rng.uniform(0.1, 0.6))


def timber(rng: np.random.Generator, side: int) -> Array:
    """Rings of a tree, cut across or along, with pores and rays."""
    u, v = axes(rng, side)
    along, count = rng.random() < 0.5, periods(rng, side)
    stretch = rng.uniform(6, 30) if along else 1.0
    x, y = (u - 9 - rng.uniform(-0.5, 1)) / stretch, v - 9 - rng.uniform(-0.7, 1.2)
    wave = rng.uniform(0, 0.06) * noise(rng, side, (2.5, 2.5), 3)
    r = (np.hypot(x, y) + wave) * count
    t = r - np.floor(r)
    late = t ** rng.uniform(1, 5) * smooth(1.0, 0.85, t) * per_cell(rng, np.floor(r), 0 * r, 0.25)
    cells = (side / 2, side / 2) if not along else (side / 2, 8.0)
    pores = rng.uniform(0, 0.15) * noise(rng, side, cells, 1) if not along else rng.uniform(0, 0.2) * grooves(rng, y, side / 2)
    rays = rng.choice([0.0, 0.12]) * grooves(rng, np.arctan2(y, x) + 4, 40) * (not along)
    brown = rng.uniform(0.3, 0.9) * np.array([[1, 0.75, 0.5], [0.6, 0.38, 0.2]], np.float32)
    colors = brown if rng.random() < 0.7 else palette(rng, 2)
    return blended(colors, late * rng.uniform(0.3, 1)) * (1 + pores + rays)[..., None]


def motif(rng: np.random.Generator, size: int) -> Array:
    """[size, size] in [0, 1]: a dot, cross, flower, star, letter or ring, drawn large and then reduced."""
    canvas = Image.new("L", (64, 64))
    draw, kind, r = ImageDraw.Draw(canvas), rng.integers(6), rng.uniform(10, 26)
    angle = np.linspace(0, 2 * np.pi, 120) + rng.uniform(0, 6)
    if kind == 0:
        draw.ellipse((32 - r, 32 - r * 0.8, 32 + r, 32 + r * 0.8), 255)
    elif kind == 1:
        ends, wide = np.stack([np.cos(angle), np.sin(angle)], 1) * r, int(rng.integers(4, 14))
        for a, b in ((0, 60), (30, 90)):
            draw.line([*(32 + ends[a]).tolist(), *(32 + ends[b]).tolist()], 255, wide)
    elif kind in (2, 3):
        petals, inner = int(rng.integers(3, 8)), rng.uniform(0.2, 0.7)
        wide = r * (inner + (1 - inner) * np.abs(np.cos(petals * angle / 2)))
        draw.polygon([*zip((32 + wide * np.cos(angle)).tolist(), (32 + wide * np.sin(angle)).tolist(), strict=True)], 255)
        draw.ellipse((32 - r / 4, 32 - r / 4, 32 + r / 4, 32 + r / 4), int(rng.choice([0, 128])))
    elif kind == 4:
        draw.text((32, 32), chr(rng.integers(65, 91)), 255, ImageFont.load_default(int(2 * r)), anchor="mm")
    else:
        draw.ellipse((32 - r, 32 - r, 32 + r, 32 + r), outline=255, width=int(rng.integers(3, 9)))
    return np.asarray(canvas.resize((size, size), Image.Resampling.BOX), np.float32) / 255


def prints(rng: np.random.Generator, side: int) -> Array:
    """One or two small motifs, repeated in rows or in a half drop."""
    (u, v), count = axes(rng, side), periods(rng, side)
    size = int(np.clip(1.3 * side / count, 4, 64))
    p, q = u * count, v * count
    q = q + 0.5 * (np.floor(p) % 2) * (rng.random() < 0.7)
    motifs = np.stack([motif(rng, size) for _ in range(2)])
    which = (np.floor(p) + np.floor(q)).astype(int) % 2 * (rng.random() < 0.5)
    i, j = (((w - np.floor(w)) * size).astype(int).clip(0, size - 1) for w in (p, q))
    colors = palette(rng, 3)
    if rng.random() < 0.4 or np.abs(colors[1:] - colors[0]).max(1).min() < 0.06:  # an invisible print does not count
        colors[1:] = rng.uniform(0, 1, (2, 3))
    ink = ndimage.gaussian_filter(motifs[which, j, i], 0.6 * side / count / size)
    return colors[0] + (colors[1 + which] - colors[0]) * ink[..., None]


def ribbed(rng: np.random.Generator, side: int) -> Array:
    """Corrugated sheet, corduroy, decking: waves, half rounds, steps or saw teeth under a light."""
    (u, v), count = axes(rng, side, (0.0, 0.0, 0.004)), periods(rng, side)
    t = u * count - np.floor(u * count)
    waves = (np.sin(2 * np.pi * t), np.abs(np.sin(np.pi * t)), np.tanh(4 * np.sin(2 * np.pi * t)), t)
    height = waves[rng.integers(4)]
    image = (
        blended(palette(rng, 2), 0.5 + 0.5 * height * rng.uniform(0, 0.5))
        * (1 + rng.uniform(0, 0.1) * grooves(rng, v, 60))[..., None]
    )
    return lit(rng, image, height, rng.uniform(0.15, 0.7))


def scene(lay_out: Scene) -> Drawn:
    return lambda rng, side: lay_out(rng, side).astype(np.float32) / 255


PLAIN = (gradient, clouds, grating, stripes, checks, weave, gravel, spots)
RELIEF = (knit, carpet, loops, brushed, perforated, timber, prints, ribbed)
TEXTURES: dict[str, Drawn] = {f.__name__: f for f in PLAIN + RELIEF}
TEXTURES |= {
    "wood": scene(SCENES["wood"]),
    "steel": scene(Scene(steel)),
    "belt": scene(Scene(lambda rng, size, variant=None: belt(rng, size, rng.uniform(0.05, 0.6, 3)))),
}


def draw_ground(rng: np.random.Generator, side: int = SIDE) -> Picture:
    """uint8 [side, side, 3]: one texture, or two blended, lit unevenly, more or less in focus."""
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
