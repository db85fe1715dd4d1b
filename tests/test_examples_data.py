"""The examples' readers: three layouts, pictures and masks of every kind, and the sentences for data that are wrong."""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path
from typing import Any

import data
import numpy as np
import pytest
import torch
import toy
from PIL import Image

rng = np.random.default_rng(0)


def noise(height: int = 17, width: int = 11) -> np.ndarray[Any, Any]:
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, picture: Any = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (picture if isinstance(picture, Image.Image) else Image.fromarray(noise() if picture is None else picture)).save(path)
    return path


DEFECT = np.eye(17, 11, dtype=np.uint8)
TABLE = "object,split,label,image,mask\n"


@pytest.fixture
def mvtec(tmp_path: Path) -> Path:
    """cap: two normal images, one good and two cracked test images, of which one has a mask; and what is not data."""
    folder = tmp_path / "cap"
    for name in ("train/good/0.png", "train/good/1.jpg", "test/good/0.png", "test/crack/0.png", "test/crack/1.png"):
        save(folder / name)
    save(folder / "ground_truth/crack/0_mask.png", DEFECT * 255)
    (folder / "train/good/Thumbs.db").write_bytes(b"no image")
    (folder / "test/crack/._0.png").write_bytes(b"a shadow of another system")
    for name in ("ground_truth/good", "ground_truth/nested/000", "test/.ipynb_checkpoints"):
        (folder / name).mkdir(parents=True)
    return folder


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


def test_digest_tells_data_apart_wherever_they_lie(mvtec: Path, tmp_path: Path) -> None:
    before = data.read_categories(mvtec)[0].digest()
    (tmp_path / "deep").mkdir()
    moved = mvtec.rename(tmp_path / "deep/cap")
    found = [data.read_categories(moved)[0].digest()]
    assert found == [before] and before.startswith("2 + 3 images, ")
    for change in (
        lambda: [(moved / kind / "crack").rename(moved / kind / "dust") for kind in ("test", "ground_truth")],
        lambda: save(moved / "train/good/2.png"),
        lambda: save(moved / "train/good/2.png", noise(30, 40)),
        lambda: save(moved / "ground_truth/dust/1_mask.png", DEFECT),
        lambda: replaced(moved / "train/good/1.jpg"),
        lambda: replaced(moved / "test/good/0.png"),
        lambda: replaced(moved / "ground_truth/dust/1_mask.png"),
    ):
        change()
        found.append(data.read_categories(moved)[0].digest())
    assert len(set(found)) == 8
    shutil.copytree(moved, tmp_path / "copy/cap")
    for path in (tmp_path / "copy").rglob("*.*"):
        os.utime(path, (0, 0))  # when it was written is nothing
    assert data.read_categories(tmp_path / "copy/cap")[0].digest() == found[-1]


def replaced(path: Path) -> None:
    """Another content of the same size, at the same time."""
    before, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_never_opened(mvtec: Path, tmp_path: Path) -> None:
    """It would be read for ever."""
    os.mkfifo(mvtec / "ground_truth/crack/1_mask.png")
    with pytest.raises(data.DataError, match=r"must hold images as regular files, got 1_mask\.png in"):
        data.read_categories(mvtec)
    folder = visa(tmp_path / "visa", "candle,test,anomaly,candle/pipe.png,candle/pipe.png\n")
    os.mkfifo(folder / "candle/pipe.png")
    (candle,) = data.read_categories(folder)
    assert candle.digest() == candle.digest()
    with pytest.raises(data.DataError, match=r"pipe\.png \(it must be a regular file, got a pipe or a device\)"):
        data.decode(candle.test, 8)
    with pytest.raises(data.DataError, match=r"masks .*pipe\.png \(it must be a regular file, got a pipe or a device\)"):
        data.decode_masks(candle.test, 8)
    device = data.Sample(Path("/dev/zero"), "crack", mvtec)
    with pytest.raises(data.DataError, match="got a pipe or a device"):
        data.decode([device], 8)
    with pytest.raises(data.DataError, match="got a folder"):
        data.decode_masks([device], 8)
    (folder / "1cls.csv").unlink()
    os.mkfifo(folder / "1cls.csv")
    with pytest.raises(data.DataError, match="must hold train/good"):
        data.read_categories(folder)


