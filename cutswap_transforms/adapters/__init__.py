"""The swap inside other libraries. Each adapter imports its library on first access, never earlier.

>>> from cutswap_transforms import adapters
>>> adapters.__all__
['AlbumentationsSwap', 'AnomalibSwap', 'HuggingFaceSwap', 'KorniaSwap']
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .for_albumentations import AlbumentationsSwap as AlbumentationsSwap
    from .for_anomalib import AnomalibSwap as AnomalibSwap
    from .for_hugging_face import HuggingFaceSwap as HuggingFaceSwap
    from .for_kornia import KorniaSwap as KorniaSwap

_HOMES = {
    "AlbumentationsSwap": ("for_albumentations", "albumentations"),
    "AnomalibSwap": ("for_anomalib", "anomalib"),
    "HuggingFaceSwap": ("for_hugging_face", "datasets"),
    "KorniaSwap": ("for_kornia", "kornia"),
}
__all__ = list(_HOMES)

if not TYPE_CHECKING:  # otherwise mypy would accept any name

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(_HOMES)}")
        module, package = _HOMES[name]
        try:
            return getattr(importlib.import_module(f".{module}", __name__), name)
        except ModuleNotFoundError as error:
            raise ImportError(f"`adapters.{name}` needs {package}: pip install {package}") from error
