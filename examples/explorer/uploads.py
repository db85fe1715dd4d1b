"""The folder for uploads until they are in memory: what counts as an upload, their total size, how long they stay."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

STALE = 30  # seconds after which an upload that no page has taken is removed
LEAST = 4096  # least bytes that a file counts, so that the number of empty files is limited, too


class Uploads:
    """Gradio writes an upload as `tmp*`; when complete, it moves it to a folder named after its content (SHA-256)."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder).resolve()

    def find(self, path: Any) -> Path | None:
        """The complete upload at an absolute path, links resolved; None if there is none."""
        if not isinstance(path, str) or not os.path.isabs(path) or "\0" in path:
            return None
        found = Path(os.path.realpath(path))
        return found if found.parent.parent == self._folder and os.path.isfile(found) else None

    def size(self) -> int:
        """Bytes of all complete uploads."""
        total = 0
        for path in self._folder.glob("*/*"):
            with suppress(OSError):  # a page has just taken it
                total += max(LEAST, path.stat().st_size)
        return total

    def sweep(self, unfinished: bool) -> None:
        """Remove uploads that no page has taken for `STALE` seconds and, if `unfinished`, the rest of aborted ones."""
        for path in list(self._folder.iterdir()):
            with suppress(OSError):
                if unfinished and path.name.startswith("tmp") and path.is_file():
                    path.unlink()
                # A folder's time is when its last file was completed; a file's own time may be much earlier.
                elif len(path.name) == 64 and time.time() - path.stat().st_mtime > STALE:
                    shutil.rmtree(path, ignore_errors=True)
