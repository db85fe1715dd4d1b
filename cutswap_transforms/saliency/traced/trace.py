"""LayerCAM of any net without the autograd engine: forward and gradient are traced once into a graph of ATen operators.

Requirements, in the order in which they shaped this file:

- At call time nothing may enter the autograd engine: its threads break later forks on GPU machines. So the engine
  runs at construction only, under `make_fx`, which records the operators of both passes.
- One trace serves every batch size: that size is a symbol. A trace with a fixed size is silently wrong for another batch.
- Parameters need no gradient, and neither does anything before the first level: its output becomes a leaf.
- A pickle for spawned workers has the CPU graph, not the module, whose class may be defined in a notebook. Graphs for
  accelerators are left out: they are traced again on first use, or copied from the CPU graph if there is no module.
"""

from __future__ import annotations

import copy
import os
import threading
import warnings
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from ..maps import layer_cam
from ..modes import CPU, ExactNorms, autograd_allowed
from .layouts import Layout
from .stages import forward_hooks, why_cut

# Relative to a map's norm. A ReLU flipped by rounding changes the map by up to 0.002 in float32 and 0.06 in bf16, a wrong
# kernel by 0.7 and more.
MISMATCH = {torch.float32: 0.01, torch.bfloat16: 0.1}
MIXED = 1e-4  # relative to a map's norm: other images in a batch of the same size change nothing, not even rounding
Target = Callable[[Any], Tensor]  # the model's output -> scores [N]
Maps = Callable[[Tensor, Tensor], list[Tensor]]  # images [N, 3, s, s], classes int64 [N], -1 = highest score


class CamArguments(NamedTuple):
    """Arguments of the LayerCAM of a module. `clone` protects outputs that the next module changes in place."""

    layers: tuple[str, ...]
    layouts: tuple[Layout, ...]
    target: int | Target | None
    dtype: torch.dtype
    clone: bool


def example(n: int, size: int) -> Tensor:
    """Noise images float32 [N, 3, s, s], from a fixed seed."""
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0), device=CPU, dtype=torch.float32)


def fresh(module: nn.Module) -> nn.Module:
    """A copy that shares the weights, to be called instead: nets may cache tensors between calls, which have the wrong dtype
    after a conversion and are fake tensors after tracing."""
    return copy.deepcopy(module, {id(t): t for t in (*module.parameters(), *module.buffers())})


def scores_of(output: Any, classes: Tensor, target: int | Target | None) -> Tensor:
    """The scores [N] whose gradient LayerCAM takes."""
    if callable(target):
        return target(output)
    logits: Tensor = output
    classes = classes[: logits.shape[0]]  # a net may return fewer rows than images; it then runs one by one
    index = torch.where(classes < 0, logits.argmax(1), classes)
    return logits.gather(1, index[:, None])[:, 0]


def cam_function(module: nn.Module, cam: CamArguments) -> Maps:
    """Raw maps by autograd."""
    values = gradient_function(module, cam)

    def maps(x: Tensor, classes: Tensor) -> list[Tensor]:
        levels = zip(cam.layouts, *values(x, classes), strict=True)
        return [layer_cam(layout.as_maps(a).float(), layout.as_maps(g).float()) for layout, a, g in levels]

    return maps


