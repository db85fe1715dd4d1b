"""Hugging Face datasets: every image of a batch gets a swap of its own."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
import torch
from datasets import Dataset

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
