"""The README's Python blocks run as they stand, in order, in one session; its tables say what the code says."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import cutswap_transforms

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text(encoding="utf-8")
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)


@pytest.fixture
def folder_of_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that the README speaks of: `parts/good/0.png` and so on, `part.png`."""
    rng = np.random.default_rng(0)
    (tmp_path / "parts" / "good").mkdir(parents=True)
    for name in ("part.png", *(f"parts/good/{i}.png" for i in range(4))):
        PIL.Image.fromarray(rng.integers(0, 256, (150, 200, 3), dtype=np.uint8)).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_python_blocks_run_in_order(folder_of_parts: Path):
    session: dict[str, object] = {"__name__": "readme"}
    blocks = list(BLOCK.finditer(TEXT))
    assert len(blocks) >= 5
    for block in blocks:
        line = TEXT[: block.start()].count("\n") + 1  # the traceback then points into the README
        exec(compile("\n" * line + block[1], str(README), "exec"), session)


def table_rows(heading: str) -> dict[str, str]:
    """Name -> default as written in the table under `### heading`."""
    section = TEXT.split(f"### {heading}\n", 1)[1].split("\n#", 1)[0]
    rows = re.findall(r"^\| `(\w+)` \| `([^`]*)` \|", section, re.M)
    assert len(rows) == len(dict(rows))  # no parameter stands there twice
    return dict(rows)


@pytest.mark.parametrize("name", ["SaliencySwap", "LayerCAMExtractor"])
def test_parameter_table_has_every_parameter_with_its_default(name: str):
    parameters = inspect.signature(getattr(cutswap_transforms, name)).parameters.values()
    assert {k: v.replace('"', "'") for k, v in table_rows(name).items()} == {p.name: repr(p.default) for p in parameters}


def test_links_into_the_repository_exist():
    targets = re.findall(r"\]\(((?!https?:|#)[^)\s]+)\)", TEXT)
    assert targets
    assert [t for t in targets if not (README.parent / t).exists()] == []
