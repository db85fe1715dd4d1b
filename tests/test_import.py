"""Importing the package is cheap, silent and offline, and shows exactly its public names."""

from __future__ import annotations

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
FORBIDDEN = {"captum", "cv2", "hypothesis", "joblib", "lightning", "matplotlib", "pandas", "pytest", "pytorch_grad_cam"}
FORBIDDEN |= {"scipy", "sklearn", "torch._dynamo", "torch._export", "torch._inductor", "torchcam", "torchmetrics", "tqdm"}
FORBIDDEN |= {"triton"}

# Runs in a fresh interpreter. An audit hook sees every socket, whoever opens it and by whatever name.
PROBE = """
import json, sys
import torchvision.models, torchvision.transforms.v2
before, opened = set(sys.modules), []
sys.addaudithook(lambda event, args: opened.append(event) if event.startswith("socket.") else None)
{statement}
print(json.dumps([sorted(set(sys.modules) - before), opened, dir(cutswap_transforms)]))
"""


def added_by(statement: str) -> tuple[set[str], list[str], set[str]]:
    """The forbidden among the modules that `statement` adds to torchvision's, its socket events, our package's names."""
    command = [sys.executable, "-W", "error", "-c", PROBE.format(statement=statement)]
    out = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stderr == ""
    modules, opened, names = json.loads(out.stdout)
    forbidden = {name for name in FORBIDDEN for m in modules if m == name or m.startswith(name + ".")}
    return forbidden, opened, {name for name in names if not name.startswith("_")}


def test_importing_adds_no_extra_opens_no_socket_and_shows_the_public_names_alone():
    forbidden, opened, shown = added_by("import cutswap_transforms")
    assert forbidden == set()
    assert opened == []
    # Modules appear by themselves once imported; what is public in them is reached from the top.
    modules = {p.stem for p in (ROOT / "cutswap_transforms").iterdir()}
    assert shown - (modules - {"functional"}) == set(cutswap_transforms.__all__)


def test_the_import_test_can_fail():
    forbidden, opened, _ = added_by("import cutswap_transforms, scipy.stats, socket; socket.socket().close()")
    assert forbidden == {"scipy"}
    assert opened == ["socket.__new__"]


def test_public_names_exist_and_are_documented():
    names = cutswap_transforms.__all__
    assert len(set(names)) == len(names)
    assert set(names) == {"SaliencySwap", "LayerCAMExtractor", "SwapViews", "KMeans", "RegionCache", "functional"}
    for name in set(names) - {"__version__"}:
        assert hasattr(cutswap_transforms, name), f"`__all__` names {name}, which does not exist"
        assert (getattr(cutswap_transforms, name).__doc__ or "").strip(), f"{name} has no docstring"


def test_version_is_a_literal_that_changelog_and_citation_name():
    def text(name: str) -> str:
        return (ROOT / name).read_text(encoding="utf-8")

    version = re.escape(cutswap_transforms.__version__)
    assert re.search(rf'^__version__ = "{version}"$', text("cutswap_transforms/__init__.py"), re.M)  # or building needs torch
    assert re.search(rf"^version: {version}$", text("CITATION.cff"), re.M)
    assert re.search(rf"^## \[({version}|Unreleased)\]", text("CHANGELOG.md"), re.M)


def test_version_matches_the_installed_metadata():
    try:
        installed = importlib.metadata.version("cutswap-transforms")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("run from the source tree without installing: no metadata to compare with")
    assert installed == cutswap_transforms.__version__
