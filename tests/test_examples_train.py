"""The examples' trainers on the toy set: what they write, that they are reproducible, resume and explain what is wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import multivariate_normal

from cutswap_transforms.saliency import _tiny

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def examples() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        import compare
        import detector
        import report
        import toy
        import train_localizer
        import train_ssl
        import training

        modules = {m.__name__: m for m in (compare, detector, report, toy, train_localizer, train_ssl, training)}
        yield SimpleNamespace(**modules)


@pytest.fixture(scope="module")
def toy(examples: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two categories of 8 normal images and 4 + 5 test images, 64 px."""
    folder = tmp_path_factory.mktemp("data") / "toy"
    return examples.toy.write_toy(folder, size=64, train=8, good=4, per_defect=1, categories=("flange", "cloth"))


def options(data: Path, out: Path, *others: str) -> list[str]:
    fixed = ["--size", "64", "--steps", "4", "--batch", "2", "--no-progress", "--accelerator", "cpu"]
    return ["--data", str(data), "--out", str(out), *fixed, *others]


def one(examples: Any, toy: Path, out: Path, *others: str) -> dict[str, Any]:
    """The result of one training on flange."""
    arguments = options(toy, out, "--categories", "flange", "--no-heat-maps", *others)
    (cell,) = examples.train_ssl.run(examples.train_ssl.parse(arguments))
    return cell


# ---- train_ssl.py ---------------------------------------------------------------------------------------------------


def test_a_run_writes_tables_figures_and_results(examples: Any, toy: Path, tmp_path: Path) -> None:
    assert examples.train_ssl.main(options(toy, tmp_path, "--seeds", "0", "1")) == 0
    names = {"table.md", "results.json", "roc.png", "histograms.png", "negatives-cloth.png", "negatives-flange.png"}
    assert names <= {p.name for p in tmp_path.iterdir()}
    cell = tmp_path / "cloth-seed1"
    assert {p.name for p in cell.iterdir()} == {"checkpoint.ckpt", "heatmaps.png", "log", "result.json", "settings.json"}
    results = json.loads((tmp_path / "results.json").read_text())
    assert [(r["category"], r["seed"]) for r in results] == [("cloth", 0), ("cloth", 1), ("flange", 0), ("flange", 1)]
    assert all(len(r["scores"]) == 9 and 0 <= r["auroc"] <= 1 for r in results)
    rows = [line.split("|")[1:-1] for line in (tmp_path / "table.md").read_text().splitlines() if line.startswith("|")]
    assert [row[0].strip() for row in rows] == ["category", "---", "cloth", "flange", "mean"]
    mean = np.mean([100 * r["auroc"] for r in results])
    assert float(rows[-1][3]) == pytest.approx(mean, abs=0.051)
    left = examples.report.LABEL[0]
    with Image.open(tmp_path / "negatives-flange.png") as sheet:
        assert sheet.size == (left + 8 * 66, 5 * 66)  # a row of normal images, four of negatives
    steps = [line.split(",") for line in (cell / "log/version_0/metrics.csv").read_text().splitlines()]
    assert int(steps[-1][steps[0].index("step")]) == 3  # the last of four: steps are steps


def test_the_same_seed_gives_the_same_scores_with_any_number_of_workers(examples: Any, toy: Path, tmp_path: Path) -> None:
    alone, forked, other = (
        one(examples, toy, tmp_path / name, *how)["scores"]
        for name, how in (("a", ["--workers", "0"]), ("b", ["--workers", "2"]), ("c", ["--seeds", "1"]))
    )
    assert alone == forked
    assert alone != other


