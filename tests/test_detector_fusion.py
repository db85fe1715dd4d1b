"""Weights of the maps, their common grid, and the verdicts of the detector."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detector import calibration, fusion
from scipy.ndimage import gaussian_filter


def test_weights_are_those_of_a_logistic_regression_where_none_is_negative() -> None:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    altered = rng.random(4000) < 0.2
    cells = rng.normal(size=(4000, 3)) + altered[:, None] * np.array([1.0, 0.5, 0.3])
    found = fusion.learnt_weights(torch.from_numpy(cells).float(), torch.from_numpy(altered)).numpy()
    oracle = LogisticRegression(C=1e4 / 4000, class_weight="balanced").fit(cells, altered).coef_[0]
    np.testing.assert_allclose(found, oracle / oracle.sum(), atol=0.01)


def test_weights_are_never_negative_and_of_sum_one() -> None:
    rng = np.random.default_rng(0)
    altered = torch.from_numpy(rng.random(1000) < 0.5)
    cells = torch.from_numpy(rng.normal(size=(1000, 3))).float()
    cells[:, 0] += 2 * altered
    cells[:, 1] -= 2 * altered  # says the opposite
    found = fusion.learnt_weights(cells, altered)
    assert found[1] == 0 and found[0] > 0.8 and float(found.sum()) == pytest.approx(1)
    nothing = fusion.learnt_weights(-2.0 * altered[:, None].float().expand(-1, 3), altered)
    torch.testing.assert_close(nothing, torch.full((3,), 1 / 3))  # no map tells them apart


def test_maps_of_all_sizes_come_to_one_grid_and_are_smoothed() -> None:
    constant = [torch.full((2, 3, 3), 2.0), torch.full((2, 6, 5), -1.0)]
    grid = fusion.on_one_grid(constant, 12)
    assert grid.shape == (2, 2, 12, 12)
    torch.testing.assert_close(grid[:, 0], torch.full((2, 12, 12), 2.0))
    spot = torch.zeros(1, 1, 21, 17)
    spot[0, 0, 10, 8] = spot[0, 0, 2, 1] = 1
    expected = gaussian_filter(spot[0, 0].double().numpy(), fusion.BLUR, mode="nearest", radius=3)
    np.testing.assert_allclose(fusion.blurred(spot)[0, 0].numpy(), expected, atol=1e-6)


def test_p_values_count_the_normal_images_that_score_as_high() -> None:
    normal = torch.tensor([3.0, 1.0, 2.0, 2.0])
    scores = torch.tensor([0.0, 2.0, 2.5, 3.0, 9.0])
    slow = [(1 + sum(float(s) <= float(n) for n in normal)) / 5 for s in scores]
    assert calibration.p_values(scores, normal).tolist() == pytest.approx(slow) == [1.0, 0.8, 0.4, 0.4, 0.2]


def test_the_threshold_separates_what_the_p_value_separates() -> None:
    normal = torch.randn(99, generator=torch.Generator().manual_seed(0))
    scores = torch.cat((normal, torch.randn(200, generator=torch.Generator().manual_seed(1))))
    for rate in (0.01, 0.05, 0.1, 0.5):
        limit = calibration.threshold(normal, rate)
        assert torch.equal(scores > limit, calibration.p_values(scores, normal) <= rate + 1e-9)
    assert calibration.promised_rate(0.01, 99) == 0.01
    assert calibration.promised_rate(0.01, 39) == 1 / 40
    assert calibration.threshold(normal[:39], 0.01) == float(normal[:39].max())
    for rate in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match="`false_alarms` must be between 0 and 1, got"):
            calibration.threshold(normal, rate)


def test_false_alarms_are_kept_below_the_rate() -> None:
    generator = torch.Generator().manual_seed(0)
    alarms = [
        (calibration.p_values(torch.randn(50, generator=generator), torch.randn(49, generator=generator)) <= 0.1)
        .double()
        .mean()
        for _ in range(400)
    ]
    assert float(torch.stack(alarms).mean()) == pytest.approx(0.1, abs=0.01)
