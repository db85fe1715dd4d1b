"""kornia: masks follow, and `params=` replays the very swap."""

from __future__ import annotations

import kornia.augmentation as K
import torch

from cutswap_transforms import SaliencySwap
from cutswap_transforms.adapters import KorniaSwap

IMAGES = torch.rand(4, 3, 48, 52, generator=torch.Generator().manual_seed(0))
ZEROS = torch.zeros(4, 1, 48, 52)


def test_masks_follow():
    swap = K.AugmentationSequential(KorniaSwap(), data_keys=["input", "mask"])
    torch.manual_seed(0)
    out, masks = swap(IMAGES, ZEROS)
    torch.manual_seed(0)
    expected, expected_masks = SaliencySwap(return_mask=True)(IMAGES)
    assert torch.equal(out, expected) and torch.equal(masks, expected_masks.float()) and masks.flatten(1).any(1).all()


def test_params_replay_the_swap_among_other_augmentations():
    steps = (K.RandomHorizontalFlip(p=0.5), KorniaSwap(SaliencySwap(p=0.5)), K.RandomRotation(20.0))
    augment = K.AugmentationSequential(*steps, data_keys=["input", "mask"])
    out, masks = augment(IMAGES, ZEROS)
    params = augment._params
    again, masks_again = augment(IMAGES, ZEROS, params=params)
    assert torch.equal(out, again) and torch.equal(masks, masks_again)
    assert not torch.equal(out, augment(IMAGES, ZEROS)[0])


def test_a_single_image_and_a_seed():
    swap = KorniaSwap()
    torch.manual_seed(3)
    first = swap(IMAGES[0])
    torch.manual_seed(3)
    assert first.shape == (1, 3, 48, 52) and torch.equal(first, swap(IMAGES[0]))
