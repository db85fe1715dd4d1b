"""The printed circuit board of `make_samples.py`: one product, whose layout never changes."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from sample_studio import EVERYWHERE, Array, Surface, Window, box, colour, grooves, noise, smooth, tinted

# u, v, kind, rotation of every part on the board; the layout is fixed, only pose, light and tolerances vary
PARTS: list[tuple[float, float, str, float]] = [
    (-0.14, -0.12, "chip", 0.0), (0.30, -0.29, "driver", 0.0), (0.32, 0.02, "can", 0.0), (0.32, 0.25, "can", 0.5),
    (-0.13, 0.21, "crystal", 0.0), (0.11, -0.38, "resistor", 1.571), (0.11, -0.235, "resistor", 1.571),
    (0.13, -0.11, "ceramic", 0.0), (0.13, -0.025, "ceramic", 0.0), (0.13, 0.06, "resistor", 0.0),
    (0.13, 0.145, "resistor", 0.0), (0.09, 0.26, "ceramic", 1.571), (0.16, 0.26, "ceramic", 1.571),
    (-0.38, 0.12, "resistor", 1.571),
    (-0.30, 0.12, "resistor", 1.571), (-0.38, 0.26, "ceramic", 1.571), (-0.30, 0.26, "resistor", 1.571),
    (-0.40, -0.40, "ceramic", 0.0), (-0.30, -0.40, "resistor", 0.0), (-0.02, -0.40, "resistor", 0.0),
]  # fmt: skip


def board(rng: np.random.Generator, size: int, variant: int | None = None) -> Surface:
    """A printed circuit board: copper under solder mask, vias, chips, resistors, capacitors, a pin row, white print."""
    pcb = Surface.of(size, tinted(rng, (0.08, 0.25, 0.16), 0.006), metal=0, rough=0.35)
    angle, y0, x0 = rng.normal(0, 0.025), 0.5 + rng.normal(0, 0.008), 0.5 + rng.normal(0, 0.008)
    copper, ink, gold, hole = (placed(layer, size, y0, x0, angle) for layer in printed_layers())
    pcb.height += 0.0012 * copper + 0.00006 * noise(rng, size, (60, 60), 3)
    pcb.albedo *= (1 + 0.6 * copper + 0.05 * noise(rng, size, (50, 50), 3))[..., None]
    pcb.lay(EVERYWHERE, 0.9 * ink, albedo=colour(0.82, 0.84, 0.8), rough=0.8)
    solder = 0.004 + 0.0004 * noise(rng, size, (50, 50), 3)
    pcb.lay(EVERYWHERE, gold, albedo=tinted(rng, (0.9, 0.76, 0.45), 0.01), height=solder, metal=1.0, rough=0.6)
    pcb.lay(EVERYWHERE, hole, albedo=colour(0.05, 0.05, 0.05), height=-0.012, metal=0.0, rough=1.0)
    for u, v, kind, turn in PARTS:
        u, v, turn = np.asarray([u, v, turn]) + rng.normal(0, [0.0015, 0.0015, 0.012])
        y, x = y0 + v * np.cos(angle) + u * np.sin(angle), x0 + u * np.cos(angle) - v * np.sin(angle)
        {"chip": lay_chip, "driver": lay_driver, "can": lay_can, "crystal": lay_crystal}.get(kind, lay_ceramic)(
            pcb, rng, *pcb.frame(y, x, angle + turn, REACH[kind]), kind
        )
    return pcb


REACH = {"chip": 0.26, "driver": 0.2, "can": 0.13, "crystal": 0.15, "resistor": 0.06, "ceramic": 0.06}


def placed(layer: Image.Image, size: int, y: float, x: float, angle: float) -> Array:
    """[size, size]: a drawing of the board, 1.25 image widths wide, in the board's pose."""
    scale, cos, sin = layer.width / 1.25 / size, np.cos(angle), np.sin(angle)
    row, column = [
        (0.625 - (x * cos + y * sin)) * layer.width / 1.25,
        (0.625 - (y * cos - x * sin)) * layer.width / 1.25,
    ]
    affine = (scale * cos, scale * sin, row, -scale * sin, scale * cos, column)
    turned = layer.transform((size, size), Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC)
    return np.asarray(turned, np.float32) / 255


