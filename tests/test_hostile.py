"""Hostile surroundings, by number: arbitrary arguments and images, damaged files, killed processes, forks, fresh folders.

Each test has a part that `make test` runs and the full count, which is slow.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import threading
import time
import warnings
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from helpers.caches import Counting, Darkness, Scenes, entry_of, leaves_no_doubt, outputs
from helpers.images import pixels
from helpers.processes import CONTEXT, in_child
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from torchvision import tv_tensors

from cutswap_transforms import KMeans, RegionCache, SaliencySwap
from cutswap_transforms.shell import files

# ---- the swap, whatever the arguments, the image and the maps -----------------------------------------------------------

SPECIAL = (0.0, 1.0, -1.0, float("nan"), float("inf"), -float("inf"), 1e-38, 3e38)
KINDS = ("L", "RGB", "RGBA", "P", "I;16", "uint8", "uint16", "float16", "bfloat16", "float32", "float64", "Image")


@st.composite
def images(draw):
    """A PIL image, a tensor or a tv_tensor of any size from 1 x 2; noise, few values or flat."""
    kind, h, w = draw(st.sampled_from(KINDS)), draw(st.integers(1, 40)), draw(st.integers(2, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = rng.integers(0, draw(st.sampled_from([1, 2, 256])), (h, w, 4), dtype=np.uint8)
    if kind == "I;16":
        return PIL.Image.fromarray(values[..., 0].astype(np.uint16) * 257)
    if kind in ("L", "RGB", "RGBA", "P"):
        image = PIL.Image.fromarray(values if kind == "RGBA" else values[..., :3].copy())
        return image if kind in ("RGB", "RGBA") else image.convert(kind)
    tensor = torch.from_numpy(values[..., : draw(st.sampled_from([1, 3, 4]))].copy()).permute(2, 0, 1)
    if kind == "Image":
        return tv_tensors.Image(tensor)
    dtype = getattr(torch, kind)
    return (tensor.double() / 255).to(dtype) if dtype.is_floating_point else tensor.to(dtype)


@st.composite
def maps(draw):
    """A saliency source of one to five levels with noise, few values, flat parts and what is not finite."""
    shapes = draw(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    found = []
    for shape in shapes:
        values = rng.choice([rng.random(shape), rng.integers(0, 2, shape), np.full(shape, draw(st.sampled_from(SPECIAL)))])
        holes = rng.random(shape) < draw(st.sampled_from([0.0, 0.0, 0.3, 1.0]))
        values = np.where(holes, rng.choice(SPECIAL, shape), values)
        found.append(torch.from_numpy(values.astype(np.float32)))
    return lambda batch: [m.expand(len(batch), -1, -1).clone() for m in found]


ranges = st.tuples(st.floats(1e-4, 1), st.floats(1e-4, 1)).map(lambda ends: tuple(sorted(ends)))


@st.composite
def swaps(draw):
    return SaliencySwap(
        draw(maps()),
        draw(st.sampled_from(["kmeans", KMeans(1), KMeans(9), KMeans(2, color=False, n_iter=1)])),
        levels=draw(st.sampled_from(["random", "all", 0, -1])),
        scale=draw(ranges),
        ratio=draw(st.sampled_from([(0.3, 3.3), (1, 1), (0.01, 100), (1e-6, 1e6)])),
        p=draw(st.sampled_from([1.0, 0.5, 0.0])),
        grid=draw(st.integers(2, 33)),
        cache=draw(st.sampled_from(["memory", None])),
    )


def check_swap(image, swap, seed):
    torch.manual_seed(seed)
    params = swap.make_params([image])
    state = torch.get_rng_state()
    out, mask = swap.transform(image, params), swap.transform(tv_tensors.Mask(torch.zeros(pixels(image).shape[-2:])), params)
    before, after = pixels(image).double(), pixels(out).double()
    assert type(out) is type(image) and after.shape == before.shape
    assert sorted(map(tuple, before.flatten(1).T.tolist())) == sorted(map(tuple, after.flatten(1).T.tolist()))
    assert torch.equal(pixels(swap.transform(out, params)).double(), before), "a swap undoes itself"
    assert torch.equal(before.masked_fill(mask.bool(), 0), after.masked_fill(mask.bool(), 0)), "changed outside of the mask"
    assert torch.equal(torch.get_rng_state(), state), "only `make_params` draws"
    swapped = params["pairs"][0, :, 5] > 0
    assert int(mask.sum()) == int((2 * params["pairs"][0, :, 5:].prod(1))[swapped].sum()), "boxes share a pixel"
    assert swap.p == 0.5 or bool(swapped.any()) == (swap.p == 1)
    torch.manual_seed(seed)
    assert torch.equal(swap.make_params([image])["pairs"], params["pairs"]), "a look-up draws as a computation does"


arbitrary = given(images(), swaps(), st.integers(0, 2**31))
any_speed = [HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=60, suppress_health_check=any_speed)
@arbitrary
def test_every_swap_is_a_permutation(image, swap, seed):
    check_swap(image, swap, seed)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=10_000, suppress_health_check=any_speed)
@arbitrary
def test_ten_thousand_swaps_are_permutations(image, swap, seed):
    check_swap(image, swap, seed)


# ---- the cache: forks, kills, fresh folders, damaged files ---------------------------------------------------------------


@pytest.mark.parametrize("count", [20, pytest.param(300, marks=pytest.mark.slow)])
def test_a_child_forked_while_threads_open_new_caches_reads_and_writes(tmp_path, count):
    done = threading.Event()

    def opens(name):
        for i in range(10**9):
            if done.is_set():
                return
            RegionCache(tmp_path / f"{name}{i % 20}")._put([entry_of(i)])

    threads = [threading.Thread(target=opens, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    try:
        for i in range(count):
            in_child(lambda i=i: leaves_no_doubt(RegionCache(tmp_path / "children"), i))
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert len(RegionCache(tmp_path / "children")) == count


@pytest.mark.parametrize("kills", [30, pytest.param(100, marks=pytest.mark.slow)])
def test_kills_in_the_middle_of_writes(tmp_path, kills):
    folder, told = tmp_path / "c", 0
    rng = np.random.default_rng(0)
    for _ in range(kills):
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            cache, i = RegionCache(folder), told
            while True:
                cache._put([entry_of(i), entry_of(i + 1)])
                i += 2
                os.write(writer, b".")  # only now it counts as stored
        os.close(writer)
        os.read(reader, 1)
        time.sleep(rng.uniform(0, 0.004))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        with os.fdopen(reader, "rb") as stream:
            told += 2 * (1 + len(stream.read()))
        cache = RegionCache(folder)
        assert len(cache) >= told and len(cache) % 2 == 0
        assert cache._get(entry_of(told - 1)[0]) == entry_of(told - 1)[1]
        told = len(cache)  # a last pair may have been stored and not told
        cache.close()
    cache = RegionCache(folder)
    assert told >= 2 * kills and all(cache._get(entry_of(i)[0]) == entry_of(i)[1] for i in range(told))


@pytest.mark.parametrize("trials", [5, pytest.param(300, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])])
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # more workers than cores
def test_no_loader_worker_loses_a_fresh_folder(tmp_path, trials):
    """A lost cache is a warning, which is an error here and ends the loader."""
    for trial in range(trials):
        swap = SaliencySwap(Counting(), cache=tmp_path / str(trial))
        loader = DataLoader(Scenes(8, swap, height=8), num_workers=4, batch_size=None, multiprocessing_context=CONTEXT)
        assert len(list(loader)) == len(swap.cache) == 8
        shutil.rmtree(tmp_path / str(trial))


@pytest.mark.parametrize("trials", [10, pytest.param(375, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])])
def test_eight_writers_of_a_fresh_folder_all_write(tmp_path, trials):
    """Before the file was prepared in transactions, one process of twenty lost its cache."""

    def at_once(folder, k, gate):
        os.close(gate[1])
        os.read(gate[0], 1)  # until the parent closes it
        leaves_no_doubt(RegionCache(folder), k)

    for trial in range(trials):
        gate = os.pipe()
        processes = [CONTEXT.Process(target=at_once, args=(tmp_path / str(trial), k, gate)) for k in range(8)]
        for process in processes:
            process.start()
        for end in gate:
            os.close(end)
        for process in processes:
            process.join(120)
            assert process.exitcode == 0
        assert len(RegionCache(tmp_path / str(trial))) == 8
        shutil.rmtree(tmp_path / str(trial))


def mutated(data, rng):
    """The bytes of a file with some of them flipped, a page of zeros or of noise, or the end cut off."""
    data, kind = bytearray(data), rng.integers(0, 4)
    place = int(rng.integers(0, len(data)))
    if kind == 0:
        for at in rng.integers(0, len(data), rng.integers(1, 20)):
            data[at] ^= 1 << rng.integers(0, 8)
    elif kind == 1:
        return bytes(data[:place])
    else:
        page = place // 4096 * 4096
        data[page : page + 4096] = bytes(4096) if kind == 2 else rng.bytes(len(data[page : page + 4096]))
    return bytes(data)


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_mutated_file_changes_no_result(tmp_path, count):
    plain = outputs(SaliencySwap(Darkness(), cache=None))
    swap = SaliencySwap(Darkness(), cache=tmp_path / "c")
    outputs(swap)
    swap.cache._put(entry_of(i) for i in range(60))  # pages enough that the tree has a root
    swap.cache.close()
    path, computed = tmp_path / "c" / "regions.sqlite", 0
    good = path.read_bytes()
    for trial in range(count):
        path.write_bytes(mutated(good, np.random.default_rng(trial)))
        swap = SaliencySwap(Darkness(), cache=RegionCache(tmp_path / "c", read_only=trial % 3 == 0))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert torch.equal(outputs(swap), plain), trial
        assert len(caught) <= 1, (trial, [str(w.message) for w in caught])
        computed += swap.saliency.seen > 0
        swap.cache.close()
        for name in ("regions.sqlite-wal", "regions.sqlite-shm"):
            (tmp_path / "c" / name).unlink(missing_ok=True)
    assert computed > count / 4, "the mutations did no harm: this test tests nothing"


# ---- damaged images -----------------------------------------------------------------------------------------------------


# What Pillow writes here: the kinds of file that have our suffixes, and others that hide under them.
FORMATS: list[tuple[str, dict[str, Any]]] = [
    *(
        (name, {})
        for name in ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP", "DDS", "JPEG2000", "GIF", "AVIF", "BLP", "ICO", "TGA")
    ),
    ("JPEG", {"progressive": True}),
    *(("TIFF", {"compression": name}) for name in ("tiff_lzw", "tiff_deflate", "jpeg")),
    *(("DDS", {"pixel_format": name}) for name in ("DXT1", "DXT5", "BC5")),
    ("WEBP", {"lossless": True}),
    ("JPEG2000", {"no_jp2": True}),
]


def encoded() -> list[bytes]:
    """A small image in all the kinds and modes that go together."""
    found, photo = [], PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 13, 3), np.uint8))
    for kind, options in FORMATS:
        jpeg = options.get("compression") == "jpeg"  # of other modes Pillow 12 aborts the process
        for mode in ("RGB", "L") if jpeg else ("RGB", "L", "P", "1", "RGBA", "I;16", "F"):
            grey = photo.convert("L")
            stream = io.BytesIO()
            with contextlib.suppress(OSError, ValueError, KeyError):
                (grey if mode in ("I;16", "F") else photo).convert(mode).save(stream, kind, **options)
                found.append(stream.getvalue())
    return found


def damaged(content: bytes, random: Random) -> bytes:
    """With one to four bytes changed, bits turned over, bytes put in or the end cut off; more often near the beginning."""
    data = bytearray(content)
    for _ in range(random.randint(1, 4)):
        at = min(int(random.expovariate(1 / 30)) if random.random() < 0.7 else random.randrange(len(data)), len(data) - 1)
        how = random.randrange(4)
        if how == 0:
            data[at] = random.randrange(256)
        elif how == 1:
            data[at] ^= 1 << random.randrange(8)
        elif how == 2:
            data[at:at] = random.randbytes(random.randint(1, 8))
        elif random.random() < 0.3:
            del data[max(at, 1) :]
    return bytes(data)


@pytest.mark.parametrize("count", [200, pytest.param(5000, marks=pytest.mark.slow)])
def test_no_damaged_file_escapes(tmp_path: Path, count: int) -> None:
    kinds, random, path = encoded(), Random(count), tmp_path / "damaged.png"
    assert len(kinds) > 50
    outcomes = set()
    for i in range(count):
        path.write_bytes(damaged(kinds[i % len(kinds)], random))
        dataset = files.ImageFiles([path], (4,))
        shown, read = files.load_image(path, (4,)), dataset[0]
        assert (shown is None or min(shown.size) == 4) and (
            len(read) == 0 if isinstance(read, torch.Tensor) else min(read.size) == 4
        )
        outcomes.add(int(dataset.outcomes))
    assert outcomes == {1, 2}