def test_an_interrupted_run_goes_on_to_the_same_end(
    examples: Any, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examples.training, "EPOCH", 2)
    whole = one(examples, toy, tmp_path / "whole", "--steps", "6", "--workers", "1")
    taken: list[int] = []
    step = examples.train_ssl.SelfSupervised.training_step

    def breaks_down(module: Any, batch: Any, index: int) -> Any:
        taken.append(module.global_step)
        if len(taken) == 4:
            raise ConnectionError("power cut")
        return step(module, batch, index)

    monkeypatch.setattr(examples.train_ssl.SelfSupervised, "training_step", breaks_down)
    with pytest.raises(ConnectionError):
        one(examples, toy, tmp_path / "cut", "--steps", "6")
    resumed = one(examples, toy, tmp_path / "cut", "--steps", "6")
    assert taken == [0, 1, 2, 3, 2, 3, 4, 5]  # from the last checkpoint on
    assert resumed["scores"] == whole["scores"]
    (tmp_path / "cut/flange-seed0/result.json").unlink()
    assert one(examples, toy, tmp_path / "cut", "--steps", "6")["scores"] == whole["scores"]
    assert len(taken) == 8  # all steps were there


def test_a_folder_of_another_run_is_refused(examples: Any, toy: Path, tmp_path: Path) -> None:
    one(examples, toy, tmp_path, "--augmentation", "none")
    with pytest.raises(SystemExit, match=r"new or hold the same run, got .* with lr: 0\.0001 there, 0\.5 now"):
        examples.train_ssl.main(options(toy, tmp_path, "--categories", "flange", "--augmentation", "none", "--lr", "0.5"))


def test_a_result_is_not_taken_for_that_of_other_data(examples: Any, toy: Path, tmp_path: Path) -> None:
    arguments = options(toy / "flange", tmp_path, "--augmentation", "none", "--normal-dir", "train/good")
    assert examples.train_ssl.main([*arguments, "--abnormal-dir", "test/dent"]) == 0
    with pytest.raises(
        SystemExit, match=r"hold the same run, got .* with data: 6 \+ 3 images, .* there, 6 \+ 4 images, .* now"
    ):
        examples.train_ssl.main([*arguments, "--abnormal-dir", "test/dent", "test/chip"])


def test_a_run_that_never_began_does_not_block_its_folder(examples: Any, toy: Path, tmp_path: Path) -> None:
    arguments = options(toy, tmp_path, "--categories", "flange", "--augmentation", "none", "--no-heat-maps")
    with pytest.raises(SystemExit, match=r"error: `backbone` 'resnet1' .*; see --backbone and --weights"):
        examples.train_ssl.main([*arguments, "--backbone", "resnet1"])
    assert examples.train_ssl.main([*arguments, "--backbone", "tiny"]) == 0


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        (("--saliency", "resnet81"), "error: `model` must be .*resnet18"),
        (("--levels", "7"), r"error: `levels` must lie in \[-4, 3\]"),
        (("--size", "16"), "error: `size` must be 32 or more"),
        (("--seeds", "-1"), r"error: `seeds` must be 0 or more, and differ, got \[-1\]"),
        (("--white", "0"), "error: `white` must be above 0, got 0.0"),
        (("--saliency", "no_module:net"), "error: `module:factory` must name a function .* got 'no_module:net': No module"),
        (("--backbone", "toy:nothing"), "error: `module:factory` must .* got 'toy:nothing': .* no attribute 'nothing'"),
    ],
)
def test_mistakes_end_with_one_sentence(examples: Any, toy: Path, tmp_path: Path, option: Any, sentence: str) -> None:
    with pytest.raises(SystemExit, match=sentence):
        examples.train_ssl.main([*options(toy, tmp_path, "--categories", "flange"), *option])


def test_no_negatives_no_training(examples: Any, toy: Path, tmp_path: Path) -> None:
    cell = one(examples, toy, tmp_path, "--augmentation", "none")
    assert {p.name for p in (tmp_path / "flange-seed0").iterdir()} == {"result.json", "settings.json"}
    again = one(examples, toy, tmp_path / "seed", "--augmentation", "none", "--seeds", "1")
    assert cell["scores"] == again["scores"]  # a pretrained net has nothing random


