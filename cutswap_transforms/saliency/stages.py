"""Where a net's levels are: one forward pass shows what every module returns, and so the last block of each stage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

LEVELS = 4


@dataclass(frozen=True, eq=False)
class Call:
    """What a module was given and returned. A side is 0 where the tensor is no square map [N, K, s, s]."""

    name: str
    output: Tensor
    version: int  # the output's version counter when it was returned: in-place changes raise it; see `_version`
    input_side: int
    side: int
    is_block: bool  # has modules within
    is_layer: bool  # has weights of its own

    @property
    def overwritten(self) -> bool:
        return _version(self.output) != self.version


@contextmanager
def forward_hooks(module: nn.Module, hook: Any, names: Sequence[str] | None = None) -> Iterator[None]:
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
    """All calls of modules that return a tensor, in the order in which they end, and the net's output."""
    calls: list[Call] = []

    def record(name: str, mod: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        if isinstance(out, Tensor):
            given = next((a for a in args if isinstance(a, Tensor)), None)
            block, layer = bool(list(mod.children())), bool(list(mod.parameters(recurse=False)))
            calls.append(Call(name, out, _version(out), _side(given), _side(out), block, layer))

    with forward_hooks(module, record), torch.no_grad():
        output = module(x)
    return calls, output


def why_cut(module: nn.Module, x: Tensor, layers: Sequence[str]) -> str:
    """What keeps gradients from passing on to the layers, as the end of a message; "" where these lie aside."""
    modes: dict[str, str] = {}

    def look(name: str, *_: Any) -> None:
        if torch.is_inference_mode_enabled():
            modes[name] = "torch.inference_mode()"
        elif not torch.is_grad_enabled():
            modes[name] = "torch.no_grad() or set_grad_enabled(False)"

    try:
        with forward_hooks(module, look):
            logits = module(x.detach().requires_grad_().clone())
    except RuntimeError as error:
        return str(error)
    through = logits.requires_grad
    mode = next((mode for name, mode in modes.items() if name in layers or not through), None)
    if mode:
        return f"its forward runs under {mode}; take that out of the class and put it around the calls"
    cut = "it cuts them off by detach(), by .data or by an operation that has no gradient"
    return "" if through else f"{cut}; pass a net without that"


def _version(x: Tensor) -> int:
    return 0 if x.is_inference() else x._version  # inference tensors have none


def _side(x: Tensor | None) -> int:
    return x.shape[2] if x is not None and x.ndim == 4 and x.shape[2] == x.shape[3] else 0


def find_layers(calls: Sequence[Call], model: str) -> tuple[str, ...]:
    """Names of the last block of each resolution stage, from fine to coarse, the four coarsest at most.

    A stage is a side length > 1 at which a convolution returns a map. A block is a module with modules within that
    returns the side of a stage and was given this side or that of the stage before; so the trunk of a net is none, and
    what lies within a block that reduces the grid belongs to no other stage. A stage without blocks is left out where
    most have them (a stem), else its last plain module stands for it (VGG).

    Raises:
        ValueError: no stages, or a transformer, whose tokens are no maps.
    """
    calls = [c for c in calls if c.name]
    sides = sorted({c.side for c in calls if c.is_layer and c.side > 1}, reverse=True)
    before = dict(zip(sides, [max(c.input_side for c in calls), *sides], strict=False))
    blocks = [c for c in calls if c.is_block and c.side in sides and c.input_side in (c.side, before[c.side])]
    reducing = {c.name: c.side for c in blocks if c.input_side != c.side}
    inner = {c for c in blocks if any(c.name.startswith(f"{n}.") and c.side != s for n, s in reducing.items())}
    last_block = {c.side: c.name for c in blocks if c not in inner}
    last_plain = {c.side: c.name for c in calls if c.side in sides and not c.is_block}
    found = last_block if 2 * len(last_block) > len(last_plain) else last_plain | last_block
    tokens = any(c.side == 0 and c.output.ndim >= 3 for c in calls)
    if not found or (tokens and len(found) < 2):
        some = ", ".join(repr(n) for n in last_plain.values()) or "it has none"
        raise ValueError(
            f"`layers` of {model!r} cannot be found automatically: it has no stages of convolutional maps "
            f"[N, K, h, w]; pass layers=[...] with modules that return such maps ({some}), or take a convolutional net"
        )
    return tuple(found[s] for s in sorted(found, reverse=True)[-LEVELS:])
