"""The picture of a patch pair: the names of boxes stay apart, inside the picture and near their boxes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from helpers.sheets import picture
from PIL import Image, ImageDraw

from cutswap_transforms.draw import HEAD, NUMBERS, PatchPair, draw_pairs
from cutswap_transforms.preview import pair as pair_file
from cutswap_transforms.preview.pair import BOX_A, BOX_B, FINE, _lead, boxes, tag_spots


def drawn(seed: int, side: int, cells: int) -> list[PatchPair]:
    """Four pairs in a corner of 24 x 24 cells: the fewer cells, the closer."""
    region = torch.zeros(1, 4, 24, 24, dtype=torch.bool)
    region[..., :cells, -cells:] = True
    u = torch.rand(1, HEAD + 4 * NUMBERS, generator=torch.Generator().manual_seed(seed))
    rows = draw_pairs(region, u, range(4), (side, side), (0.002, 0.03), (0.3, 3.3))[0].tolist()
    return [PatchPair(*row) for row in rows if row[-1]]


@pytest.mark.parametrize(("side", "cells"), [(192, 4), (192, 24), (128, 6)])
def test_names_never_cover_each_other_and_stay_near(side: int, cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    spots: list[tuple[list[tuple[float, ...]], list[tuple[float, ...]]]] = []

    def kept(around, sizes, picture):  # type: ignore[no-untyped-def]
        spots.append((around, tag_spots(around, sizes, picture)))
        return spots[-1][1]

    monkeypatch.setattr(pair_file, "tag_spots", kept)
    for seed in range(20):
        boxes(picture(0, side, side), drawn(seed, side, cells), (side, side))
        around, tags = spots[-1]
        assert len(tags) == len(around) == 2 * len(drawn(seed, side, cells)) > 2
        for left, top, right, bottom in tags:
            assert 0 <= left < right < side * FINE and 0 <= top < bottom < side * FINE
        for a, b in itertools.combinations(tags, 2):
            assert a[2] < b[0] or b[2] < a[0] or a[3] < b[1] or b[3] < a[1], (seed, a, b)
        for (left, top, right, bottom), tag in zip(around, tags, strict=True):
            gaps = (0, left - tag[2], tag[0] - right, top - tag[3], tag[1] - bottom)
            assert max(gaps) < 60 * FINE, (seed, gaps)


def test_a_name_alone_stands_at_the_upper_left_corner_or_where_the_picture_has_room() -> None:
    assert tag_spots([(30, 60, 60, 90)], [(24, 12)], (300, 300)) == [(30, 48, 54, 60)]
    _, top, right, _ = tag_spots([(270, 0, 300, 30)], [(60, 12)], (300, 300))[0]
    assert right <= 300 and (top >= 30 or right <= 270)  # beside its box


def test_names_have_the_level_if_there_are_several_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    monkeypatch.setattr(pair_file, "write", lambda _, __, name, *___: names.append(name))
    pairs = [PatchPair(2, 4, 4, 30, 30, 8, 8), PatchPair(0, 40, 4, 4, 40, 8, 8)]
    photo = picture()
    boxes(photo, pairs, (64, 64))
    boxes(photo, pairs[:1], (64, 64))
    assert names == ["A2", "B2", "A0", "B0", "A", "B"]


def test_boxes_have_the_colors_of_their_names() -> None:
    pixels = np.asarray(boxes(Image.new("RGB", (96, 96)), [PatchPair(0, 40, 20, 70, 60, 12, 12)], (96, 96))).astype(int)
    for color, (top, left) in ((BOX_A, (40, 20)), (BOX_B, (70, 60))):
        assert (np.abs(pixels[top + 6, left - 4 : left] - color).sum(1).min()) < 60


def test_a_line_leads_to_a_name_that_does_not_touch_its_box() -> None:
    for tag, length in (((60.0, 0.0, 80.0, 10.0), 40), ((22.0, 0.0, 42.0, 10.0), 0)):
        page = Image.new("RGB", (100, 20))
        _lead(ImageDraw.Draw(page), tag, (0.0, 0.0, 20.0, 20.0), BOX_A)
        colored = (np.asarray(page) == BOX_A).all(2).any(0).sum()
        assert math.isclose(colored, length, abs_tol=12) and (colored > 0) == (length > 0)