def test_three_ways_on_the_device(examples: Any, toy: Path, tmp_path: Path) -> None:
    how = ("--augmentation", "3way-saliency", "--augment-on", "device", "--levels", "all", "--steps", "2")
    first, again = (one(examples, toy, tmp_path / name, *how) for name in "ab")
    assert first["scores"] == again["scores"]
    state = torch.load(tmp_path / "a/flange-seed0/checkpoint.ckpt", weights_only=True)["state_dict"]
    assert state["detector.head.weight"].shape == (3, 192)


def test_resnet_from_scratch_takes_the_papers_recipe(examples: Any, toy: Path, tmp_path: Path) -> None:
    args = examples.train_ssl.parse(["--data", "toy", "--backbone", "cutpaste-resnet18"])
    recipe = (args.optimizer, args.lr, args.weight_decay, args.size, args.batch, args.steps)
    assert recipe == ("sgd", 0.03, 3e-5, 256, 32, 10_000)
    one(examples, toy, tmp_path, "--backbone", "cutpaste-resnet18", "--steps", "1", "--augmentation", "scar")
    state = torch.load(tmp_path / "flange-seed0/checkpoint.ckpt", weights_only=True)["state_dict"]
    linear = [v.shape for k, v in state.items() if k.startswith("detector.head") and v.ndim == 2]
    assert linear == [(512, 512)] * 8 + [(128, 512), (2, 128)]


