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
        assert not list(tmp_path.glob("*out?*")), "something half-made is left"
    (tmp_path / "file").write_text("")
    assert ground.main([str(folder), str(tmp_path / "file")]) == 2
    assert "`out` must be a new or empty folder" in capsys.readouterr().err
    for option in ("--tolerance=2", "--tolerance=nan", "--white=0", "--white=inf"):
        with pytest.raises(SystemExit):
            ground.main([str(folder), str(tmp_path / "out"), option])


def test_a_border_that_is_not_quite_even_is_tolerated_on_request(
    ground: Any, folder: Path, tmp_path: Path, capsys: Any
) -> None:
    picture = ellipse()[0]
    picture[-1, :24] = 70  # a stain: 25 of 224 pixels of the border
    Image.fromarray(picture).save(folder / NAMES[1])
    out = tmp_path / "out"
    assert ground.main([str(folder), str(out)]) == 2
    told = capsys.readouterr().err
    assert "11.2% of the border unlike the rest (5.0% is the most, see --tolerance); --skip leaves" in told and NAMES[1] in told
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pellet"]
    assert ground.main([str(folder), str(out), "--tolerance", "0.2"]) == 0
    laid = pixels(out / NAMES[1])
    assert np.array_equal(laid[ellipse()[1] > 5], picture[ellipse()[1] > 5])


def test_images_that_cannot_be_laid_are_skipped_on_request(ground: Any, folder: Path, tmp_path: Path, capsys: Any) -> None:
    (folder / "train/good/1.png").write_bytes((folder / NAMES[0]).read_bytes()[:900])
    Image.new("RGB", (64, 48)).save(folder / "test/hole/1.png")
    Image.new("L", (64, 48), 255).save(folder / "ground_truth/hole/1_mask.png")
    assert ground.main([str(folder), str(tmp_path / "out")]) == 2
    capsys.readouterr()
    out = tmp_path / "out"
    out.mkdir()
    assert ground.main([str(folder), str(out), "--skip"]) == 0
    told = capsys.readouterr()
    assert "3 pictures on wood" in told.out
    lines = told.err.splitlines()
    assert [line.split(" (")[0] for line in lines] == [f"skipped {folder / p}" for p in ("train/good/1.png", "test/hole/1.png")]
    expected = [*NAMES, *(f"object_mask/{name}" for name in NAMES), "ground_truth/hole/0_mask.png"]
    assert sorted(str(p.relative_to(out)) for p in out.rglob("*.png")) == sorted(expected)
    (folder / NAMES[0]).write_bytes(b"")
    assert ground.main([str(folder), str(tmp_path / "none"), "--skip"]) == 2
    assert "`folder` must hold images in train/good that can be laid, got none" in capsys.readouterr().err
    assert not (tmp_path / "none").exists() and not list(tmp_path.glob(".*"))


def test_ctrl_c_leaves_nothing(ground: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay, laid = ground.lay, []

    def stopped(*args: Any) -> Any:
        laid.append(args)
        if len(laid) == 3:
            raise KeyboardInterrupt
        return lay(*args)

    monkeypatch.setattr(ground, "lay", stopped)
    with pytest.raises(KeyboardInterrupt):
        ground.main([str(folder), str(tmp_path / "out")])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pellet"]


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("own", [True, False])
def test_masks_are_turned_with_their_photographs(
    ground: Any, folder: Path, tmp_path: Path, orientation: int, own: bool
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    hole = (ellipse()[0].max(2) < 60) & (ellipse()[1] > 4)
    assert 4 < hole.sum() < 40
    for name in NAMES:
        Image.fromarray(ellipse()[0]).save(folder / name, exif=exif.tobytes())
    options = {"exif": exif.tobytes()} if own or orientation == 3 else {}  # half a turn cannot be seen by the sides
    Image.fromarray(hole.astype(np.uint8) * 255).save(folder / "ground_truth/hole/0_mask.png", **options)
    assert ground.main([str(folder), str(tmp_path / "out")]) == 0
    turns = {1: 0, 3: 2, 6: -1, 8: 1}[orientation]
    found = Image.open(tmp_path / "out/ground_truth/hole/0_mask.png")
    assert found.getexif().get(0x0112, 1) == 1
    np.testing.assert_array_equal(np.asarray(found) > 0, np.rot90(hole, turns))
    inside = np.rot90(ellipse()[1], turns) > 5
    np.testing.assert_array_equal(pixels(tmp_path / "out" / NAMES[2])[inside], np.rot90(ellipse()[0], turns)[inside])
    assert pixels(tmp_path / "out/object_mask" / NAMES[2])[inside].min() == 255


def test_deep_photographs_are_laid_by_their_white(ground: Any, folder: Path, tmp_path: Path, capsys: Any) -> None:
    for name in NAMES:
        Image.fromarray(ellipse()[0][..., 0].astype(np.uint16) * 16).save(folder / name)
    assert ground.main([str(folder), str(tmp_path / "out")]) == 2
    assert "contrast of" in capsys.readouterr().err
    assert ground.main([str(folder), str(tmp_path / "out"), "--white", "4080"]) == 0
    inside = ellipse()[1] > 5
    np.testing.assert_array_equal(pixels(tmp_path / "out" / NAMES[0])[inside][:, 0], ellipse()[0][inside][:, 0])
