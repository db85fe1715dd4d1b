"""The embedded net "tiny": its weights, its forward pass and its LayerCAM, with the gradient written out.

Requirements:

- no autograd engine, because its threads break later forks on GPU machines: the net has only convolutions, ReLUs and
  additions, so that its vector-Jacobian product is a dozen lines (`maps`);
- no pickle: weights are an `.npz` of float16 arrays, `stage{1..4}.conv{0..}.{weight,bias}` and `head.{weight,bias}`;
- one net per process: `load` caches nets, so many transforms share one. A pickled transform contains the arrays of a
  user's weight file, which may be missing or changed when it is unpickled, but no net.

Each stage is `a = relu(conv0(a))`, which reduces the grid, and then `a = relu(a + conv(a))` for its other convolutions.
Batch norms are folded into the file. The levels are outputs of stages, by default those at strides 4, 8 and 16.
"""

from __future__ import annotations

import functools
import hashlib
import re
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checks import check_layers, check_target
from .maps import layer_cam
from .modes import CPU, real_tensors

Arrays = dict[str, npt.NDArray[Any]]

INPUT_SIZE = 128
LAYERS = ("stage1", "stage2", "stage3", "stage4")
LEVELS = LAYERS[:3]  # by default: the map of stage4, 4 x 4 values of an image, does not follow outlines
ARCHITECTURE = "tiny-1"  # part of the fingerprint: raise it when the same weights give another net
PACKAGED = Path(__file__).parent / "weights" / "tiny.npz"

WIDTHS, CONVS, STEM, CLASSES = (24, 48, 96, 192), (2, 2, 3, 2), 6, 1000  # channels and convolutions of the stages


def _shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    before = 3
    for i, (width, count) in enumerate(zip(WIDTHS, CONVS, strict=True)):
        for j in range(count):
            side = 3 if i or j else STEM
            shapes[f"stage{i + 1}.conv{j}.weight"] = (width, before, side, side)
            shapes[f"stage{i + 1}.conv{j}.bias"] = (width,)
            before = width
    return shapes | {"head.weight": (CLASSES, before), "head.bias": (CLASSES,)}


@dataclass(frozen=True)
class FileWeights:
    """Contents of a weight file. Equal weights are one key of `load`, whatever file they came from."""

    digest: str
    arrays: Arrays = field(compare=False, repr=False)


Source = FileWeights | str | None  # a file, "DEFAULT" or random


class Conv(NamedTuple):
    """A convolution, or the linear head."""

    weight: Tensor  # [out, in, k, k]; head: [classes, K]
    bias: Tensor  # [out]


@dataclass(frozen=True)
class TinyNet:
    """Weights in order of use. `stages[i][0]` reduces the grid, the others are residual."""

    stages: tuple[tuple[Conv, ...], ...]
    head: Conv  # always float32
    digest: str

    @property
    def num_classes(self) -> int:
        return len(self.head.bias)

    def to(self, device: torch.device, dtype: torch.dtype) -> TinyNet:
        def placed(x: Tensor) -> Tensor:
            layout = torch.channels_last if x.ndim == 4 else torch.contiguous_format
            return x.to(device, dtype, memory_format=layout)

        stages = tuple(tuple(Conv(placed(c.weight), placed(c.bias)) for c in stage) for stage in self.stages)
        return TinyNet(stages, Conv(self.head.weight.to(device), self.head.bias.to(device)), self.digest)

    def forward(self, x: Tensor) -> tuple[list[list[Tensor]], Tensor]:
        """Normalized images [N, 3, s, s] -> the output of each ReLU, by stage, and the logits [N, classes]."""
        saved: list[list[Tensor]] = []
        for i, (first, *residual) in enumerate(self.stages):
            x = F.conv2d(x, first.weight, first.bias, stride=2 if i else 4, padding=1).relu_()
            outputs = [x]
            for conv in residual:
                x = F.conv2d(x, conv.weight, conv.bias, padding=1).add_(x).relu_()
                outputs.append(x)
            saved.append(outputs)
        return saved, F.linear(x.mean((2, 3), dtype=torch.float32), *self.head)

    def maps(self, x: Tensor, levels: Sequence[int], target: int | Tensor | None = None) -> list[Tensor]:
        """Raw LayerCAM [N, h, w], float32, of the given stages (0 to 3) for normalized images [N, 3, s, s].

        The backward pass stops at the finest stage in `levels`. The target is a class, int64 [N], or each image's arg-max.
        """
        saved, logits = self.forward(x)
        last = saved[-1][-1]
        classes = torch.full((len(x),), target, device=x.device) if isinstance(target, int) else target
        row = self.head.weight[logits.argmax(1) if classes is None else classes]
        # The score is linear in the pooled last output, so its gradient is a class's row of the head.
        grad = (row / (last.shape[2] * last.shape[3]))[:, :, None, None].to(last.dtype)
        grad = grad.expand_as(last).contiguous(memory_format=torch.channels_last)
        cams: dict[int, Tensor] = {}
        for i in range(len(saved) - 1, min(levels) - 1, -1):
            if i in levels:
                cams[i] = layer_cam(saved[i][-1].float(), grad.float())
            if i > min(levels):
                grad = _stage_vjp(self.stages[i], saved[i], grad, saved[i - 1][-1].shape)
        return [cams[i] for i in levels]


