"""From a model's name or the user's module to a `TracedCAM`: weights, private copy, levels, folded norms."""

from __future__ import annotations

import copy
import hashlib
import http.client
import os
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, cast
from weakref import WeakValueDictionary

import torch
import torchvision.models
from torch import Tensor, nn
from torch._subclasses.fake_tensor import is_fake
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized, type_before_parametrizations

from ...seeds import own_seed
from ..checks import WeightsLike, check_target, near, shortened
from ..modes import autograd_allowed, construction
from .fold import fold_batch_norms
from .layouts import Layout
from .probe import Probe, find_levels, run_probe
from .trace import CamArguments, Target, TracedCAM, example, fresh

CROP = 224
FOLD_TOLERANCE = 1e-4  # relative to the largest logit

# One net per process, shared by all transforms with equal arguments.
_shared: WeakValueDictionary[tuple[Any, ...], TracedCAM] = WeakValueDictionary()


@construction()
def build_net(
    model: str | nn.Module,
    weights: WeightsLike,
    layers: Sequence[str] | None,
    target: int | Target | None,
    size: int | None,
    dtype: torch.dtype,
) -> tuple[TracedCAM, int]:
    """LayerCAM of a torchvision model or the user's module, and its input size."""
    if isinstance(model, nn.Module):
        if not isinstance(weights, str) or weights != "DEFAULT":
            raise ValueError(f'`weights` must stay "DEFAULT" with your own module, which has its own, got {weights!r}')
        return _traced_module(model, layers, target, size or CROP, dtype), size or CROP
    if not isinstance(model, str):
        raise TypeError(f"`model` must be a name or an nn.Module, got {_described(model)}")
    names = torchvision.models.list_models(module=torchvision.models)
    if model not in names:
        raise ValueError(
            f'`model` must be "tiny", a torchvision classification model or your nn.Module, got {model!r}; '
            f"{near(model, ['tiny', *names])}"
        )
    resolved = _resolve_weights(model, weights)
    size = size or _crop_size(resolved)
    if callable(target):  # it may not be hashable, and its program identifies what it computes
        return _traced_by_name(model, resolved, layers, target, size, dtype), size
    key = (model, _identity(resolved), repr(layers), target, size, dtype)
    net = _shared.get(key) or _traced_by_name(model, resolved, layers, target, size, dtype)
    _shared[key] = net
    return net, size


def _described(thing: object) -> str:
    """What was given in place of a module, and the way out where it is plain."""
    if isinstance(thing, type):
        return f"the class {thing.__name__}; pass an instance of it"
    if isinstance(thing, Mapping):
        return f"{type(thing).__name__}; load a state dict into your module first, by load_state_dict"
    return repr(thing)


def _traced_module(model: nn.Module, layers: Sequence[str] | None, *arguments: Any) -> TracedCAM:
    name = type(_unwrapped(model)).__name__
    _check_module(model, name)
    with autograd_allowed():
        net = _traced(_private_copy(model, name), name, _plain_names(model, layers), *arguments)
    return _identified_by_program(net)


def _identified_by_program(net: TracedCAM) -> TracedCAM:
    """Modules of one class and equal weights may still compute different things, and so may targets."""
    program = net.program
    if program is not None and net.one_by_one:
        program += b"one by one"  # differs from cache entries made when such batches ran at once
    net.digest = "" if program is None else hashlib.sha256(net.digest.encode() + program).hexdigest()
    return net


def _hop(module: nn.Module) -> str:
    """The attribute in which a wrapper holds its net; "" if it is not a wrapper."""
    if "_orig_mod" in module._modules:  # torch.compile
        return "_orig_mod"
    return "module" if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)) else ""


def _unwrapped(module: nn.Module) -> nn.Module:
    while hop := _hop(module):
        module = module.get_submodule(hop)
    return module


