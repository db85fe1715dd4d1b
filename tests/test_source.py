"""Saliency sources of the user: the shapes of their maps, the number of levels, work in place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.images import hot_quarter, scene, sorted_pixels

from cutswap_transforms import SaliencySwap


@pytest.mark.parametrize("cache", [None, "memory"])
def test_a_source_may_work_in_place_on_what_it_is_shown(cache):
    class Greedy:
        def native_maps(self, images):
            return [images.mul_(2).float().mean(1)]

    def greedy(images):
        return images.sub_(images.mean()).abs().mean(1, keepdim=True)

    for source in (Greedy(), greedy):
        for image in (scene(), scene() / 255):
            before = image.clone()
            out = SaliencySwap(source, cache=cache)(image)
            assert torch.equal(image, before) and torch.equal(sorted_pixels(out), sorted_pixels(before))


def no_maps(images):
    return torch.rand(len(images), 5)


@pytest.mark.parametrize(
    ("saliency", "got"),
    [
        (no_maps, r"\(1, 5\)"),
        (lambda images: [torch.rand(3, 4)], r"\[\(3, 4\)\]"),
        (lambda images: torch.rand(2, 3, 4, 4), r"\[\(2, 4, 4\), \(2, 4, 4\), \(2, 4, 4\)\]"),
        (lambda images: [], r"\[\]"),
        (lambda images: None, "NoneType; wrap a classifier as LayerCAMExtractor"),
        (
            lambda images: np.ones((1, 2, 8, 8)),
            r"numpy.ndarray of shape \(1, 2, 8, 8\); convert it by torch.from_numpy\(array\)",
        ),
        (lambda images: [torch.rand(1, 8, 8), np.ones((1, 8, 8))], r"\[.*numpy.ndarray of shape \(1, 8, 8\)\]; convert it by"),
        (lambda images: torch.rand(1, 8, 8), r"\(1, 8, 8\); maps\[:, None\] is one level of maps \[N, h, w\]"),
    ],
)
def test_a_saliency_source_of_wrong_shape_is_named(saliency, got):
    sentence = rf"`saliency` must return a tensor \[N, L, h, w\] or a list of tensors \[N, h, w\] for N = 1 images, got {got}"
    with pytest.raises(ValueError, match=sentence):
        SaliencySwap(saliency)(scene())


def test_levels_of_a_callable_are_checked_when_they_are_known():
    with pytest.raises(ValueError, match=r"`levels` must be in \[-2, 1\] for 2 saliency maps, got 3"):
        SaliencySwap(hot_quarter, levels=3)(scene())
    with pytest.raises(ValueError, match=r"`levels` must be distinct, got \(0, -2\), of which two are the same of 2"):
        SaliencySwap(hot_quarter, levels=(0, -2))(scene())
    with pytest.raises(ValueError, match="`saliency` must return at most 255 maps per image, got 300"):
        SaliencySwap(lambda images: torch.rand(1, 300, 2, 2))(scene())


def test_layers_of_a_foreign_source_say_nothing_of_its_levels():
    class Source:
        layers = ("a", "b", "c")

        def native_maps(self, images):
            return list(hot_quarter(images).unbind(1))

    assert SaliencySwap(Source(), levels="all").make_params([scene()])["pairs"].shape == (1, 2, 7)


def test_a_source_returns_one_number_of_maps():
    def growing(images):
        return hot_quarter(images)[:, : 1 + int(images.shape[-1] > 40)]

    swap = SaliencySwap(growing, levels="all")
    swap(scene())
    with pytest.raises(ValueError, match="`saliency` must return the same number of maps for all images, got 2 after 1"):
        swap(scene(40, 60))
