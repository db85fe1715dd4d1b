"""What the tests of the caches share: sources that count, data sets of scenes, entries, and what a cache must not change."""

from __future__ import annotations

import contextlib
import hashlib
import warnings

import torch
from torch.utils.data import Dataset

from cutswap_transforms import RegionCache, SaliencySwap
from helpers.images import as_kind, hot_quarter, scene


class Counting:
    """A saliency source with a fingerprint that counts the images it was asked for."""

    fingerprint = "hot-quarter-1"

    def __init__(self):
        self.seen = 0

    def native_maps(self, images):
        self.seen += len(images)
        return list(hot_quarter(images).unbind(1))


class Scenes(Dataset):
    def __init__(self, length=10, transform=None, height=40):
        self.length, self.transform, self.height = length, transform, height

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        image = as_kind("PIL", scene(self.height, 33, seed=index))
        return (self.transform(image) if self.transform else image), index


def entry_of(i):
    key = b"settings" + hashlib.sha256(str(i).encode()).digest()[:16]
    return key, hashlib.sha512(key).digest() * 4


@contextlib.contextmanager
def one_warning(sentence):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    texts = [str(w.message) for w in caught]
    assert len(texts) == 1 and texts[0].startswith("`cache` '") and sentence in texts[0], texts


def trains_on(folder, times=3):
    """A swap with a cache that does not work gives what a swap without a cache gives."""
    swap, plain = SaliencySwap(Counting(), cache=folder), SaliencySwap(Counting(), cache=None)
    for i in range(times):
        out = []
        for one in (swap, plain):
            torch.manual_seed(i)
            out.append(one(scene(seed=i)))
        assert torch.equal(*out)
    return swap


def filled(folder, count=40):
    with contextlib.closing(RegionCache(folder)) as cache:
        cache._put(entry_of(i) for i in range(count))
    return folder / "regions.sqlite"


class Darkness(Counting):
    """A source whose maps depend on one image alone, however many are asked for; of as many levels as it is told, under one
    fingerprint, as a user's who forgot to change it."""

    fingerprint = "darkness"

    def __init__(self, count=2):
        super().__init__()
        self.count = count

    def native_maps(self, images):
        self.seen += len(images)
        return [255.0 - images[:, level % 3].float() for level in range(self.count)]


def leaves_no_doubt(cache, i):
    """Write an entry and read it past the memory, and another one that may be there."""
    key, entry = entry_of(i)
    cache._put([(key, entry)])
    assert cache._read(key) == entry and cache._read(entry_of(i + 1)[0]) in (None, entry_of(i + 1)[1])


def outputs(swap, count=6):
    out = []
    for i in range(count):
        torch.manual_seed(i)
        out.append(swap(scene(12, 9, seed=i)))
    torch.manual_seed(99)
    out.append(swap(torch.stack([scene(12, 9, seed=i) for i in range(count)])))
    return torch.cat([x.flatten() for x in out])


def keys(count):
    return [entry_of(i)[0] for i in range(count)]