def _plain_names(model: nn.Module, layers: Sequence[str] | None) -> Sequence[str] | None:
    """Layer names without the prefixes of wrappers. Names of no module are unchanged."""
    names = [layers] if isinstance(layers, str) else layers
    known = dict(model.named_modules(remove_duplicate=False))
    hops = {f"{name}.{hop}".lstrip(".") for name, m in known.items() if (hop := _hop(m))}

    def plain(name: str) -> str:
        parts = name.split(".")
        return ".".join(part for i, part in enumerate(parts, 1) if ".".join(parts[:i]) not in hops)

    return [plain(n) if n in known else n for n in names] if isinstance(names, (list, tuple)) else layers


def _traced_by_name(
    model: str, weights: Path | Enum | None, layers: Sequence[str] | None, target: int | Target | None, *arguments: Any
) -> TracedCAM:
    with autograd_allowed():
        net = _traced(_frozen(_load(model, weights)), model, layers, target, *arguments)
    return _identified_by_program(net) if callable(target) else net


def _traced(
    module: nn.Module, name: str, layers: Sequence[str] | None, target: int | Target | None, size: int, dtype: torch.dtype
) -> TracedCAM:
    x = example(1, size)
    probe = run_probe(fresh(module), name, x, target)
    if not callable(target):
        check_target(target, probe.scores.shape[1])
    levels = find_levels(probe, layers)
    layouts = tuple(cast(Layout, probe.last[n].layout) for n in levels)
    cam = CamArguments(levels, layouts, target, dtype, any(probe.last[n].overwritten for n in levels))
    digest = _digest(module, name)
    net = TracedCAM(_folded(module, levels, x, probe).to(dtype), cam, size, name, digest)
    net.num_classes = 0 if callable(target) else probe.scores.shape[1]
    return net


def _folded(module: nn.Module, layers: Sequence[str], x: Tensor, probe: Probe) -> nn.Module:
    """The module with its batch norms folded if that is accurate enough; else the module itself."""
    folded = copy.deepcopy(module)
    if not fold_batch_norms(folded, keep=layers):
        return module
    with torch.no_grad():
        error = (probe.scores_in(fresh(folded)(x)) - probe.scores).abs().max()
    return _frozen(folded) if error <= FOLD_TOLERANCE * probe.scores.abs().max() else module


def _check_module(model: nn.Module, name: str) -> None:
    if any(isinstance(m, torch.jit.ScriptModule) for m in model.modules()):
        raise TypeError(f"`model` must be a module of Python code, {name} was compiled by torch.jit; pass the original module")
    weights = [*model.parameters(), *model.buffers()]
    if any(is_lazy(w) for w in weights):
        raise ValueError(f"`model` must hold its weights, {name} has lazy ones; call it on images once first")
    if any(w.is_meta or is_fake(w) for w in weights):
        raise ValueError(
            f"`model` must hold its weights, {name} has some on the meta device or fake ones; "
            'allocate them by model.to_empty(device="cpu") and load a state_dict first'
        )


def _private_copy(model: nn.Module, name: str) -> nn.Module:
    bare: dict[int, Any] = {}  # copies by the id of the original: a wrapper's copy is that of its net
    try:
        for m in reversed(list(model.modules())):  # inner wrappers first
            if _hop(m):
                bare[id(m)] = copy.deepcopy(_unwrapped(m), bare)
        module = copy.deepcopy(model, bare)
    except Exception as error:
        raise TypeError(
            f"`model` must be a module that copy.deepcopy can copy, {name} is not ({shortened(error)}); pass it before its "
            "first use, and with torch.nn.utils.parametrizations in place of the older weight_norm and spectral_norm"
        ) from error
    module.eval()
    for m in module.modules():
        if is_parametrized(m):
            _settle_weights(m)
        for hooks in (m._forward_hooks, m._backward_hooks, m._backward_pre_hooks, m._load_state_dict_pre_hooks):
            hooks.clear()  # a removed weight norm leaves one of the last kind behind, which cannot be pickled
        # Weight norm and similar compute weights in such hooks; other hooks must not see our calls.
        for key, hook in list(m._forward_pre_hooks.items()):
            if not type(hook).__module__.startswith("torch."):
                del m._forward_pre_hooks[key]
    return _frozen(module)


