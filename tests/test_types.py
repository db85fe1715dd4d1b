"""What a type checker says of the callers: nothing of documented uses, an error at each wrong one."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
MOST_ANY = 0.08  # of the parameters; *args and **kwargs do not count
PAGES = ("README.md", "docs/recipes.md")
LOOSE = ("no-untyped-def", "no-untyped-call", "attr-defined")  # functions of a reader: without types, with a `fingerprint`

RIGHT = """
import enum, pathlib
import numpy as np
import numpy.typing as npt
import PIL.Image
import torch
from torch import Tensor, nn

from cutswap_transforms import KMeans, LayerCAMExtractor, RegionCache, SaliencySwap, SwapViews, functional
from cutswap_transforms.regions.clustering import Clustering
from cutswap_transforms.saliency.source import SaliencySource


class Edges:
    def native_maps(self, images: Tensor, /) -> list[Tensor]:
        return [images.float().mean(1)]


class Pyramid:
    fingerprint = "pyramid-1"

    def native_maps(self, images: Tensor) -> tuple[Tensor, ...]:
        return images.float().mean(1), images.float().amax(1)


class Clusterer:
    def fit_predict(self, X: npt.NDArray[np.float32], y: object = None) -> npt.NDArray[np.int32]:
        return np.zeros(len(X), np.int32)


def brightness(images: Tensor) -> Tensor:
    return images.mean(1, keepdim=True)


def halves(points: Tensor) -> Tensor:
    return points[:, 0] > 0.5


def listed(points: Tensor) -> list[int]:
    return [0] * len(points)


class Weights(enum.Enum):
    DEFAULT = 1


image = torch.zeros(3, 8, 8, dtype=torch.uint8)
source: SaliencySource = Edges()
source = LayerCAMExtractor()
labeler: Clustering = halves
labeler = KMeans(3)
SaliencySwap()
SaliencySwap("resnet18", "sklearn", levels=(0, -1), scale=(0.01, 0.1), region="top", cache=None)
SaliencySwap(source, labeler, levels=np.arange(2).tolist(), cache="folder", normalized=((0.5,), (0.5,)))
SaliencySwap(Pyramid(), Clusterer(), roi=np.ones((8, 8), bool), cache=RegionCache(pathlib.Path("folder")))
SaliencySwap(brightness, listed, roi=torch.ones(8, 8), cache=pathlib.Path("folder"))
SaliencySwap(lambda images: [images.mean(1)], lambda points: points[:, 0] > 0.5, roi="roi", levels=2)
SaliencySwap(nn.Conv2d(3, 2, 1), roi=PIL.Image.new("L", (8, 8)), cache=SaliencySwap().cache)
LayerCAMExtractor("resnet18", weights=Weights.DEFAULT, layers=["layer2"], target=3, mean_std=((0.5,) * 3, (0.5,) * 3))
LayerCAMExtractor(nn.Identity(), target=lambda output: output["scores"].amax(1), mean_std=None)
LayerCAMExtractor(weights=pathlib.Path("tiny.pt")).overlay(image).save("overlay.png")
swap = SaliencySwap()
hits: int = swap.cache.hits + swap.cache.misses + len(swap.cache)
sheet: PIL.Image.Image = swap.preview([PIL.Image.new("RGB", (8, 8)), image], rows=1)
swap.preview(image[None])
maps: list[Tensor] = LayerCAMExtractor().native_maps(image[None], target=torch.tensor([1]))
regions: Tensor = functional.salient_regions(maps, image[None], KMeans())
pairs: Tensor = functional.draw_pairs(regions, torch.rand(1, 51), None, (8, 8), (0.01, 0.1), (1.0, 1.0))
swapped: Tensor = functional.swap_patches(image, pairs)
images, labels = SwapViews.collate([SwapViews(swap)(image)])
"""

WRONG = """
import torch
from torch import Tensor
from cutswap_transforms import KMeans, LayerCAMExtractor, RegionCache, SaliencySwap, SwapViews, adapters, functional


class Silent:
    def native_maps(self, images: Tensor) -> None:
        return None


class Whole:
    def native_maps(self) -> list[Tensor]:
        return []


class Textual:
    def fit_predict(self, points: str) -> list[int]:
        return []


def scored(images: Tensor) -> dict[str, Tensor]:
    return {{}}


def nothing(points: Tensor) -> None:
    return None


