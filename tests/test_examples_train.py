"""The examples' trainers on the toy set: what they write, that they are reproducible, resume and explain what is wrong."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import compare
import detector
import numpy as np
import pytest
import report
import torch
import train_localizer
import train_ssl
import training
from PIL import Image
from pytest import CaptureFixture, MonkeyPatch
from scipy.stats import multivariate_normal
from toy import write_toy

from cutswap_transforms.saliency import tiny

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two categories of 8 normal images and 4 + 5 test images, 64 px."""
    folder = tmp_path_factory.mktemp("data") / "toy"
    return write_toy(folder, size=64, train=8, good=4, per_defect=1, categories=("flange", "cloth"))


def options(data: Path, out: Path, others: str = "") -> list[str]:
    fixed = "--size 64 --steps 4 --batch 2 --no-progress --accelerator cpu"
    return ["--data", str(data), "--out", str(out), *shlex.split(f"{fixed} {others}")]


def one(toy: Path, out: Path, others: str = "") -> dict[str, Any]:
    """The result of one training on flange."""
    arguments = options(toy, out, f"--categories flange --no-heat-maps {others}")
    return train_ssl.run(train_ssl.parse(arguments))[0]


def results(out: Path) -> list[dict[str, Any]]:
    return json.loads((out / "results.json").read_text())


def trained(out: Path) -> dict[str, torch.Tensor]:
    """The weights of the training on flange."""
    return torch.load(out / "flange-seed0/checkpoint.ckpt", weights_only=True)["state_dict"]


def test_a_run_writes_tables_figures_and_results(toy: Path, tmp_path: Path) -> None:
    assert train_ssl.main(options(toy, tmp_path, "--seeds 0 1")) == 0
    cell = tmp_path / "cloth-seed1"
    names = {"table.md", "results.json", "roc.png", "histograms.png", "negatives-cloth.png", "negatives-flange.png"}
    assert names <= {p.name for p in tmp_path.iterdir()}
    assert {p.name for p in cell.iterdir()} == {"checkpoint.ckpt", "heatmaps.png", "log", "result.json", "settings.json"}
    cells = results(tmp_path)
    assert [(r["category"], r["seed"]) for r in cells] == [("cloth", 0), ("cloth", 1), ("flange", 0), ("flange", 1)]
    assert all(len(r["scores"]) == 9 and 0 <= r["auroc"] <= 1 for r in cells)
    rows = [line.split("|")[1:-1] for line in (tmp_path / "table.md").read_text().splitlines() if line.startswith("|")]
    assert [row[0].strip() for row in rows] == ["category", "---", "cloth", "flange", "mean"]
    assert float(rows[-1][3]) == pytest.approx(np.mean([100 * r["auroc"] for r in cells]), abs=0.051)
    with Image.open(tmp_path / "negatives-flange.png") as sheet:
        assert sheet.size == (report.LABEL[0] + 8 * 66, 5 * 66)  # a row of normal images, four of negatives
    heading, *_, last = (line.split(",") for line in (cell / "log/version_0/metrics.csv").read_text().splitlines())
    assert int(last[heading.index("step")]) == 3  # the last of four: steps are steps


def test_the_same_seed_gives_the_same_scores_with_any_number_of_workers(toy: Path, tmp_path: Path) -> None:
    ways = ("--workers 0", "--workers 2", "--seeds 1")
    alone, forked, other = (one(toy, tmp_path / how, how)["scores"] for how in ways)
    assert alone == forked
    assert alone != other


