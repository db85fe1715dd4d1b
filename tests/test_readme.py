"""The Python blocks of the README and the recipes run as they stand, in order; the links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "docs/recipes.md", "docs/integrations.md", "docs/scale.md"]
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


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks_run_in_order(page: str, folder_of_parts: Path):
    session: dict[str, object] = {"__name__": "page"}
    blocks = list(BLOCK.finditer(text_of(page)))
    assert blocks
    for block in blocks:
        line = text_of(page)[: block.start()].count("\n") + 1  # the traceback then points into the page
        exec(compile("\n" * line + block[1], page, "exec"), session)
    if page == "README.md":  # what it precomputes is what its loader looks up
        cache: Any = session["swap"].cache  # type: ignore[attr-defined]
        assert (cache.hits, cache.misses) == (4, 0)


@pytest.mark.parametrize(
    "page", [*PAGES, "CONTRIBUTING.md", "docs/detector.md", "docs/when_not.md", "examples/README.md", "benchmarks/README.md"]
)
def test_links_into_the_repository_exist(page: str):
    targets = [t.split("#")[0] for t in re.findall(r"\]\(((?!https?:|#)[^)\s]+)\)", text_of(page))]
    assert [t for t in targets if not ((ROOT / page).parent / t).exists()] == []
