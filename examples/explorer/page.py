"""The page: controls on one side, pictures on the other. Every event on it calls `views.update`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import FileData, ListFiles

from .images import RefusedImage
from .rendering import paragraphs
from .settings import CHOSEN, LEVELS, RANGES, REGIONS, SIZES, Settings, clusterings_at_hand, nets_at_hand
from .uploads import Uploads
from .views import update
from .visitor import MAX_IMAGES, SAMPLES, Visitor, Visitors

FIRST = SAMPLES[4]
INTRO = """<h1>SaliencySwap on your images</h1>
<p>Drop images of normal parts, or pick a sample. Move a control; the pictures follow, and so do the Python lines below them.
Images stay in the memory of this computer.</p>"""
NETS = "Torchvision's nets are listed when their weights have been downloaded. Random weights show what the net has learned."
ROI_LABEL = "Mask for all images, black = outside"
LEVELS_INFO = "Maps of the net, from fine (0) to coarse. A swap on each, which share the area, or one on a random level."
CHOSEN_BY_BUTTONS = ("seed", "smallest", "largest")
REFUSALS = 4  # most refusals that are shown one by one
# Unchecked values from the browser; `Settings` checks them, because the page does not show what gradio refuses.
RAW = {"preprocess": False, "postprocess": False}
# Buttons in the HTML say which controls they set, "name=value;name=value".
SET_CONTROLS = """element.addEventListener('click', (event) => {
    const button = event.target.closest('[data-set]');
    if (button) trigger('click', {given: button.dataset.set});
});"""
# Fast events: without the queue a round trip takes 40 ms less; of a moving slider only the last position counts.
QUICK: dict[str, Any] = {
    "queue": False, "show_progress": "hidden", "trigger_mode": "always_last", "api_visibility": "private"
}  # fmt: skip


def _contents(uploads: Uploads, payload: ListFiles | FileData | None) -> list[tuple[str, bytes]]:
    """The names and the bytes of uploads, whose files are removed at once. It replaces `gr.File.preprocess`."""
    files = [] if payload is None else payload.root if isinstance(payload, ListFiles) else [payload]
    return [_taken(file, uploads.find(file.path)) for file in files]


def _taken(file: FileData, path: Path | None) -> tuple[str, bytes]:
    """The name and the bytes of an upload."""
    if path is None:
        raise gr.Error("The file is not one that was uploaded here.", print_exception=False)
    content = path.read_bytes()
    path.unlink()  # not its folder, which is named after the content: another file in it may still be needed
    return file.orig_name or path.name, content


class Events:
    """What the page does on its events, for the visitor it belongs to. Slow work runs in `worker`, so that the server stays
    responsive."""

    def __init__(self, visitors: Visitors, worker: Executor) -> None:
        self._visitors, self._worker = visitors, worker

    async def show(self, request: gr.Request, choice: str, *values: Any) -> list[Any]:
        view = await self._run(update, self._visitors[request.session_hash], choice, values)
        return [gr.skip() if part is None else part for part in view]

    async def take(self, request: gr.Request, given: list[tuple[str, bytes]], choice: str) -> list[Any]:
        """Keep dropped images, show the first."""
        visitor = self._visitors[request.session_hash]
        first, refused = await self._run(_add, visitor, given)
        count = len(given) - len(refused)
        added = [f"{count} image{'s' * (count != 1)} added."] if count else []
        if len(refused) > REFUSALS:
            refused[REFUSALS - 1 :] = [f"{len(refused) - REFUSALS + 1} more files were left out."]
        said = paragraphs(added, "note") + paragraphs(refused, "error")
        return [None, said, gr.Dropdown(visitor.choices(), value=first or choice)]

    async def confine(self, request: gr.Request, given: list[tuple[str, bytes]]) -> list[Any]:
        """Confine the patches to a dropped mask."""
        said, kind = await self._run(_confine, self._visitors[request.session_hash], given)
        return [None, paragraphs(said, kind), gr.skip() if kind == "error" else gr.Button(visible=True)]

    def release(self, request: gr.Request) -> list[Any]:
        """Remove the mask."""
        self._visitors[request.session_hash].region = None
        return ["", gr.Button(visible=False)]

    def leave(self, request: gr.Request) -> None:
        self._visitors.leave(request.session_hash)

    async def _run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._worker, function, *arguments)


def build_page(visitors: Visitors, uploads: Uploads, worker: Executor) -> gr.Blocks:
    """The page; `worker` as in `Events`."""
    events = Events(visitors, worker)
    with gr.Blocks(title="cutswap_transforms explorer", analytics_enabled=False) as page:
        gr.HTML(INTRO, elem_classes="intro")
        with gr.Row(elem_id="board"):
            with gr.Column(scale=2, min_width=280, elem_id="controls"):
                drop, notice, image = _image_controls(uploads)
                mask, remove = _region_controls(uploads)
                settings, options = _setting_controls()
            with gr.Column(scale=6, min_width=300, elem_id="results"):
                message, drawn, words, found, code = _results()
        inputs, outputs = [image, *settings.values()], [message, drawn, words, found, code]
        show_again = {"fn": events.show, "inputs": inputs, "outputs": outputs, **RAW, **QUICK}
        show_again |= {"show_progress": "minimal", "show_progress_on": drawn}
        gr.on([page.load, *(control.input for control in inputs)], **show_again)
        drop.upload(events.take, [drop, image], [drop, notice, image], **QUICK).then(**show_again)
        mask.upload(events.confine, mask, [mask, notice, remove], **QUICK).then(**show_again)
        remove.click(events.release, None, [notice, remove], **QUICK).then(**show_again)
        words.click(_chosen, None, [settings[name] for name in CHOSEN_BY_BUTTONS], **QUICK).then(**show_again)
        for name, value in (("clustering", "kmeans"), ("levels", CHOSEN)):
            settings[name].change(partial(_visible_at, value), settings[name], options[value], **QUICK)
        image.input(lambda: "", None, notice, **QUICK)
        page.unload(events.leave)
    return page


def _chosen(event: gr.EventData) -> list[Any]:
    """The values that a button in the HTML gives to controls."""
    given = dict(part.partition("=")[::2] for part in str(event.given).split(";"))
    return [type(getattr(Settings, n))(given[n]) if n in given else gr.skip() for n in CHOSEN_BY_BUTTONS]


def _visible_at(value: str, now: str) -> Any:
    return gr.update(visible=now == value)


def _image_controls(uploads: Uploads) -> tuple[gr.File, gr.HTML, gr.Dropdown]:
    with gr.Column(elem_id="images"):
        drop = _drop(uploads, label=f"Your images, {MAX_IMAGES} at most", file_count="multiple", height=120, elem_id="drop")
        notice = gr.HTML(elem_id="notice")
        image = gr.Dropdown(list(SAMPLES), value=FIRST, label="Image", elem_id="image", filterable=False)
    return drop, notice, image


def _region_controls(uploads: Uploads) -> tuple[gr.File, gr.Button]:
    with gr.Accordion("Region of interest", open=False, elem_id="interest"):
        mask = _drop(uploads, label=ROI_LABEL, height=120, elem_id="roi")
        remove = gr.Button("Remove it", visible=False, size="sm", elem_id="remove")
    return mask, remove


def _drop(uploads: Uploads, **options: Any) -> gr.File:
    made = gr.File(**options)
    made.preprocess = partial(_contents, uploads)  # on the object: for a subclass, gradio writes a file beside its module
    return made


def _results() -> tuple[gr.HTML, gr.HTML, gr.HTML, gr.HTML, gr.Textbox]:
    message = gr.HTML(elem_id="message")
    drawn = gr.HTML(elem_id="drawn")
    words = gr.HTML(elem_id="words", js_on_load=SET_CONTROLS)
    code = gr.Textbox(label="Python that makes this negative", lines=9, buttons=["copy"], elem_id="code")
    found = gr.HTML(elem_id="found")
    return message, drawn, words, found, code


def _setting_controls() -> tuple[dict[str, gr.components.Component], dict[str, gr.blocks.Block]]:
    """One control per field of `Settings`, in order, and blocks that are visible only at one value of another control."""
    made: dict[str, gr.components.Component] = {}

    def add(kind: Any, name: str, label: str, *given: Any, **options: Any) -> None:
        value = getattr(Settings, name)
        value = list(value) if isinstance(value, tuple) else value
        made[name] = kind(*given, value=value, label=label, elem_id=name, **options)

    def slide(name: str, label: str, **options: Any) -> None:
        low, high, step = RANGES[name]
        add(gr.Slider, name, label, low, high, step=step, **options)

    with gr.Column(elem_id="settings"):
        slide("seed", "Seed")
        add(gr.Dropdown, "size", "Resize: shorter side in pixels", list(SIZES), filterable=False)
        with gr.Accordion("Patches"):
            add(gr.Radio, "levels", "Levels to swap on", list(LEVELS), info=LEVELS_INFO)
            add(gr.CheckboxGroup, "chosen", "Chosen levels", [0, 1, 2, 3], visible=False)
            slide("smallest", "Smallest, % of image")
            slide("largest", "Largest, % of image")
            slide("flattest", "Widest shape, height / width")
            slide("tallest", "Tallest shape, height / width")
        with gr.Accordion("Saliency and clusters"):
            add(gr.Dropdown, "net", "Saliency net", list(nets_at_hand()), info=NETS, filterable=False)
            slide("grid", "Grid: cells along each side")
            add(
                gr.Radio,
                "region",
                "Region",
                list(REGIONS),
                info="All salient clusters, or the top one alone.",
            )
            add(gr.Radio, "clustering", "Clustering", list(clusterings_at_hand()))
            with gr.Accordion("Options of kmeans", open=False) as options:
                slide("n_clusters", "Clusters")
                slide(
                    "saliency_weight",
                    "Weight of saliency",
                    info="Beside color: more follows the map, less follows the colors.",
                )
                add(gr.Checkbox, "color", "Cluster by color, too")
                slide("n_iter", "Rounds of k-means, at most")
    return {field.name: made[field.name] for field in fields(Settings)}, {"kmeans": options, CHOSEN: made["chosen"]}


def _add(visitor: Any, given: list[tuple[str, bytes]]) -> tuple[str | None, list[str]]:
    names, refused = [], []
    for name, content in given:
        try:
            names.append(visitor.add(name, content))
        except RefusedImage as error:
            refused.append(str(error))
    return (names[0] if names else None), refused


def _confine(visitor: Visitor, given: list[tuple[str, bytes]]) -> tuple[list[str], str]:
    """The message on a dropped mask, and its kind."""
    try:
        for name, content in given:
            visitor.confine(name, content)
    except RefusedImage as error:
        return [str(error)], "error"
    return [f"Patches keep to {visitor.region.mask.share:.0%} of the image."] if visitor.region else [], "note"