def _settle_weights(module: nn.Module) -> None:
    """Replace parametrizations, which cannot be pickled, by the weights that they compute in eval mode.

    `remove_parametrizations` would modify the class, which the user's own module shares.
    """
    with torch.no_grad():
        weights = {name: getattr(module, name).clone() for name in cast(nn.ModuleDict, module.parametrizations)}
    before = type_before_parametrizations(module)
    del module.parametrizations
    module.__class__ = before
    for name, weight in weights.items():
        module.register_parameter(name, nn.Parameter(weight))


def _frozen(module: nn.Module) -> nn.Module:
    module = module.to("cpu", torch.float32, memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return module.eval().requires_grad_(False)


def _digest(module: nn.Module, name: str) -> str:
    digest = hashlib.sha256(name.encode())
    plain = [(f"{n}.{k}", v) for n, m in module.named_modules() for k, v in vars(m).items() if isinstance(v, Tensor)]
    for key, value in [*module.named_parameters(), *module.named_buffers(), *plain]:
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _resolve_weights(model: str, weights: WeightsLike) -> Path | Enum | None:
    """None, a member of the model's weights enum, or the path of a state_dict."""
    known = torchvision.models.get_model_weights(model)
    if weights is None or isinstance(weights, known):
        return cast(Enum | None, weights)
    if isinstance(weights, str):
        member = weights.removeprefix(f"{known.__name__}.")
        if member in known.__members__ or member == "DEFAULT":
            return cast(Enum, known[member] if member != "DEFAULT" else known.DEFAULT)
    if isinstance(weights, (str, os.PathLike)) and Path(weights).suffix:
        if not Path(weights).is_file():
            raise FileNotFoundError(f"`weights` must be a file that can be read, got {str(weights)!r}")
        return Path(weights).resolve()
    raise ValueError(
        f'`weights` of {model!r} must be "DEFAULT", None, the path of a state_dict or one of '
        f"{list(known.__members__)}, got {weights!r}"
    )


def _identity(weights: Path | Enum | None) -> object:
    """A key of a set of weights; a file that was rewritten gets another key."""
    return (weights, os.stat(weights).st_mtime_ns) if isinstance(weights, Path) else weights


def _crop_size(weights: Path | Enum | None) -> int:
    if weights is None or isinstance(weights, Path):
        return CROP
    return int(weights.value.transforms.keywords["crop_size"])


def _load(model: str, weights: Path | Enum | None) -> nn.Module:
    if weights is None or isinstance(weights, Path):
        # Their default initialization takes seconds and warns that it will change.
        extra = {"init_weights": False} if model in ("googlenet", "inception_v3") else {}
        with own_seed(0):
            module: nn.Module = torchvision.models.get_model(model, weights=None, **extra)
        if weights is not None:
            _load_state(module, weights, model)
        return module
    try:
        with own_seed(0):  # torchvision initializes at random before it loads weights
            return cast(nn.Module, torchvision.models.get_model(model, weights=weights, progress=False))
    except (OSError, http.client.HTTPException) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise ConnectionError(
            f"`weights` {weights} of {model!r} could not be fetched ({error}); put {weights.value.url} into {folder}, "
            'pass weights="path of a state_dict" or weights=None (random), or use model="tiny", which is built in'
        ) from error


def _load_state(module: nn.Module, path: Path, model: str) -> None:
    rule = f"`weights` must be a state_dict of {model!r} as torch.save writes it, {str(path)!r}"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a dozen types for damaged files, with advice to load in a way that may run code
        raise ValueError(f"{rule} cannot be read with weights_only=True ({type(error).__name__})") from error
    try:
        module.load_state_dict(state)
    except Exception as error:
        raise ValueError(f"{rule} is not: {shortened(error)}; pass a model of another shape as an nn.Module") from error
