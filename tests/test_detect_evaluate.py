"""`detect.py evaluate` and `compare`: the figures, what is undefined, the grid and its differences."""

from __future__ import annotations

import json
import multiprocessing
import os
import shlex
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detector import compare_command as compare
from detector import evaluate_command as evaluate
from detector import fitting, grid_tables
from detector.options import explanation
from helpers.detecting import SMALL, TRAINED, fit, run
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score


@pytest.fixture(scope="module")
def fitted(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "flange"
    fit(toy / "flange", out)
    return out


@pytest.fixture
def copied(fitted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(fitted, tmp_path / "run"))


def test_figures_rows_and_pictures(copied: Path, toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", copied, toy / "flange") == 0
    result = json.loads((copied / "evaluation.json").read_text())
    assert all(0 <= result[name] <= 1 for name in ("image_auroc", "pixel_auroc", "ap", "aupro"))
    rows = result["images"]
    assert len(rows) == 9 and set(rows[0]) == {"file", "defect", "score", "p_value", "verdict"}
    assert rows[0]["file"] == "chip/000.png" or rows[0]["file"].startswith("chip/")
    expected = roc_auc_score([row["defect"] is not None for row in rows], [row["score"] for row in rows])
    assert result["image_auroc"] == pytest.approx(expected)
    out = capsys.readouterr().out
    assert f"| flange | {100 * expected:.1f} |" in out
    found = sum(row["verdict"] == "defect" for row in rows if row["defect"])
    assert f"at 0.0909 false alarms: {found} of 5 defects found" in out
    for name in ("histogram.png", "heatmaps.png"):
        with Image.open(copied / name) as picture:
            assert min(picture.size) > 64


@pytest.mark.parametrize(("left", "word"), [("good", "good"), ("dent", "defect")])
def test_one_class_alone_is_scored_and_drawn_and_said(
    copied: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], left: str, word: str
) -> None:
    folder = tmp_path / "flange"
    shutil.copytree(toy / "flange/train", folder / "train")
    shutil.copytree(toy / f"flange/test/{left}", folder / f"test/{left}")
    shutil.copytree(toy / "flange/ground_truth", folder / "ground_truth")
    assert run("evaluate", copied, folder) == 0
    told = capsys.readouterr()
    assert f"image AUROC is undefined: all {4 if left == 'good' else 1} test images are {word}" in told.err
    assert "| flange | undefined |" in told.out
    result = json.loads((copied / "evaluation.json").read_text())
    assert result["image_auroc"] is None and len(result["images"]) >= 1
    assert (result["ap"] is None) == (left == "good")
    assert (copied / "heatmaps.png").exists()


def test_defects_without_masks_leave_pixels_undefined(
    copied: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(toy / "flange", tmp_path / "flange", ignore=shutil.ignore_patterns("ground_truth"))
    assert run("evaluate", copied, tmp_path / "flange") == 0
    assert "no pixel scores: `data` must hold a mask for every defect" in capsys.readouterr().err
    result = json.loads((copied / "evaluation.json").read_text())
    assert result["image_auroc"] is not None and result["ap"] is result["aupro"] is result["pixel_auroc"] is None


def test_mistakes(copied: Path, toy: Path) -> None:
    with pytest.raises(SystemExit, match="`data` must hold one category, got cloth, flange: see --categories"):
        run("evaluate", copied, toy)
    with pytest.raises(SystemExit, match="`data` must hold train/good"):
        run("evaluate", copied, toy / "flange/test/good")
    assert run("evaluate", copied, toy, options="--categories flange") == 0


def test_test_images_are_as_large_as_those_of_fit_and_a_run_lies_outside_of_them(
    copied: Path, toy: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(toy / "flange", tmp_path / "flange"))
    Image.new("RGB", (48, 31)).save(folder / "test/good/000.png")
    with pytest.raises(SystemExit, match=r"000\.png \(its sides must be 32 px or more, got 48 x 31\); repair or remove them"):
        run("evaluate", copied, folder)
    copied.rename(folder / "test/good/run")
    with pytest.raises(SystemExit, match="`out` must be outside the images, got"):
        run("evaluate", folder / "test/good/run", folder)


def test_pixel_metrics() -> None:
    masks = torch.zeros(3, 20, 30, dtype=torch.uint8)
    masks[0, 2:6, 2:6] = masks[0, 10:12, 10:25] = masks[1, 5:9, 20:22] = 1
    score = evaluate.pixel_metrics
    perfect = score(masks.float() * 0.8 + torch.rand(masks.shape) * 0.1, masks)
    assert perfect == pytest.approx({"pixel_auroc": 1, "ap": 1, "aupro": 1}, abs=0.01)
    assert score(torch.rand(masks.shape), masks * 0) == {"pixel_auroc": None, "ap": None, "aupro": None}
    noisy = 5 * (masks.float() * 0.5 + torch.rand(masks.shape, generator=torch.Generator().manual_seed(0))) - 2
    found, truth = score(noisy, masks), masks.flatten().numpy()
    assert found["ap"] == pytest.approx(average_precision_score(truth, noisy.flatten().numpy()), abs=1e-4)
    assert found["pixel_auroc"] == pytest.approx(roc_auc_score(truth, noisy.flatten().numpy()), abs=1e-4)
    assert found["aupro"] == pytest.approx(slow_aupro(noisy.numpy(), masks.numpy()), abs=2e-3)


def slow_aupro(maps: np.ndarray[Any, Any], masks: np.ndarray[Any, Any], limit: float = 0.3) -> float:
    """The three rectangles above by name; every threshold; trapezoids up to the limit."""
    regions = [(0, slice(2, 6), slice(2, 6)), (0, slice(10, 12), slice(10, 25)), (1, slice(5, 9), slice(20, 22))]
    x, y = [0.0], [0.0]
    for threshold in np.sort(maps.ravel())[::-1]:
        x.append(float((maps >= threshold)[masks == 0].mean()))
        y.append(float(np.mean([(maps[region] >= threshold).mean() for region in regions])))
    heights = np.interp(np.linspace(0, limit, 3001), x, y)
    return float(torch.trapezoid(torch.from_numpy(heights), dx=1 / 3000))


# ---- compare ---------------------------------------------------------------------------------------------------------


def test_a_grid_compares_in_pairs_goes_on_and_keeps_what_did_not_fail(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def grid(*conditions: str) -> list[dict[str, Any]]:
        others = f"{SMALL} --categories flange --seeds 0 1 --against cutpaste --conditions {shlex.join(conditions)}"
        assert run("compare", toy, "--out", tmp_path, options=others) == 0
        return json.loads((tmp_path / "results.json").read_text())

    conditions = ["cutpaste", "saliency-swap", "saliency-swap --levels random"]
    cells = grid(*conditions)
    assert [(r["condition"], r["seed"]) for r in cells] == [(c, s) for s in (0, 1) for c in conditions]
    assert cells[2]["settings"]["levels"] == "random" and cells[1]["settings"]["levels"] == "all"
    score = {(r["condition"], r["seed"]): r["fused"]["ap"] for r in cells}
    change = [100 * (score["saliency-swap", s] - score["cutpaste", s]) for s in (0, 1)]
    mean, half = sum(change) / 2, 12.706 * abs(change[0] - change[1]) / 2  # Student's t with one degree of freedom
    text = (tmp_path / "table.md").read_text()
    assert f"| saliency-swap, fused | {mean:+.1f} ({mean - half:+.1f} to {mean + half:+.1f}) |" in text
    assert "cores" in text and "detect.py compare" in text and (tmp_path / "differences.png").exists()
    assert cells[0]["mean"] == cells[1]["mean"]  # without training the plain mean knows no negatives
    assert set(cells[0]["single"]) == {f"{kind} {stride}" for kind in ("place", "neighbours") for stride in (8, 16, 32)}
    assert (tmp_path / "negatives-flange.png").exists()
    note = tmp_path / "cutpaste/flange-seed0/result.json"
    stamp = note.stat().st_mtime_ns
    grid("cutpaste", "scar")
    assert note.stat().st_mtime_ns == stamp and (tmp_path / "scar/flange-seed1/result.json").exists()
    assert "[4/4] scar, flange, seed 1: " in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"2 fits failed\ncutpaste --features .*, flange, seed 0: `module:factory` must"):
        grid("cutpaste", "cutpaste --features no_such_module:net")
    assert len(json.loads((tmp_path / "results.json").read_text())) == 2
    other = (tmp_path / "cutpaste/flange-seed1/result.json").read_bytes()
    for damage in (b"", b"[1, 2]", b'{"mean": {}}', b"\x93NUMPY", b"[" * 100_000, b"null", other):
        note.write_bytes(damage)
        with pytest.raises(SystemExit, match=r"1 fits failed\ncutpaste, flange, seed 0: .*result\.json', which is damaged \("):
            grid("cutpaste")
    assert [cell["seed"] for cell in json.loads((tmp_path / "results.json").read_text())] == [1]  # the others are kept
    if hasattr(os, "mkfifo"):
        note.unlink()
        os.mkfifo(note)
        with pytest.raises(SystemExit, match=r"which is damaged \(it must be a regular file, got a pipe or a device\)"):
            grid("cutpaste")
    with pytest.raises(SystemExit, match=r"error: `out` must be outside the images, got"):
        run("compare", toy, "--out", toy / "flange/train/good", options=f"{SMALL} --against none --conditions none")


def test_a_grid_cell_is_what_fit_and_evaluate_say(toy: Path, tmp_path: Path) -> None:
    others = f"{TRAINED} --categories flange --seeds 3 --against saliency-swap --conditions saliency-swap"
    assert run("compare", toy, "--out", tmp_path / "grid", options=others) == 0
    (cell,) = json.loads((tmp_path / "grid/results.json").read_text())
    fit(toy / "flange", tmp_path / "run", f"{TRAINED} --seed 3")
    assert run("evaluate", tmp_path / "run", toy / "flange") == 0
    result = json.loads((tmp_path / "run/evaluation.json").read_text())
    for name, value in cell["fused"].items():
        assert result[name] == pytest.approx(value, abs=1e-3), name
    assert not (tmp_path / "grid/saliency-swap/flange-seed3/checkpoint.ckpt").exists()


def test_conditions_share_what_no_negatives_change(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(compare, "_last", {})
    monkeypatch.setattr(compare, "prepared", lambda *args: calls.append(args[0].seed) or fitting.prepared(*args))
    conditions = "cutpaste saliency-swap 'saliency-swap --size 96'"
    run(
        "compare",
        toy,
        "--out",
        tmp_path,
        options=f"{SMALL} --categories flange --seeds 0 1 --against cutpaste --conditions {conditions}",
    )
    assert calls == [0, 0, 1, 1]  # the last condition has another size
    second = json.loads((tmp_path / "results.json").read_text())[1]
    assert (second["condition"], second["seed"]) == ("saliency-swap", 0)
    fit(toy / "flange", tmp_path / "run", SMALL)
    assert run("evaluate", tmp_path / "run", toy / "flange") == 0
    alone = json.loads((tmp_path / "run/evaluation.json").read_text())
    assert {name: alone[name] for name in second["fused"]} == pytest.approx(second["fused"], abs=1e-6)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--conditions none 'none '", r"`conditions` must differ and hold 'random-swap', got \['none', 'none '\]"),
        ("--conditions none", r"`conditions` must differ and hold 'random-swap', got \['none'\]; see --against"),
        ("--conditions 'none --seed 5'", "`conditions` must leave --seed to the whole grid, got 'none --seed 5'"),
        ("--conditions 'none \"'", "`conditions` must be names of negatives and options, got 'none \"': No closing quotation"),
        ("--jobs 0", "`jobs` must be 1 or more, got 0"),
        ("--seeds 1 1", r"`seeds` must be 0 or more, and differ, got \[1, 1\]"),
        ("--categories ../x", r"error: `--categories` must be among .*, got \.\./x"),
    ],
)
def test_mistakes_in_a_grid(toy: Path, tmp_path: Path, option: str, sentence: str) -> None:
    with pytest.raises(SystemExit, match=sentence):
        run("compare", toy, "--out", tmp_path, options=f"{SMALL} {option}")


def test_differences_are_paired_and_their_interval_is_students() -> None:
    scores = {("a", "x", 0): 0.9, ("b", "x", 0): 0.5, ("a", "y", 0): 0.8, ("b", "y", 0): 0.6, ("a", "x", 1): 0.7}
    cells: dict[Any, Any] = {key: {"fused": {"ap": value}} for key, value in scores.items()}
    cells["b", "x", 1] = {"fused": {"ap": None}}
    one, other = ("a", "fused"), ("b", "fused")
    assert grid_tables.paired(cells, one, other, "ap", "x") == pytest.approx([0.4])
    assert grid_tables.paired(cells, one, other, "ap", None) == pytest.approx([0.3])  # where both have every category
    half = 4.302653 * np.sqrt(7 / 9)
    assert grid_tables.interval([1.0, 2.0, 4.0]) == pytest.approx((7 / 3, 7 / 3 - half, 7 / 3 + half))
    assert np.isnan(grid_tables.interval([1.0])[1:]).all() and np.isnan(grid_tables.interval([])[0])


def killed(seconds: float) -> float:
    """Stands in for a fit that the system ends."""
    if seconds < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(seconds)
    return seconds


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal here")
def test_a_killed_process_does_not_take_the_others_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "run_task", killed)
    fork = multiprocessing.get_context("fork")  # a spawned process would import all of this file, for seconds
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: fork)
    found: dict[Any, Any] = dict(compare.outcomes({"a": 0.1, "killed": -1.0, "b": 0.1, "c": 0.1}, 2))  # type: ignore[dict-item]
    fault = explanation(found.pop("killed"))
    assert found == {"a": 0.1, "b": 0.1, "c": 0.1}
    assert fault and "a process was killed, as by a system out of memory: lower --jobs" in fault


@pytest.mark.slow
def test_the_toy_set_is_drawn_on_first_use_and_not_solved_by_features_alone(tmp_path: Path) -> None:
    others = "--no-progress --seeds 0 --against none --conditions none"
    assert run("compare", "toy", "--out", tmp_path / "grid", options=others) == 0
    cells = json.loads((tmp_path / "grid/results.json").read_text())
    assert len(cells) == 4 and max(cell["mean"]["image_auroc"] for cell in cells) <= 0.99