def printed_layers() -> list[Image.Image]:
    """Copper, print, bare gold and drill holes as drawings of 1.25 x 1.25 image widths."""
    plan, n = np.random.default_rng(11), 1280
    layers = [Image.new("L", (n, n)) for _ in range(4)]
    copper, ink, gold, hole = (ImageDraw.Draw(layer) for layer in layers)

    def px(*points: float) -> list[float]:
        return [(p + 0.625) / 1.25 * n for p in points]

    def via(u: float, v: float, r: float = 0.011) -> None:
        copper.ellipse(px(u - 1.5 * r, v - 1.5 * r, u + 1.5 * r, v + 1.5 * r), 255)
        gold.ellipse(px(u - r, v - r, u + r, v + r), 255)
        hole.ellipse(px(u - r / 2, v - r / 2, u + r / 2, v + r / 2), 255)

    copper.rectangle(px(0.2, -0.1, 0.625, 0.38), 150)  # a ground plane
    for side in range(4):  # tracks from each side of the chip, bent by 45 degrees, to a via or over the edge
        for k in range(10):
            a, reach, bend = (k - 4.5) * 0.021, 0.15 + 0.018 * abs(k - 4.5), 0.03 + 0.05 * plan.random()
            way = [(a, 0.1), (a, reach), (a + np.sign(k - 4.5) * bend, reach + bend)]
            way.append((way[-1][0], way[-1][1] + 0.04 + 0.3 * plan.random() * (k % 3)))
            turned = [[(u, v), (v, u), (u, -v), (-v, u)][side] for u, v in way]
            at = [(u - 0.14, v - 0.12) for u, v in turned]
            copper.line([c for point in at for c in px(*point)], 255, width=7, joint="curve")
            via(*at[-1], 0.009)
    for k in range(7):  # a bus along the right side
        y = -0.5 + 0.022 * k
        line = [(-0.7, y), (-0.05 + 0.02 * k, y), (0.08 + 0.02 * k, y + 0.13), (0.7, y + 0.13)]
        copper.line([c for point in line for c in px(*point)], 255, width=6, joint="curve")
    for u, v in plan.uniform(-0.55, 0.34, (60, 2)):
        if all(np.hypot(u - a, v - b) > REACH[kind] * 0.75 + 0.03 for a, b, kind, _ in PARTS):
            via(u, v, 0.008)
    for k in range(14):  # the pin row
        u = -0.42 + 0.064 * k
        copper.line(px(u, 0.42, u + 0.02 * (k % 3 - 1), 0.33), 255, width=8)
        via(u, 0.42, 0.021)
        ink.text(px(u, 0.452), str(k + 1), 255, ImageFont.load_default(22), anchor="mt")
    for k, (u, v, kind, turn) in enumerate(PARTS):
        half_u, half_v = {"chip": (0.155, 0.155), "driver": (0.1, 0.13), "crystal": (0.115, 0.055)}.get(kind, (0.05, 0.024))
        if turn > 1:
            half_u, half_v = half_v, half_u
        if kind == "can":
            ink.ellipse(px(u - 0.1, v - 0.1, u + 0.1, v + 0.1), outline=255, width=5)
        else:
            ink.rectangle(px(u - half_u, v - half_v, u + half_u, v + half_v), outline=255, width=4)
        name = {"chip": "U", "driver": "U", "can": "C", "crystal": "X", "resistor": "R"}.get(kind, "C") + str(k + 1)
        ink.text(px(u, v - half_v - 0.006), name, 255, ImageFont.load_default(26), anchor="mb")
    ink.text(px(-0.47, 0.36), "CTRL-7  REV B", 255, ImageFont.load_default(34), anchor="lm")
    return layers


def lay_pins(pcb: Surface, at: Window, along: Array, out: Array, count: int, start: float, end: float) -> None:
    """A row of `count` tinned legs, 0.021 apart, that leave a body at `start` and bend down to `end`."""
    step = (along / 0.021 + (count % 2) / 2 + 99) % 1 - 0.5
    row = box(step * 0.021, out - (start + end) / 2, 0.0062, (end - start) / 2, 0.002)
    row = np.maximum(row, np.abs(along) - count * 0.0105)
    pad = box(step * 0.021, out - end, 0.0078, 0.016, 0.002)
    pad = np.maximum(pad, np.abs(along) - count * 0.0105)
    fall = 0.004 + 0.014 * smooth(end - 0.01, start + 0.006, out)
    pcb.lay(at, pcb.cover(pad), height=0.004, albedo=colour(0.78, 0.78, 0.76), metal=1.0, rough=0.7)
    pcb.lay(at, pcb.cover(row), height=fall + 0.004, albedo=colour(0.86, 0.86, 0.85), metal=1.0, rough=0.4, part=True)


