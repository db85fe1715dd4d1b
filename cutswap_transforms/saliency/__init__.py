"""Multilevel saliency maps: the LayerCAM extractor and the nets that it runs."""

from __future__ import annotations

from .layer_cam import LayerCAMExtractor

__all__ = ["LayerCAMExtractor"]
