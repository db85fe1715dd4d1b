"""What the explorer shows after a change: every step with a text, the strip of seeds, and what may surprise."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from explorer import views
from explorer.views import update
from helpers.explorer import content, fetched, guest, picture, values
from PIL import Image

from cutswap_transforms import SaliencySwap
from cutswap_transforms.preview.steps import region_steps


def test_an_update_shows_every_step_with_a_text_for_those_who_do_not_see_it() -> None:
    visitor = guest(("<b>.png", content(picture())))
    view = update(visitor, "<b>.png", values(seed=3))
    assert fetched(visitor, view.drawn, "drawn.jpg").size == (4 * 292, 206)  # pair, negative, mask, difference
    assert fetched(visitor, view.found, "found.jpg").size == (9 * 292, 206)  # maps, clusters, regions of three levels
    assert re.findall(r'data-set="seed=(\d+)" aria-pressed="(\w+)"', view.words or "") == [
        (str(seed), str(seed == 3).lower()) for seed in range(8)
    ]
    texts = re.findall(r'<img [^>]*alt="([^"]+)"', f"{view.drawn}{view.words}{view.found}")
    assert len(texts) == 4 + 8 + 9 and all(texts)
    assert fetched(visitor, view.words, "sheet.png").width > 1000
    assert "&lt;b&gt;_seed3_negative.png" in (view.words or "") and "<b>" not in f"{view.drawn}{view.words}{view.found}"


def test_the_strip_holds_the_negatives_of_the_seeds() -> None:
    image = picture(size=(256, 256))
    visitor = guest(("a.png", content(image)))
    strip = fetched(visitor, update(visitor, "a.png", values(seed=5)).words, "seeds.jpg")
    assert strip.size == (8 * 132, 128)
    for seed, others in ((3, ["8"]), (8, ["0", "16"]), (999, ["984"])):
        words = update(visitor, "a.png", values(seed=seed)).words or ""
        assert re.findall(r'class="offer" data-set="seed=(\d+)"', words) == others  # previous and next
    for k in (0, 7):
        torch.manual_seed(k)
        expected = np.asarray(SaliencySwap()(image).reduce(2), dtype=int)
        part = np.asarray(strip.crop((k * 132 + 2, 0, k * 132 + 130, 128)), dtype=int)
        assert np.abs(part - expected).mean() < 8  # it is a JPEG


def test_the_deterministic_half_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    visitor, calls = guest(("a.png", content(picture())), ("b.png", content(picture(seed=1)))), []
    monkeypatch.setattr(views, "region_steps", lambda *given: calls.append(1) or region_steps(*given))
    seen = [
        update(visitor, name, values(**changed)).found
        for name, changed in (
            ("a.png", {}),
            ("a.png", {"seed": 5}),
            ("a.png", {"largest": 9.0, "levels": "all", "tallest": 5.0}),
            ("b.png", {}),
            ("b.png", {"grid": 20}),
            ("b.png", {"grid": 20, "size": "128"}),
        )
    ]
    assert len(calls) == 4 and seen[0] == seen[1] == seen[2] and len(set(seen)) == 4


def test_what_may_surprise_is_said() -> None:
    black, dark = Image.new("RGB", (60, 60)), Image.fromarray((np.arange(4800).reshape(60, 80) % 4000).astype(np.uint16))
    visitor = guest(
        *[
            (n, content(i))
            for n, i in (("black", black), ("dark", dark), ("clear", picture("clear RGBA")), ("plain", picture("RGBA")))
        ]
    )
    views_of = {name: update(visitor, name, values()) for name in visitor.photos}
    assert "They are equal pixel by pixel, so this negative is the image itself." in (views_of["black"].words or "")
    assert "The brightest of the 16-bit pixels is 3999 of 65535." in views_of["dark"].message
    assert "The transparency is laid on white." in views_of["clear"].message
    assert views_of["plain"].message == "" and "equal pixel" not in (views_of["plain"].words or "")
    assert "In the image of 358 x 256 pixels, seed 0 swaps patches " in (views_of["plain"].words or "")


def test_two_files_of_one_name_are_told_apart_on_the_page_and_not_in_the_code() -> None:
    visitor = guest(("a/000.png", content(picture())), ("b/000.png", content(picture(seed=1))))
    view = update(visitor, "000 (2).png", values())
    assert "Image.open('000.png')" in (view.code or "") and "000 (2)_seed0_mask.png" in (view.words or "")
