"""The mosaic: one negative of each of the visitor's images, and the pictures of a good and a bad one."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
import torch
from explorer import mosaic
from explorer.guide import GOOD, SCENE, guide, guide_picture
from explorer.images import Photo, opened, sample
from explorer.mosaic import key_of
from helpers.explorer import content, fetched, guest, picture, values
from PIL import Image

from cutswap_transforms import SaliencySwap


def test_the_mosaic_holds_a_negative_of_each_image_and_a_click_chooses_one() -> None:
    sizes = ((70, 50), (160, 160), (40, 90))
    visitor = guest(*[(f"<{i}>.png", content(picture(size=size, seed=i))) for i, size in enumerate(sizes)])
    html = mosaic.mosaic(visitor, values(seed=3, size="256"))
    strip = fetched(visitor, html, "mosaic.jpg")
    assert strip.size == (3 * 164, 160) and "seed 3" in html and "<0>" not in html
    assert re.findall(r'data-set="(tile=\d)"', html) == ["tile=0", "tile=1", "tile=2"]
    assert visitor.mosaic.names == ("<0>.png", "<1>.png", "<2>.png")
    torch.manual_seed(3)
    expected = SaliencySwap()(opened(visitor.photos["<1>.png"], "256").image).resize((160, 160))
    tile = np.asarray(strip.crop((166, 0, 326, 160)), dtype=int)
    assert np.abs(tile - np.asarray(expected, dtype=int)).max() < 60  # it is a JPEG; another seed differs by 149


def test_what_a_mosaic_depends_on_makes_another_key() -> None:
    visitor = guest(("a.png", content(picture())), ("b.png", content(picture(seed=1))))
    before = key_of(visitor, values())
    assert key_of(visitor, tuple(values())) == before != key_of(visitor, values(seed=1))
    visitor.remove("b.png")
    assert key_of(visitor, values()) != before


def test_images_without_a_negative_are_named_and_too_many_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mosaic, "TILES", 2)
    visitor = guest(*[(name, content(picture(seed=i))) for i, name in enumerate("abc")])
    visitor.photos["a"] = Photo("a", content(picture())[:900])
    html = mosaic.mosaic(visitor, values())
    assert "&#x27;a&#x27; is damaged" in html and visitor.mosaic.names == ("b",) and "1 more are not shown" in html
    assert "`largest` must be from" in mosaic.mosaic(visitor, values(largest=99.0))
    visitor.clear()
    assert "<img" not in mosaic.mosaic(visitor, values())


def test_the_good_negative_of_the_guide_is_one_of_the_defaults_and_both_have_a_text() -> None:
    strip = Image.open(io.BytesIO(guide_picture()))
    assert strip.size == (2 * 260, 256) and len(re.findall('alt="([^"]{10,})"', guide())) == 2
    torch.manual_seed(GOOD)
    expected = np.asarray(SaliencySwap()(opened(sample(SCENE), "256").image), dtype=int)
    shown = np.asarray(strip.crop((2, 0, 258, 256)), dtype=int)
    assert np.abs(shown - expected).max() < 60  # it is a JPEG; another seed differs by 180