@pytest.mark.parametrize("name", [".ipynb_checkpoints", "__MACOSX", ".Trash-0", "@eaDir"])
def test_folders_of_the_system_are_no_data(mvtec: Path, name: str) -> None:
    before = data.read_categories(mvtec)
    for folder in ("", "train", "train/good", "test", "test/crack", "ground_truth"):
        save(mvtec / folder / name / "0-checkpoint.png")
        (mvtec / folder / name / "._0.png").write_bytes(b"a shadow")
    assert data.read_categories(mvtec) == before
    shutil.copytree(mvtec, mvtec.parent / name / "cap")
    save(mvtec.parent / name / "train/good/0.png")
    assert data.read_categories(mvtec.parent) == before
    assert data.read_normal(mvtec / "train").train == before[0].train


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("", None, r"`data` must be 'toy' or a folder, got '.*/cap', which is none"),
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


# ---- data of others: names become folders, paths are read ------------------------------------------------------------


def visa(folder: Path, rows: str | bytes) -> Path:
    """A VisA folder with a whole object, `candle`, and more rows below it, or a table of other bytes."""
    for name in ("train", "test", "defect"):
        save(folder / f"candle/{name}.png")
    whole = "candle,train,normal,candle/train.png,\ncandle,test,normal,candle/test.png,\n"
    (folder / "1cls.csv").write_bytes(rows if isinstance(rows, bytes) else (TABLE + whole + rows).encode())
    return folder


@pytest.mark.parametrize(
    "name", ["/somewhere/x", "../x", "..", ".", "a/b", "a\\b", "", " ", "a\0b", "a\nb", "x" * 300, "\u2028", "C:x"]
)
def test_a_category_has_a_name_that_is_safe_as_a_folders(tmp_path: Path, name: str) -> None:
    rows = "".join(f'"{name}",{part},normal,candle/{part}.png,\n' for part in ("train", "test"))
    with pytest.raises(data.DataError, match=r"name|line contains NUL|must have rows"):
        data.read_categories(visa(tmp_path, rows))
    with pytest.raises(data.DataError, match="a category's name becomes that of a folder: it must be one part of a path"):
        data.Category(name, [], [])
    with pytest.raises(data.DataError, match="a defect's name stands above its images: it must be one part of a path"):
        data.Sample(Path("a.png"), name)


@pytest.mark.parametrize("column", ["image", "mask"])
@pytest.mark.parametrize(
    "path", ["{secret}", "../secret.png", "candle/../../secret.png", "candle/out.png", "candle/away/secret.png", "out.png"]
)
def test_a_table_names_files_below_its_folder_alone(tmp_path: Path, column: str, path: str) -> None:
    secret = save(tmp_path / "secret.png")
    folder = visa(tmp_path / "visa", "")
    (folder / "candle/out.png").symlink_to(secret)
    (folder / "candle/away").symlink_to(tmp_path)
    (folder / "out.png").symlink_to(secret)
    path = path.format(secret=secret)
    files = f"{path},candle/defect.png" if column == "image" else f"candle/defect.png,{path}"
    with pytest.raises(data.DataError, match=r"`data` must hold its images and masks itself, got .* outside of"):
        data.read_categories(visa(folder, f"candle,test,anomaly,{files}\n"))