image = torch.zeros(3, 8, 8)
maps = LayerCAMExtractor().native_maps(image[None])
{}
"""
MISTAKES = [  # a line each
    "SaliencySwap(saliency=3)",
    "SaliencySwap(saliency=object())",
    "SaliencySwap(saliency=KMeans)",
    "SaliencySwap(saliency=Silent())",
    "SaliencySwap(saliency=Whole())",
    "SaliencySwap(saliency=scored)",
    "SaliencySwap(saliency=None)",
    "SaliencySwap(clustering=3)",
    "SaliencySwap(clustering=None)",
    "SaliencySwap(clustering=Textual())",
    "SaliencySwap(clustering=nothing)",
    "SaliencySwap(cache=3)",
    "SaliencySwap(cache=True)",
    "SaliencySwap(cache={'folder': 'c'})",
    "SaliencySwap(roi=3)",
    "SaliencySwap(roi=((0, 1), (1, 1)))",
    "SaliencySwap(levels=0.5)",
    "SaliencySwap(scale=0.5)",
    "SaliencySwap(region=1)",
    "SaliencySwap(normalized='imagenet')",
    "SaliencySwap(weights='DEFAULT')",
    "SaliencySwap().cache.hit",
    "SaliencySwap().preview('part.png')",
    "SaliencySwap().preview([3])",
    "LayerCAMExtractor(3)",
    "LayerCAMExtractor(weights=3)",
    "LayerCAMExtractor(mean_std=0.5)",
    "LayerCAMExtractor(target='cat')",
    "LayerCAMExtractor().overlay('part.png')",
    "LayerCAMExtractor().native_maps(image[None], target=3)",
    "RegionCache(3)",
    "functional.salient_regions(maps, image[None], 3)",
    "functional.draw_pair(image)",
    "adapters.KeraSwap()",
    "adapters.HuggingFaceSwap(swap='tiny')",
    "SaliencySwap().as_anomaly_generator(3)",
    "SwapViews.collate(3)",
]


def parameters() -> list[str]:
    """The annotation of every parameter of the package but self, cls, *args and **kwargs."""
    found = []
    for path in sorted((ROOT / "cutswap_transforms").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                named = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                found += [ast.unparse(a.annotation) for a in named if a.annotation]
    return found


def test_few_parameters_are_any():
    found = parameters()
    share = found.count("Any") / len(found)
    assert len(found) > 500 and share <= MOST_ANY, f"{share:.1%} of {len(found)} parameters are Any"


@pytest.fixture(scope="module")
def complaints(tmp_path_factory) -> dict[str, list[str]]:
    """What `mypy --strict` says of the lines of right.py, wrong.py and of the blocks of each page."""
    if int(np.__version__.split(".")[0]) < 2:
        pytest.skip("what mypy says depends on the stubs of a version")
    folder = tmp_path_factory.mktemp("callers")
    texts = {"right": RIGHT, "wrong": WRONG.format("\n".join(MISTAKES))}
    for page in PAGES:
        blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), re.M | re.S)
        texts[Path(page).stem.lower()] = "\n".join(blocks)
    for name, text in texts.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "--no-error-summary", "--no-pretty"]
    command += ["--follow-imports", "silent"]  # the package itself is checked by `make test`
    files = [str(folder / f"{name}.py") for name in texts]
    done = subprocess.run([*command, *files], capture_output=True, text=True, cwd=ROOT, timeout=280)
    assert done.returncode in (0, 1) and not done.stderr, done.stdout + done.stderr
    found: dict[str, list[str]] = {name: [] for name in texts}
    for line in done.stdout.splitlines():
        name = next(n for n in texts if f"{n}.py:" in line)
        found[name].append(line.split(f"{name}.py:", 1)[1])
    return found


@pytest.mark.timeout(300)
def test_right_calls_have_no_error(complaints):
    assert complaints["right"] == []


@pytest.mark.parametrize("page", PAGES)
def test_documented_calls_have_no_error(complaints, page):
    found = complaints[Path(page).stem.lower()]
    errors = [line for line in found if ": error:" in line]
    assert [line for line in errors if not line.endswith(tuple(f"[{code}]" for code in LOOSE))] == []


def test_every_wrong_call_is_an_error_and_nothing_else(complaints):
    first = WRONG[: WRONG.index("{}\n")].count("\n") + 1
    lines = {int(line.split(":")[0]) for line in complaints["wrong"] if ": error:" in line}
    assert [call for i, call in enumerate(MISTAKES, first) if i not in lines] == []
    assert len(lines) == len(MISTAKES)
