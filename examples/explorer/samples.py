"""Parts that the examples draw, to try the detector without images of one's own."""

from __future__ import annotations

import io

from make_samples import make_scene
from PIL import Image
from toy import DEFECTS, VARIANT, make_defective

SCENE, SIDE = "flange", 128
GOOD, GOOD_JUDGED = 30, 5  # good parts to fit on, and to judge beside one part with each defect
Files = list[tuple[str, bytes]]


def drawn_parts() -> tuple[Files, Files]:
    """Good parts to fit on; good and defective ones to judge."""
    good = [
        (f"{SCENE}_{i:02d}.png", _png(Image.fromarray(make_scene(SCENE, i, SIDE, variant=VARIANT))))
        for i in range(GOOD + GOOD_JUDGED)
    ]
    bad = [
        (f"{defect}.png", _png(Image.fromarray(make_defective(SCENE, 100 + i, SIDE, defect)[0])))
        for i, defect in enumerate(DEFECTS)
    ]
    return good[:GOOD], good[GOOD:] + bad


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()
