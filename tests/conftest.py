"""What every test shares: one thread per process, and how hypothesis draws."""

from __future__ import annotations

import os

import hypothesis
import torch

# The tests run in several processes, and each has small tensors: more threads only make them wait for each other.
torch.set_num_threads(1)

# A deadline per example fails on a busy machine, not on a bug. In CI the examples are the same every time.
hypothesis.settings.register_profile("cutswap", deadline=None, derandomize=bool(os.environ.get("CI")))
hypothesis.settings.load_profile("cutswap")
