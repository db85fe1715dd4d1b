"""The explorer's folder of uploads: what is found in it, and what is swept."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from explorer.uploads import STALE, Uploads


def uploaded(folder: Path, name: str, age: float) -> Path:
    """A complete upload whose folder has not changed for `age` seconds."""
    place = folder / f"{hash(name):064x}"[-64:].replace("-", "0")
    place.mkdir()
    (place / name).write_bytes(b"1" * 10_000)
    at = time.time() - age
    os.utime(place, (at, at))
    return place / name


def test_uploads_are_found_by_absolute_paths_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "uploads"
    folder.mkdir()
    uploads, path = Uploads(str(folder)), uploaded(folder, "a.png", 0)
    (tmp_path / "secret.png").write_bytes(b"1")
    (path.with_name("link.png")).symlink_to(tmp_path / "secret.png")
    os.mkfifo(path.with_name("pipe.png"))
    assert uploads.find(str(path)) == path.resolve() and uploads.size() > 10_000
    monkeypatch.chdir(folder)
    relative = path.relative_to(folder)
    for other in (
        str(relative),
        f"http://x/../../{relative}",
        path,
        None,
        "",
        "\0",
        "/" + "x" * 5000,
        str(path.parent),
        str(folder),
    ):
        assert uploads.find(other) is None, other
    for name in ("link.png", "pipe.png", "../../secret.png", "other.png"):
        assert uploads.find(f"{path.parent}/{name}") is None, name


def test_only_what_nobody_took_for_long_and_what_broke_off_is_swept(tmp_path: Path) -> None:
    uploads = Uploads(str(tmp_path))
    old, fresh = uploaded(tmp_path, "old.png", STALE + 5), uploaded(tmp_path, "fresh.png", STALE - 20)
    os.utime(fresh, (0, 0))  # it arrived slowly: the time at which it was complete counts
    half, other = tmp_path / "tmpabc", tmp_path / "fontlist.json"
    for path in (half, other):
        path.write_bytes(b"1")
    uploads.sweep(unfinished=False)
    assert not old.parent.exists() and fresh.exists() and half.exists() and other.exists()
    uploads.sweep(unfinished=True)
    assert fresh.exists() and not half.exists() and other.exists()
