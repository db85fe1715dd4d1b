"""Two lines on what a good negative looks like, with a good and a bad picture, drawn from a sample."""

from __future__ import annotations

from functools import lru_cache

from augment import Anywhere

from cutswap_transforms import SaliencySwap
from cutswap_transforms.preview.steps import negative_picture

from .images import opened, sample
from .rendering import Figure, figures, strip
from .seeding import seeded
from .settings import Settings

FILE = "guide.jpg"
SCENE, SIDE = "flange", 256
GOOD, BAD = 14, 5  # seeds, chosen by eye
LINES = (
    Figure(
        "Good: the patches lie on the part and are like what they replace. One has to look for them, as for a real fault.",
        "A flange with small patches swapped on it",
    ),
    Figure(
        "Bad: a piece of the part lies on the ground, and of the ground on the part, as no real fault would. "
        "Try smaller patches or a region of interest.",
        "A flange with a hole, and the piece beside it",
    ),
)


def guide() -> str:
    return "<h2>What a good negative looks like</h2>" + figures(FILE, (SIDE, SIDE), LINES, "guide")


@lru_cache(maxsize=1)
def guide_picture() -> bytes:
    image = opened(sample(SCENE), str(SIDE)).image
    panels = []
    for swap, seed in ((Settings().swap(), GOOD), (SaliencySwap(Anywhere()), BAD)):
        with seeded(seed):
            params = swap.make_params([image])
        panels.append(negative_picture(image, swap, params))
    return strip(panels)
