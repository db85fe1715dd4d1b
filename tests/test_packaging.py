"""What leaves the house: the wheel and the sdist, and that the wheel alone is enough to swap patches, cheap and offline."""

from __future__ import annotations

import email
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import cutswap_transforms

ROOT = Path(__file__).parents[1]
MEGABYTE = 1_000_000


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def left_out(folder: str, names: list[str]) -> set[str]:
    """What no release would see: environments, caches, earlier builds and the demo's output."""
    skipped = {n for n in names if n.startswith(".") or n in {"build", "dist", "demo", "__pycache__"}}
    skipped |= {n for n in names if n.endswith(".egg-info") or (Path(folder, n) / "pyvenv.cfg").exists()}
    return skipped


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy to build from: the working tree stays as it is."""
    copy = tmp_path_factory.mktemp("source") / "project"
    shutil.copytree(ROOT, copy, ignore=left_out)
    return copy


@pytest.fixture(scope="module")
def dist(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel made from it."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source, cwd=source)
    return out


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (found,) = dist.glob("*.whl")
    return found


def test_sdist_holds_tests_examples_and_documents_and_the_index_takes_both(dist: Path):
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    assert {"setup.cfg", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff"} <= names
    assert {"tests/test_packaging.py", "tests/conftest.py", "examples/make_samples.py", "benchmarks/run.py"} <= names
    assert not any("__pycache__" in name for name in names)
    assert "PASSED" in run(sys.executable, "-m", "twine", "check", "--strict", *dist.iterdir(), cwd=dist).stdout


def test_the_sdist_builds_the_wheel_that_the_tree_builds(source: Path, wheel: Path, tmp_path: Path):
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", tmp_path, source, cwd=source)
    assert contents(tmp_path / wheel.name) == contents(wheel)


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_wheel_holds_the_package_alone_with_floors_and_no_caps(wheel: Path):
    assert wheel.stat().st_size <= 3 * MEGABYTE
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (path,) = (n for n in names if n.endswith("dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(path))
    modules = {str(p.relative_to(ROOT)) for p in (ROOT / "cutswap_transforms").rglob("*.py")}
    assert modules | {"cutswap_transforms/py.typed", "cutswap_transforms/saliency/weights/tiny.npz"} <= names
    assert {n.split("/")[0].split("-")[0] for n in names} == {"cutswap_transforms"}  # the package and its dist-info
    assert any(n.endswith("dist-info/licenses/LICENSE") for n in names)
    assert (metadata["Requires-Python"], metadata["License-Expression"]) == (">=3.10", "BSD-3-Clause")
    core = {r for r in metadata.get_all("Requires-Dist") or [] if "extra ==" not in r}
    assert core == {"torch>=2.11", "torchvision>=0.26", "numpy"}
    extras = {"sklearn", "opencv", "opencv-headless", "webdataset", "all"}
    extras |= {"detector", "docs", "examples", "explorer", "test", "dev"}
    assert set(metadata.get_all("Provides-Extra") or []) == extras


# Runs in a fresh interpreter from an empty folder. Its only finder does not find the extras, as if they were not
# installed, nor an editable install of the source tree; an audit hook, which sees every way to a socket or a name
# look-up, refuses the network. Both are tried out before the library is. What is costly, and no extra, may be there
# but must not be imported: torchvision alone brings in tqdm, sympy and torch._dynamo, which is its own business, so only
# what our import adds to that counts.
USE_ALONE = """
import sys
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder

BLOCKED = {"albumentations", "anomalib", "captum", "cv2", "datasets", "hypothesis", "joblib", "kornia", "lightning",
           "matplotlib", "pandas", "pytest", "pytorch_grad_cam", "scipy", "sklearn", "torchcam", "torchmetrics",
           "webdataset"}
COSTLY = {"torch._dynamo", "torch._export", "torch._inductor", "triton"}

