"""`export --shards`: the negatives of the folders as tar files, the same bytes whatever the workers, ranks and kills."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.exports import contents, drawn_parts, lines, run
from helpers.images import pixels
from helpers.processes import began, ended
from PIL import Image

from cutswap_transforms.functional import swap_patches
from cutswap_transforms.shell import resume, shards

wds = pytest.importorskip("webdataset")
from webdataset.tariterators import group_by_keys, tar_file_expander  # noqa: E402

SHARDS = ("--shards", "3")


@pytest.fixture
def parts(tmp_path):
    """Five images, one of which cannot be read."""
    parts = drawn_parts(tmp_path / "parts", 5)
    (parts / "good" / "p2.png").write_bytes(b"no picture")
    return parts


def samples(out: Path) -> list[dict]:
    """As webdataset reads them, without decoding; its own `WebDataset` leaves files open."""
    found = []
    for path in sorted(out.glob("shard-*.tar")):
        with open(path, "rb") as stream:
            found += group_by_keys(tar_file_expander([{"url": str(path), "stream": stream}]))
    return found


def picture(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def started(parts, dies_before=None, workers=0, rank=0, world=1):
    """A process that is killed before it writes the sample of that index."""
    write, written = wds.TarWriter.write, []

    def dying(tar, made):
        if len(written) == dies_before:
            os.kill(os.getpid(), signal.SIGKILL)
        written.append(write(tar, made))

    def work():
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(world))
        wds.TarWriter.write = dying
        return run(parts, "out", *SHARDS, count=11, workers=workers)

    return began(work)


def test_shards_hold_the_negatives_of_the_folders(parts, capsys):
    assert run(parts, "folders", count=11) == 0 and run(parts, "out", *SHARDS, count=11) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{parts.parent / 'out'}: 11 negatives in 3 shards, 11 of them new"
    folders, made = parts.parent / "folders", samples(parts.parent / "out")
    assert [sample["__key__"] for sample in made] == [f"{number:09d}" for number in range(11)]
    for sample, line in zip(made, lines(folders), strict=True):
        assert sample["png"] == (folders / "swap" / line["file"]).read_bytes()
        assert sample["mask.png"] == (folders / "mask" / line["file"]).read_bytes()
        assert json.loads(sample["json"]) == {name: value for name, value in line.items() if name != "file"}


def test_the_image_is_the_negative_swapped_back(parts):
    assert run(parts, "folders", count=5) == 0 and run(parts, "out", *SHARDS, count=5) == 0
    for sample in samples(parts.parent / "out"):
        told = json.loads(sample["json"])
        pairs = torch.tensor([[list(pair.values()) for pair in told["pairs"]]])
        restored = swap_patches(torch.from_numpy(picture(sample["png"]).copy()).movedim(-1, 0), pairs)
        stem = Path(told["image"]).name
        (normal,) = (parts.parent / "folders" / "normal").glob(f"*_{stem}")
        assert (restored == pixels(Image.open(normal))).all() and told["changed"]


def test_headers_have_no_time_and_no_owner_and_shards_follow_each_other(parts):
    assert run(parts, "out", *SHARDS, count=11) == 0
    numbers = []
    for shard in sorted((parts.parent / "out").glob("shard-*.tar")):
        with tarfile.open(shard) as archive:
            for member in archive:
                assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")
            numbers.append(sorted({int(name[:9]) for name in archive.getnames()}))
    assert numbers == [[0, 1, 2], [3, 4, 5, 6], [7, 8, 9, 10]]


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # more workers than cores
def test_bytes_do_not_depend_on_workers_ranks_or_the_order(parts, monkeypatch, capsys):
    for out, workers in (("a", 0), ("b", 1), ("c", 5)):
        assert run(parts, out, *SHARDS, count=11, workers=workers) == 0
    for world, out in ((2, "d"), (5, "e")):
        monkeypatch.setenv("WORLD_SIZE", str(world))
        for rank in reversed(range(world)):
            monkeypatch.setenv("RANK", str(rank))
            assert run(parts, out, *SHARDS, count=11) == 0
            told = capsys.readouterr().out.splitlines()[-1]
            share = {(2, 0): (7, 2), (2, 1): (4, 1), (5, 0): (3, 1), (5, 1): (4, 1), (5, 2): (4, 1)}.get((world, rank), (0, 0))
            negatives = f"{share[0]} negatives in {share[1]} shards of rank {rank} of {world}, {share[0]} of them new"
            assert told == f"{parts.parent / out}: {negatives}"
    a, *others = (contents(parts.parent / name) for name in "abcde")
    assert len(a) == 5 and all(other == a for other in others)


@pytest.mark.parametrize("workers", [0, 2])
def test_three_ranks_at_once_write_what_one_writes(parts, workers):
    assert run(parts, "whole", *SHARDS, count=11) == 0
    assert ended(*(started(parts, workers=workers, rank=rank, world=3) for rank in range(3))) == [0, 0, 0]
    assert contents(parts.parent / "out") == contents(parts.parent / "whole")


@pytest.mark.parametrize(("sample", "workers"), [(0, 0), (5, 0), (5, 2), (10, 0)])
def test_a_killed_export_goes_on_to_the_same_bytes(parts, capsys, sample, workers):
    assert run(parts, "whole", *SHARDS, count=11) == 0
    out = parts.parent / "out"
    assert ended(started(parts, sample, workers)) == [-signal.SIGKILL]
    left = sorted(path.name for path in out.glob("shard-*"))
    done = {0: 0, 5: 1, 10: 2}[sample]
    assert left == [f"shard-{k:06d}.tar" for k in range(done)] and len(list(out.glob(".*.draft"))) == 1
    stamps = [(out / name).stat().st_mtime_ns for name in left]
    capsys.readouterr()
    assert run(parts, "out", *SHARDS, count=11) == 0
    new = 11 - sum([3, 4, 4][:done])
    assert f"11 negatives in 3 shards, {new} of them new" in capsys.readouterr().out
    assert contents(out) == contents(parts.parent / "whole")
    assert stamps == [(out / name).stat().st_mtime_ns for name in left], "a finished shard was written again"


@pytest.mark.parametrize("then", ["the same rank", "other ranks", "no ranks"])
def test_a_killed_rank_goes_on(parts, monkeypatch, then):
    assert run(parts, "whole", *SHARDS, count=11) == 0
    out = parts.parent / "out"
    assert ended(*(started(parts, 4 if rank == 0 else None, rank=rank, world=2) for rank in range(2))) == [-signal.SIGKILL, 0]
    assert len(list(out.glob("shard-*.tar"))) == 2 and len(list(out.glob(".*.draft"))) == 1
    for rank, world in {"the same rank": [(0, 2)], "other ranks": [(2, 3), (1, 3), (0, 3)], "no ranks": [(0, 1)]}[then]:
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", str(world))
        assert run(parts, "out", *SHARDS, count=11) == 0
    assert contents(out) == contents(parts.parent / "whole")


def test_a_shard_that_was_deleted_or_emptied_comes_back(parts, capsys):
    assert run(parts, "whole", *SHARDS, count=11) == 0 and run(parts, "out", *SHARDS, count=11) == 0
    out = parts.parent / "out"
    (out / "shard-000000.tar").unlink()
    (out / "shard-000002.tar").write_bytes(b"")
    assert run(parts, "out", *SHARDS, count=11) == 0
    assert "11 negatives in 3 shards, 7 of them new" in capsys.readouterr().out
    assert contents(out) == contents(parts.parent / "whole")


@pytest.mark.parametrize(
    ("first", "second", "status"), [((0, 1), (0, 1), 2), ((0, 2), (0, 1), 2), ((0, 1), (1, 2), 2), ((0, 2), (1, 2), 0)]
)
def test_only_ranks_write_at_once(parts, monkeypatch, capsys, first, second, status):
    monkeypatch.setattr(resume, "_PATIENCE", 0)
    write, inner = wds.TarWriter.write, []

    def as_rank(rank, world):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", str(world))

    def nested(tar, made):
        if not inner:
            inner.append(None)
            as_rank(*second)
            inner.append(run(parts, "out", *SHARDS))
        return write(tar, made)

    monkeypatch.setattr(wds.TarWriter, "write", nested)
    as_rank(*first)
    assert run(parts, "out", *SHARDS) == 0 and inner == [None, status]
    told = capsys.readouterr().err
    assert ("error: `OUT` must be written by one export at a time, got" in told) == bool(status)


def test_a_folder_of_other_settings_is_refused_and_stays(parts, capsys):
    assert run(parts, "out", *SHARDS) == 0 and run(parts, "folders") == 0
    before = {name: contents(parts.parent / name) for name in ("out", "folders")}
    for out, more, count, reason in (
        ("out", ("--shards", "2"), 7, "shards: 3 there, 2 now"),
        ("out", SHARDS, 8, "count: 7 there, 8 now"),
        ("out", (*SHARDS, "--seed", "1"), 7, "seed: 0 there, 1 now"),
        ("out", (), 7, "shards: 3 there, None now"),
        ("folders", SHARDS, 7, "shards: None there, 3 now"),
    ):
        assert run(parts, out, *more, count=count) == 2
        told = capsys.readouterr().err
        assert "error: `OUT` must be new or of the same settings and images, got" in told and reason in told
    assert not (parts.parent / "out" / "swap").exists(), "folders were made beside shards"
    assert {name: contents(parts.parent / name) for name in before} == before
    (parts.parent / "out" / "settings.json").unlink()
    assert run(parts, "out", *SHARDS) == 2 and "without settings.json; name another folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fault", "status", "told"),
    [
        (OSError(28, "No space left on device"), 1, "error: [Errno 28] No space left on device; "),
        (KeyboardInterrupt, 130, "stopped: "),
    ],
)
def test_what_ends_the_writing_is_told(parts, capsys, monkeypatch, fault, status, told):
    write, written = wds.TarWriter.write, []

    def failing(tar, made):
        written.append(write(tar, made))
        if len(written) == 4:
            raise fault

    monkeypatch.setattr(wds.TarWriter, "write", failing)
    out = parts.parent / "out"
    assert run(parts, "out", *SHARDS, count=8) == status
    assert f"{told}1 of 3 shards are in {out}, the same command goes on from there" in capsys.readouterr().err
    assert not list(out.glob(".*.draft"))


def test_no_image_that_can_be_read(parts, capsys):
    for path in (parts / "good").iterdir():
        path.write_bytes(b"no picture")
    assert run(parts, "out", *SHARDS) == 2
    assert "error: none of the 5 images tried could be read" in capsys.readouterr().err
    assert not list((parts.parent / "out").glob("*shard*"))


def test_a_negative_that_equals_its_image_is_told(parts, capsys):
    Image.new("RGB", (60, 50), (9, 9, 9)).save(parts / "good" / "p2.png")
    assert run(parts, "out", *SHARDS, count=8) == 0
    assert "unchanged: 2 negatives equal their image, whose patches have the same pixels: 000000002.png, 000000007.png\n" in (
        capsys.readouterr().err
    )


def test_numbers_that_cannot_be(parts, capsys):
    assert run(parts, "out", "--shards", "8") == 2
    assert "error: `--shards` must be at most `--count`, 7, got 8; an empty shard has no use" in capsys.readouterr().err
    assert run(parts, "out", count=10_000_001) == 2
    sentence = "error: `--count` must be at most 10000000 files, got 10000001; write shards with `--shards`"
    assert sentence in capsys.readouterr().err and not (parts.parent / "out").exists()
    assert shards.shards_of(Path("x"), 10**9, 1000)[Path("x/shard-000999.tar")] == range(999_000_000, 10**9)


def test_without_the_package_the_command_to_install_it_is_told(parts, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "webdataset", None)
    assert run(parts, "out", *SHARDS) == 2
    assert capsys.readouterr().err == 'error: `--shards` needs webdataset: pip install "cutswap-transforms[webdataset]"\n'


def test_a_shard_that_is_a_pipe_is_not_read(parts, capsys):
    (parts.parent / "out").mkdir()
    os.mkfifo(parts.parent / "out" / "shard-000001.tar")
    assert run(parts, "out", *SHARDS) == 2
    assert "error: `OUT` must hold results as regular files, got" in capsys.readouterr().err
