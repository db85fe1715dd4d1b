"""Nets that mix a batch run on one image at a time; others run on all at once."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.nets import Mixing, Small, cam_of, images
from torch import nn

from cutswap_transforms.saliency.traced.trace import TracedCAM

MIXING: dict[str, Callable[[], Small]] = {
    "batch_norm": lambda: Mixing(nn.BatchNorm2d(6, track_running_stats=False)),
    "batch_norm_function": lambda: Mixing(lambda x: nn.functional.batch_norm(x, None, None, training=True)),
    "a_little_of_the_mean": lambda: Mixing(lambda x: x - 0.001 * x.mean(0, keepdim=True)),
    "maximum": lambda: Mixing(lambda x: x / x.amax()),
    "neighbour": lambda: Mixing(lambda x: x + x.roll(1, 0)),
    "scale_of_the_logits": lambda: Mixing(at_end=lambda x: x / x.norm()),
    "attention": lambda: Mixing(at_end=lambda x: (x @ x.T).softmax(1) @ x),
    "size_of_the_batch": lambda: Mixing(at_end=lambda x: x / x.shape[0]),
    "one_image": lambda: Mixing(at_end=lambda x: x.reshape(1, -1)[:, :5]),
}
NOT_MIXING = {"group_norm": lambda: Mixing(nn.GroupNorm(1, 6)), "softmax": lambda: Mixing(at_end=nn.Softmax(1)), "none": Small}


@pytest.mark.parametrize(
    ("precision", "kind"), [*(("fp32", kind) for kind in MIXING), ("bf16", "batch_norm"), ("bf16", "size_of_the_batch")]
)
def test_a_net_that_mixes_its_batch_runs_on_one_image_at_a_time(kind: str, precision: str) -> None:
    cam, x = cam_of(MIXING[kind](), precision=precision), images(4)
    x[1] *= 0.1
    alone = [torch.cat(level) for level in zip(*map(cam.native_maps, x.split(1)), strict=True)]
    assert all(torch.equal(a, b) and b.any() for a, b in zip(cam.native_maps(x), alone, strict=True))
    assert [len(m) for m in pickle.loads(pickle.dumps(cam)).native_maps(x)] == [4, 4]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("make", NOT_MIXING.values(), ids=NOT_MIXING)
def test_a_net_that_does_not_mix_its_batch_runs_on_all_at_once(make: Callable[[], Small], precision: str) -> None:
    net: Any = cam_of(make(), precision=precision)._net
    assert not net.one_by_one


def test_maps_of_single_images_are_not_cached_under_the_fingerprint_of_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    now = cam_of(MIXING["batch_norm"]()).fingerprint
    monkeypatch.setattr(TracedCAM, "_mixes", lambda self: False)
    before = cam_of(MIXING["batch_norm"]()).fingerprint
    assert None not in (now, before) and now != before


def test_a_net_without_maps_of_a_single_image_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`model` must have maps of a single image, those of Mixing depend on the other"):
        cam_of(Mixing(at_end=nn.Softmax(0)))
    with pytest.raises(
        ValueError, match=r"more than 1 value per channel .*; it takes two images, but a net that needs a batch"
    ):
        cam_of(Mixing(at_end=nn.BatchNorm1d(5, track_running_stats=False)))
