"""The chart of scores: where dots and the threshold lie, and that names stay text."""

from __future__ import annotations

import re

import pytest
from explorer.chart import LEFT, RIGHT, WIDTH, Group, score_chart


def dots(svg: str) -> list[tuple[str, float]]:
    return [(side, float(x)) for side, x in re.findall(r'<circle class="(\w+)" cx="([-\d.]+)"', svg)]


@pytest.mark.parametrize("scores", [[0.5, 1.0, 2.0, 40.0], [-3.0, 0.0, 1.0, 2.5]], ids=["logarithmic", "linear"])
def test_dots_are_in_the_order_of_their_scores_and_on_their_side_of_the_threshold(scores: list[float]) -> None:
    svg = score_chart([Group("good", "good", [("a", s) for s in scores])], 1.0)
    found, limit = dots(svg), float(re.findall(r'class="limit" x1="([\d.]+)"', svg)[0])
    assert [x for _, x in found] == sorted(x for _, x in found)
    assert [side for side, _ in found] == ["above" if score > 1.0 else "below" for score in scores]
    assert all((x > limit) == (side == "above") for side, x in found)
    assert all(LEFT < x < WIDTH - RIGHT for _, x in found)


def test_equal_scores_are_seen_beside_each_other_and_a_single_one_has_an_axis() -> None:
    svg = score_chart([Group("good", "good", [("a", 2.0)] * 5)], 2.0)
    assert len(set(re.findall(r'cy="([-\d.]+)"', svg))) == 5 and "nan" not in svg


def test_groups_without_dots_have_no_row_and_names_are_no_markup() -> None:
    svg = score_chart([Group("good", "good", [("<b>.png", 1.0)]), Group("none", "judged", [])], 2.0)
    assert svg.count("<g ") == 1 and "none" not in svg and "<b>" not in svg and "&lt;b&gt;.png: 1.00" in svg
