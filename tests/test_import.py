"""Importing the package is cheap, silent and offline, and shows exactly its public names."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import cutswap_transforms

ROOT = Path(__file__).parents[1]

# Packages of the extras and of the tests. torchvision alone brings in tqdm, sympy and torch._dynamo: that is its own
# business, so the probe looks only at what our import adds to torchvision's.
FORBIDDEN = {
    "captum",
    "cv2",
    "hypothesis",
    "joblib",
    "lightning",
    "matplotlib",
    "pandas",
    "pytest",
    "pytorch_grad_cam",
    "scipy",
    "sklearn",
    "torch._dynamo",
    "torch._export",
    "torch._inductor",
    "torchcam",
    "torchmetrics",
    "tqdm",
    "triton",
}

# Runs in a fresh interpreter. An audit hook sees every socket, whoever opens it and by whatever name.
PROBE = """
import json, sys
import torchvision.models, torchvision.transforms.v2
before, opened = set(sys.modules), []
sys.addaudithook(lambda event, args: opened.append(event) if event.startswith("socket.") else None)
{statement}
print(json.dumps([sorted(set(sys.modules) - before), opened]))
"""


def added_by(statement: str) -> tuple[set[str], list[str]]:
    """Modules (and their parent packages' names) that `statement` adds to torchvision's own, and its socket events."""
    out = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROBE.format(statement=statement)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert out.stderr == ""
    modules, opened = json.loads(out.stdout)
    return {m for m in modules if not m.startswith("cutswap_transforms")}, opened


def forbidden_in(modules: set[str]) -> set[str]:
    return {name for name in FORBIDDEN for module in modules if module == name or module.startswith(name + ".")}


def test_importing_adds_none_of_the_extras_and_opens_no_socket():
    modules, opened = added_by("import cutswap_transforms")
    assert forbidden_in(modules) == set()
    assert opened == []


def test_the_import_test_can_fail():
    modules, opened = added_by("import cutswap_transforms, scipy.stats, socket; socket.socket().close()")
    assert forbidden_in(modules) == {"scipy"}
    assert opened == ["socket.__new__"]


def test_public_names_are_all_and_nothing_else():
    names = cutswap_transforms.__all__
    assert len(set(names)) == len(names)
    assert set(names) - {"__version__"} >= {
        "SaliencySwap",
        "LayerCAMExtractor",
        "SwapViews",
        "KMeans",
        "ClusteringBackend",
        "register_clustering",
        "PatchPair",
        "RegionCache",
        "functional",
    }
    for name in names:
        assert hasattr(cutswap_transforms, name), f"`__all__` names {name}, which does not exist"
    # In a fresh interpreter: here other tests have already imported submodules, which become attributes.
    code = "import cutswap_transforms as c; print(*(n for n in dir(c) if not n.startswith('_')))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    # The two sub-packages appear by themselves once imported; their contents are reached from the top.
    assert set(shown.split()) - {"annotations", "clustering", "saliency"} == {n for n in names if n[0] != "_"}


def test_every_public_object_is_documented():
    for name in cutswap_transforms.__all__:
        if name != "__version__":
            assert (getattr(cutswap_transforms, name).__doc__ or "").strip(), f"{name} has no docstring"


def test_version_is_a_literal_and_matches_the_installed_metadata():
    tree = ast.parse((ROOT / "cutswap_transforms" / "__init__.py").read_text(encoding="utf-8"))
    literal = [
        node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id == "__version__"
        and isinstance(node.value, ast.Constant)
    ]
    assert literal == [cutswap_transforms.__version__]  # else building would have to import torch
    try:
        installed = importlib.metadata.version("cutswap-transforms")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("run from the source tree without installing: no metadata to compare with")
    assert installed == cutswap_transforms.__version__


def test_changelog_and_citation_name_this_version():
    version = re.escape(cutswap_transforms.__version__)
    assert re.search(rf"^version: {version}$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.M)
    assert re.search(rf"^## \[({version}|Unreleased)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
