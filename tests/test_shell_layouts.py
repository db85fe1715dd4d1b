"""Data sets in the layouts of their publishers: the commands take their normal images alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.sheets import picture

from cutswap_transforms import __main__ as cli
from cutswap_transforms.shell import files

LAYOUTS = {
    "mvtec": ("train/good/0.png", "test/good/1.png", "test/dent/2.png", "ground_truth/dent/2_mask.png"),
    "btad": ("train/ok/0.png", "test/ok/1.png", "test/ko/2.png", "ground_truth/ko/2.png"),
    "visa": ("Data/Images/Normal/0.JPG", "Data/Images/Anomaly/1.JPG", "Data/Masks/Anomaly/1.png"),
    "tiles": ("MT_Free/Imgs/0.jpg", "MT_Free/Imgs/0.png", "MT_Crack/Imgs/1.jpg", "MT_Crack/Imgs/1.png"),
    "folder": ("good/0.png", "bad/1.png", "mask/1.png"),
    "export": ("normal/0.png", "swap/1.png", "mask/1.png"),
}
MEANT = ("train/good", "train/ok", "Data/Images/Normal", "MT_Free/Imgs/*.jpg", "good", "normal")


def layout(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture().save(folder / name)
    return folder


@pytest.mark.parametrize(("names", "meant"), list(zip(LAYOUTS.values(), MEANT, strict=True)), ids=LAYOUTS)
def test_a_data_set_given_for_its_normal_images_is_refused_by_every_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], names: tuple[str, ...], meant: str
) -> None:
    part = layout(tmp_path / "sets" / "part", names)
    others = {part / Path(name).parent for name in names if "ood" not in name and "Normal" not in name}
    others = {folder for folder in others if folder.name not in ("ok", "normal")}
    (tmp_path / "link").symlink_to(part)
    for given in (part, part.parent, tmp_path / "link", *others):
        for command in (
            ["preview", given, "--out", tmp_path / "sheet.png"],
            ["precompute", given, "--size", "32", "--cache", tmp_path / "c"],
            ["export", given, tmp_path / "out", "--size", "32", "--count", "1"],
        ):
            assert cli.main(list(map(str, command))) == 2
            told = capsys.readouterr().err
            assert f"error: `images` must be normal images alone, got {tmp_path}" in told and told.endswith(f"/{meant}\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "sets"]
    assert len(files.find_images(list(part.glob(meant)))) == 1


def test_folders_of_good_parts_are_taken(tmp_path: Path) -> None:
    part = layout(tmp_path / "part", LAYOUTS["mvtec"])
    for given in ("train", "train/good", "test/good"):
        assert len(files.find_images([part / given])) == 1
    assert len(files.find_images([part / "test/dent/2.png"])) == 1  # who names a file means it
    plain = layout(tmp_path / "plain", ("good/0.png", "left/1.png", "test/2.png"))
    assert len(files.find_images([plain])) == 3
