"""Areas to drop files on: what arrives is the names and the bytes of uploads, whose files are removed at once."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import FileData, ListFiles

from .uploads import Uploads


def drop_area(uploads: Uploads, **options: Any) -> gr.File:
    made = gr.File(height=120, **options)
    made.preprocess = partial(_contents, uploads)  # on the object: for a subclass, gradio writes a file beside its module
    return made


def _contents(uploads: Uploads, payload: ListFiles | FileData | None) -> list[tuple[str, bytes]]:
    files = [] if payload is None else payload.root if isinstance(payload, ListFiles) else [payload]
    return [_taken(file, uploads.find(file.path)) for file in files]


def _taken(file: FileData, path: Path | None) -> tuple[str, bytes]:
    """The name and the bytes of an upload."""
    if path is None:
        raise gr.Error("The file is not one that was uploaded here.", print_exception=False)
    content = path.read_bytes()
    path.unlink()  # not its folder, which is named after the content: another file in it may still be needed
    return file.orig_name or path.name, content