def gradient_function(module: nn.Module, cam: CamArguments) -> Callable[[Tensor, Tensor], tuple[list[Tensor], list[Tensor]]]:
    """The outputs of the layers and the gradients of the scores, by autograd."""
    layers, _, target, dtype, clone = cam

    def values(x: Tensor, classes: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        taps: dict[str, Tensor] = {}

        def tap(name: str, _: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
            # A leaf keeps everything before the first level out of the gradient.
            taps[name] = out if out.requires_grad else out.detach().requires_grad_()
            return taps[name].clone() if clone else taps[name]

        with ExactNorms():  # type: ignore[no-untyped-call]
            with forward_hooks(module, tap, layers):
                scores = scores_of(module(x.to(dtype)), classes, target)
            gradients = torch.autograd.grad(scores.sum(), [taps[name] for name in layers])
        return [taps[name] for name in layers], list(gradients)

    return values


class TracedCAM:
    """LayerCAM of a frozen module in eval mode, which no other code may hold or change.

    A graph is traced for each device on first use, for the CPU at construction. It runs in channels_last, the faster
    layout, if its maps equal those of autograd in the default layout: some kernels are wrong in one layout. If a module
    cannot be traced, its maps are computed by autograd, with a warning. Copies are the object itself.

    Attributes:
        one_by_one: maps depend on the other images of a batch (batch norm with the statistics of the batch), so each image
            runs in its own batch.
    """

    def __init__(self, module: nn.Module, cam: CamArguments, size: int, name: str, digest: str) -> None:
        self.layers, self.digest = cam.layers, digest
        self._module, self._cam, self._size, self._name = module, cam, size, name
        self.num_classes = 0  # of the logits; 0 with a callable target
        self._graphs: dict[torch.device, Maps] = {}
        self._channels_last, self._untraceable = False, False
        self._lock = _own_lock(self)
        with autograd_allowed():
            self._graphs[CPU] = self._on_cpu()
            self.one_by_one = self._mixes()
            if self.one_by_one:
                self._check_alone()

    def maps(self, x: Tensor, classes: Tensor | None = None) -> list[Tensor]:
        graph = self._graphs.get(x.device) or self._graph(x.device)
        x = x.contiguous(memory_format=self._layout)
        classes = self._classes(x) if classes is None else classes
        if self.one_by_one and len(x) > 1:
            return [torch.cat(level) for level in zip(*map(graph, x[:, None], classes[:, None]), strict=True)]
        return graph(x, classes)

    def _classes(self, x: Tensor) -> Tensor:
        """The target class of each image of a batch."""
        target = self._cam.target
        return torch.full((len(x),), target if isinstance(target, int) else -1, dtype=torch.int64, device=x.device)

    @property
    def _layout(self) -> torch.memory_format:
        # Not an attribute, because `torch.save` cannot pickle it.
        return torch.channels_last if self._channels_last else torch.contiguous_format

    @property
    def program(self) -> bytes | None:
        """What the net computes, including its constants; None if it was not traced."""
        graph = self._graphs.get(CPU)
        if not isinstance(graph, torch.fx.GraphModule):
            return None
        names = {str(n.target) for n in graph.graph.nodes if n.op == "get_attr"}
        constants = (getattr(graph, name) for name in sorted(names) if not name.startswith("_param_constant"))
        values = (t.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes() for t in constants)
        return graph.code.encode() + b"".join(values)

    def _graph(self, device: torch.device) -> Maps:
        with self._lock, autograd_allowed(device):
            if device not in self._graphs and self._module is None:
                self._graphs[device] = _moved(cast(torch.fx.GraphModule, self._graphs[CPU]), device)
            elif device not in self._graphs:
                module = self._module if device == CPU else copy.deepcopy(self._module).to(device)
                x = example(2, self._size).to(device, memory_format=self._layout)
                self._graphs[device] = self._or_autograd(module, lambda: trace(self._maps(module), x, self._classes(x)))
            return self._graphs[device]

    def _maps(self, module: nn.Module) -> Maps:
        return cam_function(fresh(module), self._cam)

    def _on_cpu(self) -> Maps:
        x = example(2, self._size)
        right = self._by_autograd(x[1:])
        try:
            graph = self._traced_in(torch.channels_last, x, lambda *_: right)
        except Exception:  # an operator fails in this layout, or the net cannot be traced at all
            # Compared at each batch size: bf16 scores have ties, which another batch size breaks differently.
            maps = self._maps(self._module)
            return self._or_autograd(self._module, lambda: self._traced_in(torch.contiguous_format, x, maps))
        self._channels_last = True
        return graph

    def _or_autograd(self, module: nn.Module, traced: Callable[[], Maps]) -> Maps:
        if self._untraceable:
            return _Serial(self._maps(module))
        try:
            return traced()
        except Exception as error:
            self._warn(error)
            self._untraceable = True
            return _Serial(self._maps(module))

    def _traced_in(self, layout: torch.memory_format, x: Tensor, expected: Maps) -> Maps:
        """The graph in this layout, into which the module is brought, if its maps are the expected ones."""
        self._module.to(memory_format=layout)
        x = x.contiguous(memory_format=layout)
        graph = trace(self._maps(self._module), x, self._classes(x))
        for images in (x[1:], x):
            if not _alike(
                graph(images, self._classes(images)), expected(images, self._classes(images)), MISMATCH[self._cam.dtype]
            ):
                raise RuntimeError("its trace and autograd give different maps")
        return graph

    def _by_autograd(self, x: Tensor) -> list[Tensor]:
        try:
            return [m.detach() for m in self._maps(self._module)(x, self._classes(x))]
        except RuntimeError as error:
            score = partial(scores_of, classes=self._classes(x), target=self._cam.target)
            cause = why_cut(self._module, x.to(self._cam.dtype), self.layers, score)
            if cause:
                rule = "`model` must let gradients pass from its layers to the logits"
                raise ValueError(f"{rule}, {self._name} does not: {cause}") from error
            raise ValueError(f"`layers` must affect the logits, got {self.layers} of {self._name}: {error}") from error

    def _mixes(self) -> bool:
        maps, x = self._maps(self._module), example(2, self._size)
        try:
            together, beside = maps(x, self._classes(x)), maps(torch.cat((-3 * x[:1], x[1:])), self._classes(x))
        except Exception:  # it takes only one image
            return True
        if not _alike(together, beside, MIXED):
            return True
        classes = self._classes(x)
        if self._cam.dtype == torch.bfloat16:  # scores have ties, which another batch size breaks differently
            classes = classes.clamp(min=0)
            together = maps(x, classes)
        return not _alike(together, maps(x[1:], classes[1:]), MISMATCH[self._cam.dtype])

    def _check_alone(self) -> None:
        if not any(m.any() for m in self.maps(example(1, self._size))):
            raise ValueError(
                f"`model` must have maps of a single image, those of {self._name} depend on the other images of its batch and "
                "are zero without them; use batch norms with running statistics, and nothing that compares images"
            )

    def _warn(self, error: Exception) -> None:
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        warnings.warn(
            f"{self._name} cannot be traced ({type(error).__name__}: {reason}); its maps are computed by autograd: do "
            "that in the main process, because a worker that was forked from a process with a GPU would fail",
            stacklevel=2,
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> TracedCAM:
        return self

    def __getstate__(self) -> dict[str, Any]:
        graphs = {d: g for d, g in self._graphs.items() if d == CPU and not isinstance(g, _Serial)}
        if not graphs:
            return {**self.__dict__, "_lock": None, "_graphs": graphs}
        # The graph contains a callable target, which could not be pickled if a notebook defines it.
        cam = self._cam._replace(target=None) if callable(self._cam.target) else self._cam
        return {**self.__dict__, "_lock": None, "_graphs": graphs, "_module": None, "_cam": cam}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=_own_lock(self))


class _Serial:
    """Autograd with hooks, one thread at a time, whatever modes the caller has set."""

    def __init__(self, maps: Maps) -> None:
        self._maps, self._lock = maps, _own_lock(self)

    def __call__(self, x: Tensor, classes: Tensor) -> list[Tensor]:
        with self._lock, autograd_allowed(x.device):
            return [m.detach() for m in self._maps(x.clone(), classes.clone())]


_holders: weakref.WeakSet[Any] = weakref.WeakSet()


def _own_lock(holder: object) -> threading.Lock:
    """A lock for `holder._lock` that is replaced in every forked child, where another thread may have held it."""
    _holders.add(holder)
    return threading.Lock()


def _renew_locks() -> None:
    for holder in _holders:
        holder._lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)


def trace(maps: Maps, x: Tensor, classes: Tensor) -> Maps:
    """Trace `maps` to a module of ATen operators for any batch size.

    Args:
        x, classes: an example of two images; the image size is fixed.

    Raises:
        RuntimeError: the operators depend on the batch size.
    """
    # Slow to import, and not needed for "tiny".
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
    from torch.nn.attention import SDPBackend, sdpa_kernel

    # The graph would keep annotations as strings, which torch 2.11 cannot pickle.
    def bare_maps(images, classes):  # type: ignore[no-untyped-def]
        return maps(images, classes)

    # `tracing_mode="symbolic"` would also make height and width symbols, which takes two to three times as long.
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    fakes = []
    for given in (x, classes):  # DUCK: equal sizes are one symbol
        sizes: Any = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DUCK] + [DimDynamic.STATIC] * (given.ndim - 1))
        fakes.append(mode.from_tensor(given, static_shapes=False, symbolic_context=sizes))
    rewritten = {torch.ops.aten.constant_pad_nd.default: _padded}
    make = make_fx(bare_maps, tracing_mode="fake", decomposition_table=rewritten, _allow_non_fake_inputs=True)
    with sdpa_kernel(SDPBackend.MATH):  # the other kernels are specific to one device
        graph = make(*fakes)
    output: Any = graph.graph.output_node().args[0]
    if any(isinstance(n.meta["val"].shape[0], int) for n in output) or _branches(mode.shape_env):
        raise RuntimeError("its operators depend on the batch size")
    # These refer to the tracer and cannot be pickled.
    del graph.shape_env
    for node in graph.graph.nodes:
        node.meta.clear()
    return cast(Maps, graph)


