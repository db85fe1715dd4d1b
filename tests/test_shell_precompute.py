"""`python -m cutswap_transforms precompute`: the keys that it makes, and a sentence for whatever stops it."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from helpers.commands import roi_file
from helpers.images import as_kind, scene
from helpers.processes import in_child
from helpers.sheets import picture
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from cutswap_transforms import SaliencySwap
from cutswap_transforms.__main__ import main
from cutswap_transforms.shell.files import ImageFiles


def test_the_command_makes_the_keys_of_a_compose(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for i in range(3):
        as_kind("PIL", scene(60, 50, seed=i)).save(tmp_path / "in" / f"{i}.png")
    (tmp_path / "in" / "broken.png").write_bytes(b"no image")
    command = ["precompute", str(tmp_path / "in"), "--size", "40", "--cache", str(tmp_path / "c"), "--batch-size", "2"]
    assert main(command) == 0
    told = capsys.readouterr()
    assert "regions of 3 images computed in" in told.out and "3 kept" in told.out
    assert "skipped" in told.err and "broken.png: not a readable image (UnidentifiedImageError)" in told.err
    assert main(command) == 0
    assert "regions of 0 images computed" in capsys.readouterr().out
    transform = v2.Compose([v2.Resize(40), SaliencySwap(cache=tmp_path / "c")])
    for i in range(3):
        transform(Image.open(tmp_path / "in" / f"{i}.png").convert("RGB"))
    assert (transform.transforms[1].cache.hits, transform.transforms[1].cache.misses) == (3, 0)


@pytest.fixture
def scenes(tmp_path):
    """A folder of 10 images."""
    (tmp_path / "in").mkdir()
    for i in range(10):
        as_kind("PIL", scene(seed=i)).save(tmp_path / "in" / f"{i}.png")
    return tmp_path / "in"


def command(images, *more):
    return ["precompute", str(images), "--size", "32", "--cache", str(Path(images).parent / "c"), "--batch-size", "2", *more]


def test_the_command_says_what_is_missing(scenes, tmp_path, capsys):
    assert main(command(tmp_path / "none")) == 2
    assert "error: `images` must be files or folders that exist, got" in capsys.readouterr().err


def test_the_command_wants_a_cache_before_it_begins(scenes, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(SaliencySwap, "precompute", None)
    (tmp_path / "other").mkdir()
    with contextlib.closing(sqlite3.connect(tmp_path / "other" / "regions.sqlite")) as other, other:
        other.execute("CREATE TABLE mine (x)")
    for cache in (str(scenes / "0.png"), str(tmp_path / "other"), "x" * 5000, str(tmp_path / "a\0b")):
        assert main([*command(scenes), "--cache", cache]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: `--cache` must be a folder that can be written, got {cache} (")


@pytest.mark.parametrize("workers", ["0", "2"])
def test_the_command_says_that_nothing_can_be_read(tmp_path, capsys, workers):
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.JPG"):
        (tmp_path / "in" / name).write_bytes(b"no image")
    assert main(command(tmp_path / "in", "--num-workers", workers)) == 2
    assert "error: none of the 2 images tried could be read\n" in capsys.readouterr().err
    as_kind("PIL", scene()).save(tmp_path / "in" / "c.png")
    for computed in (1, 0):  # what is in the cache already was read, too
        assert main(command(tmp_path / "in", "--num-workers", workers)) == 0
        told = capsys.readouterr().out
        assert f"regions of {computed} images computed" in told and "1 kept; 2 files skipped" in told


@pytest.mark.parametrize("option", ["--size", "--batch-size", "--num-workers"])
def test_the_commands_numbers_have_bounds(scenes, capsys, option):
    for value in ("-1", "9" * 30, "9" * 5000):
        with pytest.raises(SystemExit) as stop:
            main(command(scenes, f"{option}={value}"))
        assert stop.value.code == 2 and f"argument {option}: must be an integer from " in capsys.readouterr().err


@pytest.mark.parametrize("device", ["xpu", "nonsense", "cuda", "cuda:99", "meta", "hpu", "", "cpu:-1"])
def test_the_command_asks_the_device_before_it_begins(scenes, tmp_path, capsys, device):
    if device in ("xpu", "cuda", "hpu") and getattr(torch, device, None) and getattr(torch, device).is_available():
        pytest.skip("it is here")
    assert main(command(scenes, "--device", device)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: `--device` must be cpu or what torch can use here, got {device!r} (")
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(("rank", "world"), [("a", "2"), ("0", "b"), ("0", "0")])
def test_the_command_takes_torchruns_variables_for_what_they_are(scenes, capsys, monkeypatch, rank, world):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world)
    assert main(command(scenes)) == 2
    assert f"error: `RANK` must be below `WORLD_SIZE`, both integers, got {rank!r} and {world!r}" in capsys.readouterr().err


def test_the_command_keeps_what_is_finished(scenes, tmp_path, capsys, monkeypatch):
    read = ImageFiles.__getitem__
    for at, fault, status, word in (
        (6, KeyboardInterrupt, 130, "stopped: "),
        (7, MemoryError, 1, "error: MemoryError; "),
        (8, RuntimeError("CUDA error\nmore"), 1, "error: CUDA error more; "),
    ):

        def interrupted(self, index, at=at, fault=fault):
            if index == at:
                raise fault
            return read(self, index)

        monkeypatch.setattr(ImageFiles, "__getitem__", interrupted)
        assert main(command(scenes)) == status
        kept = f"the regions of {at // 2 * 2} images are kept in {tmp_path / 'c'}, the same command goes on from there"
        assert capsys.readouterr().err.splitlines()[-1] == word + kept
    monkeypatch.undo()
    assert main(command(scenes)) == 0
    assert "regions of 2 images computed" in capsys.readouterr().out


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal here")
def test_the_command_tells_of_a_killed_worker(scenes, capsys, monkeypatch):
    monkeypatch.setattr(ImageFiles, "__getitem__", lambda self, index: os.kill(os.getpid(), signal.SIGKILL))
    assert main(command(scenes, "--num-workers", "1")) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("error: DataLoader worker (pid") and "the regions of 0 images are kept in" in told


@pytest.mark.parametrize(("fault", "status"), [(ValueError, 2), (RuntimeError, 1), (MemoryError, 1), (OSError, 1)])
def test_the_command_says_in_a_line_what_a_worker_met(scenes, capsys, monkeypatch, fault, status):
    monkeypatch.setattr(ImageFiles, "__getitem__", Mock(side_effect=fault("what it says")))
    assert main(command(scenes, "--num-workers", "1")) == status
    told = capsys.readouterr().err
    assert told.splitlines()[-1].startswith(f"error: {fault.__name__}: what it says") and "Traceback" not in told


def test_the_command_stops_where_the_disk_is_full(scenes, tmp_path, capfd):
    def work():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (33_000, 33_000))
        assert main(command(scenes, "--batch-size", "1")) == 1

    assert main(command(scenes / "0.png", "--cache", str(tmp_path / "c"))) == 0
    in_child(work)
    told = capfd.readouterr().err.splitlines()[-1]
    assert told.startswith("error: ") and "images are kept in" in told and "Traceback" not in told


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "2"])
def test_ctrl_c_ends_the_command_and_its_workers_without_a_traceback(scenes, tmp_path, workers):
    """The command waits for its fifth image, which never comes, so that it is in the middle when the signal arrives."""
    endless = (
        "import pathlib, signal, sys\n"
        "from cutswap_transforms.__main__ import main\n"
        "from cutswap_transforms.shell.files import ImageFiles\n"
        "read = ImageFiles.__getitem__\n"
        "def wait(self, index):\n"
        "    if index < 4:\n"
        "        return read(self, index)\n"
        "    pathlib.Path(sys.argv[1]).touch()\n"
        "    signal.pause()\n"
        "ImageFiles.__getitem__ = wait\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job ignores it
        "raise SystemExit(main(sys.argv[2:]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", endless, str(tmp_path / "waits"), *command(scenes, "--num-workers", workers)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # as in a terminal, workers get the signal as well
    )
    while not (tmp_path / "waits").exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "Traceback" not in told, told
    assert told.splitlines()[-1].startswith("stopped: the regions of ")


def test_precompute_fills_what_a_swap_with_that_roi_looks_up(folder: Path) -> None:
    cache, roi = folder.parent / "cache", roi_file(folder.parent / "roi.png")
    assert main(["precompute", str(folder), "--size", "32", "--cache", str(cache), "--roi", roi]) == 0
    found = ImageFolder(str(folder.parent), transform=v2.Resize(32), allow_empty=True)
    swap, other = SaliencySwap(cache=cache, roi=Image.open(roi)), SaliencySwap(cache=cache)
    count = len(swap.cache)
    assert swap.precompute(found) == 0 and other.precompute(found) == count > 0


def test_precompute_reads_as_image_folder_and_warns_where_that_clips(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in" / "good"
    folder.mkdir(parents=True)
    ramp = np.linspace(0, 65535, 40 * 40).reshape(40, 40)
    Image.fromarray(ramp.astype(np.uint16)).save(folder / "deep.png")
    Image.fromarray((ramp / 65535).astype(np.float32)).save(folder / "float.tif")
    Image.fromarray((ramp // 257).astype(np.int32)).save(folder / "few.tif")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(0, 40, 60).save(folder / "turned.jpg", exif=exif)
    arguments = ["precompute", str(tmp_path / "in"), "--size", "32", "--cache", str(tmp_path / "cache")]
    assert main(arguments) == 0
    told = capsys.readouterr().err
    assert told.count("warning: ") == 1 and "(2 of 4 images, first " in told and "ImageFolder's loader" in told
    found = ImageFolder(str(tmp_path / "in"), transform=v2.Resize(32))
    swap = SaliencySwap(cache=tmp_path / "cache")
    assert swap.precompute(found) == 0
