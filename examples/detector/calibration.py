"""From scores to verdicts: conformal p-values on held-out normal images (Vovk et al., 2005)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def p_values(scores: Tensor, normal: Tensor) -> Tensor:
    """(1 + #{s_i >= s}) / (n + 1) of scores [N] against those of n normal images: float64 [N].

    A new normal image has a p-value of at most q with a probability of at most q, whatever the distribution of the scores.
    """
    above = len(normal) - torch.searchsorted(normal.sort().values, scores.contiguous())
    return (1 + above).double() / (len(normal) + 1)


def promised_rate(false_alarms: float, count: int) -> float:
    """The rate of false alarms itself, or the smallest that `count` normal images can promise.

    Raises:
        ValueError: a rate that is not between 0 and 1.
    """
    if not 0 < false_alarms < 1:
        raise ValueError(f"`false_alarms` must be between 0 and 1, got {false_alarms}")
    return max(false_alarms, 1 / (count + 1))


def threshold(normal: Tensor, false_alarms: float) -> float:
    """A score above it has a p-value of at most the promised rate."""
    rate = promised_rate(false_alarms, len(normal))
    allowed = math.floor(rate * (len(normal) + 1) + 1e-9)  # ranks that count as defects
    return float(normal.sort(descending=True).values[allowed - 1])
