"""Which axes of a layer's output are spatial. Found by running the net at two sizes, never guessed from one shape.

Where a net takes images of one size alone, as most transformers do, its patches say what the side of the grid is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

MOST_PREFIX = 16  # class, distillation and register tokens before those of the patches
Shape = tuple[int, ...]


class Layout(NamedTuple):
    """How an output holds a map of side x side: "first" [N, K, h, w], "last" [N, h, w, K], "tokens" [N, prefix + h * w, K]."""

    kind: str
    side: int
    prefix: int = 0

    def as_maps(self, x: Tensor) -> Tensor:
        """[N, K, h, w]"""
        if self.kind == "first":
            return x
        if self.kind == "last":
            return x.movedim(3, 1)
        patches = x[:, self.prefix :]
        return patches.transpose(1, 2).reshape(-1, patches.shape[2], self.side, self.side)


def layouts(shapes: Sequence[Shape], others: Sequence[Shape | None], ratio: float) -> list[Layout | None]:
    """The layout of each output of one image, in the order of the calls; None where it is no square map.

    Args:
        shapes: of the outputs.
        others: the same at another input size; None where the net did not come so far.
        ratio: that size / this size.
    """
    found: list[Layout | None] = []
    grid = prefix = None  # the side of the last map with known axes; the number of tokens before those of the patches
    for shape, other in zip(shapes, others, strict=True):
        layout = None
        if len(shape) == 4 and shape[0] == 1:
            layout = _of_map(shape, other)
        elif len(shape) == 3 and shape[0] == 1:
            layout = _of_tokens(shape, other, ratio, grid, prefix)
        if layout is not None:
            grid = layout.side
            prefix = layout.prefix if layout.kind == "tokens" else prefix
        found.append(layout)
    return found


def _of_map(shape: Shape, other: Shape | None) -> Layout | None:
    first, last = shape[2] == shape[3], shape[1] == shape[2]
    if other is not None and len(other) == 4 and other != shape:
        changed = [axis for axis in (1, 2, 3) if shape[axis] != other[axis]]
        first, last = first and changed == [2, 3], last and changed == [1, 2]
    elif other is not None:  # the same at any size, as after adaptive pooling; torch's own modules pool [N, K, h, w]
        last = False
    if first == last:
        return None  # neither, or [1, s, s, s] in a net of one size
    return Layout("first", shape[2]) if first else Layout("last", shape[1])


def _of_tokens(shape: Shape, other: Shape | None, ratio: float, grid: int | None, prefix: int | None) -> Layout | None:
    known: Sequence[int] = range(MOST_PREFIX + 1) if prefix is None else (prefix,)
    if other is not None:
        if len(other) != 3 or other[2] != shape[2]:
            return None
        known = [p for p in known if abs(_side(other[1] - p) - _side(shape[1] - p) * ratio) < 1]
    elif prefix is None:  # of one size: one token for each place of the map before it
        known = [] if grid is None or not 0 <= shape[1] - grid**2 <= MOST_PREFIX else [shape[1] - grid**2]
    sides = [Layout("tokens", _side(shape[1] - p), p) for p in known if _side(shape[1] - p) > 1]
    return sides[0] if len(sides) == 1 else None


def _side(count: int) -> int:
    """Of the square that so many tokens make; 0 where they make none."""
    side = math.isqrt(max(count, 0))
    return side if side**2 == count else 0
