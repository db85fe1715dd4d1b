"""Tables in Markdown: one cell for each text, whatever it holds; what `compare` takes for a result."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import markdown as reference
import pytest
from detector import grid_tables
from detector.tables import markdown


@pytest.mark.parametrize("name", ["a|b", r"a\|b", "a\\", "|", "a\nb", "a\r", "||", "a\u2028|b"])
def test_a_name_is_one_cell(name: str) -> None:
    text = markdown(["category", name], [[name, "1"], ["2", name]])
    assert text.count("\n") == len(text.splitlines()) == 4
    page = reference.markdown(text, extensions=["tables"])
    assert page.count("<th>") == 2 and page.count("<td>") == 4


def cell(**changes: Any) -> dict[str, Any]:
    figures = {"image_auroc": 0.9, "pixel_auroc": None, "ap": 1, "aupro": 0.0}
    return {"mean": figures, "fused": figures, "single": {"place 8": 0.5, "place 16": None}, "seconds": 1.5} | changes


def test_a_category_with_a_bar_and_dollars_is_drawn_and_tabled(tmp_path: Path) -> None:
    cells = {(c, name, 0): cell() for c in ("none", "x --levels\nall") for name in ("a|b", "$a_$")}
    text = grid_tables.write_report(tmp_path, cells, "none", "note")
    tables = [block.strip().splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 7
    for table in tables:
        assert len({line.replace(r"\|", "").count("|") for line in table}) == 1
    assert (tmp_path / "differences.png").stat().st_size > 1000


def test_what_is_a_result() -> None:
    assert grid_tables.is_cell(cell()) and grid_tables.is_cell(cell(faint=0.1, on_object=1, change=20.0))
    figures = cell()["mean"]
    wrong: list[Any] = [None, 3, [], [cell()], {}, "mean", cell(mean=3), cell(mean={}), cell(single=[]), cell(seconds="1")]
    wrong += [cell(fused=figures | {"ap": value}) for value in ("1", 2, -0.1, math.nan, True, [])]
    wrong += [cell(single={"x": "y"}), cell(faint=0.1), cell(faint="a", on_object=1, change=2)]
    assert not any(map(grid_tables.is_cell, wrong))