def test_a_single_test_class_has_no_auroc(examples: Any, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(toy / "flange", tmp_path / "flange")
    shutil.rmtree(tmp_path / "flange/test/good")
    examples.train_ssl.main(options(tmp_path / "flange", tmp_path / "out", "--augmentation", "none"))
    assert "flange: AUROC is undefined, all 5 test images are bad" in capsys.readouterr().out
    assert "| flange | undefined | undefined | - |" in (tmp_path / "out/table.md").read_text()
    assert json.loads((tmp_path / "out/results.json").read_text())[0]["auroc"] is None


def test_faults_end_with_a_sentence(examples: Any, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="error: `data` must be 'toy' or a folder, got 'nowhere'"):
        examples.train_ssl.main(["--data", "nowhere"])
    with pytest.raises(SystemExit, match="error: `batch` must be 1 or more, got 0"):
        examples.train_ssl.main(["--data", str(toy), "--batch", "0"])
    with pytest.raises(SystemExit, match="error: `augmentation` must make negatives to learn from, got 'none'"):
        examples.train_localizer.main(["--data", str(toy), "--augmentation", "none"])

    def exhausted(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(examples.train_ssl.SelfSupervised, "training_step", exhausted)
    with pytest.raises(SystemExit, match="error: out of memory: lower --batch first, then --size"):
        examples.train_ssl.main(options(toy, tmp_path))


def test_tensorboard_that_is_not_installed(examples: Any, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> None:
        raise ModuleNotFoundError("Neither `tensorboard` nor `tensorboardX` is available. Try `pip install`ing either.")

    monkeypatch.setitem(examples.training.LOGGERS, "tensorboard", missing)
    with pytest.raises(SystemExit, match="error: `logger` 'tensorboard' needs a package that is not installed: Neither"):
        examples.train_ssl.main(options(toy, tmp_path, "--logger", "tensorboard"))


def test_one_image_is_no_density(examples: Any) -> None:
    with pytest.raises(ValueError, match="two normal training images or more to estimate a density, got 1"):
        examples.detector.score_features("mahalanobis", np.zeros((1, 3)), np.zeros((2, 3)))


def test_other_errors_keep_their_traceback(examples: Any) -> None:
    with pytest.raises(RuntimeError, match="shapes"), examples.training.explained_errors():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


def test_draws_do_not_depend_on_epochs_or_processes(examples: Any) -> None:
    draws = examples.training.Draws
    whole = list(draws(7, 3, range(0, 6), 4))
    assert [number for number, _ in whole] == list(range(24))
    assert sorted(index for _, index in whole[:7]) == sorted(index for _, index in whole[7:14]) == list(range(7))
    assert whole[:7] != [(n, i) for n, (_, i) in enumerate(whole[7:14])]
    assert whole == [*draws(7, 3, range(0, 2), 4), *draws(7, 3, range(2, 6), 4)]
    ranks = [list(draws(7, 3, range(0, 6), 4, rank, 2)) for rank in (0, 1)]
    assert sorted(ranks[0] + ranks[1]) == whole
    assert list(draws(7, 4, range(0, 6), 4)) != whole


@pytest.mark.slow
def test_two_processes_train_like_one(examples: Any, toy: Path, tmp_path: Path) -> None:
    scores = []
    for name, how in (("one", []), ("two", ["--devices", "2", "--strategy", "ddp"])):
        arguments = options(toy, tmp_path / name, "--seeds", "0", "1", "--categories", "flange", "--batch", "4", *how)
        command = [sys.executable, str(EXAMPLES / "train_ssl.py"), *arguments]
        subprocess.run(command, check=True, capture_output=True, timeout=280, env=os.environ | {"OMP_NUM_THREADS": "1"})
        scores.append([c["scores"] for c in json.loads((tmp_path / name / "results.json").read_text())])
    np.testing.assert_allclose(*scores, rtol=1e-3)  # the same batches, their gradients averaged in another order


@pytest.mark.slow
def test_toy_set_is_not_solved_by_untrained_features(examples: Any, tmp_path: Path) -> None:
    for name, weights in (("random", ["--weights", "none"]), ("tiny", [])):
        arguments = ["--data", "toy", "--augmentation", "none", "--out", str(tmp_path / name), "--no-progress", *weights]
        cells = examples.train_ssl.run(examples.train_ssl.parse(arguments))
        assert len(cells) == 4 and max(c["auroc"] for c in cells) <= 0.9


# ---- networks and scores --------------------------------------------------------------------------------------------


def test_tiny_backbone_is_the_embedded_net(examples: Any) -> None:
    images = torch.rand(2, 3, 64, 80)
    with torch.no_grad():
        found = examples.detector.TinyBackbone().maps(images)
    wanted = [stage[-1] for stage in _tiny.load("DEFAULT").forward(images)[0]]
    assert len(found) == len(wanted) == 4
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "width"), [("resnet18", 512), ("mobilenet_v3_small", 1024), ("cutpaste-resnet18", 512)])
def test_features_are_what_the_last_linear_layer_reads(examples: Any, name: str, width: int) -> None:
    detector = examples.detector.Detector(name, 2, None, 64).eval()
    assert detector.features(torch.rand(2, 3, 64, 64)).shape == (2, width)
    assert detector(torch.rand(2, 3, 64, 64)).shape == (2, 2)


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


@pytest.fixture
def factories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "factories", SimpleNamespace(gated=Gated, plain=plain, attention=attention))  # type: ignore[arg-type]


@pytest.mark.usefixtures("factories")
def test_only_a_classifier_is_taken_off(examples: Any) -> None:
    images = torch.rand(2, 3, 64, 64)
    for name, width, left in (("gated", 8, 1), ("plain", 6, 0), ("attention", 6, 1)):
        detector = examples.detector.Detector(f"factories:{name}", 2, None, 64).eval()
        assert detector.features(images).shape == (2, width)
        assert sum(isinstance(m, torch.nn.Linear) for m in detector.backbone.modules()) == left


@pytest.mark.usefixtures("factories")
def test_a_backbone_without_heat_maps_keeps_its_result(examples: Any, toy: Path, tmp_path: Path) -> None:
    arguments = options(toy, tmp_path, "--categories", "flange", "--backbone", "factories:attention")
    with pytest.warns(UserWarning, match=r"no heat maps of this backbone: .*; --no-heat-maps leaves them out"):
        assert examples.train_ssl.main(arguments) == 0
    assert (tmp_path / "flange-seed0/result.json").exists() and (tmp_path / "table.md").exists()


