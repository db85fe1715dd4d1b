"""The advice on the size of patches: the share that has room, a smaller size where few have, and what the regions cover."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.sheets import picture, swapper

from cutswap_transforms.preview.advice import SCALES, advise, share_with_room
from cutswap_transforms.preview.steps import RegionSteps, region_steps


def found(regions: torch.Tensor) -> RegionSteps:
    return region_steps(picture(), swapper(), 64)._replace(regions=regions)


def filled(*shares: float) -> RegionSteps:
    """Regions of these shares of the frame, a level each."""
    rows = torch.arange(100)[None, :, None].expand(len(shares), -1, 100)
    return found(rows < (100 * torch.tensor(shares)).round()[:, None, None])


def test_a_size_is_suggested_where_too_few_patches_have_room() -> None:
    every, small = torch.ones(4, 24, 24, dtype=torch.bool), torch.zeros(4, 24, 24, dtype=torch.bool)
    small[:, 10, 10] = True
    cases = {
        "large": (found(every), None, "cover 100, 100, 100 and 100 %"),
        "small": (found(small), SCALES[-1], "cover 0.2, 0.2, 0.2 and 0.2 %"),
    }
    for name, (case, scale, words) in cases.items():
        advice = advise(case, swapper(scale=(0.01, 0.02), levels="random"), (128, 128))
        text = " ".join(advice.sentences)
        assert words in text and advice.scale == scale, (name, text)
        assert ("this size suits it" in text) == (scale is None)
        if scale:
            assert "0.05 to 0.2 % is suggested" in text
            taken = advise(case, swapper(scale=scale, levels="random"), (128, 128))
            assert taken.scale is None, (name, taken)


def test_no_larger_size_is_suggested_and_none_is_said_to_fit_that_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cutswap_transforms.preview.advice.share_with_room", lambda *_: 0.5)
    least = advise(filled(0.5), swapper(scale=(0.0005, 0.002)), (128, 128))
    assert least.scale is None and "No smaller size is suggested." in least.sentences[-1]
    some = advise(filled(0.5), swapper(), (128, 128))
    assert some.scale == SCALES[-1] and "So that more of them fit, 0.05 to 0.2 % is suggested." in some.sentences[-1]


@pytest.mark.parametrize(
    ("shares", "levels", "sentence"),
    [
        ((0.8,), "all", "The region covers 80 % of the frame: a surface, or a part that fills the frame."),
        ((0.5, 0.8), "all", "The regions cover 50 and 80 % of the frame, from the finest level to the coarsest: a surface, or"),
        ((0.3, 0.5), "random", "The regions cover 30 and 50 % of the frame, from the finest level to the coarsest."),
        ((0.01, 0.01), "all", "to the coarsest: very little, crop the image to the part."),
        ((0.1, 0.9, 0.1), (0, -1), "The regions cover 10 and 10 % of the frame, from the finest level to the coarsest."),
        ((0.1, 0.9, 0.1), 1, "The region covers 90 % of the frame: a surface"),  # the others are not swapped on
    ],
)
def test_the_share_of_the_frame_is_said_with_what_it_means(shares: tuple[float, ...], levels: Any, sentence: str) -> None:
    assert sentence in advise(filled(*shares), swapper(levels=levels), (128, 128)).sentences[0]


def test_room_is_the_share_of_patches_that_keep_the_size_they_were_drawn_with() -> None:
    everywhere = np.ones((2, 8, 8), bool)
    one_cell = np.zeros((2, 8, 8), bool)
    one_cell[:, 3, 3] = True
    assert share_with_room(everywhere, (64, 64), (0.01, 0.02), (1.0, 1.0), None) > 0.95
    assert share_with_room(one_cell, (64, 64), (0.02, 0.03), (1.0, 1.0), None) == 0  # 9 pixels do not fit twice into 8
    assert 0 < share_with_room(one_cell, (64, 64), (0.0002, 0.02), (1.0, 1.0), None) < 1