def test_the_folder_that_is_named_may_be_a_link_what_it_holds_may_not_lead_out(mvtec: Path, tmp_path: Path) -> None:
    """The same in all layouts: a big data set lies on another disk, and its user links to the whole of it."""
    visa(tmp_path / "disk", "")
    (tmp_path / "linked").symlink_to(tmp_path / "disk")
    (candle,) = data.read_categories(tmp_path / "linked")
    assert [s.path for s in candle.train] == [tmp_path / "linked/candle/train.png"]
    (tmp_path / "visa").mkdir()
    (tmp_path / "visa/candle").symlink_to(tmp_path / "disk/candle")
    shutil.copy(tmp_path / "disk/1cls.csv", tmp_path / "visa")
    (tmp_path / "all").mkdir()
    (tmp_path / "all/cap").symlink_to(mvtec)
    save(tmp_path / "disk/tiles/MT_Free/Imgs/0.jpg")
    (tmp_path / "tiles").mkdir()
    (tmp_path / "tiles/MT_Free").symlink_to(tmp_path / "disk/tiles/MT_Free")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/good").symlink_to(mvtec / "train/good")
    (tmp_path / "table").mkdir()
    (tmp_path / "table/1cls.csv").symlink_to(tmp_path / "disk/1cls.csv")
    (tmp_path / "table/candle").mkdir()
    for folder, inner in (("visa", ""), ("all", "cap"), ("tiles", ""), ("parts", "good"), ("table", "")):
        for read in (data.read_normal, *([data.read_categories] if folder != "parts" else [])):
            with pytest.raises(data.DataError, match=r"`data` must hold its images .* name the folder that holds it"):
                read(tmp_path / folder)
        if inner:
            assert len(data.read_normal(tmp_path / folder / inner).train) == 2


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


def test_a_path_that_is_too_long_is_an_image_that_cannot_be_read(tmp_path: Path) -> None:
    (candle,) = data.read_categories(visa(tmp_path, f"candle,test,anomaly,candle/{'x' * 3000},\n"))
    assert candle.digest().startswith("1 + 2 images")
    with pytest.raises(data.DataError, match=r"got 1 that cannot: .* too long"):
        data.decode(candle.test, 8)


@pytest.mark.parametrize("kind", ["train/good/9.png", "test/crack/9.png", "ground_truth/crack/1_mask.png"])
def test_a_category_holds_its_files_itself(mvtec: Path, tmp_path: Path, kind: str) -> None:
    secret = save(tmp_path / "elsewhere/secret.png")
    (mvtec / kind).symlink_to(secret)
    for folder in (mvtec, mvtec.parent):
        with pytest.raises(data.DataError, match=r"`data` must hold its images and masks itself, got .* outside of .*; copy"):
            data.read_categories(folder if folder == mvtec else _only(mvtec, tmp_path / "all"))
    if "mask" not in kind:
        shutil.rmtree(mvtec / "ground_truth")
        part = (mvtec / kind).parent
        part.rename(tmp_path / "moved")
        (tmp_path / "moved/9.png").unlink()
        part.symlink_to(tmp_path / "moved")
        with pytest.raises(data.DataError, match="must hold its images and masks itself"):
            data.read_categories(mvtec)


def _only(category: Path, folder: Path) -> Path:
    """A folder that holds a link to the category."""
    folder.mkdir()
    (folder / category.name).symlink_to(category)
    return folder


def test_links_within_a_data_folder_are_followed(tmp_path: Path) -> None:
    folder = tmp_path / "all"
    save(folder / "lid/train/good/0.png")
    save(folder / "lid/test/good/0.png")
    (folder / "cap").symlink_to(folder / "lid")
    (folder / "lid/train/good/1.png").symlink_to("../../test/good/0.png")
    save(folder / "shared/2.png")
    (folder / "lid/train/good/2.png").symlink_to(folder / "shared/2.png")
    assert [(c.name, len(c.train)) for c in data.read_categories(folder)] == [("cap", 3), ("lid", 3)]
    with pytest.raises(data.DataError, match="must hold its images and masks itself"):
        data.read_categories(folder / "lid")  # what was named does not hold them


