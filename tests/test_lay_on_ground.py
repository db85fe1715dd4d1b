"""Objects on other grounds: the same pixels on every run, the object untouched, layout and masks kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = ("train/good/0.png", "test/good/0.png", "test/hole/0.png")


@pytest.fixture(scope="module")
def ground() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        import lay_on_ground

        yield lay_on_ground


def ellipse(height: int = 48, width: int = 64) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """A mottled ellipse with a dark hole and a soft edge on near-black, uint8 [H, W, 3], and its outline's distance."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    inside = 1 - np.hypot((y - height / 2 + 0.5) / 14, (x - width / 2 + 0.5) / 22)
    alpha = (inside * 14 + 0.5).clip(0, 1)[..., None]
    body = 150 + rng.normal(0, 6, (height, width, 3)) - 140 * (np.hypot(y - 20, x - 30) < 2)[..., None]
    picture = 14 + rng.normal(0, 1, body.shape) + alpha * (body - 14)
    picture[3, 5] = 60  # dust
    return picture.clip(0, 255).astype(np.uint8), inside * 14


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "pellet"
    for name in NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(ellipse()[0]).save(folder / name)
    (folder / "ground_truth" / "hole").mkdir(parents=True)
    Image.fromarray(np.eye(48, 64, dtype=np.uint8)).save(folder / "ground_truth" / "hole" / "0_mask.png")
    return folder


def pixels(path: Path) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(path))


@pytest.mark.parametrize("kind", ["wood", "cloth", "tiles", "metal"])
def test_the_object_keeps_its_pixels_and_the_ground_is_another_one(ground: Any, kind: str) -> None:
    image, distance = ellipse()
    laid, mask = ground.lay(image.astype(np.float32), kind, 5)
    assert laid.shape == image.shape and laid.dtype == mask.dtype == np.uint8
    np.testing.assert_array_equal(laid[distance > 5], image[distance > 5])  # the hole too
    assert (np.abs(laid.astype(int) - image).max(2) > 10)[distance < -5].mean() > 0.97
    assert (mask[distance > 1] == 255).all() and (mask[distance < -1] == 0).all()
    again, other = (ground.lay(image.astype(np.float32), kind, seed)[0] for seed in (5, 6))
    assert np.array_equal(again, laid) and not np.array_equal(other, laid)


def test_no_rim_of_the_old_ground_is_left(ground: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    image, distance = ellipse()
    monkeypatch.setattr(ground, "photograph", lambda surface, rng: np.full((64, 64, 3), 150, np.uint8))
    laid, _ = ground.lay(image.astype(np.float32), "wood", 0)  # on a ground as bright as the object a halo would show
    assert laid[distance < 4].min() > 120
    assert (laid[:4] == 150).all()  # the dust is no object


def test_layout_and_masks_are_kept_and_a_rerun_gives_the_same(ground: Any, folder: Path, tmp_path: Path, capsys: Any) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    assert [ground.main([str(folder), str(out), "--ground", "wood"]) for out in (first, second)] == [0, 0]
    assert f"3 pictures on wood in {first}" in capsys.readouterr().out
    found = sorted(str(p.relative_to(first)) for p in first.rglob("*.png"))
    assert found == sorted([*NAMES, *(f"object_mask/{name}" for name in NAMES), "ground_truth/hole/0_mask.png"])
    assert all(np.array_equal(pixels(first / name), pixels(second / name)) for name in found)
    assert np.array_equal(pixels(first / "ground_truth/hole/0_mask.png"), np.eye(48, 64))
    assert not np.array_equal(pixels(first / NAMES[0]), pixels(first / NAMES[1]))  # equal images, grounds of their own


def test_bad_input_is_told_in_a_sentence(ground: Any, folder: Path, tmp_path: Path, capsys: Any) -> None:
    assert ground.main([str(tmp_path), str(tmp_path / "out")]) == 2
    assert "`data` must hold the normal images in train/good" in capsys.readouterr().err
    assert ground.main([str(folder), str(folder)]) == 2
    assert "`out` must be a new or empty folder" in capsys.readouterr().err
    for picture in (np.full((48, 64, 3), 90), np.random.default_rng(0).integers(0, 256, (48, 64, 3))):  # nothing, no ground
        Image.fromarray(picture.astype(np.uint8)).save(folder / NAMES[2])
        assert ground.main([str(folder), str(tmp_path / f"out{picture[0, 0, 0]}")]) == 2
        assert "must show an object that stands out from a plain border" in capsys.readouterr().err
