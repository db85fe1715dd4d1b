"""The explorer's advice on the size of patches: the share that has room, and a smaller size where few have."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from explorer.settings import Settings
from explorer.words import SCALES, advise, share_with_room
from helpers.explorer import picture

from cutswap_transforms import SaliencySwap
from cutswap_transforms.preview.steps import region_steps


def test_words_suggest_a_size_where_too_few_patches_have_room() -> None:
    found = region_steps(picture(size=(128, 128)), SaliencySwap(), 64)
    every, small = torch.ones(4, 24, 24, dtype=torch.bool), torch.zeros(4, 24, 24, dtype=torch.bool)
    small[:, 10, 10] = True
    cases = {
        "large": (found._replace(regions=every), None, "cover 100, 100, 100 and 100 %"),
        "small": (found._replace(regions=small), SCALES[-1], "cover 0.2, 0.2, 0.2 and 0.2 %"),
    }
    for name, (case, scale, words) in cases.items():
        now = Settings(smallest=1.0, largest=2.0, levels="random")
        advice = advise(case, now, (128, 128))
        text = " ".join(advice.sentences)
        assert words in text and advice.scale == scale, (name, text)
        assert ("this size suits it" in text) == (scale is None)
        if scale:
            assert "0.05 to 0.2 % is suggested" in text
            taken = advise(case, replace(now, smallest=100 * scale[0], largest=100 * scale[1]), (128, 128))
            assert taken.scale is None, (name, taken)


def test_no_larger_size_is_suggested_and_none_is_said_to_fit_that_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    found = region_steps(picture(size=(128, 128)), SaliencySwap(), 64)
    monkeypatch.setattr("explorer.words.share_with_room", lambda *_: 0.5)
    least = advise(found, Settings(smallest=0.05, largest=0.2), (128, 128))
    assert least.scale is None and "No smaller size is suggested." in least.sentences[-1]
    some = advise(found, Settings(), (128, 128))
    assert some.scale == SCALES[-1] and "So that more of them fit, 0.05 to 0.2 % is suggested." in some.sentences[-1]


def test_room_is_the_share_of_patches_that_keep_the_size_they_were_drawn_with() -> None:
    everywhere = np.ones((2, 8, 8), bool)
    one_cell = np.zeros((2, 8, 8), bool)
    one_cell[:, 3, 3] = True
    assert share_with_room(everywhere, (64, 64), (0.01, 0.02), (1.0, 1.0), None) > 0.95
    assert share_with_room(one_cell, (64, 64), (0.02, 0.03), (1.0, 1.0), None) == 0  # 9 pixels do not fit twice into 8
    assert 0 < share_with_room(one_cell, (64, 64), (0.0002, 0.02), (1.0, 1.0), None) < 1