def test_parts_and_tiles_hold_their_files_themselves(tmp_path: Path) -> None:
    secret = save(tmp_path / "secret.jpg")
    for part in ("good", "crack", "MT_Free/Imgs"):
        save(tmp_path / "all" / part / "0.jpg")
        save(tmp_path / "all" / part / "1.jpg")
    root = tmp_path / "all"
    (root / "crack" / "2.jpg").symlink_to(secret)
    with pytest.raises(data.DataError, match="must hold its images and masks itself"):
        data.read_parts(root, "good", ["crack"])
    (root / "MT_Free/Imgs/2.jpg").symlink_to(secret)
    with pytest.raises(data.DataError, match="must hold its images and masks itself"):
        data.read_categories(root)
    (root / "crack" / "2.jpg").unlink()
    (tmp_path / "crack").symlink_to(root / "crack")
    assert len(data.read_parts(root, "good", ["../crack"]).test) == 3  # the user's own word


@pytest.mark.parametrize("name", ["../x", "..", "/etc", "cap/../cap", "a\0b", ""])
def test_categories_are_asked_for_by_their_names_alone(mvtec: Path, name: str) -> None:
    (mvtec.parent / "x").symlink_to(mvtec)
    for folder in (mvtec, mvtec.parent, visa(mvtec.parent / "visa", "")):
        with pytest.raises(data.DataError, match="`--categories` must be among "):
            data.read_categories(folder, [name])


