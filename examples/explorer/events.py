"""What the page does when images and masks are dropped and removed and when a control moves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any

import gradio as gr

from .controls import FIRST
from .images import RefusedImage
from .mosaic import key_of, mosaic
from .rendering import paragraphs
from .scripts import CLOSE
from .views import update
from .visitor import Visitor, Visitors

REFUSALS = 4  # most refusals that are shown one by one
Dropped = list[tuple[str, bytes]]


class Events:
    """For the visitor a page belongs to. What is slow or changes images runs in `worker`: one after the other, and the server
    stays responsive."""

    def __init__(self, visitors: Visitors, worker: Executor) -> None:
        self.visitors, self._worker = visitors, worker

    async def show(self, request: gr.Request, choice: str, *values: Any) -> list[Any]:
        visitor = self.visitors[request.session_hash]
        view = await self.run(update, visitor, choice, values)
        kept = visitor.mosaic is None or visitor.mosaic.key == key_of(visitor, values)
        return [gr.skip() if part is None else part for part in (*view, None if kept else "")]

    async def show_mosaic(self, request: gr.Request, *values: Any) -> str:
        return await self.run(mosaic, self.visitors[request.session_hash], values)

    def choose(self, request: gr.Request, event: gr.EventData, choice: str) -> str:
        """The image of a tile of the mosaic."""
        visitor = self.visitors[request.session_hash]
        tile = str(event.given).removeprefix("tile=")
        names = visitor.mosaic.names if visitor.mosaic else ()
        return names[int(tile)] if tile.isdecimal() and int(tile) < len(names) else choice

    async def take(self, request: gr.Request, given: Dropped, choice: str) -> list[Any]:
        """Keep dropped images, show the first."""
        visitor = self.visitors[request.session_hash]
        first, said = await self.run(received, visitor.add, given)
        return [None, said, *image_list(visitor, first or choice)]

    async def remove(self, request: gr.Request, choice: str) -> list[Any]:
        """Remove the image that is shown, show the next."""
        visitor = self.visitors[request.session_hash]
        try:
            return ["", *image_list(visitor, await self.run(visitor.remove, choice) or FIRST)]
        except RefusedImage as error:
            return [refusal([str(error)]), *image_list(visitor, choice)]

    async def clear(self, request: gr.Request) -> list[Any]:
        """Remove all images."""
        visitor = self.visitors[request.session_hash]
        await self.run(visitor.clear)
        return ["", *image_list(visitor, FIRST)]

    async def confine(self, request: gr.Request, given: Dropped) -> list[Any]:
        """Confine the patches to a dropped mask."""
        visitor = self.visitors[request.session_hash]
        first, said = await self.run(received, visitor.confine, given)
        if first is None:
            return [None, said, gr.skip()]
        return [
            None,
            paragraphs([f"Patches keep to {visitor.region.mask.share:.0%} of the image."], "note"),
            gr.Button(visible=True),
        ]

    def release(self, request: gr.Request) -> list[Any]:
        """Remove the mask."""
        self.visitors[request.session_hash].region = None
        return ["", gr.Button(visible=False)]

    def leave(self, request: gr.Request) -> None:
        self.visitors.leave(request.session_hash)

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._worker, function, *arguments)


def received(keep: Callable[[str, bytes], str], given: Dropped) -> tuple[str | None, str]:
    """What `keep` returned for the first file that it did not refuse, and HTML on all of them: one bad file spoils no other."""
    kept, refused = [], []
    for name, content in given:
        try:
            kept.append(keep(name, content))
        except RefusedImage as error:
            refused.append(str(error))
    if len(refused) > REFUSALS:
        refused[REFUSALS - 1 :] = [f"{len(refused) - REFUSALS + 1} more files were left out."]
    added = [f"{len(kept)} image{'s' * (len(kept) != 1)} added."] if kept else []
    return (kept[0] if kept else None), paragraphs(added, "note") + refusal(refused)


def refusal(sentences: Sequence[str]) -> str:
    """Stays until it is closed, or until the next images."""
    return paragraphs(sentences, "error") + CLOSE if sentences else ""


def image_list(visitor: Visitor, choice: str) -> list[Any]:
    """The list of images and the buttons that remove some."""
    return [gr.Dropdown(visitor.choices(), value=choice), gr.Column(visible=bool(visitor.photos))]