def _alike(got: Sequence[Tensor], want: Sequence[Tensor], tolerance: float) -> bool:
    """Whether the maps of the last image of two batches agree at every level."""
    pairs = [(g[-1].nan_to_num(), w[-1].nan_to_num()) for g, w in zip(got, want, strict=True)]
    return all(bool((g - w).norm() <= tolerance * w.norm()) for g, w in pairs)


def _moved(graph: torch.fx.GraphModule, device: torch.device) -> Maps:
    """A copy of a graph on another device, including tensors that its operators create."""
    moved = copy.deepcopy(graph).to(device)
    for node in moved.graph.nodes:
        if "device" in node.kwargs:
            node.update_kwarg("device", device)
    moved.recompile()
    return cast(Maps, moved)


def _padded(x: Tensor, pad: Sequence[int], value: float = 0.0) -> Tensor:
    """`F.pad` by a constant that keeps the batch size a symbol: torch 2.14's own operator makes it a number."""
    sides = [(0, 0)] * (x.ndim - len(pad) // 2) + [(pad[i], pad[i + 1]) for i in range(len(pad) - 2, -1, -2)]
    size = [side + a + b for side, (a, b) in zip(x.shape, sides, strict=True)]
    last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    out = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=layout).fill_(value)
    inner = out
    for dim, (a, b) in enumerate(sides):
        kept = x.shape[dim] + min(a, 0) + min(b, 0)  # a negative pad crops
        inner, x = inner.narrow(dim, max(a, 0), kept), x.narrow(dim, max(-a, 0), kept)
    inner.copy_(x)
    return out


def _branches(env: Any) -> bool:
    """True if code outside torch branched on the batch size: the trace has only one of its branches.

    Torch itself also branches on it, to choose among equivalent kernels.
    """
    torch_folder = os.path.dirname(torch.__file__)
    asked_in = (getattr(guard.sloc.framework_loc, "filename", torch_folder) for guard in env.guards)
    return not all(filename.startswith(torch_folder) for filename in asked_in)