def _stage_vjp(stage: Sequence[Conv], outputs: Sequence[Tensor], grad: Tensor, input_shape: Sequence[int]) -> Tensor:
    """Gradient of a stage's input from the gradient of its output."""
    for conv, y in zip(stage[:0:-1], outputs[:0:-1], strict=True):
        grad = _relu_vjp(grad, y)
        grad = F.conv_transpose2d(grad, conv.weight, padding=1).add_(grad)
    grad = _relu_vjp(grad, outputs[0])
    # A strided convolution ignores a remainder at the border; the gradient needs that row and column, too.
    rest = [input_shape[d] - (2 * grad.shape[d] - 1) for d in (2, 3)]
    return F.conv_transpose2d(grad, stage[0].weight, stride=2, padding=1, output_padding=rest)


def _relu_vjp(grad: Tensor, output: Tensor) -> Tensor:
    masked: Tensor = torch.ops.aten.threshold_backward(grad, output, 0)
    return masked


def load(source: Source, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> TinyNet:
    """The net with the packaged weights ("DEFAULT"), those of a file or random ones (None), once per process.

    Random weights use a fixed seed: they are the same in every process, and no global generator changes.
    """
    return _placed(source, torch.device(device), dtype)


@functools.lru_cache(maxsize=16)
def _placed(source: Source, device: torch.device, dtype: torch.dtype) -> TinyNet:
    with real_tensors(), torch.no_grad():
        return _on_cpu(source).to(device, dtype)


@functools.lru_cache(maxsize=8)
def _on_cpu(source: Source) -> TinyNet:
    if isinstance(source, FileWeights):
        return _net(source.arrays)
    return _net(_random_weights() if source is None else _read_arrays(PACKAGED))


def read_weights(weights: str) -> FileWeights:
    """The weights of an `.npz` file, in its own precision.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a file of these weights.
    """
    path = Path(weights).expanduser()
    if path.suffix != ".npz":
        raise ValueError(f'`weights` of "tiny" must be "DEFAULT", None or the path of its state_dict as .npz, got {weights!r}')
    if not path.exists():
        raise FileNotFoundError(f"`weights` must be a file that can be read, got {str(path)!r}")
    try:
        if not path.is_file():  # reading a pipe would never end
            raise ValueError("no regular file")
        arrays = _read_arrays(path)
    except Exception as error:  # zipfile and numpy raise a dozen types for damaged files
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f'`weights` of "tiny" must be an .npz file of the arrays of its state_dict, {str(path)!r} is not: {reason}'
        ) from error
    return FileWeights(_digest(arrays), arrays)


def _read_arrays(path: Path) -> Arrays:
    with zipfile.ZipFile(path) as file:
        names = [name.removesuffix(".npy") for name in file.namelist()]
        missing = next((name for name in _shapes() if name not in names), None)
        if missing or len(names) > len(_shapes()):
            raise ValueError(f"{missing!r} is missing" if missing else "it contains other arrays, too")
        for name, shape in _shapes().items():  # before any array is read: a header may declare more than the memory
            with file.open(f"{name}.npy") as entry:
                _check_header(name, entry, shape)
        arrays = {}
        for name in names:
            with file.open(f"{name}.npy") as entry:
                arrays[name] = np.lib.format.read_array(entry, allow_pickle=False)
    with np.errstate(over="ignore"):
        if not all(np.isfinite(a.astype(np.float32)).all() for a in arrays.values()):
            raise ValueError("its numbers must be finite in float32")
    return arrays


