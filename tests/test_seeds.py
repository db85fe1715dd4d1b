"""The seed of a negative: the same numbers for ever, one for each combination of its arguments."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cutswap_transforms.functional import negative_seed


def test_seeds_stay_what_they_are() -> None:
    """Folders that were begun by an earlier version are continued."""
    assert negative_seed(0, "good/3.png") == 5309764599309055850
    assert negative_seed(np.int64(7), "a b/\udcff.png", 12) == 4342060906760775897


def test_every_argument_counts_and_none_runs_into_the_next() -> None:
    seeds = [negative_seed(s, k, n) for s, k, n in itertools.product((0, 1, 11), ("", "1", "1 1", "a/1.png"), (0, 1, 11))]
    assert len(set(seeds)) == len(seeds) == 36 and all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ((0.5, "a"), TypeError, "`seed` must be an int, got 0.5"),
        ((0, b"a"), TypeError, "`key` must be a string, such as the path of the image in its folder, got bytes"),
        ((0, "a", -1), ValueError, "`number` must be at least 0, got -1"),
    ],
)
def test_other_arguments_are_refused(arguments, error, sentence) -> None:
    with pytest.raises(error, match=sentence):
        negative_seed(*arguments)
