"""Folders of parts, `export` of them in this process, and what it wrote."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from cutswap_transforms.__main__ import main
from helpers.images import as_kind, scene


def drawn_parts(folder: Path, count: int = 3) -> Path:
    (folder / "good").mkdir(parents=True)
    for i in range(count):
        as_kind("PIL", scene(50, 60, seed=i)).save(folder / "good" / f"p{i}.png")
    return folder


def arguments(parts: Path, out: str, *more: str, count: int = 7, workers: int = 0) -> list[str]:
    numbers = ["--count", str(count), "--size", "32", "40", "--num-workers", str(workers)]
    return ["export", str(parts), str(parts.parent / out), *numbers, *more]


def run(parts: Path, out: str, *more: str, count: int = 7, workers: int = 0) -> int:
    return main(arguments(parts, out, *more, count=count, workers=workers))


def contents(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
