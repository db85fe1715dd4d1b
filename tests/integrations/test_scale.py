"""The blocks of docs/scale.md that need webdataset, Ray or Hugging Face datasets run as they stand, each as a program.

Their pixels are those of `export`, where the document says so.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pytest
from datasets import load_from_disk
from PIL import Image
from webdataset import TarWriter

PAGE = Path(__file__).parents[2] / "docs/scale.md"
COUNT = 6


@pytest.fixture
def folder(tmp_path):
    """`parts` with six images in two folders."""
    draw(tmp_path, COUNT)
    return tmp_path


def draw(folder: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    for i in range(count):
        path = folder / f"parts/{'ab'[i % 2]}/{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (90, 120, 3), dtype=np.uint8)).save(path)


def run(folder: Path, section: str, then: str = "") -> str:
    """Run the block of a section of the page, and then other lines; what they print."""
    (block,) = re.findall(rf"^## {section}\n.*?^```py\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    (folder / "program.py").write_text(block + then, encoding="utf-8")
    return program(folder, "program.py")


def program(folder: Path, *arguments: str) -> str:
    home = {"HOME": str(folder), "RAY_USAGE_STATS_ENABLED": "0", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env={**os.environ, **home}, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def export(folder: Path, *more: str, count: int = COUNT) -> None:
    numbers = ["--count", str(count), "--size", "256", "256", "--num-workers", "0"]
    program(folder, "-m", "cutswap_transforms", "export", "parts", "out", *numbers, *more)


def exported(folder: Path, count: int = COUNT) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Negative and mask of each image, by its key."""
    export(folder, count=count)
    lines = map(json.loads, (folder / "out/pairs.jsonl").read_text().splitlines())
    found = {Path(x["image"]).relative_to("parts").as_posix(): f"out/{{}}/{x['file']}" for x in lines}
    return {key: tuple(pixels(folder / path.format(kind)) for kind in ("swap", "mask")) for key, path in found.items()}


def pixels(file: object) -> np.ndarray:
    return np.asarray(Image.open(file))


def test_shards_are_read_and_swapped_back(folder):
    export(folder, "--shards", "4")
    then = "    print(mask.sum().item(), (negative != normal).any(0).sum().item(), normal.sum().item())\n"
    told = [[int(word) for word in line.split()] for line in run(folder, "Shards", then).splitlines()]
    assert len(told) == COUNT
    for masked, changed, _ in told:
        assert 0 < changed <= masked
    (folder / "out").rename(folder / "shards")
    export(folder)
    normal = [int(pixels(path).sum()) for path in sorted((folder / "out/normal").iterdir())]
    assert [total for _, _, total in told] == normal


def test_a_pipeline_sees_no_sample_twice_and_draws_for_each(folder):
    data = (folder / "parts/a/0.png").read_bytes()  # one picture for all: their swaps must differ
    for shard in range(4):
        with open(folder / f"normal-{shard:06d}.tar", "wb") as file, TarWriter(file, encoder=False) as tar:
            for number in range(5):
                tar.write({"__key__": f"{shard}-{number}", "png": data})
    then = (
        "seen = [(k, i, m) for keys, *pair in loader for k, i, m in zip(keys, *pair)]\n"
        "import torch\n"
        "torch.save(([k for k, *_ in seen], *map(torch.stack, [*zip(*seen)][1:])), 'seen.pt')\n"
    )
    run(folder, "In a WebDataset pipeline", then)
    import torch

    keys, images, masks = torch.load(folder / "seen.pt", weights_only=True)
    assert sorted(keys) == [f"{shard}-{number}" for shard in range(4) for number in range(5)]
    assert images.shape == (20, 3, 256, 256) and masks.shape == (20, 1, 256, 256)
    assert len({mask.numpy().tobytes() for mask in masks}) == 20
    where = masks.expand_as(images).bool()
    changed = images != images.median(0).values  # which is the picture
    assert changed.flatten(1).any(1).all() and not changed[~where].any()
    assert (folder / "regions/regions.sqlite").stat().st_size


@pytest.mark.timeout(600)  # a local Ray takes a minute to start on two cores
def test_ray_data_writes_the_pixels_of_export(tmp_path, monkeypatch):
    draw(tmp_path, 160)  # the first actor would be done with fewer before the second one starts
    expected = exported(tmp_path, count=160)
    with tempfile.TemporaryDirectory(prefix="ray") as short:  # of pytest's folder, the names of sockets would be too long
        monkeypatch.setenv("RAY_TMPDIR", short)
        run(tmp_path, "In Ray Data")
    files = {}
    for path in (tmp_path / "negatives").glob("*.tar"):
        with tarfile.open(path) as archive:
            files |= {member.name: pixels(io.BytesIO(archive.extractfile(member).read())) for member in archive}
    assert len(files) == 2 * len(expected) == 320
    for key, (negative, mask) in expected.items():
        stem = key.replace(".", "_")
        assert (files[f"{stem}.png"] == negative).all() and (files[f"{stem}.mask.png"] == mask).all()


def test_map_in_two_processes_makes_the_pixels_of_export(folder):
    expected = exported(folder)
    run(folder, "In Hugging Face datasets")
    rows = load_from_disk(folder / "negatives")
    assert sorted(rows["key"]) == sorted(expected)
    for row in rows:
        negative, mask = expected[row["key"]]
        assert (np.asarray(row["image"]) == negative).all() and (np.asarray(row["mask"]) == mask).all()
