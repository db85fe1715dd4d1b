"""Numbers as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np


def percent(value: float | None) -> str:
    return "undefined" if value is None else f"{100 * value:.1f}"


def mean_and_deviation(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Over the defined values; the standard deviation (n - 1) needs two."""
    known = [v for v in values if v is not None]
    mean = float(np.mean(known)) if known else None
    return mean, float(np.std(known, ddof=1)) if len(known) > 1 else None


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines) + "\n"


def _cell(text: str) -> str:
    """On one line; bars are escaped because they would end the cell, and backslashes because they would undo that."""
    return re.sub(r"([\\|])", r"\\\1", " ".join(text.split()))


def unique(items: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(items))
