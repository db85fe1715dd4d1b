"""What the explorer keeps of a visitor: images and the region of interest, within bounds, and nothing for others."""

from __future__ import annotations

import re

import numpy as np
import pytest
from explorer import views, visitor
from explorer.images import RefusedImage
from explorer.views import update
from explorer.visitor import KEPT_FILES, SAMPLES, Visitor, Visitors
from helpers.explorer import MASK, AtOnce, content, fetched, guest, picture, png_header, values
from PIL import Image


def test_what_is_no_region_of_interest_is_refused_and_the_one_before_stays() -> None:
    visitor = guest(("part.png", content(picture())))
    visitor.confine("mask.png", content(MASK))
    kept = visitor.region
    whole = content(picture(size=(300, 200)))
    for data, sentence in (
        (b"hello", "'no.png' is not a PNG"),
        (whole[: len(whole) // 2], "'no.png' is no region of interest: image file is truncated"),
        (content(Image.new("L", (9, 7))), "'no.png' is no region of interest: `roi` must be true where pixels may be swapped"),
        (png_header(9000, 9000), "'no.png' has 9000 x 9000 pixels"),
    ):
        with pytest.raises(RefusedImage, match=re.escape(sentence)):
            visitor.confine("folder/no.png", data)
        assert visitor.region is kept
    dot = Image.fromarray(np.pad(np.full((1, 1), 255, np.uint8), 100))
    visitor.confine("dot.png", content(dot))
    view = update(visitor, "part.png", values())
    assert "`roi` must cover at least half of a cell of the grid" in view.message and view.drawn is None


def address_works(visitor: Visitor, html: str | None) -> bool:
    """Whether each picture and download that the HTML names can be fetched."""
    found = re.findall(r'"files/([\w-]+)/([\w.]+)"', html or "")
    return bool(found) and all(visitor.file(token, name) for token, name in found)


def test_what_is_shown_can_be_fetched_as_long_as_it_is_shown() -> None:
    visitor = guest(("a.png", content(picture())))
    first = update(visitor, "a.png", values())
    for seed in range(1, 20):
        view = update(visitor, "a.png", values(seed=seed))
        assert view.found == first.found
        assert all(address_works(visitor, html) for html in (view.drawn, view.words, view.found))
    assert not address_works(visitor, first.drawn)  # which is kept for six updates


def test_updates_that_fail_leave_what_is_shown_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    visitor = guest(("a.png", content(picture())))
    view = update(visitor, "a.png", values())
    monkeypatch.setattr(views, "advise", lambda *_: 1 / 0)
    for grid in range(10, 20):
        assert "ZeroDivisionError" in update(visitor, "a.png", values(grid=grid)).message
    assert all(address_works(visitor, html) for html in (view.drawn, view.words, view.found))
    assert len(visitor._files) == KEPT_FILES


def test_a_visitor_keeps_so_many_images_under_names_that_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    data = content(picture())
    visitor = guest()
    assert [visitor.add(name, data) for name in ("a.png", "x/a.png", "a.png", "b")] == ["a.png", "a (2).png", "a (3).png", "b"]
    assert visitor.choices() == ["a.png", "a (2).png", "a (3).png", "b", *SAMPLES]
    monkeypatch.setattr("explorer.visitor.MAX_IMAGES", 4)
    with pytest.raises(RefusedImage, match=r"'c' is left out: the limit is 4 images. Remove some first."):
        visitor.add("c", data)
    monkeypatch.setattr("explorer.visitor.MAX_IMAGES", 9)
    monkeypatch.setattr("explorer.visitor.MAX_TOTAL", 4 * len(data))
    with pytest.raises(RefusedImage, match="'c' is left out: the limit is 0 MB"):
        visitor.add("c", data)


def test_images_are_removed_and_nothing_of_them_is_shown_again() -> None:
    visitor = guest(*[(name, content(picture(seed=i))) for i, name in enumerate("abc")])
    first = update(visitor, "b", values())
    assert visitor.remove("b") == "c" and visitor.choices() == ["a", "c", *SAMPLES]
    assert "no longer kept" in update(visitor, "b", values()).message
    visitor.add("b", content(picture(seed=7)))
    again = update(visitor, "b", values())
    assert again.found != first.found
    assert fetched(visitor, again.drawn, "drawn.jpg").tobytes() != fetched(visitor, first.drawn, "drawn.jpg").tobytes()
    assert visitor.remove("b") == "c" and visitor.remove("c") == "a" and visitor.remove("a") is None
    for name in ("a", SAMPLES[0], "x" * 200):
        with pytest.raises(RefusedImage, match=r"is none of your images, so it stays\."):
            visitor.remove(name)


def test_all_images_are_removed_at_once_and_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("explorer.visitor.MAX_IMAGES", 2)
    visitor = guest(("a", content(picture())), ("b", content(picture())))
    visitor.clear()
    assert visitor.choices() == list(SAMPLES) and visitor.add("c", content(picture())) == "c"


def test_visitors_do_not_see_each_other_and_leave_nothing() -> None:
    visitors = Visitors(AtOnce())
    first, second = visitors["one"], visitors["two"]
    first.add("secret.png", content(picture()))
    assert visitors["one"] is first and "secret.png" not in second.choices()
    assert "no longer kept" in update(second, "secret.png", values()).message
    view = update(first, "secret.png", values())
    token = re.findall(r"files/([\w-]+)/drawn.jpg", view.drawn or "")[0]
    assert (
        len(token) >= 20
        and visitors.file(token, "drawn.jpg")
        and not visitors.file(token, "other")
        and not visitors.file("", "drawn.jpg")
    )
    visitors.leave("one")
    assert visitors.file(token, "drawn.jpg") is None and visitors["one"] is not first


def test_what_is_kept_has_bounds() -> None:
    visitors = Visitors(AtOnce())
    for page in range(visitor.MAX_VISITORS + 5):
        assert visitors[f"page {page}"]
    assert len(visitors) == visitor.MAX_VISITORS
    someone = guest(("a.png", content(picture())))
    for seed in range(20):
        update(someone, "a.png", values(seed=seed, size=("128", "256", "as it is")[seed % 3]))
    assert len(someone._files) == visitor.KEPT_FILES and len(someone._opened) <= visitor.KEPT_OPENED
