"""The explorer's detector: fitted on dropped images as by `detect.py`, with its rules and verdicts, and heat maps."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from detector.model import Detector
from explorer.images import Photo, squared
from explorer.judging import AGAIN, START, at_rate, fit_and_judge, judge, standing
from explorer.verdicts import FEW
from explorer.visitor import Visitor
from helpers.explorer import MASK, content, fetched, guest, picture, values
from PIL import Image


def marked(seed: int) -> Image.Image:
    """A part with a bright spot that no good one has."""
    image = picture(seed=seed)
    image.paste((255, 0, 0), (30, 18, 42, 30))
    return image


@pytest.fixture(scope="module")
def judged() -> Visitor:
    visitor = guest(*[(f"good {i}.png", content(picture(seed=i))) for i in range(21)])
    for i in range(2):
        visitor.add_other(f"good {i}.png", content(picture(seed=100 + i)))
    visitor.add_other("=bad.png", content(marked(200)))
    outcome = fit_and_judge(visitor, 10, values())
    assert outcome.message == "", outcome.message
    return visitor


def test_fewer_than_twenty_images_are_refused_by_the_detectors_own_sentence() -> None:
    visitor = guest(*[(f"{i}.png", content(picture(seed=i))) for i in range(19)])
    outcome = fit_and_judge(visitor, 10, values())
    assert "`data` must hold 20 normal images or more, got 19." in outcome.message
    assert outcome.results is None and "from before" not in outcome.message
    same = guest(*[(f"{i}.png", content(picture())) for i in range(20)])
    assert "`data` must hold images that differ, got 20 times the same" in fit_and_judge(same, 10, values()).message


def test_the_verdicts_are_those_of_the_detector_which_can_be_taken_home(judged: Visitor, tmp_path: Path) -> None:
    html = at_rate(judged, 10).results or ""
    (tmp_path / "detector.safetensors").write_bytes(judged.trial.file())
    detector = Detector.load(tmp_path)
    names = list(judged.others)
    scores, _ = detector(torch.stack([squared(judged.others[name], 256, 32) for name in names]))
    expected = sorted(zip(scores.tolist(), names, strict=True), reverse=True)
    assert [(one.name, one.score) for one in judged.trial.judged] == [(n, pytest.approx(s)) for s, n in expected]
    captions = re.findall(r"<figcaption>(good|defect): (.*?), score", html)
    order = scores.argsort(descending=True)
    words = ["defect" if d else "good" for d in detector.verdicts(scores[order], 0.1).tolist()]
    assert captions == [(word, names[i]) for word, i in zip(words, order.tolist(), strict=True)]
    assert captions[0] == ("defect", "=bad.png") and "of 3 images are defects: their scores are above" in html
    rows = judged.trial.table(0.1).decode().splitlines()
    assert rows[0] == "file,score,p_value,verdict" and rows[1].startswith("./=bad.png,") and rows[1].endswith(",defect")


def test_negatives_weigh_the_maps_and_those_of_kept_parts_are_scored(judged: Visitor) -> None:
    weights, negatives = judged.trial.detector.weights, judged.trial.negatives
    assert float(weights.max() - weights.min()) > 0.01  # without negatives all are equal
    assert len(judged.trial.kept) == 10 and len(negatives) == 3 * 10
    assert f"Of 30 negatives of the kept parts, {float((negatives > judged.trial.kept[0].score).double().mean()):.0%}" in (
        at_rate(judged, 1).results or ""
    )


def test_heat_maps_show_the_spot_and_everything_that_is_named_can_be_fetched(judged: Visitor) -> None:
    html = at_rate(judged, 10).results
    assert fetched(judged, html, "judged.jpg").size == (3 * 388, 192)
    assert fetched(judged, html, "kept.jpg").size == (FEW * 388, 192)
    heat = judged.trial.judged[0].heat
    y, x = np.unravel_index(int(heat.argmax()), heat.shape)
    assert 60 < y < 170 and 80 < x < 180  # of 256
    for name in ("scores.csv", "detector.safetensors"):
        assert re.search(rf'"files/[\w-]+/{name}"', html or "")


def test_the_rate_moves_the_verdict_and_what_cannot_be_promised_is_told(judged: Visitor) -> None:
    low, high = (at_rate(judged, percent).results or "" for percent in (1, 50))
    assert "0.01 false alarms were asked for; 10 held-out images can promise 0.091 at least" in low
    assert "At most 0.5 of new normal images are called defects" in high

    def limit(html: str) -> float:
        return float(re.findall(r"are above ([\d.]+)\.<", html)[0])

    assert limit(high) < limit(low)
    assert len(re.findall('class="above"', high)) > len(re.findall('class="above"', low))
    for wrong in (0, 51, None, "x", float("nan")):
        outcome = at_rate(judged, wrong)
        assert "`false alarms` must be from 1 to 50 %, got " in outcome.message and outcome.results is None


def test_images_that_cannot_be_scored_are_named_and_the_others_scored(judged: Visitor) -> None:
    before = dict(judged.others)
    judged.add_other("small.png", content(picture(size=(20, 60))))
    judged.add_other("twelve bits.png", content(Image.fromarray(np.full((60, 60), 3000, np.uint16))))
    outcome = judge(judged, 10)
    assert "small.png&#x27; is left out: its sides must be 32 px or more, got 20 x 60." in outcome.message
    assert "twelve bits.png&#x27; is left out: deep grays up to 3000" in outcome.message
    assert "of 3 images are defects" in (outcome.results or "")
    judged.others = before


def test_the_page_says_what_to_do_next(judged: Visitor) -> None:
    assert START in standing(guest()) and standing(judged) == ""
    assert "You have 1 good part and 0 images to judge." in standing(guest(("a.png", content(picture()))))
    judged.photos["late.png"] = Photo("late.png", content(picture(seed=50)))
    try:
        assert AGAIN in at_rate(judged, 10).message
    finally:
        del judged.photos["late.png"]


def test_negatives_of_the_detector_keep_to_the_controls_and_the_region(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("explorer.judging.fitted", lambda photos, swap: seen.append(swap) or 1 / 0)
    visitor = guest(("a.png", content(picture())))
    visitor.confine("mask.png", content(MASK))
    message = fit_and_judge(visitor, 10, values(largest=6.0)).message
    assert "ZeroDivisionError" in message and visitor.region is not None
    assert seen[0].scale == (0.002, 0.06) and seen[0].roi is visitor.region.mask
    assert "`largest` must be from" in fit_and_judge(visitor, 10, values(largest=60.0)).message
    assert "`false alarms`" in fit_and_judge(visitor, 0, values()).message and len(seen) == 1
