"""The tutorial notebook, executed: each cell with what it shows. The site and the tests run it in this way, without Jupyter."""

from __future__ import annotations

import ast
import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

NOTEBOOK = Path(__file__).parents[2] / "examples" / "tutorial.ipynb"


class Ran(NamedTuple):
    """A cell: its kind, its text, what it printed, and the value of its last line if that is an expression."""

    kind: str
    source: str
    printed: str
    value: Any


def run() -> Iterator[Ran]:
    """Needs `examples` on `sys.path`."""
    session: dict[str, Any] = {"__name__": "tutorial"}
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] != "code":
            yield Ran("markdown", source, "", None)
            continue
        body = ast.parse(source)
        last = ast.Expression(body.body.pop().value) if isinstance(body.body[-1], ast.Expr) else None
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(body, "tutorial.ipynb", "exec"), session)
            value = eval(compile(last, "tutorial.ipynb", "eval"), session) if last else None
        yield Ran("code", source, printed.getvalue(), value)


def page() -> tuple[str, dict[str, bytes]]:
    """Markdown, and the pictures that it shows as PNG files, by name."""
    parts, pictures = [], dict[str, bytes]()
    for ran in run():
        parts.append(ran.source if ran.kind == "markdown" else f"```python\n{ran.source}\n```")
        if ran.printed:
            parts.append(f"```text\n{ran.printed.strip()}\n```")
        if isinstance(ran.value, Image.Image):
            name, content = f"tutorial{len(pictures) + 1}.png", io.BytesIO()
            ran.value.save(content, "PNG")
            pictures[name] = content.getvalue()
            parts.append(f"![What the cell above shows](pictures/{name})")
    return "\n\n".join(parts) + "\n", pictures
