"""An update: from an image and the settings to pictures, words and code."""

from __future__ import annotations

import html
import logging
import threading
from typing import Any, NamedTuple

import torch
from PIL import Image
from torchvision.transforms.v2 import functional as tvf

from cutswap_transforms import SaliencySwap, functional
from cutswap_transforms.preview.sheet import contact_sheet
from cutswap_transforms.preview.steps import Found, drawn_steps, found_steps, negative_picture

from .images import Photo
from .rendering import Figure, figures, in_region, paragraphs, png, strip, thumbnail
from .settings import MAX_SEED, Settings
from .visitor import Visitor
from .words import Advice, advise

SIDE, SEED_SIDE = 320, 128  # longer sides of the panels in pixels
SEEDS = 8  # negatives by consecutive seeds
TURNED = "The file asks viewers to turn it. Data loaders do not do that, nor does this page."
PANELS = (
    Figure("pair A, B", "The image with the boxes of two patches, A and B"),
    Figure("negative", "The image with the two patches swapped"),
    Figure("mask", "White where pixels were swapped"),
    Figure("difference", "The difference between the negative and the image, brightened"),
)
_generator = threading.Lock()  # all threads share one generator of random numbers


class View(NamedTuple):
    """HTML of the page's parts, and Python; None leaves a part as it is."""

    message: str
    drawn: str | None = None
    words: str | None = None
    found: str | None = None
    code: str | None = None


class Shown(NamedTuple):
    """The deterministic half on the page: the same until the image or the guidance changes."""

    key: Any
    found: Found
    html: str


def update(visitor: Visitor, choice: str, values: Any) -> View:
    """The view of an image at the values of the controls; where there is none, a message alone, in plain words.

    The pictures are made meanwhile, so that they are there when the browser has read the HTML and asks for them.
    """
    try:
        photo, settings = visitor.photo(choice), Settings.of(values)
        (image, turned), swap = visitor.opened(photo, settings.size), settings.swap()
        key = (photo.name, settings.size, settings.guidance)
        shown = visitor.shown
        if shown is None or shown.key != key:
            found = found_steps(image, swap, SIDE)
            shown = Shown(key, found, _found_html(visitor, found))
        drawn, words = _drawn_html(visitor, photo, image, swap, settings, shown.found)
        note = paragraphs([TURNED] if turned else [], "note")
    except (ValueError, TypeError, ImportError, OSError) as error:
        return View(paragraphs([str(error)], "error"))
    except Exception as error:  # a fault of ours, or of a file of weights: the page lives on
        logging.exception("An update failed")
        return View(paragraphs([f"This cannot be shown. {type(error).__name__}: {str(error)[:300]}"], "error"))
    visitor.shown = shown
    return View(note, drawn, words, shown.html, settings.code(photo))


def _found_html(visitor: Visitor, found: Found) -> str:
    """A row of maps, one of clusters, one of regions; a column per level."""
    levels = range(len(found.maps))
    rows = (
        *[Figure(f"map of level {i}, {found.sizes[i][0]} x {found.sizes[i][1]}", "Saliency over the image") for i in levels],
        *[Figure(f"clusters of level {i}", "Cells by cluster, those of the salient region orange") for i in levels],
        *[Figure(f"region of level {i}", "The image, dim outside of the salient region") for i in levels],
    )

    def picture() -> bytes:
        return strip([*found.maps, *found.cells, *[in_region(found.photo, region) for region in found.regions]])

    url = visitor.publish({"found.jpg": picture}, {})
    heading = "<h2>What is found in the image: a column per level, from fine to coarse</h2>"
    return heading + figures(f"{url}/found.jpg", found.photo.size, rows, f"of-{len(levels)}")


def _drawn_html(
    visitor: Visitor, photo: Photo, image: Image.Image, swap: SaliencySwap, settings: Settings, found: Found
) -> tuple[str, str]:
    """The pictures of the swap, and what is said and offered below them."""
    first = min(settings.seed, MAX_SEED + 1 - SEEDS)
    several = {seed: _params(image, swap, seed) for seed in range(first, first + SEEDS)}
    params = several[settings.seed]

    def panels() -> bytes:
        drawn = drawn_steps(image, swap, params, found.photo)
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
    advice = advise(found, settings, (image.height, image.width))
    others = [Figure(f"seed {seed}", f"Negative of seed {seed}", seed) for seed in several]
    parts = (
        _downloads(url, photo.name),
        paragraphs([_swapped(settings.seed, params), *advice.sentences], "word"),
        _offer(advice),
        f"<h2>{SEEDS} negatives of this image: choose one by its seed</h2>",
        figures(f"{url}/seeds.jpg", found.photo.size, others, "seeds"),
    )
    return figures(f"{url}/drawn.jpg", found.photo.size, PANELS, "large"), "".join(parts)


def _params(image: Image.Image, swap: SaliencySwap, seed: int) -> dict[str, Any]:
    with _generator:
        torch.default_generator.manual_seed(seed)  # as torch.manual_seed for images on the CPU, without a look at others
        return swap.make_params([image])


def _mask(image: Image.Image, params: dict[str, Any]) -> Image.Image:
    mask: Image.Image = tvf.to_pil_image(functional.patch_mask(params["pairs"], (image.height, image.width))[0] * 255)
    return mask


def _sheet(photo: Photo, image: Image.Image, swap: SaliencySwap, seed: int) -> Image.Image:
    with _generator:
        torch.default_generator.manual_seed(seed)
        return contact_sheet([image], swap, names=[f"{photo.name}, seed {seed}"])


def _swapped(seed: int, params: dict[str, Any]) -> str:
    pairs = [functional.PatchPair(*row) for row in params["pairs"][0].tolist()]
    made = ", ".join(f"{p.height} x {p.width} pixels on level {p.level}" for p in pairs if p.height)
    return f"Seed {seed} swaps patches of {made}." if made else f"Seed {seed} swaps nothing: no two patches have room."


def _downloads(url: str, name: str) -> str:
    stem = html.escape(name.rpartition(".")[0] or name)
    links = [
        f'<a href="{url}/{kind}.png" download="{stem}_{kind}.png">{text}</a>'
        for kind, text in (("negative", "negative"), ("mask", "mask"), ("sheet", "contact sheet"))
    ]
    return f'<p class="downloads">Download {" ".join(links)}</p>'


def _offer(advice: Advice) -> str:
    if not advice.settings:
        return ""
    given = html.escape(";".join(f"{name}={value}" for name, value in advice.settings.items()))
    return f'<p><button type="button" class="offer" data-set="{given}">Use the suggested size</button></p>'
