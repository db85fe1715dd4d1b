"""Which axes of a layer's output are spatial: found by running the net at two sizes, never guessed from one shape.

If a net takes only one image size, as most transformers do, a cube [1, s, s, s] is not taken for a map, and tokens only if
their grid has the side of an earlier map, or half of it. Non-patch tokens (class, distillation, registers) are the tokens
that do not depend on the image.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

Shape = tuple[int, ...]
Extra = tuple[int, int]  # number of tokens before and after the patch tokens


class Layout(NamedTuple):
    """How an output holds a map of side x side: "first" [N, K, h, w], "last" [N, h, w, K], or "tokens" [N, T, K], where
    h * w patches follow the first `prefix` tokens, row by row."""

    kind: str
    side: int
    prefix: int = 0

    def as_maps(self, x: Tensor) -> Tensor:
        """[N, K, h, w]"""
        if self.kind == "first":
            return x
        if self.kind == "last":
            return x.movedim(3, 1)
        patches = x[:, self.prefix : self.prefix + self.side**2]
        return patches.transpose(1, 2).reshape(-1, patches.shape[2], self.side, self.side)


def extra_tokens(moved: Sequence[bool]) -> Extra | None:
    """The number of tokens before and after the patch tokens; None if there are others between.

    Args:
        moved: whether each token depends on the image; at least one does.

    >>> extra_tokens([False, True, True, True])
    (1, 0)
    """
    before, after = moved.index(True), moved[::-1].index(True)
    return (before, after) if sum(moved) == len(moved) - before - after else None


def layouts(
    shapes: Sequence[Shape], others: Sequence[Shape | None], ratio: float, extras: Mapping[int, Extra | None]
) -> list[Layout | None]:
    """The layout of each output of one image, in the order of the calls; None if it is not a square map.

    Args:
        shapes: of the outputs.
        others: the same at another input size; None if the net failed before.
        ratio: other size / this size.
        extras: number of tokens -> non-patch tokens.
    """
    result: list[Layout | None] = []
    sides, channels = set[int](), set[int]()  # of the maps, of the tokens, so far
    extra: Extra | None = (0, 0)  # of the tokens so far
    for shape, other in zip(shapes, others, strict=True):
        other = None if other == shape else other  # a net that resizes its images: no information
        layout = None
        if len(shape) == 4 and shape[0] == 1:
            layout = _of_map(shape, other, ratio)
        elif len(shape) == 3 and shape[0] == 1:
            count = shape[1]
            sure, known = count in extras, [extras[count]] if count in extras else [extra, (0, 0)]
            likely = None if sure or other else _grids(sides, finer=count in channels)
            layout = _of_tokens(shape, other, ratio, known, likely)
        if layout is not None:
            sides.add(layout.side)
            if layout.kind == "tokens":
                channels.add(shape[2])
                extra = (layout.prefix, shape[1] - layout.prefix - layout.side**2)
        result.append(layout)
    return result


def _of_map(shape: Shape, other: Shape | None, ratio: float) -> Layout | None:
    first, last = shape[2] == shape[3], shape[1] == shape[2]
    if other is not None:
        changed = [axis for axis in range(len(other)) if axis < 4 and shape[axis] != other[axis]]
        first, last = first and changed == [2, 3], last and changed == [1, 2]
    if first == last:
        return None  # neither, or [1, s, s, s] at one size
    side = shape[2]
    if other is not None and (other[2] - 1) / side > ratio**1.5:
        return None  # it grows like the area: an attention matrix
    return Layout("first" if first else "last", side)


def _of_tokens(
    shape: Shape, other: Shape | None, ratio: float, extras: Iterable[Extra | None], likely: Collection[int] | None
) -> Layout | None:
    """
    Args:
        extras: possible non-patch tokens, the likeliest first.
        likely: possible sides of the grid; None: any.
    """
    for extra in extras:
        side = _side(shape[1] - sum(extra)) if extra else 0
        grown = _side(other[1] - sum(extra)) if extra and other and len(other) == 3 else 0
        as_large = other is None or (other[::2] == shape[::2] and abs(grown - side * ratio) < 1)
        if extra and side > 1 and as_large and (likely is None or side in likely):
            return Layout("tokens", side, extra[0])
    return None


def _grids(sides: Collection[int], finer: bool) -> set[int]:
    """Possible sides of the token grid in a net of one size: an earlier side or, unless the number of tokens is also an
    earlier number of channels (as in [N, K, T] of a mixer), half of one."""
    return {*sides} if finer else {*sides, *(s // 2 for s in sides), *(-(-s // 2) for s in sides)}


def _side(count: int) -> int:
    """Side of the square of `count` tokens; 0 if they form none."""
    side = math.isqrt(max(count, 0))
    return side if side**2 == count else 0