class WithoutExtras(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.split(".")[0] not in BLOCKED:
            return super().find_spec(name, path, target)
        asked.append(name)

def offline(event, args):
    if event.startswith("socket."):
        asked.append(event)
        raise OSError(f"{event} (blocked)")

def added():
    new = set(sys.modules) - before
    return [*asked, *(c for c in COSTLY if any(m == c or m.startswith(c + ".") for m in new))]

asked = []
sys.meta_path[:] = [BuiltinImporter, FrozenImporter, WithoutExtras]
sys.path.insert(0, sys.argv[1])
import torch, torchvision.models, torchvision.transforms.v2
sys.modules["tqdm"] = None  # torch itself imports it; from here on nobody can
sys.addaudithook(offline)
before, asked = set(sys.modules), []

for attempt in ("import sklearn", "import cv2", "import tqdm", "import socket; socket.socket()"):
    try:
        exec(attempt)
    except (ImportError, OSError):
        continue
    sys.exit(f"{attempt!r} was meant to fail")
sys.modules["triton.test"] = None
assert added() == ["sklearn", "cv2", "socket.__new__", "triton"], added()
del sys.modules["triton.test"], asked[:]

from pathlib import Path
import cutswap_transforms
shown = {name for name in dir(cutswap_transforms) if not name.startswith("_")}
assert shown == set(cutswap_transforms.__all__), shown
from cutswap_transforms import *
assert "cutswap_transforms.transform" in sys.modules and not added(), added()

torch.manual_seed(0)
image = torch.randint(0, 256, (3, 96, 128), dtype=torch.uint8)
negative = SaliencySwap()(image)
key = torch.tensor([[65536], [256], [1]])  # a pixel as one number, so that whole pixels must have moved
before, after = ((t.flatten(1).long() * key).sum(0) for t in (image, negative))
assert not torch.equal(before, after) and torch.equal(before.sort().values, after.sort().values)
for name, module in sys.modules.items():
    if name.split(".")[0] == "cutswap_transforms":
        assert Path(sys.argv[1]).resolve() in Path(module.__file__).resolve().parents, f"{name} came from {module.__file__}"
print("swapped")
"""


def test_wheel_alone_swaps_patches_without_extras_network_or_costly_imports(wheel: Path, tmp_path: Path):
    target, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--quiet", "--target", target, wheel]
    run(*pip, cwd=empty)
    done = run(sys.executable, "-W", "error", "-c", USE_ALONE, target, cwd=empty)
    assert (done.stdout, done.stderr) == ("swapped\n", "")


def test_public_names_exist_and_are_documented():
    names = cutswap_transforms.__all__
    assert sorted(names) == ["KMeans", "LayerCAMExtractor", "RegionCache", "SaliencySwap", "SwapViews", "functional"]
    for name in names:
        assert (getattr(cutswap_transforms, name).__doc__ or "").strip(), f"{name} has no docstring"


# Runs in a fresh interpreter, in which no other test has imported a name.
ON_FIRST_USE = """
import pickle, sys
import cutswap_transforms
assert "torch" not in sys.modules
assert set(dir(cutswap_transforms)) == {*cutswap_transforms.__all__, "__version__"}
assert cutswap_transforms.adapters.__all__ and cutswap_transforms.functional.PatchPair
assert "SaliencySwap" not in vars(cutswap_transforms)
assert pickle.loads(b"ccutswap_transforms\\nSaliencySwap\\n.") is cutswap_transforms.SaliencySwap
from cutswap_transforms import *
from cutswap_transforms.regions.kmeans import KMeans as own
assert KMeans is own is cutswap_transforms.KMeans is vars(cutswap_transforms)["KMeans"]
try:
    cutswap_transforms.PatchSwap
except AttributeError as error:
    print(error)
"""


def test_public_names_are_imported_on_first_use(tmp_path: Path):
    told = run(sys.executable, "-W", "error", "-c", ON_FIRST_USE, cwd=tmp_path).stdout
    assert told == (
        "module 'cutswap_transforms' has no attribute 'PatchSwap'; it has "
        "KMeans, LayerCAMExtractor, RegionCache, SaliencySwap, SwapViews, functional\n"
    )


def test_version_is_a_literal_that_changelog_and_citation_name_and_the_installed_one():
    version = re.escape(cutswap_transforms.__version__)
    for name, line in (
        ("cutswap_transforms/__init__.py", rf'^__version__ = "{version}"$'),  # or building needs torch
        ("CITATION.cff", rf"^version: {version}$"),
        ("CHANGELOG.md", rf"^## \[({version}|Unreleased)\]"),
    ):
        assert re.search(line, (ROOT / name).read_text(encoding="utf-8"), re.M), name
    try:
        installed = importlib.metadata.version("cutswap-transforms")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("run from the source tree without installing: no metadata to compare with")
    assert installed == cutswap_transforms.__version__