def test_an_interrupted_run_goes_on_to_the_same_end(toy: Path, tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(training, "EPOCH", 2)
    whole = one(toy, tmp_path / "whole", "--steps 6 --workers 1")
    taken: list[int] = []
    step = train_ssl.SelfSupervised.training_step

    def breaks_down(module: Any, batch: Any, index: int) -> Any:
        taken.append(module.global_step)
        if len(taken) == 4:
            raise ConnectionError("power cut")
        return step(module, batch, index)

    monkeypatch.setattr(train_ssl.SelfSupervised, "training_step", breaks_down)
    with pytest.raises(ConnectionError):
        one(toy, tmp_path / "cut", "--steps 6")
    resumed = one(toy, tmp_path / "cut", "--steps 6")
    assert taken == [0, 1, 2, 3, 2, 3, 4, 5]  # from the last checkpoint on
    assert resumed["scores"] == whole["scores"]
    (tmp_path / "cut/flange-seed0/result.json").unlink()
    assert one(toy, tmp_path / "cut", "--steps 6")["scores"] == whole["scores"]
    assert len(taken) == 8  # all steps were there


def test_a_folder_belongs_to_the_run_that_began_in_it(toy: Path, tmp_path: Path) -> None:
    arguments = options(toy / "flange", tmp_path, "--augmentation none --normal-dir train/good --abnormal-dir test/dent")
    with pytest.raises(SystemExit, match=r"error: `backbone` 'resnet1' .*; see --backbone and --weights"):
        train_ssl.main([*arguments, "--backbone", "resnet1"])  # this one never began
    assert train_ssl.main(arguments) == 0
    with pytest.raises(SystemExit, match=r"new or hold the same run, got .* with lr: 0\.0001 there, 0\.5 now"):
        train_ssl.main([*arguments, "--lr", "0.5"])
    other_data = r"hold the same run, got .* with data: 6 \+ 3 images, .* there, 6 \+ 4 images, .* now"
    with pytest.raises(SystemExit, match=other_data):
        train_ssl.main([*arguments, "test/chip"])


@pytest.mark.parametrize(
    ("program", "option", "sentence"),
    [
        ("train_ssl", "--saliency resnet81", "error: `model` must be .*resnet18"),
        ("train_ssl", "--levels 7", r"error: `levels` must lie in \[-4, 3\]"),
        ("train_ssl", "--size 16", "error: `size` must be 32 or more"),
        ("train_ssl", "--seeds -1", r"error: `seeds` must be 0 or more, and differ, got \[-1\]"),
        ("train_ssl", "--white 0", "error: `white` must be above 0, got 0.0"),
        ("train_ssl", "--batch 0", "error: `batch` must be 1 or more, got 0"),
        ("train_ssl", "--data nowhere", "error: `data` must be 'toy' or a folder, got 'nowhere'"),
        ("train_ssl", "--saliency lost:net", "error: `module:factory` must name a function .* got 'lost:net': No module"),
        ("train_ssl", "--backbone toy:no", "error: `module:factory` must .* got 'toy:no': .* no attribute 'no'"),
        ("train_localizer", "--augmentation none", "error: `augmentation` must make negatives to learn from, got 'none'"),
        ("train_localizer", "--steps 0", "error: `steps` must be 1 or more, got 0"),
        ("train_localizer", "--batch 0", "error: `batch` must be 1 or more, got 0"),
        ("compare", "--conditions none 'none '", r"`conditions` must differ and hold 'random-swap', got \['none', 'none '\]"),
        ("compare", "--conditions none", r"`conditions` must differ and hold 'random-swap', got \['none'\]; see --against"),
        ("compare", "--conditions 'none --seeds 5'", "`conditions` must leave --seeds to the whole grid, got 'none --seeds 5'"),
        ("compare", "--jobs 0", "`jobs` must be 1 or more, got 0"),
    ],
)
def test_mistakes_end_with_one_sentence(toy: Path, program: str, option: str, sentence: str) -> None:
    with pytest.raises(SystemExit, match=sentence):
        importlib.import_module(program).main(options(toy, toy.parent / "mistakes", f"--categories flange {option}"))


@pytest.mark.parametrize("program", ["train_ssl", "train_localizer", "compare"])
def test_data_of_others_write_and_read_nothing_elsewhere(toy: Path, tmp_path: Path, program: str) -> None:
    """A table names the folders of the results and the images: it must not reach beyond `--out` and `--data`."""
    folder, out, target = tmp_path / "data", tmp_path / "runs/out", tmp_path / "target"
    shutil.copytree(toy / "flange", folder / "flange")
    inside, outside = "flange/train/good/000.png", toy / "flange/train/good/000.png"
    for name, image in ((target, inside), ("../../target", inside), ("flange", outside), ("flange", "../data/../secret.png")):
        rows = "".join(f"{name},{split},normal,{image},\n" for split in ("train", "test"))
        (folder / "1cls.csv").write_text(f"object,split,label,image,mask\n{rows}")
        with pytest.raises(SystemExit, match=r"error: (a category's name .* must be one part|`data` must hold its images)"):
            importlib.import_module(program).main(options(folder, out))
    with pytest.raises(SystemExit, match=r"error: `categories` must be among .*, got \.\./x"):
        importlib.import_module(program).main(options(toy, out, "--categories ../x"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_only_known_faults_become_a_sentence(toy: Path, tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    missing = ModuleNotFoundError("Neither `tensorboard` nor `tensorboardX` is available. Try `pip install`ing either.")
    monkeypatch.setitem(training.LOGGERS, "tensorboard", Mock(side_effect=missing))
    with pytest.raises(SystemExit, match="error: `logger` 'tensorboard' needs a package that is not installed: Neither"):
        train_ssl.main(options(toy, tmp_path, "--logger tensorboard"))
    exhausted = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    monkeypatch.setattr(train_ssl.F, "cross_entropy", Mock(side_effect=exhausted))
    with pytest.raises(SystemExit, match="error: out of memory: lower --batch first, then --size"):
        train_ssl.main(options(toy, tmp_path))
    with pytest.raises(RuntimeError, match="shapes"), training.explained_errors():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


def test_without_negatives_the_scorer_alone_decides(toy: Path, tmp_path: Path) -> None:
    ways = ("--seeds 0", "--seeds 1", "--scorer gde", "--scorer kde")
    scores = [one(toy, tmp_path / how, f"--augmentation none {how}")["scores"] for how in ways]
    assert scores[0] == scores[1]  # a pretrained net has nothing random
    assert len(set(map(tuple, scores))) == 3 and np.isfinite(scores).all()
    assert {p.name for p in (tmp_path / "--seeds 0/flange-seed0").iterdir()} == {"result.json", "settings.json"}  # no training


def test_three_ways_on_the_device(toy: Path, tmp_path: Path) -> None:
    how = "--augmentation 3way-saliency --augment-on device --levels all --steps 2"
    first, again = (one(toy, tmp_path / name, how) for name in "ab")
    assert first["scores"] == again["scores"]
    assert trained(tmp_path / "a")["detector.head.weight"].shape == (3, 192)


def test_resnet_from_scratch_takes_the_papers_recipe(toy: Path, tmp_path: Path) -> None:
    args = train_ssl.parse(["--data", "toy", "--backbone", "cutpaste-resnet18"])
    recipe = (args.optimizer, args.lr, args.weight_decay, args.size, args.batch, args.steps)
    assert recipe == ("sgd", 0.03, 3e-5, 256, 32, 10_000)
    one(toy, tmp_path, "--backbone cutpaste-resnet18 --steps 1 --augmentation scar")
    linear = [v.shape for k, v in trained(tmp_path).items() if k.startswith("detector.head") and v.ndim == 2]
    assert linear == [(512, 512)] * 8 + [(128, 512), (2, 128)]


def test_a_single_test_class_has_no_auroc(toy: Path, tmp_path: Path, capsys: CaptureFixture[str]) -> None:
    shutil.copytree(toy / "flange", tmp_path / "flange", ignore=lambda folder, _: {"good"} if folder.endswith("test") else ())
    train_ssl.main(options(tmp_path / "flange", tmp_path / "out", "--augmentation none"))
    assert "flange: AUROC is undefined, all 5 test images are bad" in capsys.readouterr().out
    assert "| flange | undefined | undefined | - |" in (tmp_path / "out/table.md").read_text()
    assert results(tmp_path / "out")[0]["auroc"] is None


def test_draws_do_not_depend_on_epochs_or_processes() -> None:
    draws = training.Draws
    whole = list(draws(7, 3, range(0, 6), 4))
    assert [number for number, _ in whole] == list(range(24))
    assert sorted(index for _, index in whole[:7]) == sorted(index for _, index in whole[7:14]) == list(range(7))
    assert whole[:7] != [(n, i) for n, (_, i) in enumerate(whole[7:14])]
    assert whole == [*draws(7, 3, range(0, 2), 4), *draws(7, 3, range(2, 6), 4)]
    ranks = [list(draws(7, 3, range(0, 6), 4, rank, 2)) for rank in (0, 1)]
    assert sorted(ranks[0] + ranks[1]) == whole
    assert list(draws(7, 4, range(0, 6), 4)) != whole


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "common", "how", "rtol"),
    [
        ("train_ssl", "--batch 4", "--devices 2 --strategy ddp", 1e-3),  # gradients averaged in another order
        ("compare", "--conditions none random-swap", "--jobs 2", 1e-4),
    ],
)
def test_two_processes_train_like_one(toy: Path, tmp_path: Path, program: str, common: str, how: str, rtol: float) -> None:
    arguments = f"--categories flange --seeds 0 1 {common}"
    assert importlib.import_module(program).main(options(toy, tmp_path / "one", arguments)) == 0
    command = [sys.executable, str(EXAMPLES / f"{program}.py"), *options(toy, tmp_path / "two", f"{arguments} {how}")]
    subprocess.run(command, check=True, capture_output=True, timeout=280, env=os.environ | {"OMP_NUM_THREADS": "1"})
    one, two = ({(r.get("condition"), r["seed"]): r["scores"] for r in results(tmp_path / name)} for name in ("one", "two"))
    assert one.keys() == two.keys()
    for key, scores in one.items():
        np.testing.assert_allclose(scores, two[key], rtol=rtol)


@pytest.mark.slow
def test_toy_set_is_not_solved_by_untrained_features(tmp_path: Path) -> None:
    for name, weights in (("random", ["--weights", "none"]), ("tiny", [])):
        arguments = ["--data", "toy", "--augmentation", "none", "--out", str(tmp_path / name), "--no-progress", *weights]
        cells = train_ssl.run(train_ssl.parse(arguments))
        assert len(cells) == 4 and max(c["auroc"] for c in cells) <= 0.9


def test_tiny_backbone_is_the_embedded_net() -> None:
    images = torch.rand(2, 3, 64, 80)
    wanted = [stage[-1] for stage in tiny.load("DEFAULT").forward(images)[0]]
    assert len(wanted) == 4
    with torch.no_grad():
        torch.testing.assert_close(detector.TinyBackbone().maps(images), wanted, rtol=1e-4, atol=1e-4)


class Gated(torch.nn.Module):
    """A net of features: its linear layer is a gate, no classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate = torch.nn.Conv2d(3, 8, 3), torch.nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return x * self.gate(x.mean((2, 3)))[..., None, None]


def plain() -> torch.nn.Module:
    conv = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 3, 2), torch.nn.ReLU())
    return torch.nn.Sequential(conv, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(6, 5))


def attention() -> torch.nn.Module:
    """Without stages of convolutions; with weights of its own drawing."""
    return torch.nn.Sequential(torch.nn.AvgPool2d(16), torch.nn.Flatten(), torch.nn.Linear(48, 6), torch.nn.Linear(6, 5))


@pytest.fixture(autouse=True)
def factories(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "factories", SimpleNamespace(gated=Gated, plain=plain, attention=attention))  # type: ignore[arg-type]


FEATURES = [("resnet18", 512, 0), ("mobilenet_v3_small", 1024, 1), ("cutpaste-resnet18", 512, 0)]
FEATURES += [("factories:gated", 8, 1), ("factories:plain", 6, 0), ("factories:attention", 6, 1)]


@pytest.mark.parametrize(("name", "width", "left"), FEATURES)
def test_features_are_what_the_last_linear_layer_reads(name: str, width: int, left: int) -> None:
    net, images = detector.Detector(name, 2, None, 64).eval(), torch.rand(2, 3, 64, 64)
    assert net.features(images).shape == (2, width)
    assert net(images).shape == (2, 2)
    assert sum(isinstance(m, torch.nn.Linear) for m in net.backbone.modules()) == left  # only a classifier is taken off


def test_a_backbone_without_heat_maps_keeps_its_result(toy: Path, tmp_path: Path) -> None:
    arguments = options(toy, tmp_path, "--categories flange --backbone factories:attention")
    with pytest.warns(UserWarning, match=r"no heat maps of this backbone: .*; --no-heat-maps leaves them out"):
        assert train_ssl.main(arguments) == 0
    assert (tmp_path / "flange-seed0/result.json").exists() and (tmp_path / "table.md").exists()


def test_weights_begin_alike_for_any_saliency_net(toy: Path, tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    heads = []
    monkeypatch.setattr(
        train_ssl.SelfSupervised, "on_fit_start", lambda m: heads.append(m.detector.head.weight.clone()), raising=False
    )
    for net in ("tiny", "factories:plain"):
        one(toy, tmp_path / net, f"--saliency {net} --steps 1")
    assert torch.equal(*heads)


def test_scorers_are_what_their_names_say_and_take_more_features_than_images_but_not_one_image() -> None:
    rng, score = np.random.default_rng(0), detector.score_features
    mixing = rng.normal(size=(3, 3))
    train, test = rng.normal(size=(40, 3)) @ mixing, rng.normal(size=(5, 3)) @ mixing * 2
    mean, sample = train.mean(0), np.cov(train.T, bias=True)
    np.testing.assert_allclose(score("gde", train, test), -multivariate_normal(mean, sample).logpdf(test))
    # Ledoit and Wolf (2004): between the sample covariance and its mean variance on the diagonal.
    target = np.trace(sample) / 3 * np.eye(3)
    spread = np.mean([((np.outer(x, x) - sample) ** 2).sum() for x in train - mean]) / len(train)
    share = min(1, spread / ((sample - target) ** 2).sum())
    inverse = np.linalg.inv((1 - share) * sample + share * target)
    np.testing.assert_allclose(score("mahalanobis", train, test), [(x - mean) @ inverse @ (x - mean) for x in test])
    unit, point = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (train, test))
    gamma = 10 / (3 * unit.var())
    kernels = [np.mean([np.exp(-gamma * ((x - y) ** 2).sum()) for y in unit]) for x in point]
    shift = score("kde", train, test) + np.log(kernels)
    np.testing.assert_allclose(shift, shift[0])  # up to the constant of the density
    rng = np.random.default_rng(0)  # by "kde" the two are apart in this draw, not in most: it sees directions alone
    few, near, far = rng.normal(size=(20, 50)), rng.normal(size=(8, 50)), rng.normal(size=(8, 50)) + 4
    for scorer in ("mahalanobis", "gde", "kde"):
        scores = score(scorer, few, np.concatenate((near, far)))
        assert np.isfinite(scores).all() and scores[8:].min() > scores[:8].max(), scorer
    with pytest.raises(ValueError, match="two normal training images or more to estimate a density, got 1"):
        score("mahalanobis", train[:1], test)
    with pytest.raises(ValueError, match="`scorer` must be one of mahalanobis, gde, kde, got 'lof'"):
        score("lof", train, test)


def test_localizer_scores_pixels_draws_them_follows_its_seed_and_resumes(toy: Path, tmp_path: Path) -> None:
    def run(name: str, others: str = "") -> dict[str, Any]:
        assert train_localizer.main(options(toy, tmp_path / name, f"--categories flange {others}")) == 0
        return results(tmp_path / name)[0]

    first, workers, other = run("a"), run("b", "--workers 1"), run("c", "--seeds 1")
    assert all(0 <= first[name] <= 1 for name in ("pixel_auroc", "pixel_ap", "aupro", "auroc"))
    assert first | {"seconds": 0} == workers | {"seconds": 0}
    assert first["pixel_ap"] != other["pixel_ap"]
    assert run("a") == first  # read, not trained
    assert (tmp_path / "a/table.md").read_text().count("| flange |") == 4
    with Image.open(tmp_path / "a/flange-seed0/heatmaps.png") as sheet:
        left, top = report.LABEL
        assert sheet.size == (left + 6 * 66, top + 3 * 66)  # five defects and a good one: image, truth, heat


def test_pixel_scores() -> None:
    masks = torch.zeros(3, 20, 30, dtype=torch.uint8)
    masks[0, 2:6, 2:6] = masks[0, 10:12, 10:25] = masks[1, 5:9, 20:22] = 1
    score = train_localizer.pixel_scores
    perfect = score(masks.float() * 0.8 + torch.rand(masks.shape) * 0.1, masks)
    assert perfect == pytest.approx({"pixel_auroc": 1, "pixel_ap": 1, "aupro": 1}, abs=0.01)
    assert score(torch.rand(masks.shape), masks * 0) == {"pixel_auroc": None, "pixel_ap": None, "aupro": None}
    noisy = masks.float() * 0.5 + torch.rand(masks.shape, generator=torch.Generator().manual_seed(0))
    assert score(noisy, masks)["aupro"] == pytest.approx(slow_aupro(noisy.numpy(), masks.numpy()), abs=2e-3)


def slow_aupro(maps: np.ndarray[Any, Any], masks: np.ndarray[Any, Any], limit: float = 0.3) -> float:
    """The three rectangles above by name; every threshold; trapezoids up to the limit."""
    regions = [(0, slice(2, 6), slice(2, 6)), (0, slice(10, 12), slice(10, 25)), (1, slice(5, 9), slice(20, 22))]
    x, y = [0.0], [0.0]
    for threshold in np.sort(maps.ravel())[::-1]:
        x.append(float((maps >= threshold)[masks == 0].mean()))
        y.append(float(np.mean([(maps[region] >= threshold).mean() for region in regions])))
    heights = np.interp(np.linspace(0, limit, 3001), x, y)
    return float(torch.trapezoid(torch.from_numpy(heights), dx=1 / 3000))


def test_grid_compares_in_pairs_resumes_and_keeps_what_did_not_fail(
    toy: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    def grid(*conditions: str) -> list[dict[str, Any]]:
        others = f"--categories flange --seeds 0 1 --against none --conditions {shlex.join(conditions)}"
        assert compare.main(options(toy, tmp_path, others)) == 0
        return results(tmp_path)

    conditions = ["none", "random-swap", "saliency-swap --levels all"]
    cells = grid(*conditions)
    assert [(r["condition"], r["seed"]) for r in cells] == [(c, s) for s in (0, 1) for c in conditions]
    assert cells[2]["settings"]["levels"] == "all" and cells[1]["settings"]["levels"] == "auto"
    score = {(r["condition"], r["seed"]): r["auroc"] for r in cells}
    change = [100 * (score["random-swap", s] - score["none", s]) for s in (0, 1)]
    mean, half = sum(change) / 2, 12.706 * abs(change[0] - change[1]) / 2  # Student's t with one degree of freedom
    text = (tmp_path / "table.md").read_text()
    assert f"| random-swap | {mean:+.1f} ({mean - half:+.1f} to {mean + half:+.1f}) |" in text
    assert "cores" in text and "compare.py --data" in text and (tmp_path / "differences.png").exists()
    assert (tmp_path / "negatives-flange.png").exists()
    note = tmp_path / "random-swap/flange-seed0/result.json"
    stamp = note.stat().st_mtime_ns
    grid("none", "random-swap", "scar")
    assert note.stat().st_mtime_ns == stamp and (tmp_path / "scar/flange-seed1/result.json").exists()
    assert "[6/6] scar, flange, seed 1: " in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"2 trainings failed\nnone --backbone .*, flange, seed 0: `module:factory` must"):
        grid("none", "none --backbone no_such_module:net")
    assert len(results(tmp_path)) == 2


def test_differences_are_paired_and_their_interval_is_students() -> None:
    scores = {("a", "x", 0): 0.9, ("b", "x", 0): 0.5, ("a", "y", 0): 0.8, ("b", "y", 0): 0.6, ("a", "x", 1): 0.7}
    cells = {key: {"auroc": value} for key, value in scores.items()} | {("b", "x", 1): {"auroc": None}}
    assert compare.paired(cells, "a", "b", "x") == pytest.approx([0.4])
    assert compare.paired(cells, "a", "b", None) == pytest.approx([0.3])  # where both have every category
    interval = compare.interval
    half = 4.302653 * np.sqrt(7 / 9)
    assert interval([1.0, 2.0, 4.0]) == pytest.approx((7 / 3, 7 / 3 - half, 7 / 3 + half))
    assert np.isnan(interval([1.0])[1:]).all() and np.isnan(interval([])[0])


def killed(seconds: float) -> float:
    """Stands in for a training that the system ends."""
    if seconds < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(seconds)
    return seconds


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal here")
def test_a_killed_process_does_not_take_the_others_along(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "run_task", killed)
    fork = multiprocessing.get_context("fork")  # a spawned process would import all of this file, for seconds
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: fork)
    found = dict(compare.outcomes({"a": 0.1, "killed": -1.0, "b": 0.1, "c": 0.1}, 2))
    fault = training.explanation(found.pop("killed"))
    assert found == {"a": 0.1, "b": 0.1, "c": 0.1}
    assert "a process was killed, as by a system out of memory: lower --jobs" in fault