@pytest.mark.usefixtures("factories")
def test_initial_weights_do_not_depend_on_the_saliency_net(
    examples: Any, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = []
    monkeypatch.setattr(
        examples.train_ssl.SelfSupervised, "on_fit_start", lambda m: heads.append(m.detector.head.weight.clone()), raising=False
    )
    for saliency in ("tiny", "factories:plain"):
        one(examples, toy, tmp_path / saliency, "--saliency", saliency, "--steps", "1")
    assert torch.equal(*heads)


@pytest.mark.parametrize("scorer", ["gde", "kde"])
def test_a_run_with_other_scorers(examples: Any, toy: Path, tmp_path: Path, scorer: str) -> None:
    plain = one(examples, toy, tmp_path / "plain", "--augmentation", "none")
    other = one(examples, toy, tmp_path / scorer, "--augmentation", "none", "--scorer", scorer)
    assert np.isfinite(other["scores"]).all() and other["scores"] != plain["scores"]


def test_visa_through_a_trainer(examples: Any, toy: Path, tmp_path: Path) -> None:
    lines = ["object,split,label,image,mask"]
    for path in sorted((toy / "flange").glob("t*/*/*.png")):
        split, kind = path.parts[-3:-1]
        mask = "" if kind == "good" else f"flange/ground_truth/{kind}/{path.stem}_mask.png"
        lines.append(f"flange,{split},{'anomaly' if mask else 'normal'},{path.relative_to(toy)},{mask}")
    shutil.copytree(toy / "flange", tmp_path / "visa/flange")
    (tmp_path / "visa/1cls.csv").write_text("\n".join(lines))
    arguments = ("--augmentation", "none")
    visa, mvtec = one(examples, tmp_path / "visa", tmp_path / "a", *arguments), one(examples, toy, tmp_path / "b", *arguments)
    assert visa["auroc"] == mvtec["auroc"] and sorted(visa["scores"]) == sorted(mvtec["scores"])


def test_scorers_are_what_their_names_say(examples: Any) -> None:
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(3, 3))
    train, test = rng.normal(size=(40, 3)) @ mixing, rng.normal(size=(5, 3)) @ mixing * 2
    score = examples.detector.score_features
    mean, sample = train.mean(0), np.cov(train.T, bias=True)
    np.testing.assert_allclose(score("gde", train, test), -multivariate_normal(mean, sample).logpdf(test))
    # Ledoit and Wolf (2004): between the sample covariance and its mean variance on the diagonal.
    target = np.trace(sample) / 3 * np.eye(3)
    spread = np.mean([((np.outer(x, x) - sample) ** 2).sum() for x in train - mean]) / len(train)
    share = min(1, spread / ((sample - target) ** 2).sum())
    inverse = np.linalg.inv((1 - share) * sample + share * target)
    wanted = [(x - mean) @ inverse @ (x - mean) for x in test]
    np.testing.assert_allclose(score("mahalanobis", train, test), wanted)
    unit, point = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (train, test))
    gamma = 10 / (3 * unit.var())
    kernels = [np.mean([np.exp(-gamma * ((x - y) ** 2).sum()) for y in unit]) for x in point]
    shift = score("kde", train, test) + np.log(kernels)
    np.testing.assert_allclose(shift, shift[0])  # up to the constant of the density
    with pytest.raises(ValueError, match="`scorer` must be one of mahalanobis, gde, kde, got 'lof'"):
        score("lof", train, test)


@pytest.mark.parametrize("scorer", ["mahalanobis", "gde", "kde"])
def test_scorers_work_with_more_features_than_images(examples: Any, scorer: str) -> None:
    rng = np.random.default_rng(0)
    train, near, far = rng.normal(size=(20, 50)), rng.normal(size=(8, 50)), rng.normal(size=(8, 50)) + 4
    scores = examples.detector.score_features(scorer, train, np.concatenate((near, far)))
    assert np.isfinite(scores).all() and scores[8:].min() > scores[:8].max()