def _check_header(name: str, entry: IO[bytes], wanted: tuple[int, ...]) -> None:
    if np.lib.format.read_magic(entry) != (1, 0):
        raise ValueError(f"{name!r} is not in version 1.0 of the format")
    shape, _, dtype = np.lib.format.read_array_header_1_0(entry)
    if shape != wanted or dtype not in (np.float16, np.float32, np.float64):
        raise ValueError(f"{name!r} is {dtype} of shape {shape}, but must be a float of shape {wanted}")


def _random_weights() -> Arrays:
    """He initialization with damped residual convolutions, from a seeded NumPy generator."""
    rng = np.random.default_rng(0)
    weights = {}
    for name, shape in _shapes().items():
        gain = 0.0 if name.endswith("bias") else 0.5 if re.fullmatch(r"stage.\.conv[1-9]\.weight", name) else 2.0
        weights[name] = rng.normal(0, (gain / np.prod(shape[1:])) ** 0.5, shape).astype(np.float32)
    return weights


def _digest(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for name in _shapes():
        digest.update(arrays[name].astype(np.float32).tobytes())
    return digest.hexdigest()


def _net(arrays: Arrays) -> TinyNet:
    tensors = {name: torch.from_numpy(a.astype(np.float32)) for name, a in arrays.items()}

    def conv(name: str) -> Conv:
        return Conv(tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    stages = tuple(tuple(conv(f"stage{i + 1}.conv{j}") for j in range(count)) for i, count in enumerate(CONVS))
    return TinyNet(stages, conv("head"), _digest(arrays))


class Residual(nn.Sequential):
    """relu(x + conv(x))"""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self[0](x)
        return y.relu_()


def as_module(source: Source = "DEFAULT") -> nn.Sequential:
    """The four stages as trainable modules `stage1` to `stage4`, without the linear head.

    Normalized images [N, 3, s, s] -> [N, 192, s / 32, s / 32]. The argument as in `load`.
    """
    stages: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (name, (first, *residual)) in enumerate(zip(LAYERS, load(source).stages, strict=True)):
        blocks = [nn.Sequential(_conv_module(first, 2 if i else 4), nn.ReLU())]
        stages[name] = nn.Sequential(*blocks, *(Residual(_conv_module(conv, 1)) for conv in residual))
    return nn.Sequential(stages)


def _conv_module(conv: Conv, stride: int) -> nn.Conv2d:
    out, before, side, _ = conv.weight.shape
    module = nn.Conv2d(before, out, side, stride, padding=1)
    module.load_state_dict({"weight": conv.weight, "bias": conv.bias})
    return module


class TinyCAM:
    """LayerCAM of the embedded net. Pickles contain the arguments of `load`; copies are the object itself.

    >>> TinyCAM(None, layers=["stage4"]).maps(torch.zeros(1, 3, 64, 64))[0].shape
    torch.Size([1, 2, 2])
    """

    layers: tuple[str, ...]

    def __init__(
        self,
        weights: str | None = "DEFAULT",
        *,
        layers: Sequence[str] | None = None,
        target: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.layers = check_layers(layers, LAYERS, "tiny") if layers is not None else LEVELS
        self._target, self._dtype = target, dtype
        self._levels = tuple(LAYERS.index(name) for name in self.layers)
        self._source: Source = weights if weights is None or weights == "DEFAULT" else read_weights(weights)
        self._nets = {CPU: load(self._source, CPU, dtype)}
        check_target(target, self._nets[CPU].num_classes)

    @property
    def digest(self) -> str:
        return f"{ARCHITECTURE} {self._on(CPU).digest}"

    @property
    def num_classes(self) -> int:
        return self._on(CPU).num_classes

    def maps(self, x: Tensor, classes: Tensor | None = None) -> list[Tensor]:
        return self._on(x.device).maps(x.to(self._dtype), self._levels, self._target if classes is None else classes)

    def _on(self, device: torch.device) -> TinyNet:
        if device not in self._nets:
            self._nets[device] = load(self._source, device, self._dtype)
        return self._nets[device]

    def __deepcopy__(self, memo: dict[int, Any]) -> TinyCAM:
        return self

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_nets": {}}
