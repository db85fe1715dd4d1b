"""LayerCAM of transformers: nets of torchvision and timm, small, against their parts called by hand in float64 and grad-cam."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import models
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2

from cutswap_transforms import LayerCAMExtractor

SIZE = 64


class Kind(NamedTuple):
    """How to make a net, and its parts: image -> what enters the blocks; the blocks; what leaves them -> logits."""

    make: Callable[[], nn.Module]
    before: Callable[[Any, Tensor], Tensor]
    blocks: Callable[[Any], Sequence[nn.Module]]
    after: Callable[[Any, Tensor], Tensor]
    levels: tuple[str, ...]
    taken: tuple[int, ...]  # which blocks' outputs they are
    extra: int | None = None  # tokens before those of the patches; None: no tokens
    last: bool = False  # [N, h, w, K]


def vit() -> nn.Module:
    small = {"num_layers": 6, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32, "num_classes": 7}
    return models.VisionTransformer(SIZE, 16, **small)


def swin(**arguments: Any) -> nn.Module:
    return models.SwinTransformer([2, 2], 12, [2, 1, 1, 1], [2, 2, 2, 2], [4, 4], num_classes=7, **arguments)


def of_timm(name: str, **arguments: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        timm = pytest.importorskip("timm", reason="timm is not installed")
        module: nn.Module = timm.create_model(name, num_classes=7, **arguments)
        return module

    return make


def vit_tokens(net: Any, x: Tensor) -> Tensor:
    x = torch.cat((net.class_token, net._process_input(x)), 1)
    return net.encoder.dropout(x + net.encoder.pos_embedding)


def timm_tokens(net: Any, x: Tensor) -> Tensor:
    return net.norm_pre(net._pos_embed(net.patch_embed(x)))


def timm_head(net: Any, x: Tensor) -> Tensor:
    return net.forward_head(net.norm(x))


def swin_head(net: Any, x: Tensor) -> Tensor:
    return net.head(net.norm(x).mean((1, 2)))


TINY_VIT = {"img_size": SIZE, "depth": 5, "embed_dim": 24, "num_heads": 2}
LEVIT = {"img_size": 128, "embed_dim": (20, 24, 32), "depth": (1, 1, 1), "num_heads": 2, "key_dim": 8}
SWIN = {"img_size": SIZE, "window_size": 4, "depths": (2, 1, 1, 1), "embed_dim": 12, "num_heads": (1, 2, 2, 2)}
STAGES = tuple(f"stages.{i}" for i in range(4))


def timm_vit(name: str, extra: int, taken: tuple[int, ...] = (1, 2, 3), **arguments: Any) -> Kind:
    """By default what enters the last block is the last level."""
    make = of_timm(name, **arguments, **TINY_VIT)
    levels = tuple(f"blocks.{i}" for i in taken)
    return Kind(make, timm_tokens, lambda net: net.blocks, timm_head, levels, taken, extra)


SWIN_KIND = Kind(
    swin,
    lambda net, x: net.features[0](x),
    lambda net: net.features[1:],
    swin_head,
    tuple(f"features.{i}" for i in (1, 3, 5, 7)),
    (0, 2, 4, 6),
    last=True,
)
KINDS = {
    "vit": Kind(
        vit,
        vit_tokens,
        lambda net: net.encoder.layers,
        lambda net, x: net.heads(net.encoder.ln(x)[:, 0]),
        tuple(f"encoder.layers.encoder_layer_{i}" for i in (1, 2, 4)),
        (1, 2, 4),
        extra=1,
    ),
    "swin": SWIN_KIND,
    "swin_v2": SWIN_KIND._replace(make=lambda: swin(block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2)),
    "maxvit": Kind(
        lambda: models.MaxVit((SIZE, SIZE), 12, 2, [12, 20, 24, 28], [1, 1, 1, 1], 4, 0.0, num_classes=7),
        lambda net, x: net.stem(x),
        lambda net: net.blocks,
        lambda net, x: net.classifier(x),
        tuple(f"blocks.{i}" for i in range(4)),
        (0, 1, 2, 3),
    ),
    "timm_vit": timm_vit("vit_tiny_patch16_224", 1),
    "timm_registers_and_mean": timm_vit("vit_tiny_patch16_224", 5, (1, 2, 3, 4), reg_tokens=4, global_pool="avg"),
    "deit": timm_vit("deit_tiny_patch16_224", 1),
    "deit_distilled": timm_vit("deit_tiny_distilled_patch16_224", 2),
    "timm_swin": Kind(
        of_timm("swin_tiny_patch4_window7_224", **SWIN),
        lambda net, x: net.patch_embed(x),
        lambda net: net.layers,
        timm_head,
        tuple(f"layers.{i}" for i in range(4)),
        (0, 1, 2, 3),
        last=True,
    ),
    "timm_convnext": Kind(
        of_timm("convnext_atto", depths=(1, 1, 2, 1), dims=(8, 12, 20, 24)),
        lambda net, x: net.stem(x),
        lambda net: net.stages,
        lambda net, x: net.forward_head(net.norm_pre(x)),
        STAGES,
        (0, 1, 2, 3),
    ),
    "levit": Kind(
        of_timm("levit_128s", **LEVIT),
        lambda net, x: net.stem(x).flatten(2).transpose(1, 2),
        lambda net: net.stages,
        lambda net, x: net.forward_head(x),
        STAGES[:3],
        (0, 1, 2),
        extra=0,
    ),
}


SLOW = ("swin", "timm_swin", "timm_vit", "deit", "timm_convnext")  # what they show others show as well
LARGE = (*SLOW, "swin_v2", "maxvit")  # that their parts called by hand give the same maps is enough for `make test`


def names(slow: Sequence[str]) -> list[Any]:
    return [pytest.param(name, marks=pytest.mark.slow) if name in slow else name for name in KINDS]


@cache
def net_of(name: str) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = KINDS[name].make().eval()
        for p in net.parameters():  # the heads and position tokens of some begin as zeros, and blocks of others do nothing
            if p.ndim < 2 or not p.any():
                nn.init.normal_(p, mean=float(p.ndim < 2), std=0.1)
            elif p.ndim == 2:
                nn.init.normal_(p, std=p.shape[1] ** -0.5)
    return net


def size_of(name: str) -> int:
    return 128 if name == "levit" else SIZE


@cache
def cam_of(name: str) -> LayerCAMExtractor:
    return LayerCAMExtractor(net_of(name), input_size=size_of(name), mean_std=None)


def batch(name: str, n: int = 3) -> Tensor:
    """float32 [n, 3, s, s] in [0, 1]."""
    return torch.rand(n, 3, size_of(name), size_of(name), generator=torch.Generator().manual_seed(0))


def as_grid(kind: Kind, x: Tensor) -> Tensor:
    """[N, K, h, w], as `reshape_transform` of grad-cam does it."""
    if kind.last:
        return x.permute(0, 3, 1, 2)
    if kind.extra is None:
        return x
    patches = x[:, kind.extra :]
    side = round(patches.shape[1] ** 0.5)
    return patches.reshape(len(x), side, side, -1).permute(0, 3, 1, 2)


def by_hand(name: str, images: Tensor, classes: Sequence[int] | None = None) -> list[Tensor]:
    """Image by image in float64, the parts called one after the other, without hooks."""
    kind, net, maps = KINDS[name], copy.deepcopy(net_of(name)).double(), []
    for i, image in enumerate(images.double()):
        outputs = [kind.before(net, image[None]).requires_grad_()]
        for block in kind.blocks(net):
            outputs.append(block(outputs[-1]))
        logits = kind.after(net, outputs[-1])[0]
        torch.testing.assert_close(logits, net(image[None])[0])
        levels = [outputs[1 + which] for which in kind.taken]
        gradients = torch.autograd.grad(logits[logits.argmax() if classes is None else classes[i]], levels)
        grids = [(as_grid(kind, g)[0], as_grid(kind, a)[0]) for g, a in zip(gradients, levels, strict=True)]
        maps.append([(g.clamp(min=0) * a).sum(0).clamp(min=0).detach() for g, a in grids])
    return [torch.stack(level) for level in zip(*maps, strict=True)]


def assert_maps_close(got: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float = 1e-3) -> None:
    for a, b in zip(got, expected, strict=True):
        assert a.shape == b.shape and float(b.max()) > 0
        assert (a.double() - b.double()).norm() <= tolerance * b.double().norm()


@pytest.mark.parametrize("name", names(SLOW))
def test_levels_and_maps_equal_the_parts_called_by_hand(name: str) -> None:
    cam, x = cam_of(name), batch(name)
    assert cam.layers == KINDS[name].levels
    assert_maps_close(cam.native_maps(x), by_hand(name, x))
    classes = torch.tensor([6, 0, 3])
    assert_maps_close(cam.native_maps(x, target=classes), by_hand(name, x, classes.tolist()))


class Scale(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 1e4  # grad-cam adds 1e-7 to each maximum


@pytest.mark.parametrize("name", names(LARGE))
def test_equals_grad_cam_with_a_reshape_transform(name: str) -> None:
    from pytorch_grad_cam import LayerCAM

    kind, cam, x = KINDS[name], cam_of(name), batch(name)
    model = nn.Sequential(copy.deepcopy(net_of(name)), Scale())
    ours = cam(x)
    for i, layer in enumerate(cam.layers):
        with LayerCAM(model, [model[0].get_submodule(layer)], reshape_transform=lambda t: as_grid(kind, t)) as peer:
            expected = torch.from_numpy(peer(x.clone(), None))
        raw = cam.native_maps(x)[i].flatten(1)
        magnified = float(
            (raw.amax(1) / (raw.amax(1) - raw.amin(1))).max()
        )  # rounding, by the scale of a map that is nearly flat
        torch.testing.assert_close(ours[:, i], expected, rtol=0, atol=1e-4 * magnified)


@pytest.fixture
def cam(name: str) -> LayerCAMExtractor:
    return cam_of(name)


@pytest.mark.parametrize("name", names(SLOW))
def test_batches_equal_single_images_without_the_engine_in_twins_and_in_forked_workers(
    name: str, cam: LayerCAMExtractor, no_engine: None
) -> None:
    """The engine is barred once the net is traced."""
    x = batch(name, 4)
    maps = cam.native_maps(x)
    singles = [torch.cat(level) for level in zip(*map(cam.native_maps, x.split(1)), strict=True)]
    assert_maps_close(maps, singles, 1e-4)
    twin = pickle.loads(pickle.dumps(cam))
    assert twin.fingerprint == cam.fingerprint is not None
    assert all(torch.equal(a, b) for a, b in zip(twin.native_maps(x), maps, strict=True))
    loader = DataLoader(
        x, 1, collate_fn=lambda rows: cam.native_maps(torch.stack(rows)), num_workers=1, multiprocessing_context="fork"
    )
    assert_maps_close(maps, [torch.cat(level) for level in zip(*loader, strict=True)], 1e-4)


@pytest.mark.parametrize("name", ["vit", pytest.param("deit", marks=pytest.mark.slow)])
def test_bf16_is_near_fp32(name: str) -> None:
    exact = LayerCAMExtractor(net_of(name), input_size=size_of(name), mean_std=None, target=1)
    rough = LayerCAMExtractor(net_of(name), input_size=size_of(name), mean_std=None, target=1, precision="bf16")
    for a, b in zip(exact.native_maps(batch(name)), rough.native_maps(batch(name)), strict=True):
        assert b.dtype == torch.float32
        assert torch.corrcoef(torch.stack((a.flatten(), b.flatten())))[0, 1] > 0.9
