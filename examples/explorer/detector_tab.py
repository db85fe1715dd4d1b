"""The tab that fits a detector on the visitor's good parts and judges other images."""

from __future__ import annotations

from typing import Any, NamedTuple

import gradio as gr

from .drops import drop_area
from .events import Dropped, Events, image_list, received
from .judging import Outcome, at_rate, fit_and_judge, judge, standing
from .samples import drawn_parts
from .uploads import Uploads
from .verdicts import RATES
from .visitor import MAX_IMAGES, Visitor

INTRO = """<p>A detector learns your good parts, and says which other parts differ and where. The negatives of the first tab,
as they are set there, tell it which of its maps to trust.</p>"""
RATE = "Rate of false alarms: % of good parts that may be called defects"


class TabControls(NamedTuple):
    """In the order in which they are used; `rate` is hidden until there is a detector."""

    good: gr.File
    good_said: gr.HTML
    others: gr.File
    others_said: gr.HTML
    clear: gr.Button
    fit: gr.Button
    samples: gr.Button
    message: gr.HTML
    rate: gr.Slider
    results: gr.HTML


def tab_controls(uploads: Uploads) -> TabControls:
    with gr.Row(elem_classes="board"):
        with gr.Column(scale=2, min_width=280, elem_classes="side"):
            gr.HTML(INTRO)
            good = drop_area(uploads, label=f"1. Good parts, 20 to {MAX_IMAGES}", file_count="multiple", elem_id="good")
            good_said = gr.HTML(elem_id="good-said")
            others = drop_area(uploads, label="2. Images to judge", file_count="multiple", elem_id="others")
            others_said = gr.HTML(elem_id="others-said")
            clear = gr.Button("Remove the images to judge", size="sm", visible=False, elem_id="clear-others")
            fit = gr.Button("3. Fit and judge", variant="primary", elem_id="fit")
            samples = gr.Button("Or try it on drawn parts", size="sm", elem_id="samples")
        with gr.Column(scale=6, min_width=300, elem_classes="results"):
            message = gr.HTML(elem_id="trial-message")
            low, high, step = RATES
            rate = gr.Slider(low, high, 1, step=step, label=RATE, elem_id="rate", visible=False)
            results = gr.HTML(elem_id="trial")
    return TabControls(good, good_said, others, others_said, clear, fit, samples, message, rate, results)


class TrialEvents:
    """What the tab does; `events` runs the work."""

    def __init__(self, events: Events) -> None:
        self._events = events

    async def take_good(self, request: gr.Request, given: Dropped, choice: str) -> list[Any]:
        """Keep good parts. The other tab shows them as well."""
        visitor = self._events.visitors[request.session_hash]
        first, said = await self._events.run(received, visitor.add, given)
        return [None, said, standing(visitor), *image_list(visitor, first or choice)]

    async def take_others(self, request: gr.Request, given: Dropped, percent: Any) -> list[Any]:
        """Keep images to judge, and judge them if there is a detector."""
        visitor = self._events.visitors[request.session_hash]
        _, said = await self._events.run(received, visitor.add_other, given)
        outcome = await self._events.run(judge, visitor, percent)
        return [None, said, gr.Button(visible=bool(visitor.others)), *_parts(outcome)]

    async def clear_others(self, request: gr.Request, percent: Any) -> list[Any]:
        visitor = self._events.visitors[request.session_hash]
        await self._events.run(visitor.others.clear)
        outcome = await self._events.run(judge, visitor, percent)
        return ["", gr.Button(visible=False), *_parts(outcome)]

    async def take_samples(self, request: gr.Request, choice: str) -> list[Any]:
        """Drawn parts in place of the visitor's own."""
        visitor = self._events.visitors[request.session_hash]
        await self._events.run(_take_samples, visitor)
        return [gr.Button(visible=True), standing(visitor), *image_list(visitor, choice)]

    async def fit(self, request: gr.Request, percent: Any, *values: Any) -> list[Any]:
        return _parts(await self._events.run(fit_and_judge, self._events.visitors[request.session_hash], percent, values))

    async def move(self, request: gr.Request, percent: Any) -> list[Any]:
        outcome = await self._events.run(at_rate, self._events.visitors[request.session_hash], percent)
        return _parts(outcome)[:2]  # the slider itself is in use

    def stand(self, request: gr.Request) -> str:
        return standing(self._events.visitors[request.session_hash])


def _take_samples(visitor: Visitor) -> None:
    good, others = drawn_parts()
    for file in good:
        visitor.add(*file)
    for file in others:
        visitor.add_other(*file)


def _parts(outcome: Outcome) -> list[Any]:
    """The message, the results and the slider, which is shown with the first results."""
    if outcome.results is None:
        return [outcome.message, gr.skip(), gr.skip()]
    return [outcome.message, outcome.results, gr.Slider(visible=True)]
