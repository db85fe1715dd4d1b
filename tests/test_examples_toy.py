"""The toy set: defects that follow their seeds, in a folder that reads as MVTec's and is drawn once."""

from __future__ import annotations

from pathlib import Path

import data
import numpy as np
import pytest
import toy


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
