"""A small camera studio: surfaces of materials, soft boxes that light them, a camera with lens and sensor.

A `Surface` is a height field with a material in each pixel. `photograph` lights it (cast shadows, open sky, highlights
of brushed and bare metal, gloss, clear film) and exposes it. The scenes of `make_samples.py` are made of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from PIL import Image

Array = np.ndarray[Any, np.dtype[np.float32]]
Picture = np.ndarray[Any, np.dtype[np.uint8]]
Normal = tuple[Array, Array, Array]
Window = tuple[slice, slice]
EVERYWHERE: Window = (slice(None), slice(None))
T = TypeVar("T")


# ---------------------------------------- helpers
def resized(a: Array, shape: tuple[int, int], how: Image.Resampling = Image.Resampling.BICUBIC) -> Array:
    return np.asarray(Image.fromarray(np.ascontiguousarray(a, np.float32)).resize(shape[::-1], how))


def blurred(a: Array, radius: float) -> Array:
    """Smooths over about `radius` pixels by downsampling and upsampling, which costs the same for every radius."""
    small = [max(1, round(n / max(radius, 1.0))) for n in a.shape]
    return resized(resized(a, (small[0], small[1]), Image.Resampling.HAMMING), a.shape)


def smooth(low: float, high: float, x: Array) -> Array:
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def mixed(a: Array, b: Array | float, t: Array) -> Array:
    return a + (b - a) * t


def noise(rng: np.random.Generator, size: int, cells: tuple[float, float], octaves: int = 4, fade: float = 0.5) -> Array:
    """[size, size] fractal noise of unit variance; `cells` = waves per image in y and x. Takes one number of `rng`."""
    own = np.random.default_rng(rng.integers(2**62))  # the layout does not depend on the size
    total = np.zeros((size, size), np.float32)
    for octave in range(octaves):
        grid = [int(min(size, max(2, round(c * 2**octave + 1)))) for c in cells]
        total += resized(own.standard_normal(grid).astype(np.float32), (size, size)) * fade**octave
    return total / (total.std() + 1e-6)


def grooves(rng: np.random.Generator, at: Array, waves: float) -> Array:
    """Noise in one dimension, read at the positions `at`: brush marks of a straight line, tool marks of a radius."""
    own = np.random.default_rng(rng.integers(2**62))
    table = own.standard_normal(4096).astype(np.float32)
    cell = np.floor(at * waves)
    low = cell.astype(np.int32)
    return mixed(table[low & 4095], table[(low + 1) & 4095], at * waves - cell)


def box(u: Array, v: Array, half_u: float, half_v: float, corner: float = 0.0) -> Array:
    """Signed distance to a rounded rectangle, negative inside."""
    du, dv = np.abs(u) - half_u + corner, np.abs(v) - half_v + corner
    return np.hypot(np.maximum(du, 0), np.maximum(dv, 0)) + np.minimum(np.maximum(du, dv), 0) - corner


def hexagon(u: Array, v: Array, radius: float) -> Array:
    s = 3**0.5 / 2
    return np.maximum(np.abs(u), np.maximum(np.abs(u / 2 + v * s), np.abs(u / 2 - v * s))) - radius


def colour(*rgb: float) -> Array:
    """Display colors (gamma 2.2) -> linear light."""
    return np.asarray(rgb, np.float32) ** 2.2


def pick(rng: np.random.Generator, products: Sequence[T], variant: int | None) -> T:
    """One of several products, drawn unless `variant` fixes it; `rng` advances equally in both cases."""
    drawn = int(rng.integers(len(products)))
    return products[drawn if variant is None else variant % len(products)]


def tinted(rng: np.random.Generator, rgb: Sequence[float], spread: float = 0.03) -> Array:
    return colour(*np.clip(np.asarray(rgb) + rng.normal(0, spread, 3), 0.01, 1))


# ---------------------------------------- surface
@dataclass
class Surface:
    """Everything below the camera, float32 on a grid of twice the picture's size. A scene fills it, an edit may change it."""

    size: int
    height: Array  # [S, S] in image widths
    albedo: Array  # [S, S, 3] linear
    metal: Array  # [S, S] 0 = paint, plastic, stone; 1 = metal
    rough: Array  # [S, S] 0 = mirror; 1 = matt
    mask: Array  # [S, S] 1 where the object of the scene is
    film: Array  # [S, S] height of a clear film above it all, 0 = none
    brush_y: Array  # [S, S] how far invisible tool marks tilt the surface, across the marks
    brush_x: Array

    @classmethod
    def of(cls, size: int, albedo: Array, metal: float, rough: float) -> Surface:
        plain = [np.full((size, size), value, np.float32) for value in (0, metal, rough, 0, 0, 0, 0)]
        return cls(size, plain[0], np.broadcast_to(albedo, (size, size, 3)).copy(), *plain[1:])

    def frame(self, y: float, x: float, angle: float, reach: float) -> tuple[Window, Array, Array]:
        """The window of `reach` around a point and its coordinates (u along `angle`, v across), in image widths."""
        top, left = (max(0, int((c - reach) * self.size)) for c in (y, x))
        bottom, right = (max(0, min(self.size, int((c + reach) * self.size) + 2)) for c in (y, x))
        dy = (np.arange(top, bottom, dtype=np.float32)[:, None] + 0.5) / self.size - y
        dx = (np.arange(left, right, dtype=np.float32)[None, :] + 0.5) / self.size - x
        cos, sin = float(np.cos(angle)), float(np.sin(angle))
        return (slice(top, bottom), slice(left, right)), dx * cos + dy * sin, dy * cos - dx * sin

    def cover(self, distance: Array) -> Array:
        """How much of each pixel is inside a signed distance."""
        return np.clip(0.5 - distance * self.size, 0, 1)

    def lay(self, at: Window, alpha: Array, *, part: bool = False, **layers: Array | float) -> None:
        """Covers a window with a material; `part` means that it belongs to the object."""
        for name, value in ({"brush_y": 0.0, "brush_x": 0.0} | layers if "metal" in layers else layers).items():
            below = getattr(self, name)[at]
            below[...] = mixed(below, value, alpha[..., None] if name == "albedo" else alpha)
        if part:
            self.mask[at] = np.maximum(self.mask[at], alpha)


