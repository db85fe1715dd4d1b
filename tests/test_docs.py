"""The site builds without a warning; what the troubleshooting page quotes is what the library says."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import cutswap_transforms

ROOT = Path(__file__).parents[1]
PAGES = sorted(path for folder in (".", "docs", "examples", "benchmarks") for path in (ROOT / folder).glob("*.md"))
LONGEST = 84  # characters of a line of code; docs/site.css has the sizes
SEARCHES = {  # what a reader types, with a word's plural left out -> the page that answers, by the title of a section
    "train detector": "detector.html",
    "heat map": "detector.html",
    "score new image": "detector.html",
    "threshold": "detector.html",
    "own network": "recipes.html",
}


def test_quoted_messages_are_those_of_the_library():
    paths = [*(ROOT / "cutswap_transforms").rglob("*.py"), *(ROOT / "examples/explorer").glob("*.py")]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in paths]
    texts = [n.value for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    quoted = re.findall(r'^### "(.*)"$', (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8"), re.M)
    assert len(quoted) > 12
    assert [quote for quote in quoted if not any(quote in text for text in texts)] == []


@pytest.mark.parametrize("name", ["SaliencySwap", "LayerCAMExtractor", "KMeans", "RegionCache"])
def test_a_docstring_explains_every_parameter(name: str):
    public = getattr(cutswap_transforms, name)
    explained = re.findall(
        r"^ {8}(\w+): ", inspect.getdoc(public).split("Args:\n", 1)[1].split("\n\n", 1)[0].replace("    ", " " * 8), re.M
    )
    assert explained == [*inspect.signature(public).parameters]


BRITISH = re.compile(
    r"colour|grey|centre|neighbour|behaviour|favour|learnt|defence|licence|(?:normal|initial|optim|quant)is(?!m)", re.I
)


def test_the_package_and_the_documents_have_us_spelling():
    paths = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    paths += [path for kind in ("*.py", "*.md") for path in (ROOT / "cutswap_transforms").rglob(kind)]
    lines = {(path, line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()}
    assert len(paths) > 60
    assert sorted((path.name, line) for path, line in lines if BRITISH.search(re.sub(r"`[^`]*`", "", line))) == []


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the last mkdocstrings for 3.10 does not fit its own requirements")
@pytest.mark.filterwarnings("default")
def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(ROOT / "mkdocs.yml"), "--site-dir"]
    done = subprocess.run([*command, str(tmp_path / "site")], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    pages = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "site").glob("*.html")}
    assert {"index.html", "recipes.html", "api.html", "results.html", "troubleshooting.html"} <= set(pages)
    for name, page in pages.items():
        pictures = re.findall(r'<img[^>]* src="([^":]+)"', page)
        for picture in pictures:
            assert picture.endswith((".png", ".jpg")) and (tmp_path / "site" / picture).is_file(), (name, picture)
        assert re.findall(r'<a href="([^"]+)"[^>]*><img ', page) == pictures, f"{name}: a click must open each picture"
        assert re.search(r'<link rel="stylesheet" href="/?site\.css"', page)
        assert not re.search(r'<(?:script|link|img)[^>]+(?:src|href)="https?://', page), f"{name} loads from elsewhere"
    assert "def cutswap" not in pages["api.html"] and "make_params" in pages["api.html"]
    index = json.loads((tmp_path / "site/search/search_index.json").read_text(encoding="utf-8"))
    sections = [(section["location"], section["title"].lower()) for section in index["docs"]]
    for sought, page in SEARCHES.items():
        found = [location for location, title in sections if all(word in title for word in sought.split())]
        assert found and all(location.startswith((page, "index.html", "tutorial.html")) for location in found), (sought, found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lines_of_code_fit_beside_the_copy_button(page: Path):
    blocks = re.findall(r"^```.*?\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    assert [line for block in blocks for line in block.splitlines() if len(line) > LONGEST] == []