# ---- train_localizer.py ---------------------------------------------------------------------------------------------


def test_localizer_scores_pixels_and_draws_them(examples: Any, toy: Path, tmp_path: Path) -> None:
    assert examples.train_localizer.main(options(toy, tmp_path, "--categories", "flange")) == 0
    (cell,) = json.loads((tmp_path / "results.json").read_text())
    assert all(0 <= cell[name] <= 1 for name in ("pixel_auroc", "pixel_ap", "aupro", "auroc"))
    assert (tmp_path / "table.md").read_text().count("| flange |") == 4
    with Image.open(tmp_path / "flange-seed0/heatmaps.png") as sheet:
        left, top = examples.report.LABEL
        assert sheet.size == (left + 6 * 66, top + 3 * 66)  # five defects and a good one: image, truth, heat


def test_localizer_refuses_what_makes_no_training(examples: Any, toy: Path, tmp_path: Path) -> None:
    for option, value in (("steps", "0"), ("batch", "0")):
        with pytest.raises(SystemExit, match=f"error: `{option}` must be 1 or more, got 0"):
            examples.train_localizer.main(options(toy, tmp_path, f"--{option}", value))


def test_localizer_follows_its_seed_and_resumes(examples: Any, toy: Path, tmp_path: Path) -> None:
    def run(name: str, *others: str) -> dict[str, Any]:
        arguments = options(toy, tmp_path / name, "--categories", "flange", "--steps", "2", *others)
        return examples.train_localizer.run(examples.train_localizer.parse(arguments))[0]

    first, workers, other = run("a"), run("b", "--workers", "1"), run("c", "--seeds", "1")
    assert {k: v for k, v in first.items() if k != "seconds"} == {k: v for k, v in workers.items() if k != "seconds"}
    assert first["pixel_ap"] != other["pixel_ap"]
    assert run("a") == first  # read, not trained


def test_pixel_scores(examples: Any) -> None:
    masks = torch.zeros(3, 20, 30, dtype=torch.uint8)
    masks[0, 2:6, 2:6] = masks[0, 10:12, 10:25] = masks[1, 5:9, 20:22] = 1
    score = examples.train_localizer.pixel_scores
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
    grid = np.linspace(0, limit, 3001)
    return float(np.trapezoid(np.interp(grid, x, y), grid) / limit)


# ---- compare.py -----------------------------------------------------------------------------------------------------


def grid(toy: Path, out: Path, *others: str) -> list[str]:
    return options(toy, out, "--categories", "flange", "--seeds", "0", "1", *others)


