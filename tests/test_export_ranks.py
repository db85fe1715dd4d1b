"""`export` by several processes: together they write what one would, none of it twice, whatever is killed in between."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys

import pytest
from helpers.exports import arguments, contents, drawn_parts, lines, run
from helpers.processes import began, ended

from cutswap_transforms.shell import export, resume

TORCHRUN, SLURM = ("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")


@pytest.fixture
def parts(tmp_path):
    """Seven images, two of which cannot be read."""
    parts = drawn_parts(tmp_path / "parts", 7)
    for name in ("p2.png", "p3.png"):
        (parts / "good" / name).write_bytes(b"no picture")
    return parts


def as_rank(monkeypatch, rank, world, names=TORCHRUN):
    for name, value in zip(names, (rank, world), strict=True):
        monkeypatch.setenv(name, str(value))


def started(parts, rank, world, dies_at=None, **options):
    """A process of that rank. It notes the pictures that it writes in a file, and is killed before the given one."""
    save = export.save_image

    def noted(image, path):
        with open(parts.parent / f"written{rank}", "a+") as notes:
            notes.seek(0)
            if len(notes.readlines()) == dies_at:
                (path.parent / f".{path.name}.dead.draft").write_bytes(b"half")
                os.kill(os.getpid(), signal.SIGKILL)
            notes.write(f"{path}\n")
        save(image, path)

    def work():
        os.environ.update(dict(zip(TORCHRUN, (str(rank), str(world)), strict=True)))
        export.save_image = noted
        return run(parts, "out", **options)

    return began(work)


@pytest.mark.parametrize(("count", "workers"), [(3, 0), (17, 2)])
def test_three_at_once_write_what_one_writes_and_nothing_twice(parts, count, workers):
    assert run(parts, "whole", count=count) == 0
    assert ended(*(started(parts, rank, 3, count=count, workers=workers) for rank in range(3))) == [0, 0, 0]
    out = parts.parent / "out"
    assert contents(out) == contents(parts.parent / "whole")
    written = [(parts.parent / f"written{rank}").read_text().splitlines() for rank in range(3)]
    assert sorted(x for of_rank in written for x in of_rank) == sorted(str(path) for path in out.glob("*/*.png"))
    assert all(written), "each has a share"


def test_two_commands_of_slurm_write_what_one_writes(parts):
    assert run(parts, "whole") == 0
    command = [sys.executable, "-m", "cutswap_transforms", *arguments(parts, "out")]
    running = [
        subprocess.Popen(
            command,
            env={**os.environ, "SLURM_PROCID": str(rank), "SLURM_NTASKS": "2"},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for rank in range(2)
    ]
    out = parts.parent / "out"
    assert [process.communicate(timeout=120)[0].splitlines()[-1] for process in running] == [
        f"{out}: {count} negatives of rank {rank} of 2, {count} of them new" for rank, count in ((0, 4), (1, 3))
    ]
    assert contents(out) == contents(parts.parent / "whole")


@pytest.mark.parametrize("names", [TORCHRUN, SLURM])
def test_one_after_another_they_write_what_one_writes(parts, monkeypatch, capsys, names):
    assert run(parts, "whole", count=9) == 0
    out = parts.parent / "out"
    for rank in (2, 0, 1):
        assert not (out / "pairs.jsonl").exists() or not lines(out), "lines were moved before all were there"
        as_rank(monkeypatch, rank, 3, names)
        assert run(parts, "out", count=9) == 0
        if rank == 2:
            shared = [json.loads(line)["number"] for line in (out / "pairs.2.jsonl").read_text().splitlines()]
            assert shared == [2, 5], "images are shared out, not negatives"
    assert contents(out) == contents(parts.parent / "whole")
    assert run(parts, "out", count=9) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{out}: 3 negatives of rank 1 of 3, 0 of them new"


def test_more_ranks_than_images_and_no_image_that_can_be_read(parts, monkeypatch, capsys):
    as_rank(monkeypatch, 8, 9)
    assert run(parts, "out") == 0
    assert "0 negatives of rank 8 of 9, 0 of them new" in capsys.readouterr().out
    for path in (parts / "good").iterdir():
        path.write_bytes(b"no picture")
    as_rank(monkeypatch, 1, 2)
    assert run(parts, "other") == 2 and "error: none of the 7 images tried could be read" in capsys.readouterr().err


@pytest.mark.parametrize("then", ["the same rank", "other ranks", "no ranks"])
def test_a_rank_that_was_killed_goes_on(parts, then):
    assert run(parts, "whole", count=17) == 0
    dying = started(parts, 0, 2, dies_at=7, count=17)
    assert ended(dying, started(parts, 1, 2, count=17)) == [-signal.SIGKILL, 0]
    out = parts.parent / "out"
    assert contents(out) != contents(parts.parent / "whole")
    if then == "no ranks":
        assert run(parts, "out", count=17) == 0
    else:
        ranks = [(0, 2)] if then == "the same rank" else [(0, 3), (1, 3), (2, 3)]
        assert set(ended(*(started(parts, *share, count=17) for share in ranks))) == {0}
    assert contents(out) == contents(parts.parent / "whole")


@pytest.mark.parametrize(
    ("first", "second", "status"),
    [((0, 2), (0, 2), 2), ((0, 2), (0, 3), 2), ((0, 2), (0, 1), 2), ((0, 1), (1, 2), 2), ((0, 2), (1, 2), 0)],
)
def test_only_different_ranks_write_at_once(parts, monkeypatch, capsys, first, second, status):
    monkeypatch.setattr(resume, "_PATIENCE", 0)
    save, inner = export.save_image, []

    def nested(image, path):
        if not inner:
            inner.append(None)
            as_rank(monkeypatch, *second)
            inner.append(run(parts, "out"))
        save(image, path)

    monkeypatch.setattr(export, "save_image", nested)
    as_rank(monkeypatch, *first)
    assert run(parts, "out") == 0 and inner == [None, status]
    assert status == 0 or "error: `OUT` must be written by one export at a time" in capsys.readouterr().err
    assert status or len(lines(parts.parent / "out")) == 7


def test_without_locks_the_last_one_moves_the_lines_as_well(parts, monkeypatch):
    """As on some network file systems."""

    def without(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    assert run(parts, "whole") == 0
    monkeypatch.setattr(resume.fcntl, "flock", without)
    out = parts.parent / "out"
    for rank in range(2):
        as_rank(monkeypatch, rank, 2)
        assert not (out / "pairs.1.jsonl").exists()
        assert run(parts, "out") == 0
    assert contents(out) == contents(parts.parent / "whole")


def test_files_of_the_user_are_no_lines_of_ranks(parts):
    assert run(parts, "out", count=3) == 0
    other = parts.parent / "out" / "pairs.1.old.jsonl"
    other.write_text("mine")
    assert run(parts, "out") == 0 and other.read_text() == "mine"


def test_a_share_that_is_none_and_lines_without_settings_are_refused(parts, monkeypatch, capsys):
    as_rank(monkeypatch, 2, 2, SLURM)
    assert run(parts, "out") == 2 and not (parts.parent / "out").exists()
    sentence = "error: `SLURM_PROCID` must be below `SLURM_NTASKS`, both integers, got '2' and '2'; unset them without srun\n"
    assert capsys.readouterr().err == sentence
    as_rank(monkeypatch, 0, 2, SLURM)
    (parts.parent / "out").mkdir()
    (parts.parent / "out" / "pairs.1.jsonl").write_text("{}\n")
    assert run(parts, "out") == 2 and "without settings.json; name another folder" in capsys.readouterr().err
