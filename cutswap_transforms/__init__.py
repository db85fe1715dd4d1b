"""Saliency-guided patch swaps for self-supervised anomaly detection, as torchvision transforms."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import adapters as adapters
    from . import functional
    from .cache.store import RegionCache
    from .regions.kmeans import KMeans
    from .saliency import LayerCAMExtractor
    from .transform import SaliencySwap
    from .views import SwapViews

__version__ = "0.1.0"

__all__ = ["KMeans", "LayerCAMExtractor", "RegionCache", "SaliencySwap", "SwapViews", "functional"]

# Imported on first use: torch takes seconds, which `python -m cutswap_transforms --help` does not need.
_HOMES = {
    "KMeans": "regions.kmeans",
    "LayerCAMExtractor": "saliency",
    "RegionCache": "cache.store",
    "SaliencySwap": "transform",
    "SwapViews": "views",
}
_MODULES = ("adapters", "functional")

if not TYPE_CHECKING:  # otherwise mypy would accept any name

    def __getattr__(name: str) -> Any:
        if name not in _HOMES and name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
        module = importlib.import_module(f".{_HOMES.get(name, name)}", __name__)
        value = globals()[name] = getattr(module, name) if name in _HOMES else module
        return value

    def __dir__() -> list[str]:
        return [*__all__, "__version__"]