def test_grid_compares_in_pairs_and_resumes(
    examples: Any, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    conditions = ["none", "random-swap", "saliency-swap --levels fused"]
    assert examples.compare.main(grid(toy, tmp_path, "--conditions", *conditions, "--against", "none")) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert [(r["condition"], r["seed"]) for r in results] == [(c, s) for s in (0, 1) for c in conditions]
    assert results[2]["settings"]["levels"] == "fused" and results[1]["settings"]["levels"] == "random"
    score = {(r["condition"], r["seed"]): r["auroc"] for r in results}
    change = [100 * (score["random-swap", s] - score["none", s]) for s in (0, 1)]
    half = 12.706 * abs(change[0] - change[1]) / 2  # Student's t with one degree of freedom
    mean = sum(change) / 2
    wanted = f"| random-swap | {mean:+.1f} ({mean - half:+.1f} to {mean + half:+.1f}) |"
    text = (tmp_path / "table.md").read_text()
    assert wanted in text and "cores" in text and "compare.py --data" in text
    assert (tmp_path / "differences.png").exists()
    note = tmp_path / "random-swap/flange-seed0/result.json"
    stamp = note.stat().st_mtime_ns
    examples.compare.main(grid(toy, tmp_path, "--conditions", "none", "random-swap", "scar", "--against", "none"))
    assert note.stat().st_mtime_ns == stamp and (tmp_path / "scar/flange-seed1/result.json").exists()
    assert "[6/6] scar, flange, seed 1: " in capsys.readouterr().out


def test_grid_keeps_what_did_not_fail(examples: Any, toy: Path, tmp_path: Path) -> None:
    conditions = ["none", "none --backbone no_such_module:net"]
    with pytest.raises(SystemExit, match=r"2 trainings failed\nnone --backbone .*, flange, seed 0: `module:factory` must"):
        examples.compare.main(grid(toy, tmp_path, "--conditions", *conditions, "--against", "none"))
    assert len(json.loads((tmp_path / "results.json").read_text())) == 2


@pytest.mark.parametrize(
    ("others", "message"),
    [
        (["--conditions", "none", "none "], r"`conditions` must differ and hold 'random-swap', got \['none', 'none '\]"),
        (["--conditions", "none --seeds 5"], r"`conditions` must leave --seeds to the whole grid, got 'none --seeds 5'"),
        (["--jobs", "0"], "`jobs` must be 1 or more, got 0"),
        (["--conditions", "none"], r"`conditions` must differ and hold 'random-swap', got \['none'\]; see --against"),
    ],
)
def test_conditions_that_are_wrong(examples: Any, toy: Path, tmp_path: Path, others: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        examples.compare.main(grid(toy, tmp_path, *others))


def test_interval(examples: Any) -> None:
    mean, low, high = examples.compare.interval([1.0, 2.0, 4.0])
    assert (mean, low, high) == pytest.approx((7 / 3, 7 / 3 - 4.302653 * np.sqrt(7 / 9), 7 / 3 + 4.302653 * np.sqrt(7 / 9)))
    assert np.isnan(examples.compare.interval([1.0])[1:]).all() and np.isnan(examples.compare.interval([])[0])


def test_pairs_need_both_and_every_category(examples: Any) -> None:
    scores = {("a", "x", 0): 0.9, ("b", "x", 0): 0.5, ("a", "y", 0): 0.8, ("b", "y", 0): 0.6, ("a", "x", 1): 0.7}
    cells = {key: {"auroc": value} for key, value in scores.items()} | {("b", "x", 1): {"auroc": None}}
    assert examples.compare.paired(cells, "a", "b", "x") == pytest.approx([0.4])
    assert examples.compare.paired(cells, "a", "b", None) == pytest.approx([0.3])


def killed(seconds: float) -> float:
    """Stands in for a training that the system ends."""
    if seconds < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(seconds)
    return seconds


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal here")
def test_a_killed_process_does_not_take_the_others_along(examples: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples.compare, "run_task", killed)
    tasks = {name: seconds for name, seconds in (("a", 0.1), ("killed", -1.0), ("b", 0.1), ("c", 0.1))}
    found = dict(examples.compare.outcomes(tasks, 2))
    assert {key: value for key, value in found.items() if key != "killed"} == {"a": 0.1, "b": 0.1, "c": 0.1}
    assert "a process was killed, as by a system out of memory: lower --jobs" in examples.training.explanation(found["killed"])


@pytest.mark.slow
def test_jobs_in_parallel_give_what_one_gives(examples: Any, toy: Path, tmp_path: Path) -> None:
    found = []
    for jobs in ("1", "2"):
        arguments = grid(toy, tmp_path / jobs, "--conditions", "none", "random-swap", "--jobs", jobs)
        command = [sys.executable, str(EXAMPLES / "compare.py"), *arguments]
        subprocess.run(command, check=True, capture_output=True, timeout=280)
        results = json.loads((tmp_path / jobs / "results.json").read_text())
        found.append({(r["condition"], r["seed"]): r["scores"] for r in results})
    assert found[0].keys() == found[1].keys()
    for key in found[0]:
        np.testing.assert_allclose(found[0][key], found[1][key], rtol=1e-4)
