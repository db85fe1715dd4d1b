"""The output folder of `export`: one export at a time, with the same settings; its contents are checked before use.

`pairs.jsonl` lists the finished negatives and is the lock as well. So it is repaired in place: lines that a kill during
the repair would lose are written again by the next run.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from .messages import UserError
from .outputs import write_whole

if sys.platform != "win32":
    import fcntl

FOLDERS = ("normal", "swap", "mask")

_held: weakref.WeakSet[IO[bytes]] = weakref.WeakSet()  # a worker that outlives a killed export must not keep the lock
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: [stream.close() for stream in list(_held)])


@contextlib.contextmanager
def open_out(out: Path, settings: dict[str, Any]) -> Iterator[IO[bytes]]:
    """`pairs.jsonl` of the folder, created if missing, locked for this process.

    Raises:
        UserError: a folder with other settings, in use by another export, or not writable.
    """
    try:
        stream = _opened(out)
    except (OSError, ValueError) as error:
        raise _unwritable(out, error) from None
    with stream, _alone(stream, out):
        try:
            _check_settings(out, json.loads(json.dumps(settings, default=str)), new=stream.tell() == 0)
            _remove_drafts(out)
        except OSError as error:
            raise _unwritable(out, error) from None
        yield stream


def _opened(out: Path) -> IO[bytes]:
    for name in FOLDERS:
        (out / name).mkdir(parents=True, exist_ok=True)
    for path in (out / "settings.json", out / "pairs.jsonl"):
        if path.exists() and not path.is_file():  # reading a pipe would never end
            raise UserError(f"`OUT` must hold results as regular files, got {path}; move it away")
    return open(out / "pairs.jsonl", "a+b")


def _unwritable(out: Path, error: Exception) -> UserError:
    return UserError(f"`OUT` must be a folder that can be written, got {out} ({error})")


@contextlib.contextmanager
def _alone(stream: IO[bytes], out: Path) -> Iterator[None]:
    """Hold the lock, which the system releases even if the process is killed."""
    try:
        if sys.platform == "win32":
            lock = os.open(out / ".lock", os.O_CREAT | os.O_EXCL | os.O_TEMPORARY)  # deleted with its handle
        else:
            lock = None
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, FileExistsError, PermissionError):
        raise UserError(
            f"`OUT` must be written by one export at a time, got {out}, which another is writing; wait for it or name another "
            "folder"
        ) from None
    except OSError:
        lock = None  # some network file systems have no locks
    _held.add(stream)
    try:
        yield
    finally:
        _held.discard(stream)
        if lock is not None:
            os.close(lock)


def _check_settings(out: Path, settings: dict[str, Any], new: bool) -> None:
    """Refuse negatives of other settings; write the settings if there are no negatives yet."""
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


def _remove_drafts(out: Path) -> None:
    for folder in (out, *(out / name for name in FOLDERS)):
        for draft in folder.glob(".*.draft"):
            draft.unlink(missing_ok=True)


class PairLines:
    """The lines of `pairs.jsonl`: the negatives whose pictures exist.

    Attributes:
        done: the numbers of the negatives.
        unchanged: the files of negatives that equal their image.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.done, self.unchanged = set[int](), list[str]()
        self._last, self._in_order = -1, True

    def load(self, out: Path, wanted: Callable[[int], dict[str, str]], pictures: Callable[[int], dict[str, str]]) -> None:
        """Read the file and remove lines that are damaged, duplicate, of another image, or without their pictures.

        Args:
            wanted: the number of a negative -> the expected fields of its line.
            pictures: the number of a negative -> its pictures, by folder name.
        """
        there = {name: {e.name for e in os.scandir(out / name) if e.is_file() and e.stat().st_size} for name in FOLDERS}
        self.stream.seek(0)
        content = self.stream.read()
        texts = content[: content.rfind(b"\n") + 1].split(b"\n")[:-1]  # a kill cuts off the last one
        kept = [text for text in texts if self._is_good(line := _parsed(text), there, wanted, pictures) and self._count(line)]
        if len(kept) < len(texts):
            print(
                f"{out / 'pairs.jsonl'}: {len(texts) - len(kept)} lines were damaged, double or without their pictures; "
                "what they lack is written again",
                file=sys.stderr,
            )
        self._replace(kept, content)

    def add(self, text: str) -> None:
        self.stream.write(text.encode() + b"\n")
        self.stream.flush()
        self._count(json.loads(text))

    def settle(self) -> None:
        """Sort the lines by number, as in an export that was never stopped."""
        if not self._in_order:
            self.stream.seek(0)
            content = self.stream.read()
            self._replace(sorted(content.splitlines(), key=lambda text: json.loads(text)["number"]), content)

    def _is_good(self, line: dict[str, Any], there: Any, wanted: Any, pictures: Any) -> bool:
        number = line.get("number")
        if type(number) is not int or number < 0 or number in self.done or not isinstance(line.get("pairs"), list):
            return False
        same = all(line.get(key) == value for key, value in wanted(number).items())
        return same and all(name in there[folder] for folder, name in pictures(number).items())

    def _count(self, line: dict[str, Any]) -> bool:
        number = line["number"]
        self._in_order &= self._last < number
        self._last = number
        self.done.add(number)
        if line.get("changed") is False:
            self.unchanged.append(line["file"])
        return True

    def _replace(self, texts: list[bytes], content: bytes) -> None:
        new = b"".join(text + b"\n" for text in texts)
        if new != content:
            self.stream.truncate(0)
            self.stream.write(new)
            self.stream.flush()


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return line if isinstance(line, dict) else {}
