"""Images from visitors, arbitrary bytes under any name, and the scenes that the examples draw."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import PurePath
from typing import NamedTuple

from make_samples import SCENES, make_scene
from PIL import Image, ImageOps, UnidentifiedImageError
from pixels import square
from torch import Tensor
from torchvision.transforms import v2

from cutswap_transforms.regions.roi import Roi
from cutswap_transforms.shell.decode import Note, decoded

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM")
MEGABYTE = 2**20
MAX_BYTES = 32 * MEGABYTE  # of a file
MAX_PIXELS = 2**26  # of a file: decoding takes at most 200 MB
MAX_SEEN = 2**22  # pixels of the image that the swap gets
AS_IT_IS = "as it is"  # a size, beside those in pixels
ORIENTATION = 0x0112  # of EXIF
FULL = 65535  # white of 16 bits
SAMPLE = 512  # side of the drawn scenes in pixels
WIDE = ("I", "F")  # modes of 32 bits, whose range is unknown


class RefusedImage(ValueError):
    """An image cannot be used; the message is a sentence for the visitor."""


@dataclass(frozen=True)
class Photo:
    """An image file: its unique name on the page, its bytes, and the name of the file."""

    name: str
    content: bytes = field(repr=False)
    file: str = ""  # if it differs from the name on the page
    sample: str = ""  # the scene that it was drawn from

    @cached_property
    def upright(self) -> str:
        """The Python expression that opens the file upright, in its own mode."""
        file = repr(self.file or self.name)
        if not _is_turned(self):
            return f"Image.open({file})"
        # If Pillow gets the path of a TIFF, it maps the file into memory in the wrong shape.
        tiff = _header(self).format == "TIFF"
        return f"ImageOps.exif_transpose(Image.open({f'BytesIO(Path({file}).read_bytes())' if tiff else file}))"

    @cached_property
    def _way(self) -> tuple[str, bool]:
        """The Python expression that opens the file upright, and whether transparency must be put on white."""
        header, expression = _header(self), self.upright
        if _is_sixteen(header):
            return expression + ("" if header.mode == "I;16" else '.convert("I").convert("I;16")'), False
        clear = header.has_transparency_data
        return f'{expression}.convert("{"RGBA" if clear else "RGB"}")', clear

    def opening(self) -> tuple[list[str], str]:
        """Lines of Python, and the expression for the image in the file, as returned by `opened`."""
        expression, clear = self._way
        if not clear:
            return [], expression
        lines = [f"clear = {expression}", 'white = Image.new("RGBA", clear.size, "white")']
        return lines, 'Image.alpha_composite(white, clear).convert("RGB")'

    def comment(self) -> list[str]:
        """The source of a sample's file, as a Python comment."""
        return [f"# python examples/make_samples.py . --scenes {self.sample} --count 1 --size {SAMPLE}"] if self.sample else []


def check_photo(photo: Photo) -> None:
    """Check only the header, which is quick.

    Raises:
        RefusedImage: not an image, too many bytes or pixels, a mode without a known range.
    """
    if len(photo.content) > MAX_BYTES:
        raise RefusedImage(
            f"{photo.name!r} has {len(photo.content) / MEGABYTE:.0f} MB; {MAX_BYTES // MEGABYTE} MB is the most."
        )
    header = _header(photo)
    if header.width * header.height > MAX_PIXELS:
        raise RefusedImage(
            f"{photo.name!r} has {header.width} x {header.height} pixels; the limit is {MAX_PIXELS // 10**6} million. "
            "Make it smaller first."
        )
    if header.mode in WIDE and not _is_sixteen(header):
        raise RefusedImage(f"{photo.name!r} has pixels of 32 bits (mode {header.mode}). Convert it to 8 or 16 bits first.")


