"""The state of a visitor, only in memory: the images, their views, the files that the page may fetch."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable, Collection
from concurrent.futures import Executor
from typing import Any, TypeVar

from make_samples import SCENES

from .images import MEGABYTE, Opened, Photo, RefusedImage, Region, check_whole, opened, opened_region, plain_name, sample

MAX_IMAGES, MAX_TOTAL = 256, 256 * MEGABYTE  # images of either kind; of all of them together
KEPT_FILES, KEPT_OPENED = 6, 4  # addresses with files to fetch; decoded images
MAX_VISITORS = 16
SAMPLE = "sample: "
SAMPLES = tuple(SAMPLE + scene for scene in SCENES)

File = Callable[[], bytes]
T = TypeVar("T")


class Visitor:
    """One open page. `painters` make its pictures."""

    def __init__(self, painters: Executor) -> None:
        self._painters = painters
        self.photos: dict[str, Photo] = {}  # of normal parts
        self.others: dict[str, Photo] = {}  # to be judged by a detector of the normal ones
        self.trial: Any = None  # that detector and its results, see `trial`
        self.region: Region | None = None  # of interest, in all images
        self.shown: Any = None  # the result of the last update, see `views`
        self.mosaic: Any = None  # what is shown of all images, see `mosaic`
        self._addresses: dict[str, str] = {}  # of the files that each part of the page shows
        self._opened: OrderedDict[tuple[str, str], Opened] = OrderedDict()
        self._files: OrderedDict[str, dict[str, File]] = OrderedDict()

    def choices(self) -> list[str]:
        return [*self.photos, *SAMPLES]

    def add(self, name: str, content: bytes) -> str:
        """Keep an image of a normal part. Returns its name on the page.

        Raises:
            RefusedImage: not a whole image, or too many.
        """
        return self._keep(self.photos, name, content)

    def add_other(self, name: str, content: bytes) -> str:
        """Keep an image to be judged, as `add`."""
        return self._keep(self.others, name, content)

    def _keep(self, photos: dict[str, Photo], name: str, content: bytes) -> str:
        file = plain_name(name)
        photo = Photo(_free_name(file, {*photos, *SAMPLES}), content, file)
        check_whole(photo)
        if len(photos) >= MAX_IMAGES:
            raise RefusedImage(f"{name!r} is left out: the limit is {MAX_IMAGES} images. Remove some first.")
        if sum(len(p.content) for p in (*self.photos.values(), *self.others.values())) + len(content) > MAX_TOTAL:
            limit = MAX_TOTAL // MEGABYTE
            raise RefusedImage(f"{name!r} is left out: the limit is {limit} MB. Remove some first.")
        photos[photo.name] = photo
        return photo.name

    def remove(self, name: str) -> str | None:
        """Forget an image. Returns the name of the next one, or of the last; None without any.

        Raises:
            RefusedImage: none of the visitor's own.
        """
        if name not in self.photos:
            raise RefusedImage(f"{name[:80]!r} is none of your images, so it stays.")
        at = list(self.photos).index(name)
        del self.photos[name]
        self._forget()
        left = list(self.photos)
        return left[min(at, len(left) - 1)] if left else None

    def clear(self) -> None:
        """Forget all images."""
        self.photos.clear()
        self._forget()

    def _forget(self) -> None:
        """Forget what was made of images: another one may get the name of one that was removed."""
        self._opened.clear()
        self.shown = None

    def confine(self, name: str, content: bytes) -> str:
        """Use the picture of a mask as the region of interest, instead of an earlier one. Returns its name.

        Raises:
            RefusedImage: as `opened_region`.
        """
        self.region = opened_region(Photo(plain_name(name), content))
        return plain_name(name)

    def photo(self, choice: str) -> Photo:
        """
        Raises:
            RefusedImage: an image of another visitor, or of one that was idle for too long.
        """
        if choice in self.photos:
            return self.photos[choice]
        if choice in SAMPLES:
            return sample(choice.removeprefix(SAMPLE))
        raise RefusedImage("This image is no longer kept. Drop it again.")

    def opened(self, photo: Photo, size: str) -> Opened:
        """The image for the swap, decoded once."""
        key = (photo.name, size)
        return _kept(self._opened, key, KEPT_OPENED, lambda: opened(photo, size))

    def publish(self, shown: dict[str, File], downloads: dict[str, File]) -> str:
        """The address of the files for the page, which cannot be guessed.

        Args:
            shown: the browser will request these, so their computation starts at once.
            downloads: made on request.
        """
        started = {name: self._painters.submit(make).result for name, make in shown.items()}
        address = f"files/{secrets.token_urlsafe(16)}"
        for address_shown in self._addresses.values():
            self._files.move_to_end(address_shown)
        _kept(self._files, address, KEPT_FILES, lambda: started | downloads)
        return address

    def shows(self, **addresses: str) -> None:
        """Note what parts of the page show: these files are kept until they show others, whatever is published meanwhile."""
        self._addresses |= addresses

    def file(self, token: str, name: str) -> File | None:
        return self._files.get(f"files/{token}", {}).get(name)


class Visitors:
    """The open pages, by the name that a page gave itself; the least recently used one is dropped for a new one."""

    def __init__(self, painters: Executor) -> None:
        self._painters = painters
        self._pages: OrderedDict[str, Visitor] = OrderedDict()

    def __getitem__(self, page: str) -> Visitor:
        return _kept(self._pages, page, MAX_VISITORS, lambda: Visitor(self._painters))

    def __len__(self) -> int:
        return len(self._pages)

    def leave(self, page: str) -> None:
        self._pages.pop(page, None)

    def file(self, token: str, name: str) -> File | None:
        return next((found for v in list(self._pages.values()) if (found := v.file(token, name))), None)


def _free_name(name: str, taken: Collection[str]) -> str:
    """A unique name: images of two folders may have the same name, so the second gets a number."""
    stem, dot, ending = name.rpartition(".")
    stem, ending = (stem, dot + ending) if stem else (name, "")
    free, count = name, 1
    while free in taken:
        count += 1
        free = f"{stem} ({count}){ending}"
    return free


def _kept(kept: OrderedDict[Any, T], key: Any, limit: int, make: Callable[[], T]) -> T:
    """The value of the key, made if missing; beyond `limit` values, the least recently used is dropped."""
    if key not in kept:
        kept[key] = make()
    kept.move_to_end(key)
    while len(kept) > limit:
        kept.popitem(last=False)
    return kept[key]
