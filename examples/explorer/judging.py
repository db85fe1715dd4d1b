"""Fitting, judging and moving the rate: from a visitor's images to a message and what `verdicts` shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from .rendering import paragraphs
from .settings import Settings
from .trial import fitted
from .verdicts import checked_rate, verdicts
from .views import BEFORE, told
from .visitor import Visitor

AGAIN = "The good parts have changed since the fit: fit again."
FITTING = paragraphs(["Fitting and judging. This takes seconds, the first time a little longer."], "note")
DRAWING = paragraphs(["Drawing parts. This takes seconds."], "note")
START = "Drop 20 or more good parts and some images to judge, or try it on drawn parts."


class Outcome(NamedTuple):
    """HTML; None leaves a part unchanged."""

    message: str
    results: str | None = None


def fit_and_judge(visitor: Visitor, percent: Any, values: Any) -> Outcome:
    """Fit a detector on the visitor's good parts, with negatives at the values of the controls, and judge the others."""

    def work() -> Outcome:
        checked_rate(percent)  # before the work of seconds
        trial, faults = fitted(list(visitor.photos.values()), Settings.of(values).swap(visitor.region))
        faults += trial.judge(visitor.others.values())
        visitor.trial = trial
        return _shown(visitor, percent, faults)

    return _explained(visitor, work)


def judge(visitor: Visitor, percent: Any) -> Outcome:
    """Score the images to judge, if there is a detector."""

    def work() -> Outcome:
        faults = visitor.trial.judge(visitor.others.values()) if visitor.trial else []
        return _shown(visitor, percent, faults)

    return _explained(visitor, work)


def at_rate(visitor: Visitor, percent: Any) -> Outcome:
    """The same scores at another rate."""
    return _explained(visitor, lambda: _shown(visitor, percent, ()))


def standing(visitor: Visitor) -> str:
    """What there is and what to do next."""
    if visitor.trial and visitor.trial.dropped != tuple(visitor.photos):
        return paragraphs([AGAIN], "note")
    if visitor.trial:
        return ""
    if not visitor.photos and not visitor.others:
        return paragraphs([START], "note")
    counts = f"You have {_count(len(visitor.photos), 'good part')} and {_count(len(visitor.others), 'image')} to judge."
    return paragraphs([f"{counts} Drop more, or fit."], "note")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _shown(visitor: Visitor, percent: Any, faults: Sequence[str]) -> Outcome:
    message = paragraphs(faults, "error") + standing(visitor)
    return Outcome(message, verdicts(visitor, visitor.trial, percent) if visitor.trial else None)


def _explained(visitor: Visitor, work: Callable[[], Outcome]) -> Outcome:
    try:
        return work()
    except Exception as error:
        return Outcome(told(error, BEFORE if visitor.trial else ""))
