"""Saliency-guided patch swaps for self-supervised anomaly detection, as torchvision transforms."""

from . import functional
from .cache.store import RegionCache
from .regions.kmeans import KMeans
from .saliency import LayerCAMExtractor
from .transform import SaliencySwap
from .views import SwapViews

__version__ = "0.1.0"

__all__ = ["KMeans", "LayerCAMExtractor", "RegionCache", "SaliencySwap", "SwapViews", "functional"]
