"""What a trial says at a rate of false alarms: sentences, the chart of all scores, and heat maps."""

from __future__ import annotations

import html
from collections.abc import Sequence

from PIL import Image

from .chart import Group, score_chart
from .rendering import Figure, figures, paragraphs, strip
from .trial import SHOWN, Scored, Trial
from .visitor import Visitor

RATES = (1, 50, 1)  # of the slider, in percent: lowest, highest, step
FEW = 6  # good parts that are shown
KEPT = "Nothing was fitted on them, and theirs are the highest scores. Take out what is no good part, and fit again."
SIDE = 192  # of a picture in pixels; its heat map is beside it


def verdicts(visitor: Visitor, trial: Trial, percent: float) -> str:
    """HTML of the trial; its pictures are published for the visitor.

    Raises:
        ValueError: a rate that the slider cannot have.
    """
    rate = checked_rate(percent)
    url = _published(visitor, trial, rate)
    visitor.shows(trial=url)
    judged, kept = trial.judged[:SHOWN], trial.kept[:FEW]
    parts = [
        _headline(trial, rate),
        _chart(trial, rate),
        _downloads(url, bool(judged)),
        _gallery(f"{url}/judged.jpg", _judged_heading(trial), _captions(trial, judged, rate)) if judged else "",
        _gallery(f"{url}/kept.jpg", "The good parts that set the threshold", _named(kept), KEPT),
        paragraphs(_background(trial, rate), "word"),
    ]
    return "".join(parts)


def checked_rate(percent: object) -> float:
    """The rate in [0, 1] of the value of the slider, which may be anything."""
    low, high, _ = RATES
    if not isinstance(percent, (int, float)) or not low <= percent <= high:
        raise ValueError(f"`false alarms` must be from {low} to {high} %, got {str(percent)[:80]}.")
    return percent / 100


def _headline(trial: Trial, rate: float) -> str:
    from detector.fitting import rate_sentence

    limit, count = f"{trial.detector.threshold(rate):.2f}", len(trial.judged)
    said = f"Scores above {limit} are defects."
    if count:
        said = f"{sum(trial.are_defects(trial.judged, rate))} of {count} images are defects: their scores are above {limit}."
    return f'<p class="verdict">{said}</p>' + paragraphs([rate_sentence(rate, len(trial.kept))], "word")


def _background(trial: Trial, rate: float) -> list[str]:
    found = float(trial.detector.verdicts(trial.negatives, rate).double().mean())
    return [
        f"Fitted on {trial.count} good parts in {trial.seconds:.0f} s, of which {len(trial.kept)} were kept out to calibrate.",
        f"Of {len(trial.negatives)} negatives of the kept parts, {found:.0%} are found; real defects may be harder to find.",
    ]


def _chart(trial: Trial, rate: float) -> str:
    groups = (
        Group("scores of good parts, kept out", "good", [(one.name, one.score) for one in trial.kept]),
        Group("of negatives of these", "made", [(f"negative {i}", float(score)) for i, score in enumerate(trial.negatives)]),
        Group("of your images", "judged", [(one.name, one.score) for one in trial.judged]),
    )
    return score_chart(groups, trial.detector.threshold(rate))


def _published(visitor: Visitor, trial: Trial, rate: float) -> str:
    limit = trial.detector.threshold(rate)
    judged, kept = trial.judged[:SHOWN], trial.kept[:FEW]
    pictures = {"kept.jpg": lambda: _heat_strip(kept, limit)} | (
        {"judged.jpg": lambda: _heat_strip(judged, limit)} if judged else {}
    )
    downloads = {"detector.safetensors": trial.file} | ({"scores.csv": lambda: trial.table(rate)} if judged else {})
    return visitor.publish(pictures, downloads)


def _heat_strip(scored: Sequence[Scored], limit: float) -> bytes:
    """Of each image, itself with a contour, and its heat map."""
    from detector.pictures import heat_picture, to_pil

    pictures = [to_pil(heat_picture(one.image, one.heat, limit)) for one in scored if one.image is not None]
    return strip([picture.resize((2 * SIDE, SIDE), Image.Resampling.LANCZOS) for picture in pictures])


def _gallery(url: str, heading: str, captions: Sequence[Figure], words: str = "") -> str:
    return (
        f"<h2>{heading}</h2>" + paragraphs([words] if words else [], "word") + figures(url, (2 * SIDE, SIDE), captions, "heat")
    )


def _judged_heading(trial: Trial) -> str:
    more = len(trial.judged) - SHOWN
    return "Your images, the highest score first" + (f"; {more} more are in scores.csv" if more > 0 else "")


def _captions(trial: Trial, scored: Sequence[Scored], rate: float) -> list[Figure]:
    from detector.score_command import verdict

    words = [verdict(defective) for defective in trial.are_defects(scored, rate)]
    return [
        Figure(f"{word}: {one.name}, score {one.score:.2f}", f"{one.name} with a contour, and its heat map", kind=word)
        for one, word in zip(scored, words, strict=True)
    ]


def _named(scored: Sequence[Scored]) -> list[Figure]:
    return [Figure(f"{one.name}, score {one.score:.2f}", f"{one.name} with a contour, and its heat map") for one in scored]


def _downloads(url: str, judged: bool) -> str:
    links = [("scores.csv", "scores.csv")] if judged else []
    links.append(("detector.safetensors", "detector"))
    return (
        '<p class="downloads">Download '
        + " ".join(f'<a href="{url}/{file}" download="{html.escape(file)}">{text}</a>' for file, text in links)
        + "</p>"
    )
