"""The page: controls on one side, pictures on the other. Every event on it calls `views.update`."""

from __future__ import annotations

from concurrent.futures import Executor
from functools import partial
from typing import Any

import gradio as gr

from .controls import ImageControls, image_controls, region_controls, setting_controls
from .detector_tab import TrialEvents, tab_controls
from .events import Events
from .guide import guide
from .judging import DRAWING, FITTING
from .scripts import CLOSES, SET_CONTROLS
from .settings import CHOSEN, Settings
from .uploads import Uploads
from .visitor import Visitors

INTRO = """<h1>SaliencySwap on your images</h1>
<p>Drop images of normal parts, or pick a sample. Move a control; the pictures follow, and so do the Python lines below them.
Images stay in the memory of this computer.</p>"""
CHOSEN_BY_BUTTONS = ("seed", "smallest", "largest")
# Unchecked values from the browser; `Settings` checks them, because the page does not show what gradio refuses.
RAW = {"preprocess": False, "postprocess": False}
# Fast events: without the queue a round trip takes 40 ms less; of a moving slider only the last position counts.
QUICK: dict[str, Any] = {
    "queue": False, "show_progress": "hidden", "trigger_mode": "always_last", "api_visibility": "private"
}  # fmt: skip


def build_page(visitors: Visitors, uploads: Uploads, worker: Executor) -> gr.Blocks:
    """The page; `worker` as in `Events`."""
    events = Events(visitors, worker)
    with gr.Blocks(title="cutswap_transforms explorer", analytics_enabled=False) as page:
        gr.HTML(INTRO, elem_classes="intro")
        with gr.Tabs():
            with gr.Tab("Negatives"):
                images, settings = _negatives_board(events, page, uploads)
            with gr.Tab("Detector") as tab:
                _detector_board(events, tab, uploads, images, settings)
        page.unload(events.leave)
    return page


def _negatives_board(
    events: Events, page: gr.Blocks, uploads: Uploads
) -> tuple[ImageControls, dict[str, gr.components.Component]]:
    with gr.Row(elem_id="board", elem_classes="board"):
        with gr.Column(scale=2, min_width=280, elem_id="controls", elem_classes="side"):
            images = image_controls(uploads)
            mask, release = region_controls(uploads)
            settings, options = setting_controls()
        with gr.Column(scale=6, min_width=300, elem_id="results", elem_classes="results"):
            message, mosaic, drawn, words, found, code = _results()
    inputs, outputs = [images.image, *settings.values()], [message, drawn, words, found, code, mosaic]
    show_again = {"fn": events.show, "inputs": inputs, "outputs": outputs, **RAW, **QUICK}
    show_again |= {"show_progress": "minimal", "show_progress_on": drawn}
    gr.on([page.load, *(control.input for control in inputs)], **show_again)
    changed = [images.notice, images.image, images.own]
    images.drop.upload(events.take, [images.drop, images.image], [images.drop, *changed], **QUICK).then(**show_again)
    images.remove.click(events.remove, images.image, changed, **QUICK).then(**show_again)
    images.clear.click(events.clear, None, changed, **QUICK).then(**show_again)
    images.mosaic.click(events.show_mosaic, [*settings.values()], mosaic, preprocess=False, **QUICK)
    mosaic.click(events.choose, images.image, images.image, preprocess=False, **QUICK).then(**show_again)
    mask.upload(events.confine, mask, [mask, images.notice, release], **QUICK).then(**show_again)
    release.click(events.release, None, [images.notice, release], **QUICK).then(**show_again)
    words.click(_chosen, None, [settings[name] for name in CHOSEN_BY_BUTTONS], **QUICK).then(**show_again)
    for name, value in (("clustering", "kmeans"), ("levels", CHOSEN)):
        settings[name].change(partial(_visible_at, value), settings[name], options[value], **QUICK)
    return images, settings


def _detector_board(
    events: Events, tab: gr.Tab, uploads: Uploads, images: ImageControls, settings: dict[str, gr.components.Component]
) -> None:
    own, on = tab_controls(uploads), TrialEvents(events)
    outcome, listed = [own.message, own.results, own.rate], [images.image, images.own]
    busy = {**QUICK, "show_progress": "minimal", "show_progress_on": own.results}
    tab.select(on.stand, None, own.message, **QUICK)
    own.good.upload(on.take_good, [own.good, images.image], [own.good, own.good_said, own.message, *listed], **QUICK)
    own.others.upload(on.take_others, [own.others, own.rate], [own.others, own.others_said, own.clear, *outcome], **busy)
    own.clear.click(on.clear_others, own.rate, [own.others_said, own.clear, *outcome], **busy)
    drawing = own.samples.click(lambda: DRAWING, None, own.message, **QUICK)
    drawing.then(on.take_samples, images.image, [own.clear, own.message, *listed], **QUICK)
    fitting = own.fit.click(lambda: FITTING, None, own.message, **QUICK)
    fitting.then(on.fit, [own.rate, *settings.values()], outcome, preprocess=False, **busy)
    own.rate.input(on.move, own.rate, outcome[:2], **RAW, **QUICK)


def _chosen(event: gr.EventData) -> list[Any]:
    """The values that a button in the HTML gives to controls."""
    given = dict(part.partition("=")[::2] for part in str(event.given).split(";"))
    return [type(getattr(Settings, n))(given[n]) if n in given else gr.skip() for n in CHOSEN_BY_BUTTONS]


def _visible_at(value: str, now: str) -> Any:
    return gr.update(visible=now == value)


def _results() -> tuple[gr.HTML, gr.HTML, gr.HTML, gr.HTML, gr.HTML, gr.Textbox]:
    message = gr.HTML(elem_id="message")
    mosaic = gr.HTML(elem_id="mosaic", js_on_load=SET_CONTROLS + CLOSES)
    drawn = gr.HTML(elem_id="drawn")
    words = gr.HTML(elem_id="words", js_on_load=SET_CONTROLS)
    gr.HTML(guide(), elem_id="guide")
    code = gr.Textbox(label="Python that makes this negative", lines=9, buttons=["copy"], elem_id="code")
    found = gr.HTML(elem_id="found")
    return message, mosaic, drawn, words, found, code
