"""The files of a data folder: all below it, links followed within it alone, no pipes, and a digest of what they hold."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import data
import pytest
from helpers.data_folders import DEFECT, noise, save, visa


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
