"""Entries of a cache and their keys: regions as bits, a key of the 8-bit pixels, the same in every version."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.caches import Counting
from helpers.images import as_kind, scene
from hypothesis import given
from hypothesis import strategies as st

from cutswap_transforms import SaliencySwap
from cutswap_transforms.cache.entry import content_key, pack, unpack
from cutswap_transforms.images import eight_bits, pil_order

SETTINGS = b"s" * 32


def key_of(image, settings=SETTINGS):
    """The key of an image leaf as the library makes it."""
    return content_key(settings, pil_order(eight_bits(image))[0])


@given(st.integers(1, 5), st.integers(2, 40), st.integers(0, 10**6))
def test_entries_give_back_the_regions(levels, grid, seed):
    regions = np.random.default_rng(seed).random((3, levels, grid, grid)) < 0.3
    regions[:, :, 0, 0] = True
    for entry, region in zip(pack(regions), regions, strict=True):
        assert np.array_equal(unpack(entry, grid, levels), region)
        assert len(entry) == 2 + (levels * grid * grid + 7) // 8
        wrong = [entry[:-1], entry + b"\0", entry[:2], b"", bytes((levels, grid + 1)) + entry[2:]]
        assert [unpack(e, grid, levels) for e in wrong] == [None] * 5 and unpack(entry, grid, levels + 1) is None
        assert unpack(entry[:2] + bytes(len(entry) - 2), grid, levels) is None, "a level without a cell"


def test_a_default_entry_takes_218_bytes():
    assert len(pack(np.ones((1, 3, 24, 24), bool))[0]) == 218


def test_keys_are_of_8_bit_values_not_of_containers():
    image = scene()
    same = [image, image.permute(1, 2, 0).contiguous().permute(2, 0, 1), image.clone(), image / 255, image.double() / 255]
    same += [as_kind("PIL", image), (image.int() * 257).to(torch.uint16), torch.cat((image, image[:1]))]
    keys = {key_of(x) for x in same}
    assert len(keys) == 1
    assert key_of(image[:1]) == key_of(image[:1].expand(3, -1, -1)), "grey is grey"
    other = [image.flip(0), image[:1], image[:, :-1], image.reshape(3, 33, 40)]
    keys |= {key_of(x) for x in other} | {key_of(image, b"t" * 32)}
    assert len(keys) == 6


@pytest.mark.parametrize("shape", [(3, 7, 9), (3, 1, 1), (3, 161, 163), (3, 256, 128)])
def test_every_changed_byte_changes_the_key(shape):
    """Also where all changes lie in the same byte of the 64-bit words, which alone a multilinear hash would confuse."""
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8)).permute(1, 2, 0).contiguous().permute(2, 0, 1)
    keys, flat = {key_of(image)}, image.permute(1, 2, 0).reshape(-1)
    count = 1
    for place in {0, len(flat) // 2, len(flat) - 1, *range(7, len(flat), 8 * 97)}:
        for bit in range(8):
            flat[place] ^= 1 << bit
            keys.add(key_of(image))
            flat[place] ^= 1 << bit
            count += 1
    sevens = torch.arange(len(flat))[7::8]
    for _ in range(2000 if len(sevens) > 1 else 0):
        changed = flat.clone()
        two = sevens[torch.from_numpy(rng.permutation(len(sevens))[:2])]
        changed[two] = changed[two] + torch.from_numpy(rng.integers(1, 256, len(two), dtype=np.uint8))
        keys.add(key_of(changed.reshape(shape[1], shape[2], shape[0]).permute(2, 0, 1)))
        count += 1
    assert len(keys) > 0.9 * count if len(flat) < 1000 else len(keys) == count  # few changes of a small image repeat


def test_keys_stay_the_same_between_versions():
    """A changed key would leave every cache behind without a word: raise the version in `finder` instead."""
    image = torch.arange(3 * 60 * 70, dtype=torch.int32).remainder(251).to(torch.uint8).reshape(3, 60, 70)
    assert key_of(image).hex() == "7373737373737373f5b1671b4f4cb7d519d1b1ce61aa2a10"


@pytest.mark.parametrize("kinds", [("PIL", "tensor"), ("Image", "PIL"), ("tensor", "Image")])
def test_a_pil_image_and_its_tensor_share_an_entry(tmp_path, kinds):
    source = Counting()
    swap = SaliencySwap(source, cache=tmp_path / "c")
    for kind in kinds:
        swap(as_kind(kind, scene()))
    assert source.seen == 1 and (swap.cache.hits, swap.cache.misses) == (1, 1)
