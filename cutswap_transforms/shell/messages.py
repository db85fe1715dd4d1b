"""One-line messages of the commands: the error that ends one, its exit status, sizes and notes. Imports no torch."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence

STATUS = "exit status: 0 done; 1 work was lost on the way; 2 the request could not be met; 130 stopped by Ctrl-C"


class UserError(Exception):
    """Ends the command with a sentence, not a traceback; `status` is the exit status."""

    def __init__(self, sentence: str, status: int = 2) -> None:
        super().__init__(sentence)
        self.status = status


def one_line(error: BaseException) -> str:
    """The message of an error; from a loader worker, which adds its traceback, the last line."""
    text = str(error).strip()
    text = text.splitlines()[-1] if "Traceback (most recent call last)" in text else text
    return textwrap.shorten(text, 600, placeholder=" ...") or type(error).__name__


def size_text(size: tuple[int, ...]) -> str:
    """Sizes are printed as width x height, as in image viewers, unlike the order of the options."""
    return f"shorter side {size[0]} px" if len(size) == 1 else f"{size[1]} x {size[0]} px (width x height)"


def tell_unchanged(names: Sequence[str]) -> None:
    """Report negatives that equal their image: they still have a mask, which matters for training."""
    if names:
        listed = ", ".join(names[:3]) + " ..." * (len(names) > 3)
        print(
            f"unchanged: {len(names)} negatives equal their image, whose patches have the same pixels: {listed}",
            file=sys.stderr,
        )
