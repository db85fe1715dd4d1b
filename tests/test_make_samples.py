"""The sample generator: reproducible, varied, textured pictures, made with NumPy and Pillow alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import make_samples
import numpy as np
import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = ("screws", "cloth", "blister", "board", "flange", "wood", "tiles")


def test_scenes_are_the_documented_ones_take_a_generator_and_know_where_their_object_is() -> None:
    assert tuple(make_samples.SCENES) == NAMES
    picture = make_samples.SCENES["tiles"](np.random.default_rng(0), 48)
    assert picture.dtype == np.uint8 and picture.shape == (48, 48, 3)
    picture, mask = make_samples.make_scene("flange", 0, 96, return_mask=True)
    assert picture[mask == 1].mean() > picture[mask == 0].mean() + 30  # bright steel on a dark belt
    with pytest.raises(ValueError, match=r"`name` must be one of screws, .*, tiles, got 'nails'"):
        make_samples.make_scene("nails", 0)
    with pytest.raises(ValueError, match="`size` must be at least 16 pixels, got 8"):
        make_samples.make_scene("wood", 0, 8)


@pytest.mark.parametrize("name", NAMES)
def test_scene_and_object_mask_are_functions_of_the_seed(name: str) -> None:
    first, again, other = (make_samples.make_scene(name, seed, 64) for seed in (3, 3, 4))
    assert first.dtype == np.uint8 and first.shape == (64, 64, 3)
    assert first.tobytes() == again.tobytes()
    assert np.abs(first.astype(int) - other).mean() > 4  # pose, light and tolerances, not sensor noise alone
    picture, mask = make_samples.make_scene(name, 5, 64, return_mask=True)
    np.testing.assert_array_equal(picture, make_samples.make_scene(name, 5, 64))
    assert mask.shape == (64, 64) and mask.dtype == np.uint8 and set(np.unique(mask)) <= {0, 1}
    assert mask.mean() == 1 if name in ("cloth", "wood") else 0.05 < mask.mean() < 0.95


@pytest.mark.parametrize("name", NAMES)
def test_scene_is_exposed_and_textured_like_a_photograph_and_its_layout_is_that_of_any_size(name: str) -> None:
    picture = make_samples.make_scene(name, 1, 128)
    grey = picture.mean(2)
    assert 50 < grey.mean() < 200 and grey.std() > 10
    assert np.mean((picture == 0) | (picture == 255)) < 0.02  # neither crushed nor burnt out
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 4000
    contrast = grey.reshape(16, 8, 16, 8).std((1, 3))  # of every block of 8 x 8 pixels
    assert contrast.min() > 0.5 and np.median(contrast) > 2.5  # a sensor is never silent: no block is flat
    rows = grey - grey.mean()
    assert np.mean(rows[1:] * rows[:-1]) > 0.5 * rows.var()  # it has structure, it is not noise
    small = make_samples.make_scene(name, 1, 64)
    a, b = (Image.fromarray(x).resize((16, 16), Image.Resampling.BOX) for x in (small, picture))
    assert np.corrcoef(np.asarray(a).ravel(), np.asarray(b).ravel())[0, 1] > 0.8


def test_edit_makes_a_local_defect_and_changes_nothing_else() -> None:
    def burn(surface: Any) -> None:
        at, u, v = surface.frame(0.3, 0.6, 0.0, 0.1)
        surface.lay(at, surface.cover(np.hypot(u, v) - 0.08), albedo=np.float32(0.01))

    clean, defect = make_samples.make_scene("wood", 0, 64), make_samples.make_scene("wood", 0, 64, edit=burn)
    change = np.abs(clean.astype(int) - defect).mean(2)
    assert change[17:22, 36:41].min() > 40
    assert change[40:].max() < 8  # far away only the exposure moves a little


def test_variant_fixes_the_product_that_the_seed_would_draw() -> None:
    drawn = make_samples.make_scene("blister", 9, 48)
    fixed = [make_samples.make_scene("blister", 9, 48, variant=v) for v in range(4)]
    assert sum(np.array_equal(drawn, one) for one in fixed) == 1
    assert min(np.abs(a.astype(int) - b).mean() for i, a in enumerate(fixed) for b in fixed[:i]) > 0.5


def test_command_writes_count_pictures_per_scene(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(tmp_path), "--size", "32", "--count", "2", "--seed", "7", "--scenes", "wood", "tiles"]
    assert make_samples.main(arguments) == 0
    wanted = ["tiles_007.png", "tiles_008.png", "wood_007.png", "wood_008.png"]
    assert sorted(p.name for p in tmp_path.iterdir()) == wanted
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "wood_008.png")), make_samples.make_scene("wood", 8, 32))
    assert capsys.readouterr().out == f"4 pictures in {tmp_path}\n"


def test_runs_as_a_script_without_scipy_or_torch(tmp_path: Path) -> None:
    code = (
        "import runpy, sys\n"
        f"sys.path.insert(0, {str(EXAMPLES)!r})\n"  # as `python examples/make_samples.py` does
        f"sys.argv = ['make_samples.py', {str(tmp_path)!r}, '--size', '32', '--count', '1']\n"
        f"try: runpy.run_path({str(EXAMPLES / 'make_samples.py')!r}, run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        "assert not {'scipy', 'torch', 'torchvision', 'matplotlib', 'cv2'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert len(list(tmp_path.glob("*.png"))) == len(NAMES)
