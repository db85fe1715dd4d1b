"""The Python blocks of the README and the recipes run as they stand, in order; the tables say what the code says."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import cutswap_transforms

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "docs/recipes.md", "docs/index.md", "docs/integrations.md", "docs/parameters.md"]
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


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES[:4])
def test_python_blocks_run_in_order(page: str, folder_of_parts: Path):
    session: dict[str, object] = {"__name__": "page"}
    blocks = list(BLOCK.finditer(text_of(page)))
    assert blocks
    for block in blocks:
        line = text_of(page)[: block.start()].count("\n") + 1  # the traceback then points into the page
        exec(compile("\n" * line + block[1], page, "exec"), session)


def table_rows(heading: str) -> dict[str, str]:
    """Name -> default as written in the table under `### heading`."""
    section = text_of("docs/parameters.md").split(f"### {heading}\n", 1)[1].split("\n#", 1)[0]
    rows = re.findall(r"^\| `(\w+)` \| `([^`]*)` \|", section, re.M)
    assert len(rows) == len(dict(rows))  # no parameter stands there twice
    return dict(rows)


@pytest.mark.parametrize("name", ["SaliencySwap", "LayerCAMExtractor"])
def test_parameter_table_has_every_parameter_with_its_default(name: str):
    parameters = inspect.signature(getattr(cutswap_transforms, name)).parameters.values()
    assert {k: v.replace('"', "'") for k, v in table_rows(name).items()} == {p.name: repr(p.default) for p in parameters}


@pytest.mark.parametrize(
    "page", [*PAGES, "CONTRIBUTING.md", "docs/detector.md", "docs/when_not.md", "examples/README.md", "benchmarks/README.md"]
)
def test_links_into_the_repository_exist(page: str):
    targets = [t.split("#")[0] for t in re.findall(r"\]\(((?!https?:|#)[^)\s]+)\)", text_of(page))]
    assert [t for t in targets if not ((ROOT / page).parent / t).exists()] == []
