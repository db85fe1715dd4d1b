"""Pages and pictures of the site that are not in `docs/`: pages beside the code, and pictures that a script draws."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PAGES = {
    "index.md": "README.md",
    "results.md": "examples/RESULTS.md",
    "ablations.md": "examples/ABLATIONS.md",
    "benchmarks.md": "benchmarks/README.md",
    "changelog.md": "CHANGELOG.md",
}
PICTURES = {
    "contact_sheet.png": "examples/contact_sheet.png",
    "explorer.jpg": "examples/explorer/screenshot.jpg",
    "detector.jpg": "examples/detector.jpg",
}
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    sys.path[:0] = [str(HERE), str(ROOT / "examples")]
    import pictures  # draws with the library itself, so it is imported when the site is built
    import tutorial

    for page, source in PAGES.items():
        files.append(File.generated(config, page, content=_page(ROOT / source)))
    for name, source in PICTURES.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_bytes()))
    text, shown = tutorial.page()
    files.append(File.generated(config, "tutorial.md", content=_linked(text, ROOT / "examples")))
    for name, content in (pictures.draw_all() | shown).items():
        files.append(File.generated(config, f"pictures/{name}", content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replaces repository links by links to pages of the site or, if there is no such page, by plain text. A picture becomes
    a link to its file, which is larger than the page shows it."""
    return _linked(markdown, (ROOT / "docs" / page.file.src_uri).parent) if page.file.src_uri not in PAGES else markdown


def _page(path: Path) -> str:
    return _linked(path.read_text(encoding="utf-8"), path.parent)


def _linked(text: str, folder: Path) -> str:
    places = {str((ROOT / source).resolve()): page for page, source in (PAGES | PICTURES).items()}
    places |= {str(path.resolve()): path.name for path in (ROOT / "docs").glob("*.md")}
    places[str((ROOT / "README.md").resolve())] = "index.md"

    def target(match: re.Match[str]) -> str:
        sign, text, link, anchor = match.groups(default="")
        place = link if link.startswith("pictures/") or link in PICTURES else places.get(str((folder / link).resolve()))
        if sign and not place:
            raise ValueError(f"{folder}: no picture {link} on the site")
        if sign:
            return f"[![{text}]({place})]({place})"
        return f"[{text}]({place}{anchor})" if place else text

    return LINK.sub(target, text)
