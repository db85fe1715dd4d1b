"""The outputs of a net, module by module, and the modules that are its levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..checks import check_layers, shortened
from .stages import Call, enters, find_layers, record_calls
from .trace import CamArguments, Target, gradient_function


class Probe(NamedTuple):
    """One pass of a net over one image. `scores` are its logits [1, classes], or those of a callable target."""

    module: nn.Module
    name: str
    x: Tensor
    target: int | Target | None
    calls: list[Call]
    last: dict[str, Call]  # by name
    scores: Tensor

    def scores_in(self, output: Any) -> Tensor:
        scores: Tensor = self.target(output) if callable(self.target) else output
        return scores


def run_probe(module: nn.Module, name: str, x: Tensor, target: int | Target | None) -> Probe:
    """One pass, checked.

    Raises:
        ValueError: the net fails, or returns neither logits nor input for the target.
    """
    rule = "`model` must map images [N, 3, s, s] to logits [N, classes]"
    try:
        calls, output = record_calls(module, x)
    except NotImplementedError as error:
        raise ValueError(f"{rule}; {name} failed ({shortened(error)}); {_within(module)}") from error
    except Exception as error:
        cause = _hint(module) or _batch_hint(module, x)
        raise ValueError(f"{rule}; {name} failed at s = {x.shape[2]}, which `input_size` sets: {error}{cause}") from error
    if callable(target):
        scores = _checked_scores(target, output)
    elif not isinstance(output, Tensor) or output.ndim != 2 or len(output) != 1:
        got = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        remedy = _hint(module) or "; for another output pass target=..., a callable that turns it into scores [N]"
        raise ValueError(f"{rule}; for {list(x.shape)} {name} returned {got}{remedy}")
    else:
        scores = output
    return Probe(module, name, x, target, calls, {c.name: c for c in calls}, scores)


def _checked_scores(target: Target, output: Any) -> Tensor:
    rule = "`target` must map the model's output to scores [N], floating point"
    try:
        scores = target(output)
    except Exception as error:
        raise ValueError(f"{rule}; for a {type(output).__name__} it failed ({shortened(error)})") from error
    if not isinstance(scores, Tensor) or scores.shape != (1,) or not scores.is_floating_point():
        got = f"{list(scores.shape)} of {scores.dtype}" if isinstance(scores, Tensor) else type(scores).__name__
        raise ValueError(f"{rule}, got {got} for one image")
    return scores


def _batch_hint(module: nn.Module, x: Tensor) -> str:
    try:
        module(x.expand(2, -1, -1, -1))
    except Exception:
        return ""
    return "; it takes two images, but a net that needs a batch has no maps of a single image"


def _within(module: nn.Module) -> str:
    children = ", ".join(repr(name) for name, _ in module.named_children()) or "none"
    return f"pass the net within it (it holds {children})"


def _hint(module: nn.Module) -> str:
    lightning = any(c.__name__ == "LightningModule" for c in type(module).__mro__)
    return f"; the forward of a LightningModule may take and return other things: {_within(module)}" if lightning else ""


# ---- levels -----------------------------------------------------------------------------------------------------------


def find_levels(probe: Probe, layers: Sequence[str] | None) -> tuple[str, ...]:
    """Names of the levels, fine to coarse: the given layers, or the stages of the net.

    Raises:
        TypeError, ValueError: unknown names, modules without maps or without a path to the scores.
    """
    if layers is None:
        levels = find_layers(probe.calls, probe.name)
        # After the last block of many transformers only the class token is used; its input is the last level then.
        last = levels[-1] if _reached(probe, levels[-1]) else enters(probe.calls, levels[-1]) or levels[-1]
        levels = tuple(dict.fromkeys((*levels[:-1], last)))
        if _reached(probe, last) is False:
            raise ValueError(
                f"`layers` of {probe.name!r} cannot be found automatically: of {last!r} only non-patch tokens affect the "
                "scores; pass layers=[...] with earlier modules"
            )
        return levels
    names = check_layers(layers, [n for n, _ in probe.module.named_modules() if n], probe.name)
    for name in names:
        if name not in probe.last or not probe.last[name].layout:
            got = f"returned {list(probe.last[name].output.shape)}" if name in probe.last else "returned no tensor"
            raise ValueError(
                "`layers` must be modules that return square maps [N, K, h, w], [N, h, w, K] or tokens [N, T, K], judged by "
                f"their shapes at two input sizes, but {name!r} {got}{_others(probe)}"
            )
        if _reached(probe, name) is False:
            before = enters(probe.calls, name)
            remedy = f"; use the block before it, {before!r}" if before else ""
            raise ValueError(f"`layers` must affect the scores by their patches, of {name!r} only the class token does{remedy}")
    return names


def _others(probe: Probe) -> str:
    try:
        return f"; layers={list(find_layers(probe.calls, probe.name))} would work"
    except ValueError:
        return ""


def _reached(probe: Probe, name: str) -> bool | None:
    """Whether the scores depend on the patches of a layer; None if they depend on none of its tokens, as with a head of
    zeros."""
    call = probe.last[name]
    if call.layout is None or call.layout.kind != "tokens":
        return True
    cam = CamArguments((name,), (call.layout,), probe.target, probe.x.dtype, call.overwritten)
    try:
        gradient = gradient_function(probe.module, cam)(probe.x, torch.tensor([-1]))[1][0]
    except RuntimeError:  # `TracedCAM` reports the cause when it tries all levels
        return True
    patches = bool(call.layout.as_maps(gradient).any())
    return patches or (False if gradient.any() else None)