# ---------------------------------------- light and camera
def studio(rng: np.random.Generator, azimuth: float) -> Array:
    """[128, 128]: the reflection in a mirror ball, indexed by x and y of the reflected ray in [-1.25, 1.25]."""
    y, x = np.mgrid[-1.25:1.25:128j, -1.25:1.25:128j].astype(np.float32)
    lean = rng.uniform(-0.1, 0.1, 2)
    sky = 0.28 - 0.24 * y + lean[0] * x + 0.06 * noise(rng, 128, (3, 3), 2)
    for k, (turn, power) in enumerate([(0.0, 3.2), (rng.uniform(1.6, 2.6), 1.1), (rng.uniform(-2.6, -1.6), 0.9)]):
        away, a = rng.uniform(0.36, 0.5) + 0.1 * k, azimuth + turn
        u = x * np.cos(a) + y * np.sin(a) - away
        v = y * np.cos(a) - x * np.sin(a)
        sky += power * smooth(0.04, -0.04, box(u, v, rng.uniform(0.1, 0.16), rng.uniform(0.22, 0.42), 0.05))
    return np.clip(sky * (1.0 - 0.6 * smooth(0.75, 1.15, np.hypot(x, y))), 0.03, None)


def cast(height: Array, toward: tuple[float, float], steepness: float, softness: float) -> Array:
    """How much of a lamp each point sees: the steepest way up to it, against the lamp's disc."""
    size = height.shape[0]
    worst = np.full_like(height, -9)
    for step in np.unique(np.round(np.geomspace(1, size / 5, 20))):
        dy, dx = round(float(toward[0] * step)), round(float(toward[1] * step))
        rise = np.full_like(height, -9)
        here = (slice(max(0, -dy), size - max(0, dy)), slice(max(0, -dx), size - max(0, dx)))
        there = (slice(max(0, dy), size + min(0, dy)), slice(max(0, dx), size + min(0, dx)))
        rise[here] = (height[there] - height[here]) * (size / step)
        worst = np.maximum(worst, rise)
    return 1 - smooth(steepness - softness, steepness + softness, worst)


def reflected(maps: Sequence[Array], normal: Normal, view: tuple[Array, Array], rough: Array) -> Array:
    """Looks the mirrored ray up in the studio, sharp or blurred by roughness."""
    ny, nx, nz = normal
    row = np.clip((2 * nz * ny + view[0]) * 50.8 + 64, 0, 127).astype(np.int32)
    column = np.clip((2 * nz * nx + view[1]) * 50.8 + 64, 0, 127).astype(np.int32)
    where = row * 128 + column
    return mixed(maps[0].ravel()[where], maps[1].ravel()[where], rough)


def glanced(surface: Surface, maps: Sequence[Array], normal: Normal, view: tuple[Array, Array]) -> Array:
    """Brushed and turned metal stretches highlights across its marks: the mean over the tilts inside a pixel."""
    if not surface.brush_y.any():
        return reflected(maps, normal, view, surface.rough)
    ny, nx, nz = normal
    tilts = [(ny + t * surface.brush_y, nx + t * surface.brush_x, nz) for t in (-1.5, -0.5, 0.5, 1.5)]
    return sum((reflected(maps, tilt, view, surface.rough) for tilt in tilts), np.float32(0)) / 4


def facing(height: Array) -> Normal:
    dy, dx = np.gradient(height * np.float32(height.shape[0]))
    nz = 1 / np.sqrt(1 + dy * dy + dx * dx)
    return -dy * nz, -dx * nz, nz