def test_every_fault_of_a_decoder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A DDS file under another suffix, for one, raises NotImplementedError."""
    picture = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(picture, "DDS")
    picture.write_bytes(picture.read_bytes()[:80] + bytes(4) + picture.read_bytes()[84:])
    with pytest.raises(data.DataError, match=r"got 1 that cannot: .*a\.png \(Unknown pixel format flags 0\)"):
        data.decode([data.Sample(picture)], 8)
    with pytest.raises(data.DataError, match=r"masks that can be read, got 1 that cannot: .*a\.png"):
        data.decode_masks([data.Sample(picture, "crack", picture)], 8)


def test_images_of_every_size_and_mode_become_equal_squares_and_photographs_stand_upright(tmp_path: Path) -> None:
    modes = {"RGB": "png", "L": "png", "RGBA": "png", "P": "png", "1": "png", "CMYK": "tif"}
    pictures = [Image.fromarray(noise(9 + i, 20)).convert(mode) for i, mode in enumerate(modes)]
    paths = [save(tmp_path / f"{m}.{modes[m]}", picture) for m, picture in zip(modes, pictures, strict=True)]
    images, samples = data.decode([data.Sample(p) for p in paths], 12)
    assert images.shape == (6, 3, 12, 12) and images.dtype == torch.uint8 and len(samples) == 6
    assert all(image.float().std() > 5 for image in images)
    picture, exif = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)), Image.Exif()
    exif[0x0112] = 6  # turn by a quarter to see it upright
    picture.save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(data.read_image(tmp_path / "turned.png", 16)[0].numpy(), np.rot90(np.asarray(picture), -1))


DEEP = [("deep.png", np.uint16, 65535), ("deep.tif", np.uint16, 4095), ("deep.tif", np.float32, 1.0)]


@pytest.mark.parametrize(("name", "kind", "top"), DEEP)
def test_deep_greys_are_kept_or_refused(tmp_path: Path, name: str, kind: Any, top: float) -> None:
    ramp = np.linspace(0, top, 16).astype(kind)[None].repeat(16, 0)
    sample, white = data.Sample(save(tmp_path / name, ramp)), None
    if top != 65535:
        with pytest.raises(data.DataError, match=r"deep\.tif \(deep grays up to (4095|1): pass --white, the value of white"):
            data.decode([sample], 16)
        white = top
    images, _ = data.decode([sample], 16, white=white)
    assert images[0, 0, 0].tolist() == (ramp[0] * 255.0 / top).astype(int).tolist()


def test_unreadable_images_are_all_named_and_skipped_on_request(tmp_path: Path) -> None:
    whole, cut = save(tmp_path / "whole.png"), save(tmp_path / "cut.png", noise(64, 64))
    cut.write_bytes(cut.read_bytes()[:900])
    (tmp_path / "text.jpg").write_text("no image")
    samples = [data.Sample(p) for p in (cut, whole, tmp_path / "text.jpg", tmp_path / "gone.png")]
    with pytest.raises(data.DataError, match=r"got 3 that cannot: .*cut\.png.*text\.jpg.*gone\.png.*--skip-unreadable"):
        data.decode(samples, 8)
    with pytest.warns(UserWarning, match=r"skipped 3 images that cannot be read: .*cut\.png"):
        images, kept = data.decode(samples, 8, skip_unreadable=True)
    assert len(images) == 1 and [s.path.name for s in kept] == ["whole.png"]
    with pytest.raises(data.DataError, match="got none among 1"), pytest.warns(UserWarning, match="skipped 1"):
        data.decode(samples[:1], 8, skip_unreadable=True)


def test_masks_are_binary_whatever_they_were(tmp_path: Path) -> None:
    truth = np.zeros((10, 8), np.uint8)
    truth[2:5, 3:6] = 1
    rgb = truth[..., None].repeat(3, 2)
    files = {"labels": truth * 3, "white": truth * 255, "rgb": rgb * 9, "red": rgb * np.uint8([1, 0, 0])}  # a luminance of 0.3
    files["opaque"] = np.concatenate((rgb * 9, rgb[..., :1] * 0 + 255), 2)  # everywhere, which is no defect
    files["clear"] = np.concatenate((rgb * 0 + 255, truth[..., None] * 255), 2)  # white, seen where truth is
    enlarged = np.asarray(Image.fromarray(truth).resize((40, 40), Image.Resampling.NEAREST))
    for name, values in files.items():
        found = data.read_mask(save(tmp_path / f"{name}.png", values), 40)
        assert found.dtype == torch.uint8 and set(found.unique().tolist()) == {0, 1}, name
        np.testing.assert_array_equal(found.numpy(), enlarged, err_msg=name)


def square() -> Image.Image:
    """64 px, of which 100 mark a defect."""
    return Image.fromarray(np.pad(np.full((10, 10), 255, np.uint8), ((20, 34), (30, 24))))


@pytest.mark.parametrize("first", [0, 255])
def test_palette_masks_count_by_their_colors(tmp_path: Path, first: int) -> None:
    marked = np.asarray(square()) > 0
    index = np.where(marked == (first > 0), 0, 1).astype(np.uint8)  # index 0 has the color `first`
    picture = Image.fromarray(index)
    picture.putpalette([first] * 3 + [255 - first, 0, 0])
    assert picture.mode == "P"
    for suffix in ("png", "bmp", "tif", "png"):
        np.testing.assert_array_equal(data.read_mask(save(tmp_path / f"m.{suffix}", picture), 64).numpy(), marked)
    save(tmp_path / "m.png", square().quantize(2))
    np.testing.assert_array_equal(data.read_mask(tmp_path / "m.png", 64).numpy(), marked)


LOSSY = [("jpg", {}), ("jpg", {"quality": 20}), ("webp", {}), ("tif", {"compression": "jpeg"})]


@pytest.mark.parametrize(("suffix", "options"), LOSSY)
@pytest.mark.parametrize("color", [(255, 255, 255), (255, 0, 0)])
def test_lossy_masks_do_not_grow(tmp_path: Path, suffix: str, options: dict[str, Any], color: tuple[int, int, int]) -> None:
    picture = Image.composite(Image.new("RGB", (64, 64), color), Image.new("RGB", (64, 64)), square())
    picture.save(tmp_path / f"m.{suffix}", **options)
    found = data.read_mask(tmp_path / f"m.{suffix}", 64)
    grown = 1.1 if color[1] else 1.7  # the color itself is stored at half of the resolution
    assert 100 / grown < found.sum() < 100 * grown


@pytest.mark.parametrize(
    ("mode", "suffix"), [("L", "png"), ("I;16", "png"), ("F", "tif"), ("I", "tif"), ("L", "webp"), ("1", "png")]
)
def test_label_maps_count_from_one_in_lossless_files(tmp_path: Path, mode: str, suffix: str) -> None:
    labels = (np.asarray(square()) > 0).astype({"I;16": "u2", "F": "f4", "I": "i4"}.get(mode, "u1"))
    picture = Image.fromarray(labels * 255).convert("1") if mode == "1" else Image.fromarray(labels)
    picture.save(tmp_path / f"m.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    assert data.read_mask(tmp_path / f"m.{suffix}", 64).sum() == 100


def test_black_of_print_is_no_defect(tmp_path: Path) -> None:
    assert data.read_mask(save(tmp_path / "m.tif", square().convert("RGB").convert("CMYK")), 64).sum() == 100


def test_masks_that_look_wrong_are_named(tmp_path: Path) -> None:
    good = save(tmp_path / "photo.png", noise(64, 64))
    inverted = save(tmp_path / "inverted.png", Image.eval(square(), lambda v: 255 - v))
    wide = save(tmp_path / "wide.png", square().resize((128, 64)))
    small = save(tmp_path / "small.png", square().resize((21, 21)))
    with pytest.warns(UserWarning) as told:
        masks = data.decode_masks([data.Sample(good, "dent", mask) for mask in (inverted, wide, small)], 64)
    assert masks.shape == (3, 64, 64)
    assert [str(w.message) for w in told] == [
        f"masks to look at: {inverted} marks 98% of its image as a defect: it may be inverted; "
        f"{wide} of 128 x 64 px is of another aspect than its image of 64 x 64 px"
    ]


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("orientation", [1, 3, 5, 6, 7, 8])
def test_a_mask_is_turned_with_its_photograph(tmp_path: Path, orientation: int, suffix: str) -> None:
    stored, exif = np.zeros((40, 80), np.uint8), Image.Exif()
    stored[4:12, 10:40] = 255
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / f"photo.{suffix}", exif=exif.tobytes())
    Image.fromarray(stored).save(tmp_path / "own.png", exif=exif.tobytes())  # says itself how it is turned
    Image.fromarray(stored).save(tmp_path / "raw.png")  # drawn on the photograph as it is stored
    upright = (data.read_image(tmp_path / f"photo.{suffix}", 40)[0] > 127).to(torch.uint8)
    Image.fromarray(upright.numpy() * 255).resize((40, 80) if orientation > 4 else (80, 40), 0).save(tmp_path / "seen.png")
    for name in ("own", "seen", *(["raw"] if orientation != 3 else [])):
        (mask,) = data.decode_masks([data.Sample(tmp_path / f"photo.{suffix}", "dent", tmp_path / f"{name}.png")], 40)
        assert (mask != upright).float().mean() < 0.03, name


@pytest.mark.parametrize("values", ["u2", "u1"])
def test_deep_photographs_stand_upright_too(tmp_path: Path, values: str) -> None:
    picture, exif = (np.arange(256).reshape(16, 16) * (257 if values == "u2" else 1)).astype(values), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture).save(tmp_path / "turned.png", exif=exif)
    found = data.read_image(tmp_path / "turned.png", 16)[0].numpy()
    np.testing.assert_array_equal(found, np.rot90(np.arange(256).reshape(16, 16), -1))


def test_values_that_white_cannot_be_guessed_for_are_refused(tmp_path: Path) -> None:
    sample = data.Sample(save(tmp_path / "wide.tif", np.linspace(0, 1e6, 256).reshape(16, 16).astype(np.int32)))
    with pytest.raises(data.DataError, match=r"deep grays up to 1e\+06: pass --white"):
        data.decode([sample], 16)
    images, _ = data.decode([sample], 16, white=1e6)
    assert images.min() == 0 and images.max() == 255


def test_what_surprises_is_a_warning(tmp_path: Path) -> None:
    clear = data.Sample(save(tmp_path / "clear.png", np.full((16, 16, 4), 100, np.uint8)))
    with pytest.warns(UserWarning, match="transparency is laid on white"):
        data.decode([clear], 16)
    deep = data.Sample(save(tmp_path / "deep.png", np.arange(256, dtype=np.uint16).reshape(16, 16) * 257))
    with pytest.warns(UserWarning, match="values below 0 or above --white are clipped"):
        images, _ = data.decode([deep], 16, white=6553.5)
    assert images[0, 0, 0, :3].tolist() == [0, 10, 20]


@pytest.mark.parametrize("name", ["image", "mask"])
def test_a_pipe_is_never_opened_by_the_readers(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    read = data.read_image if name == "image" else data.read_mask
    with pytest.raises(ValueError, match="not a regular file"):
        read(tmp_path / "pipe.png", 16)


def test_masks_of_any_size_one_for_every_defect(mvtec: Path) -> None:
    with pytest.raises(data.DataError, match=r"a mask for every defect to score pixels, got 1 without, first '.*crack/1\.png'"):
        data.decode_masks(data.read_categories(mvtec)[0].test, 8)
    save(mvtec / "ground_truth/crack/1_mask.png", np.full((50, 60), 7, np.uint8))
    with pytest.warns(UserWarning, match=r"1_mask\.png marks 100% .*; .*1_mask\.png of 60 x 50 px is of another aspect"):
        masks = data.decode_masks(data.read_categories(mvtec)[0].test, 6)
    assert masks.shape == (3, 6, 6)
    assert 0 < masks[0].sum() < 36 and masks[1].min() == 1 and masks[2].max() == 0


@pytest.mark.parametrize("defect", ["scratch", "stain", "dent", "chip", "fibre"])
@pytest.mark.parametrize("category", ["flange", "wood"])
def test_toy_defects_follow_their_seeds_are_small_and_change_what_their_mask_says(category: str, defect: str) -> None:
    ratios, masks = [], set()
    for seed in range(4):
        picture, mask = toy.make_defective(category, seed, 64, defect)
        np.testing.assert_equal((picture, mask), toy.make_defective(category, seed, 64, defect))
        clean = toy.make_scene(category, seed, 64, variant=toy.VARIANT)
        change, inside = np.abs(picture.astype(int) - clean).mean(2), mask > 0
        assert 0 < inside.mean() < 0.05  # subtle: a twentieth of the picture at most
        ratios.append(change[inside].mean() / (change[~inside].mean() + 0.5))
        masks.add(mask.tobytes())
    assert np.median(ratios) > 3 and len(masks) == 4


def test_toy_folder_reads_as_mvtec_and_is_drawn_once(tmp_path: Path) -> None:
    small = {"size": 32, "train": 2, "good": 1, "per_defect": 1, "categories": ("wood",)}
    folder = toy.write_toy(tmp_path / "toy", **small)
    (category,) = data.read_categories(folder)
    assert [len(category.train), len(category.test)] == [2, 6]
    assert {s.defect for s in category.test} == {None, *toy.DEFECTS}
    assert (data.decode_masks(category.test, 32).flatten(1).sum(1) > 0).sum() == 5
    stamp = category.train[0].path.stat().st_mtime_ns
    toy.write_toy(tmp_path / "toy", **small)
    assert category.train[0].path.stat().st_mtime_ns == stamp
    with pytest.raises(FileExistsError, match=r"`folder` must be new or hold this toy set, got '.*toy'; remove it"):
        toy.write_toy(tmp_path / "toy", **small | {"train": 3})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["toy"]  # no draft is left
