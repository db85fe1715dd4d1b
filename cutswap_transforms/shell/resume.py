"""The output folder of `export`: one export at a time, with the same settings; its contents are checked before use.

`pairs.jsonl` lists the finished negatives and is the lock as well. So it is repaired in place: lines that a kill during
the repair would lose are written again by the next run.

Ranks share a folder. Each writes the lines of its negatives to a file of its own, `pairs.RANK.jsonl`, so no two machines
write one file, and holds `pairs.jsonl` with the others. The last one to end finds that no negative is missing, and moves
all lines there. That is so without locks, too, which some network file systems have only within a machine, or not at all.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from ..cache.database import is_regular
from .messages import UserError
from .outputs import write_whole

if sys.platform != "win32":
    import fcntl

FOLDERS = ("normal", "swap", "mask")
LINES = "pairs.jsonl"
_PATIENCE = 60  # seconds that a rank waits while another moves the lines

Names = tuple[dict[str, str], dict[str, str]]  # fields of the line of a negative, and its pictures, by folder
Expected = Callable[[int, object], Names | None]  # the number of a negative, the image in its line -> what is expected

_held: weakref.WeakSet[IO[bytes]] = weakref.WeakSet()  # a worker that outlives a killed export must not keep the lock
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: [stream.close() for stream in list(_held)])


class Busy(UserError):
    """Another export writes the folder."""


@contextlib.contextmanager
def open_out(out: Path, settings: dict[str, Any], rank: int = 0, world: int = 1) -> Iterator[IO[bytes]]:
    """The lines of this process in the folder, created if missing, locked.

    Raises:
        UserError: a folder with other settings, in use by another export, or not writable.
    """
    with contextlib.ExitStack() as stack:
        with writable(out, settings, *_all_lines(out)):
            for name in FOLDERS:
                (out / name).mkdir(parents=True, exist_ok=True)
            stream = stack.enter_context(locked(out / LINES, out, shared=world > 1))
            if world > 1:
                stream = stack.enter_context(locked(out / f"pairs.{rank}.jsonl", out))
            check_settings(out, settings, not any(path.stat().st_size for path in _all_lines(out)))
        yield stream


@contextlib.contextmanager
def writable(out: Path, settings: dict[str, Any], *files: Path) -> Iterator[None]:
    """Check the settings and files before anything is made in the folder; an error inside becomes a sentence on it."""
    try:
        for path in (out / "settings.json", *files):
            if not is_regular(path):  # reading a pipe would never end
                raise UserError(f"`OUT` must hold results as regular files, got {path}; move it away")
        if (out / "settings.json").exists():
            check_settings(out, settings, False)
        yield
    except (OSError, ValueError) as error:
        raise UserError(f"`OUT` must be a folder that can be written, got {out} ({error})") from None


def join(out: Path, settings: dict[str, Any], expected: Expected, count: int) -> None:
    """Move the lines of all ranks to `pairs.jsonl` if there are all `count` of them, unless another rank is still there."""
    try:
        with contextlib.suppress(Busy, FileNotFoundError), open_out(out, settings) as stream:  # another does it, or has done it
            PairLines(stream).load(out, expected, range(count))
    except OSError as error:
        raise UserError(f"the lines could not be moved to {out / LINES} ({error}); the same command does it", 1) from None


def _all_lines(out: Path) -> list[Path]:
    """Files of lines, of any rank."""
    return [out / LINES, *sorted(path for path in out.glob("pairs.*.jsonl") if path.name[6:-6].isdecimal())]


@contextlib.contextmanager
def locked(path: Path, out: Path, shared: bool = False) -> Iterator[IO[bytes]]:
    """The open file and its lock, which the system releases even if the process is killed."""
    with open(path, "a+b") as stream, _lock(stream, out, shared):
        yield stream


@contextlib.contextmanager
def _lock(stream: IO[bytes], out: Path, shared: bool) -> Iterator[None]:
    handle = None
    try:
        if sys.platform != "win32":
            _flock(stream, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, _PATIENCE if shared else 0)
        elif not shared:
            handle = os.open(f"{stream.name}.lock", os.O_CREAT | os.O_EXCL | os.O_TEMPORARY)  # deleted with its handle
    except (BlockingIOError, FileExistsError, PermissionError):
        rule = "`OUT` must be written by one export at a time, got"
        raise Busy(f"{rule} {out}, which another is writing; wait for it or name another folder") from None
    except OSError:
        pass  # some network file systems have no locks
    _held.add(stream)
    try:
        yield
    finally:
        _held.discard(stream)
        if handle is not None:
            os.close(handle)


if sys.platform != "win32":

    def _flock(stream: IO[bytes], kind: int, patience: float) -> None:
        end = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(stream, kind | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise
            time.sleep(0.1)


def check_settings(out: Path, settings: dict[str, Any], new: bool) -> None:
    """Refuse negatives of other settings; write the settings if there are no negatives yet."""
    settings = json.loads(json.dumps(settings, default=str))
    rule, note = "`OUT` must be new or of the same settings and images, got", out / "settings.json"
    if not note.exists() and not new:
        raise UserError(f"{rule} {out} without settings.json; name another folder")
    if not note.exists():
        write_whole(note, lambda draft: draft.write_text(json.dumps(settings), encoding="utf-8"))
    try:
        there = json.loads(note.read_bytes())
        keys = [key for key in settings | there if there.get(key) != settings.get(key)]
    except (AttributeError, TypeError, ValueError, RecursionError):
        raise UserError(f"{rule} {out}, whose settings.json is damaged; name another folder") from None
    if keys:
        differing = "; ".join(f"{key}: {there.get(key)} there, {settings.get(key)} now" for key in keys)
        raise UserError(
            f"{rule} {out} with {differing[:400]} (images are compared by name, size and time of change); name another folder"
        )


def remove_drafts(out: Path) -> None:
    for folder in (out, *(out / name for name in FOLDERS)):
        for draft in folder.glob(".*.draft"):
            draft.unlink(missing_ok=True)


class PairLines:
    """The lines of this process: the negatives whose pictures exist.

    Attributes:
        done: the numbers of the negatives, those of other ranks included.
        unchanged: the files of negatives that equal their image.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.done, self.unchanged = set[int](), list[str]()

    def load(self, out: Path, expected: Expected, needed: range | None = None) -> None:
        """Read the file and remove lines that are damaged, duplicate, of another image, or without their pictures.

        Lines of other files are read as well; without ranks, they are moved to this one.

        Args:
            needed: the numbers without which no line is moved nor removed; pictures are not checked then.
        """
        there = None if needed is not None else {name: _files(out / name) for name in FOLDERS}
        self.stream.seek(0)
        content = self.stream.read()
        texts = _whole(content)
        kept = [text for text in texts if self._count_good(_parsed(text), there, expected)]
        name = os.path.basename(self.stream.name)
        others = [path for path in _all_lines(out) if path.name != name]
        more = [x for path in others for x in _whole(path.read_bytes()) if self._count_good(_parsed(x), there, expected)]
        if not self.done.issuperset(needed or ()):
            return
        if len(kept) < len(texts):
            lost = f"{len(texts) - len(kept)} lines were damaged, double or without their pictures"
            print(f"{self.stream.name}: {lost}; what they lack is written again", file=sys.stderr)
        if name != LINES:
            self._replace(kept, content)
            return
        remove_drafts(out)
        self._replace(_by_number(kept + more), content)
        for path in others:
            with contextlib.suppress(OSError):  # its rank has it open, on Windows
                path.unlink()

    def add(self, text: str) -> None:
        self.stream.write(text.encode() + b"\n")
        self.stream.flush()
        self._count(json.loads(text))

    def settle(self) -> None:
        """Sort the lines by number, as in an export that was never stopped."""
        self.stream.seek(0)
        content = self.stream.read()
        self._replace(_by_number(_whole(content)), content)

    def _count_good(self, line: dict[str, Any], there: dict[str, set[str]] | None, expected: Expected) -> bool:
        """Whether a line is of a negative that is there and was not counted yet; counts it."""
        number = line.get("number")
        if type(number) is not int or number < 0 or number in self.done or not isinstance(line.get("pairs"), list):
            return False
        names = expected(number, line.get("image"))
        if names is None or any(line.get(key) != value for key, value in names[0].items()):
            return False
        if there is not None and any(name not in there[folder] for folder, name in names[1].items()):
            return False
        self._count(line)
        return True

    def _count(self, line: dict[str, Any]) -> None:
        self.done.add(line["number"])
        if line.get("changed") is False:
            self.unchanged.append(line["file"])

    def _replace(self, texts: list[bytes], content: bytes) -> None:
        new = b"".join(text + b"\n" for text in texts)
        if new != content:
            self.stream.truncate(0)
            self.stream.write(new)
            self.stream.flush()


def _files(folder: Path) -> set[str]:
    return {entry.name for entry in os.scandir(folder) if entry.is_file() and entry.stat().st_size}


def _whole(content: bytes) -> list[bytes]:
    """The lines that have their end: a kill cuts off the last one, and another rank may be writing it."""
    return content[: content.rfind(b"\n") + 1].split(b"\n")[:-1]


def _by_number(texts: list[bytes]) -> list[bytes]:
    return sorted(texts, key=lambda text: int(json.loads(text)["number"]))


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return line if isinstance(line, dict) else {}
