"""Scores as dots along an axis, a row per group, and the threshold between the verdicts: one SVG."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import NamedTuple

WIDTH, ROW, LEFT, RIGHT, BOTTOM = 560, 54, 12, 12, 30  # in its own units
LABEL, DOTS = 17, 37  # of a row: the baseline of its label, the middle of its dots
SPREAD = 10  # by which dots are moved up and down, so that equal scores are seen
GOLDEN = 0.618  # successive multiples, modulo 1, are far apart


class Group(NamedTuple):
    """A row: its name, its class in the style sheet, and (name, score) of its dots; those above the threshold are defects."""

    label: str
    kind: str
    dots: Sequence[tuple[str, float]]


def score_chart(groups: Sequence[Group], threshold: float) -> str:
    """Groups without dots are left out. The axis is logarithmic if all scores are above 0."""
    groups = [group for group in groups if group.dots]
    axis = _Axis([score for group in groups for _, score in group.dots] + [threshold])
    bottom, at = ROW * len(groups), axis.at(threshold)
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {bottom + BOTTOM}" role="img" aria-label="Scores and the threshold">',
        f'<rect class="defect" x="{at:.1f}" y="0" width="{WIDTH - RIGHT - at:.1f}" height="{bottom}"/>',
        *[_row(group, ROW * i, axis, threshold) for i, group in enumerate(groups)],
        f'<line class="limit" x1="{at:.1f}" x2="{at:.1f}" y1="0" y2="{bottom}"/>',
        *[_tick(value, axis.at(value), bottom) for value in axis.ticks()],
        "</svg>",
    ]
    return "".join(parts)


class _Axis:
    def __init__(self, values: Sequence[float]) -> None:
        self._log = min(values) > 0
        low, high = self._scale(min(values)), self._scale(max(values))
        room = 0.05 * (high - low) or 0.5
        self._low, self._high = low - room, high + room

    def _scale(self, value: float) -> float:
        return math.log(value) if self._log else value

    def at(self, value: float) -> float:
        share = (self._scale(value) - self._low) / (self._high - self._low)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def ticks(self) -> list[float]:
        """Four round numbers."""
        steps = [self._low + (self._high - self._low) * share for share in (0.08, 0.36, 0.64, 0.92)]
        return [float(f"{math.exp(step) if self._log else step:.2g}") for step in steps]


def _row(group: Group, y: float, axis: _Axis, threshold: float) -> str:
    label = f'<text x="0" y="{y + LABEL}">{html.escape(group.label)}</text>'
    dots = [_dot(name, score, axis.at(score), y + DOTS + _shift(i), threshold) for i, (name, score) in enumerate(group.dots)]
    return f'<g class="{group.kind}">{label}{"".join(dots)}</g>'


def _dot(name: str, score: float, x: float, y: float, threshold: float) -> str:
    side = "above" if score > threshold else "below"
    return f'<circle class="{side}" cx="{x:.1f}" cy="{y:.1f}" r="4"><title>{html.escape(name)}: {score:.2f}</title></circle>'


def _shift(i: int) -> float:
    return SPREAD * (2 * (i * GOLDEN % 1) - 1)


def _tick(value: float, x: float, bottom: float) -> str:
    return f'<text x="{x:.1f}" y="{bottom + 22}" text-anchor="middle">{value:g}</text>'
