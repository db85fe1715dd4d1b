"""`detect.py fit`: what it leaves, that it is reproducible and goes on, and sentences for what is wrong with the data."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import data
import numpy as np
import pytest
import torch
from detector import Detector, fit_command, fitting, options, tuning
from detector.model import FILE
from helpers.detecting import SMALL, TRAINED, fit, fit_arguments, run
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"


def weights(out: Path) -> dict[str, torch.Tensor]:
    return Detector.load(out).features.state_dict()


def test_a_run_leaves_a_detector_a_report_and_a_sheet(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    detector = fit(toy / "flange", tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {FILE, "settings.json", "report.md", "negatives.png", "kept.png"}
    assert "fitted with 24 images in" in capsys.readouterr().out
    report = (tmp_path / "report.md").read_text()
    assert "14 images were fitted on, 10 were held out" in report
    assert "0.01 false alarms were asked for; 10 held-out images can promise 0.091 at least (99 would be needed)" in report
    assert report.count("| place, stride") == report.count("| neighbours, stride") == 3
    assert "These are synthetic" in report
    assert f"a score above {detector.threshold(0.01):.2f} are then defects" in report
    share = detector.about["alignment"]
    assert f"So the weights are {share:.2f} times those learned on negatives and {1 - share:.2f} times equal ones" in report
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert settings["features"] == "tiny" and settings["data"].startswith("24 + 0 images")
    assert len(detector.normal_scores) == 10 and float(detector.weights.sum()) == pytest.approx(1, abs=1e-3)
    assert 0 < detector.about["alignment"] < 1
    kept = fitting.split(24, 0).kept.tolist()
    best = data.read_normal(toy / "flange").train[kept[int(detector.normal_scores.argmax())]].path.name
    assert f"| {best} | {float(detector.normal_scores.max()):.2f} |" in report  # the image that decides the threshold
    with Image.open(tmp_path / "negatives.png") as sheet:
        assert sheet.size == (96 + 6 * 68, 4 * 68)
    before = (tmp_path / FILE).stat().st_mtime_ns
    assert run("fit", toy / "flange", "--out", tmp_path, options=SMALL) == 0
    assert (tmp_path / FILE).stat().st_mtime_ns == before and "already fitted" in capsys.readouterr().out


def test_negatives_keep_to_a_roi_which_is_part_of_the_settings(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    marked = np.zeros((48, 64), np.uint8)
    marked[:, :24] = 1
    for name, values in (("roi", marked), ("same", marked * 255), ("other", 1 - marked), ("black", marked * 0)):
        Image.fromarray(values).save(tmp_path / f"{name}.png")
    made: list[Any] = []
    monkeypatch.setattr(fit_command, "negatives_of", lambda args: made.extend(options.negatives_of(args)) or made)
    common = ("fit", toy / "flange", "--out", tmp_path / "run", "--roi")
    assert run(*common, tmp_path / "roi.png", options=SMALL) == 0
    pairs = made[0].make_params([torch.randint(0, 256, (8, 3, 64, 64), dtype=torch.uint8)])["pairs"]
    swapped = pairs[pairs[..., 5] > 0]
    for left in (swapped[:, 2], swapped[:, 4]):
        assert (left + swapped[:, 6] // 2 < 24).all()
    assert run(*common, tmp_path / "same.png", options=SMALL) == 0 and "already fitted" in capsys.readouterr().out
    for name, more, sentence in (
        ("other", (), "`out` must be new or hold the same run"),
        ("black", (), "`--roi` must be the picture of a mask"),
        ("missing", (), "`--roi` must be the picture of a mask"),
        ("roi", ("--negatives", "cutpaste"), "`roi` must go with negatives that keep to it"),
    ):
        with pytest.raises(SystemExit, match=sentence):
            run(*common, tmp_path / f"{name}.png", *more, options=SMALL)


def test_a_plain_folder_of_good_images_is_enough(toy: Path, tmp_path: Path) -> None:
    shutil.copytree(toy / "flange/train/good", tmp_path / "parts/good")
    plain, above = fit(tmp_path / "parts/good", tmp_path / "a"), fit(tmp_path / "parts", tmp_path / "b")
    whole = fit(toy / "flange", tmp_path / "c")
    assert torch.equal(plain.normal_scores, whole.normal_scores) and torch.equal(above.normal_scores, whole.normal_scores)
    shutil.copytree(toy / "flange/train", tmp_path / "flange/train")  # a category without a test set
    assert torch.equal(fit(tmp_path / "flange", tmp_path / "d").normal_scores, whole.normal_scores)


def test_parts_do_not_overlap_and_a_fifth_is_kept() -> None:
    for count in (20, 21, 24, 100, 209):
        parts = fitting.split(count, 0)
        indices = torch.cat((parts.fit, parts.weigh, parts.kept)).tolist()
        assert sorted(indices) == list(range(count))
        assert len(parts.kept) == max(10, count // 5) and len(parts.weigh) >= 5
        assert torch.equal(parts.kept, fitting.split(count, 0).kept) and not torch.equal(
            parts.kept, fitting.split(count, 1).kept
        )


def test_what_is_kept_out_changes_nothing_that_is_fitted(toy: Path, tmp_path: Path) -> None:
    shutil.copytree(toy / "flange/train/good", tmp_path / "parts")
    paths = sorted((tmp_path / "parts").iterdir())
    first = fit(tmp_path / "parts", tmp_path / "a", f"{TRAINED} --steps 2")
    for i in fitting.split(len(paths), 0).kept.tolist():
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(paths[i])
    second = fit(tmp_path / "parts", tmp_path / "b", f"{TRAINED} --steps 2")
    arrays = [{k: v for k, v in d.state_dict().items() if k != "normal_scores"} for d in (first, second)]
    assert arrays[0].keys() == arrays[1].keys() and all(torch.equal(v, arrays[1][k]) for k, v in arrays[0].items())
    assert not torch.equal(first.normal_scores, second.normal_scores)


def test_fusion_by_negatives_differs_from_the_plain_mean_and_follows_the_seed(toy: Path, tmp_path: Path) -> None:
    ways = ("--seed 0", "--fusion mean", "--seed 1", "--negatives none")
    runs = {how: fit(toy / "flange", tmp_path / how, f"{SMALL} {how}") for how in ways}
    assert torch.equal(runs["--fusion mean"].weights, torch.full((6,), 1 / 6))
    assert torch.equal(runs["--negatives none"].weights, runs["--fusion mean"].weights)
    assert not torch.equal(runs["--seed 0"].weights, runs["--fusion mean"].weights)
    assert not torch.equal(runs["--seed 0"].weights, runs["--seed 1"].weights)
    assert not (tmp_path / "--negatives none/negatives.png").exists()
    assert torch.equal(fit(toy / "flange", tmp_path / "again", SMALL).weights, runs["--seed 0"].weights)


# ---- training --------------------------------------------------------------------------------------------------------


def test_tuning_changes_what_is_trained_alone_and_is_the_same_with_any_number_of_workers(toy: Path, tmp_path: Path) -> None:
    alone, forked, other = (
        (fit(toy / "flange", tmp_path / str(i), f"{TRAINED} {how}"), weights(tmp_path / str(i)))
        for i, how in enumerate(("--workers 0", "--workers 2", "--seed 1"))
    )
    start = weights_of_start()
    changed = {name.split(".")[1] for name, x in alone[1].items() if not torch.equal(x, start[name])}
    assert changed == {"stage2", "stage3", "stage4"}
    assert all(torch.equal(alone[1][name], forked[1][name]) for name in start)
    assert torch.equal(alone[0].normal_scores, forked[0].normal_scores)
    assert not torch.equal(alone[0].normal_scores, other[0].normal_scores)
    assert {p.name for p in (tmp_path / "0").iterdir()} >= {"checkpoint.ckpt", "log", FILE}


def weights_of_start() -> dict[str, torch.Tensor]:
    from detector.model import _restored, _stored
    from detector.networks import Features

    return {name: _restored(_stored(x)) for name, x in Features("tiny", 64).state_dict().items()}


def test_an_interrupted_fit_goes_on_to_the_same_end(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "EPOCH", 2)
    options = f"{TRAINED} --steps 6"
    fit(toy / "flange", tmp_path / "whole", options)
    taken: list[int] = []
    step = tuning.Tuning.training_step

    def breaks_down(module: Any, batch: Any, index: int) -> Any:
        taken.append(module.global_step)
        if len(taken) == 4:
            raise ConnectionError("power cut")
        return step(module, batch, index)

    monkeypatch.setattr(tuning.Tuning, "training_step", breaks_down)
    with pytest.raises(ConnectionError):
        run("fit", toy / "flange", "--out", tmp_path / "cut", options=options)
    assert not (tmp_path / "cut" / FILE).exists()
    fit(toy / "flange", tmp_path / "cut", options)
    assert taken == [0, 1, 2, 3, 2, 3, 4, 5]  # from the last checkpoint on
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(x, cut[name]) for name, x in whole.items())


def test_losses_are_logistic_and_either_is_an_option() -> None:
    torch.manual_seed(0)
    heads, maps = tuning.Heads([3, 5]).requires_grad_(False), [torch.randn(4, 3, 4, 4), torch.randn(4, 5, 2, 2)]
    masks = torch.zeros(2, 1, 8, 8)
    masks[0, 0, :4, :3] = masks[1, 0, 6:, 6:] = 1
    logits = heads.image(maps[1].mean((2, 3)))[:, 0].double()
    image = -torch.cat([torch.log(1 - torch.sigmoid(logits[:2])), torch.log(torch.sigmoid(logits[2:]))]).mean()
    assert float(heads.loss(maps, masks, "image")) == pytest.approx(float(image), rel=1e-5)
    cells: list[torch.Tensor] = []
    for x, head in zip(maps, heads.cells, strict=True):
        p, k = torch.sigmoid(head(x)[:, 0].double()), 8 // x.shape[2]
        share = torch.zeros(4, *x.shape[2:], dtype=torch.float64)
        for n, i, j in np.ndindex(2, *x.shape[2:]):
            share[2 + n, i, j] = masks[n, 0, i * k : (i + 1) * k, j * k : (j + 1) * k].mean()
        entropy = -(share * p.log() + (1 - share) * (1 - p).log())
        cells.append(((entropy * share).sum() / share.sum() + (entropy * (1 - share)).sum() / (1 - share).sum()) / 2)
    assert float(heads.loss(maps, masks, "cells")) == pytest.approx(float(sum(cells) / 2), rel=1e-5)
    assert float(heads.loss(maps, masks, "both")) == pytest.approx(float(image + sum(cells) / 2), rel=1e-5)


def test_the_papers_way_is_a_preset(toy: Path, tmp_path: Path) -> None:
    args = fit_arguments("--preset paper")
    assert (args.loss, args.densities, args.fusion, args.steps, args.batch, args.size) == (
        "image",
        ["pooled"],
        "mean",
        300,
        16,
        160,
    )
    assert fit_arguments("--preset paper --steps 7").steps == 7
    detector = fit(toy / "flange", tmp_path, f"{TRAINED} --preset paper")
    assert detector.kinds == ("pooled",) and detector.levels == [2]
    images, _ = data.decode(data.read_mvtec(toy / "flange").test, 64)
    scores, heat = detector(images)
    assert torch.isfinite(heat).all() and heat.std() > 0
    order = detector.densities[0](detector.features(images.float() / 255)[2]).mean((1, 2)).detach().argsort()
    assert torch.equal(order, scores.argsort())  # the distance itself ranks the images


def test_draws_do_not_depend_on_epochs_or_processes() -> None:
    draws = tuning.Draws
    whole = list(draws(7, 3, range(0, 6), 4))
    assert [number for number, _ in whole] == list(range(24))
    assert sorted(index for _, index in whole[:7]) == sorted(index for _, index in whole[7:14]) == list(range(7))
    assert whole[:7] != [(n, i) for n, (_, i) in enumerate(whole[7:14])]
    assert whole == [*draws(7, 3, range(0, 2), 4), *draws(7, 3, range(2, 6), 4)]
    ranks = [list(draws(7, 3, range(0, 6), 4, rank, 2)) for rank in (0, 1)]
    assert sorted(ranks[0] + ranks[1]) == whole
    assert list(draws(7, 4, range(0, 6), 4)) != whole


@pytest.mark.slow
def test_two_processes_train_like_one(toy: Path, tmp_path: Path) -> None:
    one = fit(toy / "flange", tmp_path / "one", f"{TRAINED} --batch 4")
    options = [*TRAINED.split(), *["--batch", "4", "--devices", "2", "--strategy", "ddp"]]
    command = [
        sys.executable,
        str(EXAMPLES / "detect.py"),
        "fit",
        str(toy / "flange"),
        "--out",
        str(tmp_path / "two"),
        *options,
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=280, env=os.environ | {"OMP_NUM_THREADS": "1"})
    two = Detector.load(tmp_path / "two")
    torch.testing.assert_close(one.normal_scores, two.normal_scores, rtol=0.02, atol=0.02)  # gradients averaged otherwise


# ---- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--saliency resnet81", "error: `model` must be .*resnet18"),
        ("--levels 7", r"error: `levels` must be in \[-3, 2\]"),
        ("--size 16", "error: `size` must be 32 or more"),
        ("--seed -1", "error: `seed` must be 0 or more, got -1"),
        ("--white 0", "error: `white` must be above 0 and finite, got 0.0"),
        ("--batch 0", "error: `batch` must be 1 or more, got 0"),
        ("--steps -1", "error: `steps` must be 0 or more, got -1"),
        (
            "--steps 2 --negatives none",
            "error: `negatives` must make negatives to learn from where there are steps, got 'none'",
        ),
        ("--densities place pooled", "error: `densities` must be pooled alone or densities of cells, got place pooled"),
        ("--false-alarms 0", "error: `false_alarms` must be between 0 and 1, got 0"),
        ("--false-alarms 1.5", "error: `false_alarms` must be between 0 and 1, got 1.5"),
        ("--saliency lost:net", "error: `module:factory` must name a function .* got 'lost:net': No module"),
        ("--white inf", "error: `white` must be above 0 and finite, got inf"),
        ("--white nan", "error: `white` must be above 0 and finite, got nan"),
        ("--lr -1", "error: `lr` must be above 0 and finite, got -1.0"),
        ("--lr nan", "error: `lr` must be above 0 and finite, got nan"),
        ("--weight-decay -1", "error: `weight_decay` must be 0 or more and finite, got -1.0"),
        ("--jitter nan", "error: `jitter` must be 0 or more and finite, got nan"),
        ("--feather -1", "error: `feather` must be 0 or more and finite, got -1"),
        ("--seed 4294967296", r"error: `seed` must be below 2 \*\* 32, got 4294967296"),
        ("--negatives none --fusion negatives", "error: `fusion` must be mean where there are no negatives"),
        ("--steps 3 --batch 2 --lr 1e30 --accelerator cpu", "error: `lr` must be low enough that features stay finite"),
        ("--steps 2 --strategy foo", "error: `accelerator`, `devices`, `strategy` and `precision` must fit this machine: "),
        ("--features toy:no", "error: `module:factory` must .* got 'toy:no': .* no attribute 'no'"),
        ("--features resnet1", "error: `features` 'resnet1' could not be loaded .*; without a download there are tiny"),
        ("--category lid", "error: `--category` must be among flange, got lid"),
    ],
)
def test_mistakes_end_with_one_sentence(toy: Path, tmp_path: Path, option: str, sentence: str) -> None:
    with pytest.raises(SystemExit, match=sentence):
        run("fit", toy / "flange", "--out", tmp_path / "out", options=f"{SMALL} {option}")
    assert not (tmp_path / "out" / FILE).exists()


def write(folder: Path, count: int, size: tuple[int, int] = (40, 48), mode: str = "RGB") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(count)
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).convert(mode).save(folder / f"{i:02d}.png")
    return folder


def test_data_that_cannot_be_fitted_get_a_sentence(toy: Path, tmp_path: Path) -> None:
    def sentence(folder: Path | str) -> str:
        with pytest.raises(SystemExit) as raised:
            run("fit", folder, "--out", tmp_path / "out", options=SMALL)
        return str(raised.value)

    assert "`data` must be 'toy' or a folder, got 'nowhere', which does not exist" in sentence("nowhere")
    (tmp_path / "part.png").touch()
    assert "part.png'; name the folder that it is in" in sentence(tmp_path / "part.png")
    (tmp_path / "empty").mkdir()
    assert "error: `data` must hold images of good parts (.png" in sentence(tmp_path / "empty")
    assert "error: `data` must hold 20 normal images or more, got 19" in sentence(write(tmp_path / "few", 19))
    write(write(tmp_path / "mixed", 24), 1, (31, 48))
    assert "its sides must be 32 px or more, got 48 x 31" in sentence(tmp_path / "mixed")
    write(write(tmp_path / "line", 24), 1, (1, 4000))
    assert "its sides must be 32 px or more, got 4000 x 1" in sentence(tmp_path / "line")
    shutil.copytree(toy / "flange", tmp_path / "flange")
    shutil.copytree(toy / "flange/test/dent", tmp_path / "flange/train/dent")
    assert "`data` must hold normal images alone in train, got" in sentence(tmp_path / "flange")
    assert "with dent; defects belong in test/<defect>" in sentence(tmp_path / "flange")
    assert "`data` must hold one category, got 2: name one of cloth, flange with --category" in sentence(toy)
    os.mkfifo(write(tmp_path / "fifo", 24) / "zz.png")
    (tmp_path / "fifo/x.png").mkdir()
    assert "`data` must hold images as regular files, got x.png, zz.png in" in sentence(tmp_path / "fifo")
    same = write(tmp_path / "same", 24)
    for path in same.iterdir():
        shutil.copyfile(toy / "flange/train/good/000.png", path)
    assert "`data` must hold images that differ, got 24 times the same pixels" in sentence(same)
    Image.fromarray(np.full((40, 48), np.nan, np.float32)).save(write(tmp_path / "nan", 24) / "nan.tif")
    assert "its values must be finite, got NaN or infinite ones" in sentence(tmp_path / "nan")
    broken = write(tmp_path / "broken", 24) / "00.png"
    broken.write_bytes(b"no picture")
    assert "got 1 that cannot:" in sentence(tmp_path / "broken") and "00.png" in sentence(tmp_path / "broken")
    with pytest.warns(UserWarning, match="skipped 1 images that cannot be read"):
        assert run("fit", tmp_path / "broken", "--out", tmp_path / "skipped", options=f"{SMALL} --skip-unreadable") == 0


def test_images_of_every_kind_are_fitted(tmp_path: Path) -> None:
    folder = write(tmp_path / "parts", 20)
    for i, mode in enumerate(("L", "RGBA", "P", "LA", "1", "CMYK")):
        path = folder / f"{i:02d}.png"
        with Image.open(path) as image:
            kind = image.convert(mode)
        path.unlink()
        kind.save(path.with_suffix(".tif" if mode == "CMYK" else ".png"))
    deep = np.random.default_rng(0).integers(0, 65536, (40, 48), dtype=np.uint16)
    Image.fromarray(deep).save(folder / "19.png")
    turned = Image.Exif()
    turned[274] = 6
    with Image.open(folder / "18.png") as image:
        image.save(folder / "18.jpg", exif=turned)
    (folder / "18.png").unlink()
    assert torch.isfinite(fit(folder, tmp_path / "out").normal_scores).all()


def test_a_run_never_lies_among_its_images_nor_where_it_cannot_be_written(toy: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(toy / "flange/train/good", tmp_path / "parts"))
    for out in (folder, folder / "run"):
        with pytest.raises(SystemExit, match=r"error: `out` must be outside the images, got"):
            run("fit", folder, "--out", out, options=SMALL)
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file/run"):
        with pytest.raises(SystemExit, match=r"error: a file could not be read or written: .*file"):
            run("fit", folder, "--out", out, options=SMALL)
    assert len(list(folder.iterdir())) == 24


def test_an_interruption_is_said(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tuning.Tuning, "training_step", interrupted)
    with pytest.raises(SystemExit) as raised:
        run("fit", toy / "flange", "--out", tmp_path, options=TRAINED)
    assert raised.value.code == 130
    assert "interrupted: the same command begins again, and a training goes on from its last" in capsys.readouterr().err


def test_a_folder_belongs_to_the_run_that_began_in_it(toy: Path, tmp_path: Path) -> None:
    fit(toy / "flange", tmp_path)
    with pytest.raises(SystemExit, match=r"new or hold the same run, got .* with steps: 0 there, 3 now"):
        run("fit", toy / "flange", "--out", tmp_path, options=f"{SMALL} --steps 3")
    with pytest.raises(
        SystemExit, match=r"hold the same run, got .* with data: 24 \+ 0 images, .* there, 24 \+ 0 images, .* now"
    ):
        run("fit", toy / "cloth", "--out", tmp_path, options=SMALL)
    (tmp_path / "settings.json").write_text("[1, 2]")
    with pytest.raises(SystemExit, match=r"`out` must be new or hold a run, got .*settings.json', which is damaged"):
        run("fit", toy / "flange", "--out", tmp_path, options=SMALL)


def test_only_known_faults_become_a_sentence(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = ModuleNotFoundError("Neither `tensorboard` nor `tensorboardX` is available. Try `pip install`ing either.")
    monkeypatch.setitem(tuning.LOGGERS, "tensorboard", Mock(side_effect=missing))
    with pytest.raises(SystemExit, match="error: `logger` 'tensorboard' needs a package that is not installed: Neither"):
        run("fit", toy / "flange", "--out", tmp_path, options=f"{TRAINED} --logger tensorboard")
    exhausted = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    monkeypatch.setattr(tuning.Heads, "loss", Mock(side_effect=exhausted))
    with pytest.raises(SystemExit, match="error: out of memory: lower --batch first, then --size"):
        run("fit", toy / "flange", "--out", tmp_path, options=TRAINED)
    with pytest.raises(RuntimeError, match="shapes"), options.explained_errors():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(ImportError, match="thing"), options.explained_errors():
        raise ImportError("cannot import name 'thing'")
    with pytest.raises(SystemExit, match=r"error: .* pip install x"), options.explained_errors():
        raise ImportError("the weights need a package: pip install x")


def test_data_of_others_read_nothing_elsewhere(toy: Path, tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    shutil.copytree(toy / "flange/train/good", folder)
    (folder / "000.png").unlink()
    (folder / "000.png").symlink_to(toy / "flange/train/good/000.png")
    with pytest.raises(SystemExit, match=r"error: `data` must hold its images and masks itself"):
        run("fit", folder, "--out", tmp_path / "out", options=SMALL)
