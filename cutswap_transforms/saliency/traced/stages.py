"""Find a net's levels: a forward pass records the output of every module, which shows the last block of each stage."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, repeat
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layouts import Extra, Layout, Shape, extra_tokens, layouts

LEVELS = 4
CHANNELS = 8  # of a token, compared between two images
STRIDE = 32  # pixels added for the second size of a probe: the coarsest maps of most nets grow by one


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a module: input and output."""

    name: str
    given: Shape  # shape of its first tensor argument, () if none
    output: Tensor
    version: int  # the output's version counter when it was returned: in-place changes raise it; see `_version`
    is_block: bool  # has submodules
    is_layer: bool  # has its own weights
    total: Tensor  # of the output; shows whether the outputs for two images differ
    rows: list[Tensor]  # the first channels of the tokens [T, K] in input and output
    input_layout: Layout | None = None  # None: not a square map; see `_with_layouts`
    layout: Layout | None = None

    @property
    def side(self) -> int:
        return self.layout.side if self.layout else 0

    @property
    def input_side(self) -> int:
        return self.input_layout.side if self.input_layout else 0

    @property
    def overwritten(self) -> bool:
        return _version(self.output) != self.version


@contextlib.contextmanager
def forward_hooks(module: nn.Module, hook: Callable[..., object], names: Sequence[str] | None = None) -> Iterator[None]:
    """Call `hook(name, module, args, output)` after the named modules, all by default."""
    handles = [
        m.register_forward_hook(lambda mod, args, out, name=name: hook(name, mod, args, out))
        for name, m in module.named_modules()
        if names is None or name in names
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def record_calls(module: nn.Module, x: Tensor) -> tuple[list[Call], Any]:
    """All calls of modules that return a tensor, in the order in which they end, and the net's output, for one image
    [1, 3, s, s]. It also runs at another size, to see which axes of a map are spatial, and on another image: an output
    that is the same there, such as a table of positions, is not a map."""
    others: list[Call] = []
    with contextlib.suppress(Exception), warnings.catch_warnings():  # many nets take only one size
        warnings.simplefilter("ignore")
        _record(module, F.pad(x, (0, STRIDE, 0, STRIDE)), others)
    second: list[Call] = []
    with contextlib.suppress(Exception):
        _record(module, 1 - x, second)
    calls: list[Call] = []
    output = _record(module, x, calls)
    with_layouts = _with_layouts(calls, others, 1 + STRIDE / x.shape[2], _extra_tokens(calls, second))
    still = {c.name for c, same in zip(calls, second, strict=False) if c.name == same.name and torch.equal(c.total, same.total)}
    return [replace(c, layout=None) if c.name in still else c for c in with_layouts], output


def _record(module: nn.Module, x: Tensor, calls: list[Call]) -> Any:
    """Append the calls, also those before a failure of the net. Returns its output."""

    def record(name: str, mod: nn.Module, args: tuple[Any, ...], out: object) -> None:
        if isinstance(out, Tensor):
            given = next((tuple(a.shape) for a in args if isinstance(a, Tensor)), ())
            block, layer = bool(list(mod.children())), bool(list(mod.parameters(recurse=False)))
            tokens = [t for t in (*args, out) if isinstance(t, Tensor) and t.ndim == 3 and len(t) == 1]
            rows = [t[0, :, :CHANNELS].clone() for t in tokens]
            calls.append(Call(name, given, out, _version(out), block, layer, out.double().abs().sum(), rows))

    with forward_hooks(module, record), torch.no_grad():
        return module(x)


def _extra_tokens(calls: Sequence[Call], others: Sequence[Call]) -> dict[int, Extra | None]:
    """Number of tokens T of a tensor [1, T, K] -> non-patch tokens: before attention no image changes them."""
    extras: dict[int, Extra | None] = {}
    for call, same in zip(calls, others, strict=False):
        for one, other in zip(call.rows, same.rows, strict=False):
            moved = (one != other).any(1).tolist() if one.shape == other.shape else []
            if any(moved) and not all(moved):
                extras.setdefault(len(moved), extra_tokens(moved))
    return extras


def _with_layouts(
    calls: Sequence[Call], others: Sequence[Call], ratio: float, extras: Mapping[int, Extra | None]
) -> list[Call]:
    """The calls with the layouts of their tensors, from the calls of the same net at another size.

    Args:
        others: calls at the other size, up to a failure of the net.
        ratio: other size / this size.
        extras: see `layouts`.
    """
    shapes: list[Shape] = []
    other: list[Shape | None] = []
    for call, same in zip(calls, chain(others, repeat(None)), strict=False):
        alike = same is not None and same.name == call.name
        shapes += [call.given, tuple(call.output.shape)]
        other += [same.given, tuple(same.output.shape)] if same is not None and alike else [None, None]
    in_out = layouts(shapes, other, ratio, extras)
    return [replace(c, input_layout=in_out[2 * i], layout=in_out[2 * i + 1]) for i, c in enumerate(calls)]


def why_cut(module: nn.Module, x: Tensor, layers: Sequence[str], score: Callable[[Any], Tensor]) -> str:
    """What cuts gradients off from the layers, as the end of a message; "" if the layers are on a side branch."""
    modes: dict[str, str] = {}

    def look(name: str, *_: Any) -> None:
        if torch.is_inference_mode_enabled():
            modes[name] = "torch.inference_mode()"
        elif not torch.is_grad_enabled():
            modes[name] = "torch.no_grad() or set_grad_enabled(False)"

    try:
        with forward_hooks(module, look):
            scores = score(module(x.detach().requires_grad_().clone()))
    except RuntimeError as error:
        return str(error)
    through = scores.requires_grad
    mode = next((mode for name, mode in modes.items() if name in layers or not through), None)
    if mode:
        return f"its forward runs under {mode}; remove that from the class and use it around the calls"
    cut = "it cuts them off by detach(), by .data or by an operation that has no gradient"
    return "" if through else f"{cut}; pass a net without that"


def _version(x: Tensor) -> int:
    return 0 if x.is_inference() else x._version  # inference tensors have no counter


def find_layers(calls: Sequence[Call], model: str) -> tuple[str, ...]:
    """Names of the levels, from fine to coarse, at most four: the last block of each of the coarsest resolution stages;
    in a transformer of one resolution, four blocks at evenly spaced depths.

    Raises:
        ValueError: no stages.
    """
    calls = [c for c in calls if c.name and c.layout]
    blocks = [c for c in calls if c.is_block]
    kind = blocks[-1].layout.kind if blocks and blocks[-1].layout else "first"
    # A transformer's convolutional stem is not a stage.
    calls = [c for c in calls if c.layout and c.layout.kind == kind]
    layers = _last_of_stages(calls)
    if kind != "first" and len(layers) == 1:
        layers = _at_even_depths(calls) or layers
    if not layers:
        raise ValueError(
            f"`layers` of {model!r} cannot be found automatically: it has no stages that return square maps "
            "[N, K, h, w], [N, h, w, K] or tokens [N, T, K]; pass layers=[...] with modules that do"
        )
    return tuple(layers[-LEVELS:])


def _last_of_stages(calls: Sequence[Call]) -> list[str]:
    """The last block of each resolution stage, from fine to coarse.

    A stage is a side length > 1 at which a module with weights returns a map. A block is a module with submodules whose
    output has the side of a stage and whose input has this side or that of the previous stage; so the trunk of a net is
    not a block, and the submodules of a block that reduces the grid belong to no other stage. A stage without blocks is
    left out if most have them (a stem), else its last plain module represents it (VGG).
    """
    sides = sorted({c.side for c in calls if c.is_layer and c.side > 1}, reverse=True)
    before = dict(zip(sides, [max((c.input_side for c in calls), default=0), *sides], strict=False))
    blocks = [c for c in calls if c.is_block and c.side in sides and c.input_side in (c.side, before[c.side])]
    reducing = {c.name: c.side for c in blocks if c.input_side != c.side}
    inner = {c for c in blocks if any(c.name.startswith(f"{n}.") and c.side != s for n, s in reducing.items())}
    last_block = {c.side: c.name for c in blocks if c not in inner}
    last_plain = {c.side: c.name for c in calls if c.side in sides and not c.is_block}
    layers = last_block if 2 * len(last_block) > len(last_plain) else last_plain | last_block
    return [layers[s] for s in sorted(layers, reverse=True)]


def _at_even_depths(calls: Sequence[Call]) -> list[str]:
    """Four of the consecutive blocks at one resolution: the largest group with one parent."""
    groups: dict[str, list[str]] = {}
    for c in calls:
        if c.is_block and c.input_side == c.side:
            groups.setdefault(c.name.rpartition(".")[0], []).append(c.name)
    # The outermost of equally large groups: in a net of two blocks, each may contain two.
    blocks = max(sorted(groups.values(), key=lambda names: names[0].count(".")), key=len, default=[])
    return list(dict.fromkeys(blocks[-(-len(blocks) * k // LEVELS) - 1] for k in range(1, LEVELS + 1) if blocks))


def enters(calls: Sequence[Call], block: str) -> str | None:
    """The previous block of the same parent, whose output is the input of `block`, or None."""
    last = {c.name: c for c in calls}
    parent, names = block.rpartition(".")[0], [c.name for c in calls]
    before = [n for n in names[: names.index(block)] if n.rpartition(".")[0] == parent and last[n].layout == last[block].layout]
    return before[-1] if before else None
