"""The drawn composites that teach the embedded net grounds: their grounds, their objects, and what is laid on what."""

from __future__ import annotations

import composites
import grounds
import numpy as np
import pytest
import thin_objects
import torch

DRAWN = thin_objects.THIN | thin_objects.KEPT_OUT


@pytest.mark.parametrize("name", grounds.TEXTURES)
def test_a_texture_is_the_same_for_the_same_seed_at_two_sides_and_seldom_flat(name: str) -> None:
    made = [grounds.TEXTURES[name](np.random.default_rng(seed), 64) for seed in range(8)]
    assert all(image.shape == (64, 64, 3) and np.isfinite(image).all() for image in made)
    assert np.array_equal(made[3], grounds.TEXTURES[name](np.random.default_rng(3), 64))
    assert sum(image.clip(0, 1).std((0, 1)).max() > 0.004 for image in made) >= 5  # a dark or a bright one may be flat
    assert grounds.TEXTURES[name](np.random.default_rng(0), 100).shape == (100, 100, 3)


def test_grounds_are_pictures_of_any_side_and_the_same_for_the_same_seed() -> None:
    for side in (48, 160, 256):
        made = [grounds.draw_ground(np.random.default_rng(seed), side) for seed in range(4)]
        assert all(image.shape == (side, side, 3) and image.dtype == np.uint8 for image in made)
        assert np.array_equal(made[0], grounds.draw_ground(np.random.default_rng(0), side))
    photo = np.random.default_rng(0).integers(0, 256, (80, 90, 3)).astype(np.uint8)
    assert all(grounds.photo_ground(np.random.default_rng(seed), photo, 128).shape == (128, 128, 3) for seed in range(8))


@pytest.mark.parametrize("name", DRAWN)
def test_a_thin_object_is_thin_shaded_and_the_same_for_the_same_seed(name: str) -> None:
    for seed in range(12):
        made = DRAWN[name](np.random.default_rng(seed))
        assert made.shape == (160, 160, 4) and made.dtype == np.uint8
        matte = made[..., 3] / 255
        assert 0.02 < matte.mean() < 0.45 and matte.max() == 1, seed
        assert max(np.ptp(np.flatnonzero((matte > 0.5).any(axis))) for axis in (0, 1)) > 0.85 * 160, seed  # fills the frame
        assert made[matte > 0.9][:, :3].std(0).max() > 1, seed
    assert np.array_equal(made, DRAWN[name](np.random.default_rng(11)))
    assert DRAWN[name](np.random.default_rng(0), 64).shape == (64, 64, 4)


def test_what_is_kept_out_of_training_is_not_drawn_for_it() -> None:
    assert not thin_objects.THIN.keys() & thin_objects.KEPT_OUT.keys()
    assert not grounds.TEXTURES.keys() & {"cloth", "tiles"}
    made = [thin_objects.draw_thin(np.random.default_rng(seed), 48) for seed in range(8)]
    assert np.array_equal(made[0], thin_objects.draw_thin(np.random.default_rng(0), 48))
    assert len({image.tobytes() for image in made}) == 8


@pytest.fixture(scope="module")
def banks() -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Grounds, and solids and thin objects of different sides."""
    rng = np.random.default_rng(0)
    solids = composites.as_bank([composites.draw_object(rng, 32) for _ in range(16)])
    assert all(0.05 < (o[3] > 127).float().mean() < 1 for o in solids)
    thin = composites.as_bank([thin_objects.draw_thin(rng, 64) for _ in range(16)])
    return composites.as_bank([composites.draw_ground(rng, 80) for _ in range(64)]), [solids, thin]


def made(banks: tuple[torch.Tensor, list[torch.Tensor]], side: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    return composites.compose(*banks, side, torch.Generator().manual_seed(1))


@pytest.mark.parametrize("side", [64, 256])
def test_composites_are_the_same_for_the_same_seed_and_show_small_objects_often(banks, side: int) -> None:
    images, covered = made(banks, side)
    assert images.shape == (64, 3, side, side) and covered.shape == (64, side, side)
    assert images.min() >= 0 and images.max() <= 255 and covered.min() >= 0 and covered.max() <= 1
    share = covered.mean((1, 2))
    assert (share < 0.003).sum() in range(2, 16) and 0.02 < share.median() < 0.2 and share.max() < 0.8
    assert all(torch.equal(a, b) for a, b in zip((images, covered), made(banks, side), strict=True))


def test_the_mask_says_where_an_object_hides_the_ground(banks) -> None:
    ground, objects = banks
    bare = composites.windows(ground, 64, torch.Generator().manual_seed(1))
    images, covered = made(banks)
    outside = (covered == 0)[:, None].expand_as(images)
    assert (images[outside] <= bare[outside] + 1e-3).all()  # shadows only darken
    painted = [bank.clone() for bank in objects]
    for bank in painted:
        bank[:, :3] = torch.tensor([255, 0, 0], dtype=torch.uint8)[:, None, None]
    red, same = made((ground, painted))
    assert torch.equal(same, covered) and torch.equal(red[outside], images[outside])
    inside = covered > 0.99
    hidden = red[:, 1:].amax(1)[inside] < 3
    assert 0.6 < hidden.float().mean() < 0.95  # the others have taken the ground's color


def test_an_object_like_its_ground_has_its_mean_and_keeps_its_shading() -> None:
    matte = torch.zeros(2, 1, 16, 16)
    matte[:, :, 4:12, 4:12] = 1
    shading = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 40
    ground = torch.full((2, 3, 16, 16), 120.0)
    moved = composites.like_ground((shading + 20) * matte, matte, ground, torch.tensor([0.0, 1.0]))
    assert torch.equal(moved[0], ((shading + 20) * matte)[0])
    patch = moved[1, :, 4:12, 4:12]
    assert torch.allclose(patch.mean((1, 2)), torch.full((3,), 120.0), atol=0.1) and moved[1, :, :4].abs().max() == 0
    assert torch.allclose(patch.std((1, 2)), shading[1, :, 4:12, 4:12].std((1, 2)), atol=1e-3)


def test_sizes_go_from_small_to_most_of_the_frame_and_thin_objects_stay_inside_it() -> None:
    u = torch.linspace(0, 1, 101)
    for fill in (0.01, 0.05, 0.2, 0.5, 0.9):
        scale = composites.sizes(torch.full_like(u, fill), u)
        share = scale**2 * fill
        assert (scale.diff() >= 0).all() and scale.min() >= 0.15 and scale.max() <= 1.5
        assert share.min() <= 0.021 and share.max() <= 0.751
        assert scale.max() < 1.2 or fill > 0.2
    assert 0.24 < share[50] < 0.28  # half of the solids take more than a fourth


def test_an_object_is_cut_from_a_plain_and_from_a_textured_photograph_and_an_unclear_one_is_refused() -> None:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:96, 0:96]
    disc = np.hypot(y - 40, x - 50) < 25
    saliency = np.exp(-(((y[::3, ::3] - 40) / 20) ** 2) - ((x[::3, ::3] - 50) / 20) ** 2).astype("f4")
    for ground in (np.full((96, 96), 200), rng.integers(100, 256, (96, 96))):
        photo = np.where(disc, 30, ground).astype(np.uint8)[..., None].repeat(3, 2)
        cut = composites.cut_photograph(photo, saliency)
        assert cut is not None and cut.shape == (96, 96, 4)
        assert (cut[..., :3][cut[..., 3] > 250] < 60).mean() > 0.97 and 0.65 < (cut[..., 3] > 127).mean() < 0.9
    assert composites.cut_photograph(np.full((96, 96, 3), 90, np.uint8), saliency) is None
