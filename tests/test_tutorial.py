"""The tutorial notebook runs as it stands, and is stored without outputs."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

BUILD = Path(__file__).parents[1] / "docs" / "_build"


def test_the_notebook_runs_and_finds_the_drawn_defects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(BUILD), *sys.path])
    import tutorial

    ran = list(tutorial.run())
    code = [cell for cell in ran if cell.kind == "code"]
    assert len(ran) == 14
    sheet, negative, summary, heat = (cell.value for cell in code if isinstance(cell.value, Image.Image))
    assert sheet.width > 1000 and negative.size == (160, 160) and summary.width > 500 and heat.size == (320, 160)
    (table,) = (cell.printed.partition("file,score")[1:] for cell in code if "p_value," in cell.printed)
    rows = list(csv.DictReader(io.StringIO("".join(table))))
    assert len(rows) == 9
    assert sum(row["verdict"] == "defect" and not row["file"].startswith("good") for row in rows) >= 3


def test_the_notebook_is_stored_without_outputs() -> None:
    notebook = json.loads((BUILD.parents[1] / "examples" / "tutorial.ipynb").read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert code and all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
