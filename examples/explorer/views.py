"""An update: from an image and the settings to pictures, text and code."""

from __future__ import annotations

import html
import logging
from typing import Any, NamedTuple

from PIL import Image, ImageChops
from torchvision.transforms.v2 import functional as tvf

from cutswap_transforms import SaliencySwap, functional
from cutswap_transforms.preview.advice import Advice, advise, percent
from cutswap_transforms.preview.panels import dim_outside
from cutswap_transforms.preview.sheet import contact_sheet
from cutswap_transforms.preview.steps import RegionSteps, negative_picture, region_steps, swap_steps, swapped_pairs

from .images import Photo
from .rendering import Figure, figures, paragraphs, png, strip, thumbnail
from .seeding import seeded
from .settings import RANGES, Settings
from .visitor import Visitor

SIDE, SEED_SIDE = 288, 128  # longer sides of the panels in pixels
SEEDS = 8  # negatives with consecutive seeds
PANELS = (
    Figure("pair: A and B change places", "The image, a little darker, with the boxes of two patches, A and B"),
    Figure("negative", "The image with the two patches swapped"),
    Figure("mask", "White where pixels were swapped"),
    Figure("difference, brightened", "The difference between the negative and the image"),
)
BEFORE = "What is shown below is from before."


class View(NamedTuple):
    """HTML of the page's parts, and Python code; None leaves a part unchanged."""

    message: str
    drawn: str | None = None
    words: str | None = None
    found: str | None = None
    code: str | None = None


class Shown(NamedTuple):
    """The deterministic part of the page: it changes only with the image or the guidance."""

    key: Any
    found: RegionSteps
    address: str
    html: str


class Drawn(NamedTuple):
    """The pictures of the swap, and the text and links below them."""

    address: str
    html: str
    words: str


def update(visitor: Visitor, choice: str, values: Any) -> View:
    """The view of an image at the values of the controls; if there is none, only a message.

    The pictures are made meanwhile, so that they are ready when the browser requests them.
    """
    try:
        photo, settings = visitor.photo(choice), Settings.of(values)
        (image, notes), interest = visitor.opened(photo, settings.size), visitor.region
        swap = settings.swap(interest)
        key = (photo.name, settings.size, settings.guidance, interest and interest.mask.fingerprint)
        shown = visitor.shown
        if shown is None or shown.key != key:
            shown = _shown(visitor, key, region_steps(image, swap, SIDE))
        drawn = _drawn(visitor, photo, image, swap, settings, shown.found)
    except Exception as error:  # may be a bug, or a damaged weights file: the page must survive
        return View(told(error))
    visitor.shown = shown
    visitor.shows(found=shown.address, drawn=drawn.address)
    return View(paragraphs(notes, "note"), drawn.html, drawn.words, shown.html, settings.code(photo, interest))


def told(error: Exception, before: str = BEFORE) -> str:
    """HTML for the visitor; what is no mistake of the visitor is logged as well."""
    if isinstance(error, (ValueError, TypeError, ImportError, OSError)):
        said = str(error)
    else:
        logging.error("An update failed", exc_info=error)
        said = f"This cannot be shown. {type(error).__name__}: {str(error)[:300]}"
    return paragraphs([f"{said.rstrip('.')}. {before}".strip()], "error")


def _shown(visitor: Visitor, key: Any, found: RegionSteps) -> Shown:
    """A row of maps, one of clusters, one of regions; a column per level."""
    levels = range(len(found.maps))
    rows = (
        *[Figure(f"map of level {i}, {w} x {h}", "Saliency over the image") for i, (h, w) in enumerate(found.sizes)],
        *[
            Figure(f"clusters of level {i}, region orange", "Cells by cluster, those of the salient region orange")
            for i in levels
        ],
        *[Figure(f"region of level {i}", "The image, dim outside of the salient region") for i in levels],
    )

    def picture() -> bytes:
        return strip([*found.maps, *found.cells, *[dim_outside(found.photo, region) for region in found.regions]])

    url = visitor.publish({"found.jpg": picture}, {})
    heading = "<h2>What is found in the image: a column per level, from fine to coarse</h2>"
    return Shown(key, found, url, heading + figures(f"{url}/found.jpg", found.photo.size, rows, f"of-{len(levels)}"))


