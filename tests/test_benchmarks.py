"""The benchmarks: their arithmetic, their peers, and that every script runs."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import math
import os
import sqlite3
import subprocess
import sys
import weakref
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import _harness as harness
import _peers as peers
import _report as report
import loader
import numpy as np
import pytest
import regions
import run
import scaling
import targets
import torch
from _changes import CHANGES
from _harness import Case, Figure, Timing
from _images import write_files
from helpers.images import as_kind, pixels, scene
from PIL import Image
from targets import Target

from cutswap_transforms import RegionCache, SaliencySwap
from cutswap_transforms.cache import memory

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = ("stages", "throughput", "layercam", "loader", "device", "scaling")


def test_quartiles_are_numpys_and_far_apart_where_a_timing_is_unstable():
    samples = tuple(np.random.default_rng(0).uniform(1, 2, 10).tolist())
    timing = Timing("x", samples)
    assert timing.median == pytest.approx(np.median(samples))
    assert timing.quartiles == pytest.approx(np.quantile(samples, (0.25, 0.75)))
    assert Timing("one", (3.0,)).quartiles == (3.0, 3.0)
    assert not Timing("calm", (1.0, 1.01, 1.02, 1.03, 9.0)).unstable  # one outlier does no harm
    assert Timing("noisy", (1.0, 1.3, 1.6, 1.9, 2.2)).unstable


def test_ratios_and_differences_are_taken_round_by_round_and_a_slope_is_the_exponent_of_growth():
    figure = harness.speed_ratio(Timing("fast", (1.0, 2.0, 4.0)), Timing("slow", (3.0, 4.0, 4.0)))
    assert figure == Figure(2.0, 1.5, 2.5)  # of medians; quartiles of 3, 2 and 1
    assert harness.difference("d", Timing("w", (3.0, 5.0)), Timing("p", (1.0, 6.0))).samples == (2.0, 0.0)  # never negative
    assert harness.slope((1, 10, 100), (5.0, 500.0, 50_000.0)) == pytest.approx(2.0)
    assert math.isnan(harness.slope((1, 2), (0.0, 1.0)))


def test_measure_interleaves_counts_images_and_goes_through_all_variants_of_cases_of_different_names():
    now, calls, seen = [0.0], [], []

    def takes(name: str, seconds: float) -> None:
        calls.append(name)
        now[0] += seconds

    seconds = {"a": 0.25, "b": 1.0, "c": 2.0}
    cases = [Case(name, partial(takes, name, s), images=4 if name == "b" else 1) for name, s in seconds.items()]
    timings = harness.measure(cases, rounds=6, min_time=1.0, warm_up=2, clock=lambda: now[0])
    assert {name: t.samples for name, t in timings.items()} == {"a": (0.25,) * 6, "b": (0.25,) * 6, "c": (2.0,) * 6}
    timed = [calls[i] for i in range(9, len(calls)) if i == 9 or calls[i] != calls[i - 1]]  # 9 calls of warm-up and trial
    assert calls.count("a") == 3 + 6 * 4  # repeated to fill the second
    assert len(timed) >= 6 * 3 - 5 and len({tuple(timed[i : i + 3]) for i in range(0, 9, 3)}) > 1  # rounds, in changing order
    call = harness.cycle(seen.append, [0, 1, 2])
    harness.measure([Case("x", call, variants=3)], rounds=2, min_time=0.0)
    assert seen == [0, 1, 2] * (len(seen) // 3)
    with pytest.raises(ValueError, match="`cases` must have different names"):
        harness.measure([Case("x", call)] * 2, rounds=1)


def test_environment_tells_machine_versions_threads_and_commit_but_no_path():
    found = harness.environment()
    assert found["cpu"] and found["cores"] == os.cpu_count() and found["threads"] == torch.get_num_threads()
    assert found["versions"]["torch"] == importlib.metadata.version("torch")
    assert {"commit", "date", "gpu", "bf16", "python", "system"} <= found.keys()
    text = json.dumps(found)
    assert str(Path.home()) not in text and str(BENCHMARKS.parent) not in text


def example() -> report.Result:
    timing = Timing("swap", (1e-4, 2e-4, 9e-4))
    result = report.Result("demo", {"rounds": 3}, notes=["a remark"])
    result.add_rates("Rates", [timing], Timing("CutPaste", (4e-4, 4e-4, 4e-4)))
    result.keep({"swap": timing})
    result.figures["ratio"] = Figure(2.0, 0.4, 4.0)
    return result


def test_result_survives_json_and_its_table_shows_rate_spread_mark_and_ratio():
    result = example()
    assert report.Result.from_json(result.to_json()) == result
    lines = result.markdown().splitlines()
    row = next(line for line in lines if line.startswith("| swap"))
    assert [cell.strip() for cell in row.strip("|").split("|")] == ["swap", "5,000", "200.0", "200% !", "2"]
    assert any("`!` marks" in line for line in lines) and "a remark" in lines
    assert len({len(line) for line in lines if line.startswith("|")}) == 1  # padded for the screen


def test_plot_is_written_where_matplotlib_is_installed_else_a_sentence(tmp_path, capsys, monkeypatch):
    timing = Timing("x", (1.0, 2.0, 3.0))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    report.bar_plot(tmp_path / "a.png", "title", [timing], rates=True)
    assert "pip install 'cutswap-transforms[examples]'" in capsys.readouterr().out and not list(tmp_path.iterdir())
    monkeypatch.undo()
    pytest.importorskip("matplotlib")
    report.bar_plot(tmp_path / "a.png", "title", [timing], rates=True)
    report.line_plot(tmp_path / "b.png", "title", {"side": {"label": ((1, 2), (3.0, 4.0))}})
    for name in ("a.png", "b.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.size[0] > 100


def test_targets_are_judged_in_both_directions_and_missing_figures_are_told():
    results = {"demo": example()}
    results["demo"].figures |= {"memory": Figure(61.0, 60.0, 62.0), "empty": Figure(math.nan, math.nan, math.nan)}
    wanted = {
        Target("kept", "demo", "ratio", 2.0): True,
        Target("short", "demo", "ratio", 2.1): False,
        Target("wished", "demo", "ratio", 3.0, sought=True): False,
        Target("too much", "demo", "memory", 60, at_most=True, unit=" MB"): False,
        Target("no such figure", "demo", "nothing", 1.0): None,
        Target("no such script", "other", "ratio", 1.0): None,
        Target("no number", "demo", "empty", 1.0): None,
    }
    verdicts = targets.judge(results, [*wanted])
    assert [v.met for v in verdicts] == [*wanted.values()]
    assert [v.target.text for v in targets.missed(verdicts)] == ["short", "too much"]
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in targets.verdict_table(verdicts).splitlines()[2:]]
    assert cells[0] == ["kept", ">= 2", "2", "0.4 to 4", "yes"]
    assert [c[4] for c in cells] == ["yes", "NO", "no", "NO", "-", "-", "-"]
    assert cells[3][1:3] == ["<= 60 MB", "61 MB"] and cells[4][2] == "not measured"


def test_every_target_belongs_to_a_script_and_all_share_a_parser():
    assert {t.script for t in targets.TARGETS} <= set(SCRIPTS) == set(run.SCRIPTS)
    assert len({(t.figure, t.sought) for t in targets.TARGETS}) == len(targets.TARGETS)
    args = report.parser("One line.\n\nMore.").parse_args(["--quick", "--rounds", "3"])
    assert args == argparse.Namespace(out=BENCHMARKS / "results", quick=True, rounds=3)


SIDE = 128


def changes(kind: str, augment: Any, count: int) -> Iterator[tuple[Any, torch.Tensor]]:
    """What an augmentation gives for one image, and where that differs from it."""
    torch.manual_seed(0)
    image = as_kind(kind, scene(SIDE, SIDE)) if kind != "float" else scene(SIDE, SIDE) / 255
    before = pixels(image).clone()
    for _ in range(count):
        out = augment(image)
        assert type(out) is type(image) and pixels(out).shape == before.shape
        yield out, (pixels(out) != before).any(0)
    assert torch.equal(pixels(image), before)


def extent(mask: torch.Tensor) -> tuple[int, int]:
    """(height, width) of the box around what is set."""
    y, x = mask.nonzero(as_tuple=True)
    return int(y.max() - y.min()) + 1, int(x.max() - x.min()) + 1


@pytest.mark.parametrize("kind", ["PIL", "uint8", "float"])
def test_cutpaste_changes_a_box_of_the_papers_size_scar_a_small_turned_strip_and_random_swap_permutes(kind):
    sides = np.array([extent(mask) for _, mask in changes(kind, peers.CutPaste(), 60)])
    areas, aspects = sides.prod(1) / SIDE**2, sides[:, 0] / sides[:, 1]
    assert 0.017 < min(areas) < 0.05 and 0.1 < max(areas) < 0.155  # sides are rounded
    assert 0.27 < min(aspects) < 0.6 and 1.7 < max(aspects) < 3.7
    masks = [mask for _, mask in changes(kind, peers.CutPasteScar(), 60)]
    sides, areas = np.array([extent(m) for m in masks]), np.array([int(m.sum()) for m in masks])
    assert sides.max() <= 32  # 16 x 25 turned by 45 degrees
    assert min(areas) >= 5 and 200 < max(areas) <= 16 * 25 * 1.1
    assert min(areas / sides.prod(1)) < 0.6  # the corners of a turned strip stay as they were
    before = (scene(SIDE, SIDE) / 255 if kind == "float" else scene(SIDE, SIDE)).flatten().sort()[0]
    for out, mask in changes(kind, peers.RandomSwap(), 20):
        assert 0.0005 * SIDE**2 < int(mask.sum()) <= 2 * 0.033 * SIDE**2
        assert torch.equal(pixels(out).flatten().sort()[0], before.to(pixels(out).dtype))


def test_files_differ_and_have_the_size_asked_for(tmp_path):
    pictures = [Image.open(path) for path in write_files(tmp_path, 8, 64)]
    assert {(picture.mode, picture.size) for picture in pictures} == {("RGB", (64, 64))}
    assert len({picture.tobytes() for picture in pictures}) == 8


SLOW = [pytest.param(name, [], marks=pytest.mark.slow) for name in SCRIPTS if name != "stages"]
SLOW += [pytest.param("scaling", ["--entries", "3000"], marks=pytest.mark.slow)]  # a cache of many entries


@pytest.mark.parametrize(("name", "others"), [("stages", []), *SLOW])  # `stages` looks inside the package: the first to break
def test_script_runs(name, others, tmp_path):
    command = [sys.executable, "-W", "error", BENCHMARKS / f"{name}.py", "--quick", "--out", tmp_path, *others]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("| ") > 4
    title = "entries" if others else name
    found = json.loads((tmp_path / f"{title}.json").read_text(encoding="utf-8"))
    assert found["name"] == title and found["timings"] and found["environment"]["versions"]
    assert all(s > 0 for t in found["timings"].values() for s in t["samples"] if not t["name"].startswith("gradient"))
    if others:
        assert found["settings"]["entries"] == 3000 and found["timings"]["look-up"]["samples"]


def test_the_memory_cache_of_a_worker_is_filled_to_its_limit(monkeypatch):
    """A full cache is a memory of its own here, so that no later test meets it."""
    monkeypatch.setattr(memory, "_by_settings", weakref.WeakValueDictionary())
    cache = SaliencySwap()._finder.store
    loader.fill_memory_cache(0)
    assert cache.limit - loader.MARGIN <= cache.size <= cache.limit
    assert len({id(entry) for entry in cache.entries.values()}) == len(cache.entries), "entries that share their memory"


def test_entries_to_measure_are_as_large_as_real_ones_and_looked_up_in_the_file(tmp_path):
    def sizes(cache: RegionCache) -> set[tuple[int, int]]:
        with contextlib.closing(sqlite3.connect(cache.path)) as file:
            return {(len(key), len(entry)) for key, entry in file.execute("SELECT key, entry FROM regions")}

    swap, found = SaliencySwap(cache=tmp_path / "real"), scaling.filled(tmp_path / "filled", 5000, 30)
    swap(scene(40, 50))
    assert sizes(swap.cache) == sizes(found.cache) and len(sizes(found.cache)) == 1
    assert len(found.cache) == 5000 and len(set(found.wanted)) == 30
    timed = found.case("look-up")
    for _ in range(2 * timed.variants):
        assert timed.call()
    assert found.cache._memory.size == 0  # or the second look-up of a key would not need the file
    found.close()
    found.wanted.append(b"another")
    with pytest.raises(RuntimeError, match="1 of the entries were not found"):
        found.close()


def test_report_holds_all_tables_and_the_verdicts(tmp_path, monkeypatch, capsys):
    def pretend(name: str, arguments: list[str]) -> tuple[bool, float]:
        result = example()
        result.name, result.figures = name, {"cached_over_cutpaste_PIL": Figure(1.5, 1.4, 1.6)}
        Path(arguments[arguments.index("--out") + 1], f"{name}.json").write_text(result.to_json(), encoding="utf-8")
        return name != "loader", 1.0

    monkeypatch.setattr(run, "run_script", pretend)
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{run.MARK}\nold\n{run.MARK}\nafter\n", encoding="utf-8")
    assert run.main(["--out", str(tmp_path), "--quote", str(readme)]) == 1  # the loader failed
    assert "failed: loader" in capsys.readouterr().out
    text, quoted = (path.read_text(encoding="utf-8") for path in (tmp_path / "report.md", readme))
    assert all(f"## {name}" in text for name in SCRIPTS if name != "loader") and "## loader" not in text
    for shown in (text, quoted):
        assert (
            "0 met, 1 not met, 0 sought and not reached, 13 not measured." in shown
            and shown.count("| cached SaliencySwap, one swap / CutPaste") == 1
        )
    lines = quoted.splitlines()
    assert (lines[0], lines[-1], lines.count(run.MARK)) == ("before", "after", 2) and "old" not in lines


def test_earlier_results_count_and_those_of_another_commit_are_told_and_quoting_needs_its_marks(tmp_path, monkeypatch):
    (tmp_path / "throughput.json").write_text(example().to_json(), encoding="utf-8")
    (tmp_path / "stages.json").write_text("of an earlier run that this one replaces", encoding="utf-8")
    monkeypatch.setattr(run, "run_script", lambda name, arguments: (False, 1.0))
    assert run.main(["--out", str(tmp_path), "--only", "stages"]) == 1
    assert "## demo" in (tmp_path / "report.md").read_text(encoding="utf-8")
    assert not (tmp_path / "stages.json").exists()
    results = {name: example() for name in ("stages", "throughput")}
    assert "Not of one commit" not in run.verdicts(results)
    results["throughput"].environment["commit"] = "abc1234"
    assert "commit abc1234" in run.verdicts(results).splitlines()[-1]
    with pytest.raises(ValueError, match=r"must hold the mark <!-- figures of benchmarks/run.py --> twice, got 0"):
        run.quote("text", tmp_path / "report.md")


def test_shares_of_regions_are_counted_on_pixels_of_the_nearest_cell():
    masks = torch.zeros(2, 6, 9, dtype=torch.bool)
    masks[:, :, :4] = True
    region = torch.tensor([[[True, False, False]], [[False, True, False]]])  # cells of 3 columns
    assert [share.tolist() for share in regions.shares(region, masks)] == [[1.0, 1 / 3], [3 / 4, 1 / 4]]
    assert regions.shares(torch.zeros_like(region), masks)[0].tolist() == [0.0, 0.0]


def test_highest_values_are_scikit_learns_top_cluster():
    from sklearn.cluster import KMeans

    values = np.random.default_rng(0).permutation(np.repeat([0.0, 1.0, 4.0, 9.0], 20) + np.linspace(0, 0.3, 80))
    found = regions.highest_values(torch.from_numpy(values).reshape(1, 8, 10)).numpy().ravel()
    fitted = KMeans(4, n_init=10, random_state=0).fit(values[:, None])
    np.testing.assert_array_equal(found, fitted.labels_ == fitted.cluster_centers_.argmax())


def test_object_masks_are_read_where_they_are_written_else_found(tmp_path):
    picture, stored = np.full((32, 48, 3), 10, np.uint8), np.zeros((32, 48), np.uint8)
    picture[8:24, 12:36], stored[:, :24] = 200, 255

    def save(name: str, array: np.ndarray) -> None:
        (tmp_path / name).parent.mkdir(parents=True)
        Image.fromarray(array).save(tmp_path / name)

    save("train/good/0.png", picture)
    save("test/good/0.png", picture)
    found = regions.photographed("x", tmp_path, 5, 32)
    assert found.images.shape == (1, 3, 32, 32) and abs(found.masks.float().mean() - 0.25) < 0.06
    save("object_mask/train/good/0.png", stored)
    assert regions.photographed("x", tmp_path, 5, 32).masks[0].float().mean(0).tolist() == [1.0] * 16 + [0.0] * 16


def test_stability_compares_regions_laid_back_over_each_other():
    images = torch.randint(256, (40, 3, 10, 10), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    one, other = (
        torch.tensor([[[1, 1, 0, 0]], [[0, 0, 0, 0]], [[0, 0, 0, 1]]]),
        torch.tensor([[[0, 1, 1, 0]], [[0, 0, 0, 0]], [[0] * 4]]),
    )
    assert regions.overlap(one.bool(), other.bool()).tolist() == [pytest.approx(1 / 3), 1.0, 0.0]
    bright = regions.stability(lambda x: [x[:, 0] > 100, x[:, 1] > 150], images)
    assert list(bright) == [change.name for change in CHANGES] and {len(kept) for kept in bright.values()} == {80}
    for moved in ("mirror", "upside down", "quarter turn"):
        assert set(bright[moved]) == {1.0}
    assert all(np.mean(bright[changed]) < 1 for changed in list(bright)[3:])
    corner = torch.zeros(40, 10, 10, dtype=torch.bool)
    corner[:, :2, :3] = True
    blind = regions.stability(lambda x: [corner[: len(x)]], images)  # what does not look at the image moves with nothing
    assert {name for name, kept in blind.items() if set(kept) != {1.0}} == {"mirror", "upside down", "quarter turn"}


def test_changes_are_as_small_as_they_say():
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(2, 3, 16, 16)
    done = {change.name: change.done(images) for change in CHANGES}
    assert all(after.shape == images.shape and after.dtype == torch.uint8 for after in done.values())
    off = {name: after.int() - images.int() for name, after in done.items()}
    assert torch.equal(off["+1 level"], (images < 255).int())
    assert off["noise 1"].abs().max() <= 6 and 0.8 < off["noise 1"].float().std() < 1.2
    assert torch.equal(done["one pixel"][..., 1:], images[..., :-1]) and off["brightness +10 %"].min() >= 0
    assert off["contrast +10 %"].min() < 0 < off["contrast +10 %"].max() and off["JPEG 90"].abs().max() > 0


@pytest.mark.slow
def test_every_combination_has_its_row_and_a_folder_without_masks_is_measured_for_stability_alone(tmp_path, capsys):
    write_files(tmp_path / "images", 3, 64)
    arguments = ["--quick", "--out", str(tmp_path), "--grid", "8", "--color", "--no-color"]
    assert regions.main([*arguments, "--images", f"mine={tmp_path / 'images'}"]) == 0
    objects, stable = capsys.readouterr().out.split("Intersection over union")
    for table, name in ((objects, "screws"), (stable, "screws"), (stable, "mine")):
        shown = [line for line in table.splitlines() if line.startswith(f"| {name} ")]
        assert len(shown) == 2 + 3 * 2 and sum("no color" in line for line in shown) == 3
    assert "mine" not in objects
    kept = json.loads((tmp_path / "regions.json").read_text(encoding="utf-8"))
    assert all(0 <= f["value"] <= 1 for f in kept["figures"].values())
    assert kept["figures"]["mine: Otsu: mirror"]["value"] == 1.0
    with pytest.raises(SystemExit):
        regions.main(["--data", "nowhere"])
    assert "must be NAME=FOLDER, got 'nowhere'" in capsys.readouterr().err
