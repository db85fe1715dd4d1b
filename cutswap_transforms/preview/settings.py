"""The settings of a swap in words, for the caption of the sheet."""

from __future__ import annotations

from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..regions.clustering import is_built_in
from ..regions.roi import Roi
from ..saliency.layer_cam import LayerCAMExtractor
from ..saliency.source import CallableSaliency

if TYPE_CHECKING:
    from ..transform import SaliencySwap


def settings_in_words(swap: SaliencySwap) -> str:
    """What decides where and how large the swaps are; `p`, `region` and `roi` only if they are not the defaults.

    >>> from cutswap_transforms import KMeans, SaliencySwap
    >>> settings_in_words(SaliencySwap(clustering=KMeans(3), levels=(0, 2)))
    'saliency tiny; clustering kmeans, n_clusters 3; levels 0, 2; scale 0.002 to 0.03; ratio 0.3 to 3.3; grid 24'
    """
    levels = swap.levels if isinstance(swap.levels, str) else ", ".join(map(str, swap.levels))
    parts = [f"saliency {_saliency(swap.saliency)}", f"clustering {_clustering(swap.clustering)}", f"levels {levels}"]
    parts += [f"{name} {low:g} to {high:g}" for name, (low, high) in (("scale", swap.scale), ("ratio", swap.ratio))]
    parts += [f"grid {swap.grid}"]
    parts += [f"p {swap.p:g}"] if swap.p < 1 else []
    parts += [f"region {swap.region}"] if swap.region != "salient" else []
    if isinstance(swap.roi, Roi):
        parts.append(f"roi {swap.roi.share:.0%} of the frame")
    elif swap.roi is not None:
        parts.append(f"roi of each sample, {swap.roi}")
    return "; ".join(parts)


def _saliency(source: Any) -> str:
    """The net and its weights, unless those are its own; the name of a function or class."""
    if not isinstance(source, LayerCAMExtractor):
        return _name(source.function if isinstance(source, CallableSaliency) else source)
    weights = {"DEFAULT": "", None: ", random weights"}  # "DEFAULT" also with a module of the user's, which has its own
    return f"{source.model}{weights.get(source.weights, f', weights {Path(str(source.weights)).name}')}"


def _clustering(backend: Any) -> str:
    """The name, and the options that are not the defaults."""
    if not is_built_in(backend):
        return _name(backend)
    changed = [f"{f.name} {getattr(backend, f.name)}" for f in fields(backend) if getattr(backend, f.name) != f.default]
    return ", ".join([getattr(backend, "extra", "kmeans"), *changed])


def _name(thing: Any) -> str:
    """The name of a function, or of an object's class."""
    if isinstance(thing, partial):
        return _name(thing.func)
    name = getattr(thing, "__name__", type(thing).__name__)
    return "a lambda" if name == "<lambda>" else str(name)
