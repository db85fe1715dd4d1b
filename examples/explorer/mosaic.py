"""One negative of each of the visitor's images."""

from __future__ import annotations

from typing import Any, NamedTuple

from PIL import Image, ImageOps

from cutswap_transforms.preview.steps import negative_picture

from .images import RefusedImage
from .rendering import Figure, figures, paragraphs, strip
from .scripts import CLOSE
from .seeding import seeded
from .settings import Settings
from .views import told
from .visitor import Visitor

TILES, SIDE = 64, 160  # most images that are shown; of a tile in pixels


class Mosaic(NamedTuple):
    """What the page shows: the names of the images, in order, and what their negatives depend on."""

    names: tuple[str, ...]
    key: Any


def mosaic(visitor: Visitor, values: Any) -> str:
    """HTML with a negative of each image at the values of the controls; a click on one chooses its image."""
    try:
        settings = Settings.of(values)
        tiles, faults = _tiles(visitor, settings)
    except Exception as error:
        return told(error)
    visitor.mosaic = Mosaic(tuple(tiles), key_of(visitor, values))
    heading = f"<h2>One negative of each of your images, seed {settings.seed} {CLOSE}</h2>" + paragraphs(faults, "error")
    if not tiles:
        return heading
    url = visitor.publish({"mosaic.jpg": lambda: strip(list(tiles.values()))}, {})
    visitor.shows(mosaic=url)
    items = [Figure(name, f"Negative of {name}", f"tile={i}") for i, name in enumerate(tiles)]
    return heading + figures(f"{url}/mosaic.jpg", (SIDE, SIDE), items, "tiles") + paragraphs(_left_out(visitor), "note")


def key_of(visitor: Visitor, values: Any) -> Any:
    """Equal keys, equal negatives."""
    return tuple(visitor.photos), list(values), visitor.region


def _tiles(visitor: Visitor, settings: Settings) -> tuple[dict[str, Image.Image], list[str]]:
    """The negatives by name, and sentences on images without one."""
    swap, tiles, faults = settings.swap(visitor.region), {}, []
    for photo in list(visitor.photos.values())[:TILES]:
        try:
            image = visitor.opened(photo, settings.size).image
        except RefusedImage as error:
            faults.append(str(error))
            continue
        with seeded(settings.seed):
            params = swap.make_params([image])
        tiles[photo.name] = ImageOps.pad(negative_picture(image, swap, params), (SIDE, SIDE), color="gray")
    return tiles, faults


def _left_out(visitor: Visitor) -> list[str]:
    more = len(visitor.photos) - TILES
    return [f"These are the first {TILES}; {more} more are not shown."] if more > 0 else []