def lit(surface: Surface, rng: np.random.Generator) -> Array:
    """Linear light [S, S, 3] leaving the surface toward the camera."""
    size, height = surface.size, surface.height
    azimuth, steepness = rng.uniform(-2.6, -0.6), rng.uniform(0.8, 1.25)  # from above in the picture, 39 to 51 degrees
    toward = (float(np.sin(azimuth)), float(np.cos(azimuth)))
    sky = studio(rng, azimuth)
    maps = [blurred(sky, 4), blurred(sky, 24)]
    half = resized(height, (size // 2, size // 2), Image.Resampling.BOX)
    shadow = resized(cast(half, toward, steepness, rng.uniform(0.25, 0.5)), height.shape, Image.Resampling.BILINEAR)
    shadow = np.clip(shadow, 0, 1)
    buried = sum(np.clip(blurred(half, half.shape[0] * r) - half, 0, None) / r for r in (0.012, 0.05))
    open_sky = np.clip(resized(np.exp(-0.85 * np.asarray(buried)), height.shape, Image.Resampling.BILINEAR), 0, 1)
    normal = facing(height)
    lamp = np.asarray([*toward, steepness]) / np.hypot(1, steepness)
    cosine = np.clip(normal[0] * lamp[0] + normal[1] * lamp[1] + normal[2] * lamp[2], 0, None)
    at = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    tilt = rng.uniform(-0.12, 0.12, 2)
    view = (at[:, None] * 0.35 + np.float32(tilt[0]), at[None, :] * 0.35 + np.float32(tilt[1]))
    fall = 1 - 0.45 * (view[0] * -toward[0] + view[1] * -toward[1]) / 0.35  # the lamp is near: one side is brighter
    mirror = glanced(surface, maps, normal, view) * open_sky * (0.3 + 0.7 * shadow)
    diffuse = (1.15 * cosine * shadow + 0.26 * open_sky * (0.75 + 0.25 * normal[2])) * fall
    fresnel = (0.04 + 0.5 * (1 - normal[2]) ** 4) * (1.15 - surface.rough)
    body = mixed(diffuse * (1 - fresnel), mirror, surface.metal)
    light = surface.albedo * body[..., None] + (fresnel * mirror * (1 - surface.metal))[..., None]
    if surface.film.any():
        light = under_film(surface.film, light, maps[0], view)
    return light


def under_film(film: Array, light: Array, sky: Array, view: tuple[Array, Array]) -> Array:
    """Clear plastic: reflects the studio, more where it is steeper, and absorbs a little light where it is steep."""
    normal = facing(film)
    there = np.clip(film * 400, 0, 1)
    fresnel = (0.13 + 0.8 * (1 - normal[2]) ** 3) * there
    shine = reflected([sky, sky], normal, view, np.zeros((1, 1), np.float32)) * fresnel
    return light * (1 - 0.6 * fresnel - 0.06 * there)[..., None] + shine[..., None]


def softened(picture: Array, share: float) -> Array:
    """The lens passes `share` of the light to each neighbor, first along columns, then along rows."""
    for axis in (0, 1):
        ends = np.concatenate([picture.take([0], axis), picture, picture.take([-1], axis)], axis)
        n = picture.shape[axis]
        low, high = (ends.take(range(start, start + n), axis) for start in (0, 2))
        picture = (1 - 2 * share) * picture + share * (low + high)
    return picture


def exposed(light: Array, rng: np.random.Generator, size: int) -> Picture:
    """The camera: lens, vignette, white balance, exposure, film curve, shot and read noise, 8 bits."""
    planes = [resized(light[..., c], (size, size), Image.Resampling.HAMMING) for c in range(3)]
    at = np.linspace(-1, 1, size, dtype=np.float32)
    vignette = 1 - rng.uniform(0.08, 0.22) * (at[:, None] ** 2 + at[None, :] ** 2) / 2
    lens = rng.uniform(0.1, 0.2)
    picture = softened(np.stack(planes, 2) * vignette[..., None], lens).clip(0) * rng.uniform(0.975, 1.025, 3).astype(
        np.float32
    )
    metered = np.float32(picture.mean() + 0.25 * picture.std() + 1e-6)
    picture *= rng.uniform(0.2, 0.26) / metered * (metered / 0.25) ** 0.35  # dark goods stay darker than bright ones
    picture += rng.normal(size=picture.shape).astype(np.float32) * np.sqrt(0.00035 * picture + 0.000006)
    tone = (1 - np.exp(-2.1 * np.clip(picture, 0, None))) ** np.float32(1 / 2.2)
    tone = mixed(tone, smooth(0, 1, tone), np.float32(0.45))
    return (np.clip(tone, 0, 1) * 255 + 0.5).astype(np.uint8)


def photograph(surface: Surface, rng: np.random.Generator) -> Picture:
    """uint8 [H, W, 3]: the surface under a studio drawn from `rng`, at half the surface's resolution."""
    return exposed(lit(surface, rng), rng, surface.size // 2)