def lay_body(
    pcb: Surface, rng: np.random.Generator, at: Window, u: Array, v: Array, half: tuple[float, float], text: str
) -> None:
    """A molded black package with beveled edges, a pin-one dimple and laser print."""
    edge = box(u, v, *half, 0.006)
    grain = noise(rng, pcb.size, (120, 120), 2)[at]
    dimple = smooth(0.014, 0.011, np.hypot(u + half[0] - 0.028, v + half[1] - 0.028))
    height = 0.032 - 0.012 * smooth(-0.014, 0.0, edge) - 0.003 * dimple + 0.0002 * grain
    dark = tinted(rng, (0.2, 0.2, 0.21), 0.005) * (1 + 0.06 * grain)[..., None]
    pcb.lay(at, pcb.cover(edge), height=height, albedo=dark, metal=0.0, rough=0.75, part=True)
    label = Image.new("L", (256, 256))
    ImageDraw.Draw(label).multiline_text((128, 128), text, 255, ImageFont.load_default(44), anchor="mm", align="center")
    row, column = (np.clip(128 + c / 0.2 * 256, 0, 255).astype(np.int32) for c in (v, u))
    pcb.lay(at, 0.75 * np.asarray(label, np.float32)[row, column] / 255, albedo=colour(0.6, 0.6, 0.58))


def lay_chip(pcb: Surface, rng: np.random.Generator, at: Window, u: Array, v: Array, kind: str) -> None:
    for along, out in [(u, v), (u, -v), (v, u), (v, -u)]:
        lay_pins(pcb, at, along, out, 10, 0.11, 0.142)
    lay_body(pcb, rng, at, u, v, (0.118, 0.118), "MX4207\nQ100\n2318 A")


def lay_driver(pcb: Surface, rng: np.random.Generator, at: Window, u: Array, v: Array, kind: str) -> None:
    for out in (u, -u):
        lay_pins(pcb, at, v, out, 10, 0.06, 0.095)
    lay_body(pcb, rng, at, u, v, (0.068, 0.115), "DRV\n881")


def lay_can(pcb: Surface, rng: np.random.Generator, at: Window, u: Array, v: Array, kind: str) -> None:
    """An electrolytic capacitor from above: aluminum, a cross-shaped vent, the dark mark of its minus side."""
    r = np.hypot(u, v)
    pcb.lay(
        at,
        pcb.cover(box(u, v, 0.092, 0.092, 0.02)),
        height=0.015,
        albedo=colour(0.12, 0.12, 0.12),
        metal=0.0,
        rough=0.8,
        part=True,
    )
    vent = smooth(0.005, 0.002, np.minimum(np.abs(u), np.abs(v))) * smooth(0.055, 0.045, r)
    height = 0.09 - 0.012 * smooth(0.072, 0.084, r) - 0.003 * vent + 0.0015 * smooth(0.066, 0.07, r)
    tool = grooves(rng, r, 600)
    pcb.lay(
        at,
        pcb.cover(r - 0.084),
        height=height + 0.0001 * tool,
        albedo=colour(0.82, 0.83, 0.85),
        metal=1.0,
        rough=0.5,
        part=True,
    )
    pcb.lay(at, pcb.cover(np.maximum(r - 0.068, 0.04 - u)), albedo=colour(0.1, 0.1, 0.13), metal=0.0, rough=0.5)


def lay_crystal(pcb: Surface, rng: np.random.Generator, at: Window, u: Array, v: Array, kind: str) -> None:
    edge = box(u, v, 0.1, 0.04, 0.04)
    rim = 0.01 + 0.03 * smooth(-0.004, -0.014, edge) + 0.0002 * noise(rng, pcb.size, (60, 60), 2)[at]
    pcb.lay(at, pcb.cover(edge), height=rim, albedo=colour(0.84, 0.83, 0.8), metal=1.0, rough=0.35, part=True)


def lay_ceramic(pcb: Surface, rng: np.random.Generator, at: Window, u: Array, v: Array, kind: str) -> None:
    """A chip resistor (black, flat) or capacitor (tan, thicker) between two soldered ends."""
    pads = box(np.abs(u) - 0.034, v, 0.012, 0.02, 0.003)
    slope = 0.004 + 0.01 * smooth(0.046, 0.03, np.abs(u))
    pcb.lay(at, pcb.cover(pads), height=slope, albedo=colour(0.84, 0.84, 0.83), metal=1.0, rough=0.4, part=True)
    tall = 0.014 if kind == "resistor" else 0.024
    edge = box(u, v, 0.032, 0.016, 0.003)
    pcb.lay(
        at,
        pcb.cover(edge),
        height=tall - 0.005 * smooth(-0.006, 0, edge),
        albedo=colour(0.8, 0.8, 0.8),
        metal=1.0,
        rough=0.6,
        part=True,
    )
    inner = tinted(rng, (0.16, 0.16, 0.17) if kind == "resistor" else (0.72, 0.58, 0.43), 0.012)
    pcb.lay(at, pcb.cover(np.maximum(edge, np.abs(u) - 0.022)), albedo=inner, metal=0.0, rough=0.6)
