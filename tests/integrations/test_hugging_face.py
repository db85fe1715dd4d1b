"""Hugging Face datasets: every image of a batch gets a swap of its own."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
import torch
from datasets import Dataset
from datasets.fingerprint import Hasher

from cutswap_transforms import SaliencySwap
from cutswap_transforms.adapters import HuggingFaceSwap

PICTURE = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 52, 3), dtype=np.uint8))


@pytest.fixture
def data():
    return Dataset.from_dict({"image": [PICTURE] * 4, "label": [0] * 4})


def test_each_image_has_a_swap_of_its_own(data):
    batch = data.with_transform(HuggingFaceSwap(mask="mask"))[0:4]
    masks = torch.stack([mask.as_subclass(torch.Tensor) for mask in batch["mask"]])
    assert masks.shape == (4, 1, 48, 52) and batch["label"] == [0] * 4
    assert masks.flatten(1).any(1).all() and len({mask.numpy().tobytes() for mask in masks}) == 4
    for image, mask in zip(batch["image"], masks, strict=True):
        changed = (np.asarray(image) != np.asarray(PICTURE)).any(-1)
        assert changed.any() and not changed[mask[0].numpy() == 0].any()


def test_without_masks_the_columns_stay(data):
    assert set(data.with_transform(HuggingFaceSwap(SaliencySwap(p=0.0)))[0:2]) == {"image", "label"}
    with pytest.raises(KeyError, match="`column` must be one of image, label, got 'img'"):
        data.with_transform(HuggingFaceSwap(column="img"))[0:2]


def test_a_missing_image_is_told():
    with pytest.raises(TypeError, match="`column` 'image' must hold PIL images or tensors, got NoneType"):
        HuggingFaceSwap()({"image": [PICTURE, None]})


def test_the_bare_swap_warns(data):
    with pytest.warns(UserWarning, match=r"`sample` is a dict of lists, so its 4 images get the same swap.*HuggingFaceSwap"):
        data.with_transform(SaliencySwap())[0:4]


def test_map_takes_it_sample_by_sample_and_in_batches(data):
    alone = data.map(HuggingFaceSwap(mask="mask"))
    batched = data.map(HuggingFaceSwap(mask="mask"), batched=True, batch_size=3)
    for out in (alone, batched):
        assert out["label"][:] == [0] * 4 and np.asarray(out[0]["mask"]).shape == (1, 48, 52)
        changed = [(np.asarray(row["image"]) != np.asarray(PICTURE)).any(-1) for row in out]
        assert all(area.any() for area in changed) and len({area.tobytes() for area in changed}) == 4
        assert not any(area[np.asarray(row["mask"])[0] == 0].any() for area, row in zip(changed, out, strict=True))


def test_a_sample_of_several_images_is_one_sample():
    views = Dataset.from_dict({"views": [[PICTURE, PICTURE]] * 2})
    for out in (views.map(HuggingFaceSwap(column="views")), views.with_transform(HuggingFaceSwap(column="views"))):
        pairs = [[np.asarray(view).tobytes() for view in row["views"]] for row in out]
        assert all(a == b for a, b in pairs) and pairs[0] != pairs[1] and np.asarray(PICTURE).tobytes() not in pairs[0]


def test_the_fingerprint_is_the_same_every_time():
    swaps = [HuggingFaceSwap(SaliencySwap(levels=levels), mask="mask") for levels in ("all", "all", 0)]
    before = [Hasher.hash(swap) for swap in swaps]
    swaps[1]({"image": [PICTURE]})
    assert before[0] == before[1] == Hasher.hash(swaps[1]) != before[2]


def test_the_core_takes_a_row_as_a_dict(data):
    seen = []

    def bare(row):
        with pytest.raises(TypeError, match=r"must hold its images in a dict, .* got LazyRow; pass dict\(sample\)"):
            SaliencySwap()(row)
        seen.append(SaliencySwap()(dict(row))["image"])

    data.map(bare)
    assert len(seen) == 4
