"""Performance targets, and whether a run meets them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from _harness import Figure
from _report import Result, table


@dataclass(frozen=True)
class Target:
    """A bound for one figure of one script. `sought` marks a goal that is not promised."""

    text: str
    script: str
    figure: str
    bound: float
    at_most: bool = False
    unit: str = ""
    sought: bool = False

    def met(self, value: float) -> bool:
        return value <= self.bound if self.at_most else value >= self.bound


TARGETS = (
    Target("cached SaliencySwap, one swap / CutPaste (PIL, jitter)", "throughput", "cached_over_cutpaste_PIL", 2.2),
    Target("a folder that was read once / memory (PIL)", "throughput", "folder_over_memory_PIL", 0.97),
    Target("SaliencySwap(cache=None) / CutPaste (PIL, jitter)", "throughput", "uncached_over_cutpaste_PIL", 0.11),
    Target("the same, sought", "throughput", "uncached_over_cutpaste_PIL", 0.2, sought=True),
    Target("LayerCAM fp32 / grad-cam, B = 8", "layercam", "fp32_over_gradcam_b8", 2.0),
    Target("LayerCAM fp32 / torch-cam, B = 8", "layercam", "fp32_over_torchcam_b8", 1.05),
    Target("LayerCAM fp32 / grad-cam, B = 32", "layercam", "fp32_over_gradcam_b32", 2.2),
    Target("LayerCAM fp32 / torch-cam, B = 32", "layercam", "fp32_over_torchcam_b32", 1.15),
    Target("LayerCAM bf16 / torch-cam, B = 8", "layercam", "bf16_over_torchcam_b8", 1.8),
    Target("loader, 1024 px PNG files, cached / no augmentation", "loader", "cached_over_none_1024px_0_workers", 0.97),
    Target("two workers / one, uncached, 256 px PNG files", "loader", "two_over_one_worker_uncached_256px", 1.6),
    Target("private memory that SaliencySwap() adds to a worker", "loader", "memory_added_mb", 60, at_most=True, unit=" MB"),
    Target("share of a step on a GPU, batch 64, eager", "device", "share_cuda_64_float32_eager_fp32", 0.15, at_most=True),
    Target("share of a step on a GPU, batch 64, captured", "device", "share_cuda_64_float32_captured_fp32", 0.05, at_most=True),
)


@dataclass(frozen=True)
class Verdict:
    target: Target
    figure: Figure | None

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None if nothing was measured."""
        return None if self.figure is None or math.isnan(self.figure.value) else self.target.met(self.figure.value)


def judge(results: Mapping[str, Result], targets: Sequence[Target] = TARGETS) -> list[Verdict]:
    return [Verdict(t, results[t.script].figures.get(t.figure) if t.script in results else None) for t in targets]


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    """Markdown: figure, target, measured, quartiles of the rounds, met or not."""
    rows = [["figure", "target", "measured", "quartiles", "met"]]
    for v in verdicts:
        t = v.target
        bound = f"{'<=' if t.at_most else '>='} {t.bound:g}{t.unit}"
        if v.figure is None or v.met is None:
            rows.append([t.text, bound, "not measured", "", "-"])
            continue
        word = "yes" if v.met else "no" if t.sought else "NO"
        spread = f"{v.figure.low:.3g} to {v.figure.high:.3g}"
        rows.append([t.text, bound, f"{v.figure.value:.3g}{t.unit}", spread, word])
    return table(rows)


def missed(verdicts: Sequence[Verdict]) -> list[Any]:
    """Promised figures that were measured and missed."""
    return [v for v in verdicts if v.met is False and not v.target.sought]