def check_whole(photo: Photo) -> None:
    """Decode the file, a JPEG at an eighth of its size, which is quick and finds a cut as well.

    Raises:
        RefusedImage: as `check_photo`; damaged data.
    """
    check_photo(photo)
    image = _header(photo)
    try:
        with _without_warnings():
            image.draft("RGB", (image.width // 8, image.height // 8))
            image.load()
    except Exception as error:  # damaged data can make a decoder raise anything
        raise RefusedImage(f"{photo.name!r} is damaged: {str(error)[:200]}.") from error


class Region(NamedTuple):
    """A region of interest for all images, and the Python expression that opens it."""

    mask: Roi
    code: str


def opened_region(photo: Photo) -> Region:
    """The region of interest from a mask file, opened as by the expression.

    Raises:
        RefusedImage: as `check_photo`; damaged data; a mask that marks nothing.
    """
    check_photo(photo)
    try:
        with _without_warnings():
            turned = _is_turned(photo)
            image = _header(photo)  # not loaded, so that it still knows its file format
            return Region(Roi(ImageOps.exif_transpose(image) if turned else image), photo.upright)
    except Exception as error:  # damaged data can make a decoder raise anything
        raise RefusedImage(f"{photo.name!r} is no region of interest: {str(error)[:200]}.") from error


class Opened(NamedTuple):
    """An image for the swap, and notes for the visitor on its conversion."""

    image: Image.Image
    notes: list[str]


def opened(photo: Photo, size: str) -> Opened:
    """The image as the lines of `Settings.code` open it: upright, RGB or I;16, the shorter side of `size` pixels.

    Raises:
        RefusedImage: as `check_photo`; damaged data; an image too large to be swapped as it is.
    """
    check_photo(photo)
    image = _header(photo)
    factor = 1.0 if size == AS_IT_IS else int(size) / min(image.size)
    if image.width * image.height * factor**2 > MAX_SEEN:
        way_out = "Choose a size." if size == AS_IT_IS else "It is too long and narrow: crop it, or choose a smaller size."
        raise RefusedImage(
            f"{photo.name!r} of {image.width} x {image.height} pixels is too large at the size {size}. {way_out}"
        )
    try:
        with _without_warnings():
            image, notes = _sixteen_bits(image) if _is_sixteen(image) else _eight_bits(image)
    except Exception as error:  # damaged data can make a decoder raise anything
        raise RefusedImage(f"{photo.name!r} is damaged: {str(error)[:200]}.") from error
    return Opened(image if size == AS_IT_IS else v2.Resize(int(size))(image), notes)


def squared(photo: Photo, size: int, smallest: int) -> Tensor:
    """uint8 [3, size, size], as `detect.py` reads images.

    Raises:
        RefusedImage: as `check_photo`; damaged data; a side below `smallest`; values of unknown range.
    """
    check_photo(photo)
    try:
        with _without_warnings():
            return square(_header(photo), size, smallest=smallest)
    except Exception as error:  # damaged data can make a decoder raise anything
        raise RefusedImage(f"{photo.name!r} is left out: {str(error)[:200]}.") from error


def _is_turned(photo: Photo) -> bool:
    with _without_warnings():
        return _header(photo).getexif().get(ORIENTATION, 1) not in (0, 1)  # of a PNG, this decodes it


def _is_sixteen(image: Image.Image) -> bool:
    """16-bit gray: the swap moves its pixels unchanged. Pillow opens a 16-bit PGM file as 32 bits."""
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")


def _sixteen_bits(image: Image.Image) -> tuple[Image.Image, list[str]]:
    clear = "transparency" in image.info
    image = ImageOps.exif_transpose(image)
    if image.mode != "I;16":  # via mode I: converting big-endian directly, Pillow changes the values
        image = image.convert("I").convert("I;16")
    notes = ["The transparency of the file is dropped."] if clear else []
    return image, notes + _dark(int(image.getextrema()[1]), 2**14)


def _eight_bits(image: Image.Image) -> tuple[Image.Image, list[str]]:
    made = decoded(image)
    notes = [f"The {Note.TRANSPARENT.value}."] if Note.TRANSPARENT in made.notes else []
    return made.image, notes + (_dark(int(made.top), FULL) if Note.NARROW in made.notes else [])


def _dark(brightest: int, limit: int) -> list[str]:
    """The note on 16-bit images whose pixels are all below the limit."""
    if brightest >= limit:
        return []
    return [f"The brightest of the 16-bit pixels is {brightest} of {FULL}. If white is lower, scale the values first."]


def _header(photo: Photo) -> Image.Image:
    """The opened image, not yet decoded."""
    try:
        with _without_warnings():
            return Image.open(io.BytesIO(photo.content), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise RefusedImage(f"{photo.name!r} has too many pixels: {error}.") from error
    except UnidentifiedImageError as error:
        kinds = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise RefusedImage(f"{photo.name!r} is not a {kinds} image.") from error
    except Exception as error:  # a forged header can make a decoder raise anything
        raise RefusedImage(f"{photo.name!r} is damaged: {str(error)[:200]}.") from error


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Without Pillow's warnings: bombs are refused by the size in the header; damage is reported if it cannot be shown."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def plain_name(name: str) -> str:
    """The browser's name of the file without folders and control characters, at most 80 characters."""
    last = PurePath(name.replace("\\", "/")).name
    plain = "".join(c for c in last if c.isprintable())[-80:]
    return plain if plain.strip(".") else "image"


@lru_cache(maxsize=len(SCENES))
def sample(scene: str) -> Photo:
    stream = io.BytesIO()
    Image.fromarray(make_scene(scene, 0, SAMPLE)).save(stream, "PNG")
    return Photo(f"{scene}_000.png", stream.getvalue(), sample=scene)
