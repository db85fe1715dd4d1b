"""Which axes are spatial: by shapes at two sizes, by the grid of a net of one size, and by the tokens that no image changes."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from cutswap_transforms.saliency.traced.layouts import Layout, extra_tokens, layouts
from cutswap_transforms.saliency.traced.stages import record_calls


def by_cells(layout: Layout, x: Tensor) -> Tensor:
    """[N, K, h, w], cell by cell."""
    n, s = len(x), layout.side
    k = x.shape[1 if layout.kind == "first" else -1]
    maps = torch.zeros(n, k, s, s)
    for i, c, top, left in itertools.product(range(n), range(k), range(s), range(s)):
        places = {"first": (c, top, left), "last": (top, left, c), "tokens": (layout.prefix + top * s + left, c)}
        maps[i, c, top, left] = x[(i, *places[layout.kind])]
    return maps


@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        (Layout("first", 3), (2, 5, 3, 3)),
        (Layout("last", 3), (2, 3, 3, 5)),
        (Layout("tokens", 3), (2, 9, 5)),
        (Layout("tokens", 3, 2), (2, 11, 5)),
        (Layout("tokens", 3, 1), (2, 12, 5)),  # two more behind the patches
        (Layout("tokens", 3, 1), (0, 10, 5)),
    ],
)
def test_maps_are_the_cells_of_the_grid(layout: Layout, shape: tuple[int, ...]) -> None:
    x = torch.arange(torch.Size(shape).numel()).reshape(shape).float()
    assert torch.equal(layout.as_maps(x), by_cells(layout, x))


def one(shape: tuple[int, ...], other: tuple[int, ...] | None, ratio: float = 2, extras=None) -> Layout | None:
    return layouts([shape], [other], ratio, extras or {})[0]


@pytest.mark.parametrize(
    ("shape", "other", "expected"),
    [
        ((1, 5, 8, 8), (1, 5, 16, 16), Layout("first", 8)),
        ((1, 8, 8, 5), (1, 16, 16, 5), Layout("last", 8)),
        ((1, 8, 8, 8), (1, 8, 16, 16), Layout("first", 8)),  # a cube
        ((1, 8, 8, 8), (1, 16, 16, 8), Layout("last", 8)),
        ((1, 5, 8, 8), None, Layout("first", 8)),  # one size: the sides of a square tell
        ((1, 8, 8, 5), None, Layout("last", 8)),
        ((1, 8, 8, 8), None, None),
        ((1, 8, 8, 8), (1, 8, 8, 8), None),  # images resized within
        ((1, 8, 8, 5), (1, 8, 8, 5), Layout("last", 8)),
        ((1, 5, 8, 9), (1, 5, 16, 17), None),
        ((1, 8, 8, 5), (1, 8, 16, 5), None),
        ((1, 8, 8, 5), (4, 8, 8, 5), None),  # windows folded into the batch
        ((4, 5, 8, 8), (4, 5, 16, 16), None),
        ((1, 2, 16, 16), (1, 2, 64, 64), None),  # attention: it grows as the number of tokens
        ((1, 5, 28, 28), (1, 5, 60, 60), Layout("first", 28)),  # convolutions without padding
        ((1, 8, 8, 5), (1, 8, 5), None),
        ((1, 16, 5), (1, 64, 5), Layout("tokens", 4)),
        ((1, 5, 16), (1, 5, 64), None),  # [N, K, T]
        ((1, 16, 5), (1, 16, 9), None),
        ((1, 16, 5), None, None),  # one size, and no grid before
        ((1, 17, 5), (1, 65, 5), None),  # one token more, and none that stays
        ((1, 1, 5), (1, 1, 5), None),
        ((16, 5), None, None),
        ((), None, None),
    ],
)
def test_one_output(shape: tuple[int, ...], other: tuple[int, ...] | None, expected: Layout | None) -> None:
    assert one(shape, other) == expected


@pytest.mark.parametrize("other", [None, (1, 68, 5), (1, 20, 5)])
def test_tokens_of_no_patch_stand_before_and_behind(other: tuple[int, ...] | None) -> None:
    for before in range(5):
        assert one((1, 20, 5), other, extras={20: (before, 4 - before)}) == Layout("tokens", 4, before)
    assert one((1, 20, 5), other, extras={20: None}) is None  # between the patches
    assert one((1, 20, 5), other, extras={20: (1, 0)}) is None  # 19 are no square


def test_a_net_of_one_size_from_its_stem_to_pooled_tokens() -> None:
    stem, patches, tokens, pooled, inner = (1, 48, 8, 8), (1, 64, 48), (1, 66, 48), (1, 18, 96), (1, 48, 64)
    found = layouts([stem, patches, tokens, pooled, inner], [None] * 5, 2, {66: (2, 0)})
    expected = [Layout("first", 8), Layout("tokens", 8), Layout("tokens", 8, 2), Layout("tokens", 4, 2), None]
    assert found == expected
    # 16 tokens of a grid of 8 x 8 halved, but not 16 channels of a mixer's [N, K, T].
    assert layouts([stem, (1, 16, 48)], [None] * 2, 2, {})[1] == Layout("tokens", 4)
    mixer = layouts([(1, 16, 8, 8), (1, 64, 16), (1, 16, 64)], [None] * 3, 2, {})
    assert mixer == [Layout("first", 8), Layout("tokens", 8), None]


@pytest.mark.parametrize(
    ("moved", "extra"),
    [("1111", (0, 0)), ("0111", (1, 0)), ("1100", (0, 2)), ("0110", (1, 1)), ("1011", None), ("0101", None)],
)
def test_extra_tokens(moved: str, extra: tuple[int, int] | None) -> None:
    assert extra_tokens([m == "1" for m in moved]) == extra


class Tokens(nn.Module):
    """4 x 4 patches with other tokens around them, which a block gets mixed; `seen`: a module sees them before."""

    def __init__(self, before: int, after: int, one_size: bool, seen: bool) -> None:
        super().__init__()
        self.patches, self.one_size = nn.Conv2d(3, 6, 8, 8), one_size
        self.before, self.after = (nn.Parameter(torch.ones(1, n, 6)) for n in (before, after))
        self.dropout = nn.Dropout() if seen else torch.clone
        self.block = nn.Sequential(nn.Linear(6, 6), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        if self.one_size and x.shape[2:] != (32, 32):
            raise ValueError("one size")
        patches = self.patches(x).flatten(2).transpose(1, 2)
        x = self.dropout(torch.cat((self.before, patches, self.after), 1))
        return self.block(x + x.mean(1, keepdim=True)).mean(1)


@pytest.mark.parametrize("seen", [True, False])
@pytest.mark.parametrize("one_size", [True, False])
@pytest.mark.parametrize(("before", "after"), [(0, 0), (1, 0), (2, 0), (5, 0), (0, 1), (1, 3)])
def test_extra_tokens_are_found_wherever_they_stand_and_never_guessed(
    before: int, after: int, one_size: bool, seen: bool
) -> None:
    calls, _ = record_calls(Tokens(before, after, one_size, seen).eval(), torch.rand(1, 3, 32, 32))
    layout = next(c.layout for c in calls if c.name == "block")
    assert layout == (Layout("tokens", 4, before) if seen or not before + after else None)
