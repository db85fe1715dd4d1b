"""The examples' data folders: the layouts of MVTec, VisA, anomalib and others, and sentences for layouts that are wrong."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import data
import pytest
from helpers.data_folders import DEFECT, TABLE, save, visa


def test_mvtec_layout_and_a_folder_of_categories(mvtec: Path) -> None:
    (category,) = data.read_categories(mvtec)
    assert (category.name, [s.path.name for s in category.train]) == ("cap", ["0.png", "1.jpg"])
    found = [(s.defect, s.path.name, s.mask is not None) for s in category.test]
    assert found == [("crack", "0.png", True), ("crack", "1.png", False), (None, "0.png", False)]
    (mvtec.parent / "lid").symlink_to(mvtec)
    (mvtec.parent / "readme").mkdir()
    assert [len(c.train) for c in data.read_categories(mvtec.parent)] == [2, 2]
    assert len(data.read_categories(mvtec.parent, ["lid"])) == 1
    with pytest.raises(data.DataError, match="`--categories` must be among cap, lid, got screw"):
        data.read_categories(mvtec.parent, ["cap", "screw"])


def test_visa(tmp_path: Path) -> None:
    rows = ["train,normal,{0}/n0.JPG,", "test,normal,{0}/n1.JPG,", "test,anomaly,{0}/a0.JPG,{0}/a0.png"]
    lines = [f"{name},{row.format(name)}\n" for name in ("candle", "pcb1") for row in rows]
    (tmp_path / "split_csv").mkdir()
    (tmp_path / "split_csv" / "1cls.csv").write_text(TABLE + "".join(lines))
    candle, pcb = data.read_categories(tmp_path)
    assert (candle.name, pcb.name) == ("candle", "pcb1")
    assert [s.path for s in candle.train] == [tmp_path / "candle/n0.JPG"]
    assert [(s.defect, s.mask) for s in pcb.test] == [(None, None), ("anomaly", tmp_path / "pcb1/a0.png")]
    assert data.read_categories(tmp_path, ["pcb1"]) == [pcb]


def test_anomalib_folder(tmp_path: Path) -> None:
    for path in (*(f"good/{i:02d}.png" for i in range(10)), "crack/00.jpg", "good_test/00.png"):
        save(tmp_path / path)
    save(tmp_path / "mask/crack/00.png", DEFECT)
    split = data.read_parts(tmp_path, "good", ["crack"], masks=["mask/crack"])
    assert [len(split.train), len(split.test)] == [8, 3]  # every fifth normal image is held out, none is in both
    assert not {s.path for s in split.train} & {s.path for s in split.test}
    assert [(s.defect, s.mask) for s in split.test][-1] == ("crack", tmp_path / "mask/crack/00.png")
    parser = argparse.ArgumentParser()
    data.add_arguments(parser)
    args = parser.parse_args([str(tmp_path), "--normal-dir", "good", "--abnormal-dir", "crack"])
    (category,) = data.categories_from(args)
    assert [len(category.train), [s.defect for s in category.test]] == [8, [None, None, "crack"]]
    named = data.read_parts(tmp_path, "good", ["crack"], "good_test")
    assert [len(named.train), len(named.test)] == [10, 2]
    one_each = r"`mask_dir` must name one folder or one for each of \['crack'\], got \['a', 'b'\]"
    with pytest.raises(data.DataError, match=one_each):
        data.read_parts(tmp_path, "good", ["crack"], masks=["a", "b"])


def test_magnetic_tiles_as_they_are_published(tmp_path: Path) -> None:
    for name, mask in (*((f"MT_Free/Imgs/{i}", DEFECT * 0) for i in range(10)), ("MT_Blowhole/Imgs/7", DEFECT * 255)):
        save(tmp_path / f"{name}.jpg")
        save(tmp_path / f"{name}.png", mask)
    (tiles,) = data.read_categories(tmp_path)
    assert tiles.name == "mtd" and data.read_categories(tmp_path, ["mtd"]) == [tiles]
    assert [len(tiles.train), [s.defect for s in tiles.test]] == [8, [None, None, "blowhole"]]
    assert len({s.path for s in (*tiles.train, *tiles.test)}) == 11 and all(s.path.suffix == ".jpg" for s in tiles.test)
    assert data.decode_masks(tiles.test, 8).flatten(1).amax(1).tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("", None, r"`data` must be 'toy' or a folder, got '.*/cap', which does not exist"),
        ("train/good", None, "`data` must hold the normal images in train/good, got .*train' with nothing in it"),
        ("train", None, "must hold train/good .* or VisA's 1cls.csv, got .* with ground_truth, test; for anomalib"),
        ("test", None, "must hold test/<defect> and test/good, got .* with ground_truth, train"),
        ("train/good", "empty", "must hold images .* in every class, got none in .*train/good"),
        ("test/crack", "empty", "must hold images .* in every class, got none in .*test/crack"),
        ("1cls.csv", "a,b\n1,2\n", "`1cls.csv` must have rows with the columns image, label, mask, object, split, got"),
        ("1cls.csv", f"{TABLE}x,train,normal,a,\n", "list training and test images .* got none .* for 'x'"),
        ("1cls.csv", f"{TABLE}x,train,anomaly,a,\nx,test,normal,b,\n", "normal images only .* for 'x'"),
    ],
)
def test_layout_that_is_wrong(mvtec: Path, name: str, content: str | None, message: str) -> None:
    shutil.rmtree(mvtec / name, ignore_errors=True)
    if content == "empty":
        (mvtec / name).mkdir()
    elif content:
        (mvtec / name).write_text(content)
    with pytest.raises(data.DataError, match=message):
        data.read_categories(mvtec)


@pytest.mark.parametrize(
    "name", ["/somewhere/x", "../x", "..", ".", "a/b", "a\\b", "", " ", "a\0b", "a\nb", "x" * 300, "\u2028", "C:x"]
)
def test_a_category_has_a_name_that_is_safe_as_a_folders(tmp_path: Path, name: str) -> None:
    rows = "".join(f'"{name}",{part},normal,candle/{part}.png,\n' for part in ("train", "test"))
    with pytest.raises(data.DataError, match=r"name|line contains NUL|must have rows"):
        data.read_categories(visa(tmp_path, rows))
    with pytest.raises(data.DataError, match="a category's name becomes that of a folder: it must be one part of a path"):
        data.Category(name, [], [])
    with pytest.raises(data.DataError, match="a defect's name is that of its folder: it must be one part of a path"):
        data.Sample(Path("a.png"), name)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("candle,test,anomaly\n", "must have rows with the columns .*, got line 4 of .*1cls.csv' without image"),
        ("candle,test,anomaly,candle/a.png\n", "got line 4 of .*1cls.csv' without mask"),
        ("candle,test,anomaly,,\n", "got line 4 of .*1cls.csv' without image"),
        ("candle,other,anomaly,candle/a.png,\n", "must have `split` train or test, got 'other' in line 4"),
        ("candle,test,anomaly,candle/a\0.png,\n", "."),
        (f"candle,test,anomaly,{'x' * 200_000},\n", "must be a table in UTF-8, got .*field larger than field limit"),
        (b"", "must have rows with the columns"),
        (TABLE.encode(), "must have rows with the columns"),
        (b"object,split,label\ncandle,train,normal\n", "must have rows with the columns .*, got .*without image, mask"),
        (TABLE.encode("utf-16"), "must be a table in UTF-8, got .*'utf-8' codec can't decode byte 0xff"),
        (bytes(range(256)) * 9, "must be a table in UTF-8, got .*'utf-8' codec can't decode"),
        (b"\0" * 500, "."),
    ],
)
def test_a_table_that_is_none_is_told(tmp_path: Path, rows: str | bytes, message: str) -> None:
    with pytest.raises(data.DataError, match=message):
        data.read_categories(visa(tmp_path, rows))


def test_a_table_as_spreadsheets_write_it(tmp_path: Path) -> None:
    whole = (visa(tmp_path, "") / "1cls.csv").read_text()
    (candle,) = data.read_categories(visa(tmp_path, whole.replace("\n", "\r\n").encode("utf-8-sig")))
    assert (candle.name, len(candle.train)) == ("candle", 1)


@pytest.mark.parametrize("name", ["../x", "..", "/etc", "cap/../cap", "a\0b", ""])
def test_categories_are_asked_for_by_their_names_alone(mvtec: Path, name: str) -> None:
    (mvtec.parent / "x").symlink_to(mvtec)
    for folder in (mvtec, mvtec.parent, visa(mvtec.parent / "visa", "")):
        with pytest.raises(data.DataError, match="`--categories` must be among "):
            data.read_categories(folder, [name])
