"""Saliency-guided patch swaps for self-supervised anomaly detection, as torchvision transforms."""

from . import functional
from ._region_cache import RegionCache
from ._saliency_swap import SaliencySwap
from ._views import SwapViews
from .clustering import ClusteringBackend, KMeans, register_clustering
from .functional import PatchPair
from .saliency import LayerCAMExtractor

__version__ = "0.1.0"

__all__ = [
    "ClusteringBackend",
    "KMeans",
    "LayerCAMExtractor",
    "PatchPair",
    "RegionCache",
    "SaliencySwap",
    "SwapViews",
    "functional",
    "register_clustering",
]
