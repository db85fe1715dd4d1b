"""`detect.py score`: rows, heat maps and the summary of new images; what cannot be read; where it refuses to write."""

from __future__ import annotations

import csv
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from data import read_image
from detector import Detector, pictures
from helpers.detecting import fit, run
from PIL import Image

HEAD = ["file", "score", "p_value", "verdict"]


@pytest.fixture(scope="module")
def fitted(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "flange"
    fit(toy / "flange", out)
    return out


def rows(out: Path) -> list[list[str]]:
    with (out / "scores.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.reader(stream))


def test_every_image_gets_a_row_and_a_heat_map(
    fitted: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = toy / "flange/test", tmp_path / "out"
    assert run("score", fitted, folder, "--out", out, options="--no-progress") == 0
    head, *found = rows(out)
    assert head == HEAD and [row[0] for row in found] == sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.png"))
    detector = Detector.load(fitted)
    for name, score, p_value, verdict in found:
        expected = detector(read_image(folder / name, 64)[None])[0]
        assert float(score) == pytest.approx(float(expected), rel=1e-3)
        assert float(p_value) == pytest.approx(float(detector.p_values(torch.tensor([float(score)]))[0]), abs=1e-5)
        assert verdict == ("defect" if float(p_value) <= detector.rate(0.01) + 1e-6 else "good")
        with Image.open(out / "heatmaps" / f"{name}.png") as picture:
            assert picture.size == (128, 64)
    with Image.open(out / "summary.png") as picture:
        assert picture.size[0] == 4 * (320 + pictures.GAP) + pictures.GAP
    count = sum(row[3] == "defect" for row in found)
    told = capsys.readouterr().out
    assert f"{count} of 9 images are defects: scores above {detector.threshold(0.01):.2f}, at 0.0909 false alarms" in told
    assert "(0.01 cannot be promised with 10 images held out" in told
    assert told.endswith("scores.csv, summary.png, heatmaps\n")


def test_sorted_with_heat_maps_of_defects_alone_at_another_rate(fitted: Path, toy: Path, tmp_path: Path) -> None:
    options = "--no-progress --sort --heat-maps defects --false-alarms 0.5"
    assert run("score", fitted, toy / "flange/test", "--out", tmp_path / "out", options=options) == 0
    found = rows(tmp_path / "out")[1:]
    assert [float(row[1]) for row in found] == sorted((float(row[1]) for row in found), reverse=True)
    defects = {f"{row[0]}.png" for row in found if row[3] == "defect"}
    heatmaps = tmp_path / "out/heatmaps"
    assert defects and defects == {p.relative_to(heatmaps).as_posix() for p in heatmaps.rglob("*.png")}
    assert all((float(row[2]) <= 0.5) == (row[3] == "defect") for row in found)
    none = tmp_path / "none"
    assert run("score", fitted, toy / "flange/test", "--out", none, options="--no-progress --heat-maps none") == 0
    assert {p.name for p in none.iterdir()} == {"scores.csv", "summary.png"}


def test_what_cannot_be_read_is_named_and_gets_an_empty_score(
    fitted: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new"
    shutil.copytree(toy / "flange/test/good", folder)
    (folder / "broken.png").write_bytes(b"no picture")
    Image.new("RGB", (4000, 1)).save(folder / "line.png")
    for name in (".hidden.png", "__MACOSX/good.png", ".ipynb_checkpoints/good.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")
    (folder / "notes.txt").write_text("no image")
    assert run("score", fitted, folder, "--out", tmp_path / "out", options="--no-progress --sort") == 1
    found = rows(tmp_path / "out")[1:]
    assert len(found) == 6 and {tuple(row) for row in found[-2:]} == {("broken.png", "", "", ""), ("line.png", "", "", "")}
    told = capsys.readouterr().err
    assert "could not be read:" in told and "broken.png" in told
    assert "line.png (its sides must be 32 px or more, got 4000 x 1)" in told
    only = tmp_path / "only"
    only.mkdir()
    shutil.copy(folder / "broken.png", only)
    assert run("score", fitted, only, "--out", tmp_path / "nothing", options="--no-progress") == 1
    assert rows(tmp_path / "nothing") == [HEAD, ["broken.png", "", "", ""]]
    assert run("score", fitted, only, "--out", tmp_path / "out", options="--no-progress") == 1
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"scores.csv"}  # nothing of an earlier result stays


def test_images_of_every_kind_and_size(fitted: Path, tmp_path: Path) -> None:
    rng, folder = np.random.default_rng(0), tmp_path / "kinds"
    folder.mkdir()
    pixels = Image.fromarray(rng.integers(0, 256, (50, 90, 3), dtype=np.uint8))
    for mode in ("L", "RGBA", "P", "LA", "1", "RGB"):
        pixels.convert(mode).save(folder / f"{mode}.png")
    Image.fromarray(rng.integers(0, 65536, (50, 90), dtype=np.uint16)).save(folder / "deep.png")
    turned = Image.Exif()
    turned[274] = 6
    pixels.transpose(Image.Transpose.ROTATE_90).save(folder / "exif.tif", exif=turned, compression=None)
    assert run("score", fitted, folder, "--out", tmp_path / "out", options="--no-progress") == 0
    found = {row[0]: row[1] for row in rows(tmp_path / "out")[1:]}
    assert len(found) == 8 and all(found.values())
    assert found["exif.tif"] == found["RGB.png"] != found["L.png"]  # upright


def test_names_of_every_kind(fitted: Path, toy: Path, tmp_path: Path) -> None:
    source = next((toy / "flange/test/good").iterdir())
    folder = tmp_path / "names"
    folder.mkdir()
    names = ['comma, quote ".png', "line\nbreak.png", "n\u00e4me \u2603.png", "e" * 250 + ".png", os.fsdecode(b"bad\xff.png")]
    for name in names:
        shutil.copyfile(source, folder / name)
    out = tmp_path / "out"
    assert run("score", fitted, folder, "--out", out, options="--no-progress") == 0
    with (out / "scores.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
        assert sorted(row[0] for row in list(csv.reader(stream))[1:]) == sorted(names)
    assert len(list((out / "heatmaps").iterdir())) == len(names)


def test_a_name_that_a_spreadsheet_would_compute_is_written_as_a_path(fitted: Path, toy: Path, tmp_path: Path) -> None:
    source = next((toy / "flange/test/good").iterdir())
    folder = tmp_path / "names"
    folder.mkdir()
    names = ["=1+1.png", "+1.png", "-1.png", "@SUM(A1).png", "\t=1.png", "\uff1d1.png", "a=1.png"]
    for name in names:
        shutil.copyfile(source, folder / name)
    (folder / "=broken.png").write_bytes(b"")
    assert run("score", fitted, folder, "--out", tmp_path / "out", options="--no-progress --heat-maps none") == 1
    found = [row[0] for row in rows(tmp_path / "out")[1:]]
    assert sorted(found) == sorted(["a=1.png", *(f"./{name}" for name in [*names[:-1], "=broken.png"])])
    assert all((folder / name).is_file() for name in found)


def test_links_are_followed_within_the_folder_alone_and_each_folder_once(fitted: Path, toy: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(toy / "flange/test/good", tmp_path / "real"))
    names = sorted(path.name for path in folder.iterdir())
    for name in ("__MACOSX", ".ipynb_checkpoints"):
        shutil.copytree(toy / "flange/test/dent", folder / name)
    (folder / "b").mkdir()
    (folder / "b/0.png").symlink_to(folder / names[0])
    (folder / "a").symlink_to(folder / "b")
    (folder / "b/up").symlink_to(folder)
    (tmp_path / "linked").symlink_to(folder)
    for named in (folder, tmp_path / "linked"):
        assert run("score", fitted, named, "--out", tmp_path / "out", options="--no-progress --heat-maps none") == 0
        assert [row[0] for row in rows(tmp_path / "out")[1:]] == [*names, "b/0.png"]
    (tmp_path / "c.png").symlink_to(folder / names[0])
    assert run("score", fitted, tmp_path / "c.png", "--out", tmp_path / "out", options="--no-progress") == 0  # the user's word
    for name, target in (("out.png", toy / "flange/test/dent"), ("z", toy), ("z.png", toy / "flange/test/dent/000.png")):
        (folder / name).symlink_to(target)
        with pytest.raises(
            SystemExit, match=r"error: `images` must be folders that hold their images themselves, got .* outside"
        ):
            run("score", fitted, folder, "--out", tmp_path / "new")
        (folder / name).unlink()
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_pipes_are_named_and_never_waited_for_nor_links_written_through(
    fitted: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out, mine = Path(shutil.copytree(toy / "flange/test/good", tmp_path / "new")), tmp_path / "out", tmp_path / "mine"
    os.mkfifo(folder / "pipe.png")
    (folder / "lost.png").symlink_to(folder / "nowhere.png")
    out.mkdir()
    mine.mkdir()
    (mine / "letter.txt").write_text("mine")
    os.mkfifo(out / "scores.csv")
    os.mkfifo(out / "scores.part")
    (out / "summary.png").symlink_to(mine / "letter.txt")
    (out / "heatmaps").symlink_to(mine)
    assert run("score", fitted, folder, "--out", out, options="--no-progress") == 1
    assert {row[0] for row in rows(out)[1:] if not row[1]} == {"pipe.png", "lost.png"} and len(rows(out)) == 7
    assert "pipe.png (it must be a regular file, got a pipe or a device)" in capsys.readouterr().err
    assert [path.name for path in mine.iterdir()] == ["letter.txt"] and (mine / "letter.txt").read_text() == "mine"
    (folder / "pipe.png").unlink()
    with pytest.raises(SystemExit, match=r"`out` must be outside the images, got .*, which holds '.*summary\.png'"):
        run("score", fitted, out / "summary.png", "--out", out)
    assert (out / "summary.png").is_file()


def test_several_are_told_apart_by_the_names_of_their_folders(fitted: Path, toy: Path, tmp_path: Path) -> None:
    good, dent = toy / "flange/test/good", toy / "flange/test/dent"
    assert run("score", fitted, good, dent, "--out", tmp_path / "out", options="--no-progress --heat-maps none") == 0
    assert {row[0].split("/")[0] for row in rows(tmp_path / "out")[1:]} == {"good", "dent"}
    one = next(dent.iterdir())
    assert run("score", fitted, one, "--out", tmp_path / "one", options="--no-progress") == 0
    assert [row[0] for row in rows(tmp_path / "one")[1:]] == [one.name]
    with pytest.raises(SystemExit, match=r"error: `images` must differ in their names, got '.*' twice"):
        run("score", fitted, one, one, "--out", tmp_path / "twice")


def test_where_it_refuses_to_read_or_write(fitted: Path, toy: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    shutil.copytree(toy / "flange/test/good", folder)

    def sentence(images: Path, out: Path, options: str = "") -> str:
        with pytest.raises(SystemExit) as raised:
            run("score", fitted, images, "--out", out, options=options)
        return str(raised.value)

    for inside in (folder, folder / "scores", tmp_path / "images/../images/out"):
        assert "error: `out` must be outside the images, got" in sentence(folder, inside)
    assert "`images` must be images or folders of them, got" in (told := sentence(tmp_path / "lost", tmp_path / "out"))
    assert "which does not exist" in told
    (tmp_path / "empty").mkdir()
    assert "folders of them, got none in" in sentence(tmp_path / "empty", tmp_path / "out")
    (tmp_path / "file").write_text("mine")
    assert "`out` must be a folder, got the file" in sentence(folder, tmp_path / "file")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("mine")
    assert "`out` must be new, empty or of an earlier `score`, got" in sentence(folder, tmp_path / "mine")
    assert "`white` must be above 0 and finite, got nan" in sentence(folder, tmp_path / "out", "--white nan")
    assert "`features` must be those of the run, 'tiny'" in sentence(folder, tmp_path / "out", "--features os:getcwd")
    assert "a file could not be read or written:" in sentence(folder, tmp_path / "file/out")
    assert "`false_alarms` must be between 0 and 1, got 2" in sentence(folder, tmp_path / "out", "--false-alarms 2")
    for masks in (toy / "flange", toy, toy / "flange/ground_truth", toy / "flange/ground_truth/dent"):
        assert "error: `images` must not be masks, got" in (told := sentence(masks, tmp_path / "out"))
        assert told.endswith("with ground_truth; name the folder test")
    with pytest.raises(SystemExit, match=r"`run` must be a folder that `detect.py fit` has finished, got"):
        run("score", tmp_path / "empty", folder, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_earlier_result_makes_room(fitted: Path, toy: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("score", fitted, toy / "flange/test/good", "--out", out, options="--no-progress") == 0
    assert run("score", fitted, toy / "flange/test/dent", "--out", out, options="--no-progress") == 0
    assert len(rows(out)) == 2 and len(list((out / "heatmaps").iterdir())) == 1  # nothing of the first is left


def test_a_heat_map_has_one_scale_and_a_contour_at_the_threshold() -> None:
    image, heat = torch.full((3, 20, 30), 100, dtype=torch.uint8), torch.zeros(20, 30)
    heat[5:10, 5:10] = 4.0
    picture = pictures.heat_picture(image, heat, 3.0)
    assert picture.shape == (3, 20, 60) and picture.dtype == torch.uint8
    line = (picture[:, :, :30] == torch.tensor(pictures.CONTOUR, dtype=torch.uint8)[:, None, None]).all(0)
    expected = torch.zeros(20, 30, dtype=torch.bool)
    expected[4:11, 4:11] = True
    expected[5:10, 5:10] = False
    assert torch.equal(line, expected)
    assert torch.equal(picture[:, :, :30][:, ~line], image[:, ~line])
    cooler = pictures.heat_picture(image, heat, 30.0)
    assert (cooler[:, :, 30:][:, 7, 7] != picture[:, :, 30:][:, 7, 7]).any()  # the threshold is the scale
    assert torch.equal(cooler[:, :, :30], image)
    assert pictures.heat_picture(image, heat, -1.0).shape == (3, 20, 60)


def test_long_names_are_shortened_from_the_left(tmp_path: Path) -> None:
    tile = torch.zeros(3, 40, 80, dtype=torch.uint8)
    pictures.save_gallery([("a/very/long/path/that/does/not/fit.png\nscore 1", tile)] * 5, tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.size == (4 * 84 + 4, 2 * (40 + 34 + 8) + 4)
    draw = pictures.ImageDraw.Draw(Image.new("RGB", (9, 9)))
    assert pictures.shortened(draw, "short", 80) == "short"
    short = pictures.shortened(draw, "a/very/long/path.png", 80)
    assert short.startswith("...") and short.endswith("path.png"[-4:]) and draw.textlength(short, font=pictures.FONT) <= 80