def _drawn(
    visitor: Visitor, photo: Photo, image: Image.Image, swap: SaliencySwap, settings: Settings, found: RegionSteps
) -> Drawn:
    first = settings.seed // SEEDS * SEEDS  # so that selecting one does not change the strip
    several = {seed: _params(image, swap, seed) for seed in range(first, first + SEEDS)}
    params = several[settings.seed]

    def panels() -> bytes:
        drawn = swap_steps(image, swap, params, found)
        return strip([drawn.boxes, drawn.negative, drawn.mask, drawn.difference])

    def negatives() -> bytes:
        return strip([thumbnail(negative_picture(image, swap, p), SEED_SIDE) for p in several.values()])

    url = visitor.publish(
        {"drawn.jpg": panels, "seeds.jpg": negatives},
        {
            "negative.png": lambda: png(swap.transform(image, params)),
            "mask.png": lambda: png(_mask(image, params)),
            "sheet.png": lambda: png(_sheet(photo, image, swap, settings.seed)),
        },
    )
    size = (image.height, image.width)
    advice = advise(found, swap, size)
    others = [Figure(f"seed {seed}", f"Negative of seed {seed}", f"seed={seed}", seed == settings.seed) for seed in several]
    parts = (
        _downloads(url, photo.name, settings.seed),
        paragraphs([_swapped(image, swap, settings.seed, params), *advice.sentences], "word"),
        _offer(advice),
        f"<h2>{SEEDS} negatives of this image {_turn_over(first)}</h2>",
        figures(f"{url}/seeds.jpg", found.photo.size, others, "seeds"),
    )
    pair, negative, *rest = PANELS
    panels_shown = [pair, negative._replace(link=f"{url}/negative.png"), *rest]
    return Drawn(url, figures(f"{url}/drawn.jpg", found.photo.size, panels_shown, "large"), "".join(parts))


def _params(image: Image.Image, swap: SaliencySwap, seed: int) -> dict[str, Any]:
    with seeded(seed):
        return swap.make_params([image])


def _mask(image: Image.Image, params: dict[str, Any]) -> Image.Image:
    mask: Image.Image = tvf.to_pil_image(functional.patch_mask(params["pairs"], (image.height, image.width))[0] * 255)
    return mask


def _sheet(photo: Photo, image: Image.Image, swap: SaliencySwap, seed: int) -> Image.Image:
    with seeded(seed):
        return contact_sheet([image], swap, names=[f"{photo.name}, seed {seed}"])


def _swapped(image: Image.Image, swap: SaliencySwap, seed: int, params: dict[str, Any]) -> str:
    pairs = swapped_pairs(params)
    made = ", ".join(f"{p.width} wide and {p.height} high on level {p.level}" for p in pairs)
    frame = f"In the image of {image.width} x {image.height} pixels, seed {seed}"
    if not pairs:
        return f"{frame} swaps nothing: no two patches have room."
    same = image.mode == "RGB" and ImageChops.difference(image, swap.transform(image, params)).getbbox() is None
    equal = " They are equal pixel by pixel, so this negative is the image itself." if same else ""
    return f"{frame} swaps patches {made}.{equal}"


def _downloads(url: str, name: str, seed: int) -> str:
    stem = html.escape(f"{name.rpartition('.')[0] or name}_seed{seed}")
    links = [
        f'<a href="{url}/{kind}.png" download="{stem}_{kind}.png">{text}</a>'
        for kind, text in (("negative", "negative"), ("mask", "mask"), ("sheet", "contact sheet"))
    ]
    return f'<p class="downloads">Download {" ".join(links)}</p>'


def _offer(advice: Advice) -> str:
    if advice.scale is None:
        return ""
    smallest, largest = (round(100 * share, 4) for share in advice.scale)
    given = f"smallest={smallest};largest={largest}"
    return f'<p><button type="button" class="offer" data-set="{given}">Use {percent(advice.scale)}</button></p>'


def _turn_over(first: int) -> str:
    """Buttons for the previous and the next seeds."""
    steps = {"previous": first - SEEDS, "next": first + SEEDS}
    buttons = [
        f'<button type="button" class="offer" data-set="seed={seed}">{name} {SEEDS}</button>'
        for name, seed in steps.items()
        if RANGES["seed"][0] <= seed <= RANGES["seed"][1]
    ]
    return " ".join(buttons)
