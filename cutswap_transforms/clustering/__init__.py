"""Clustering of saliency values: the default k-means, other backends by name, and any of the user's own."""

from ._backend import ClusteringBackend, ResolvedBackend, clustering_names, register_clustering, resolve_clustering
from ._kmeans import KMeans
from ._opencv import OpenCVKMeans
from ._sklearn import SklearnKMeans

register_clustering("kmeans", KMeans)
register_clustering("sklearn", SklearnKMeans)
register_clustering("opencv", OpenCVKMeans)

__all__ = [
    "ClusteringBackend",
    "KMeans",
    "OpenCVKMeans",
    "ResolvedBackend",
    "SklearnKMeans",
    "clustering_names",
    "register_clustering",
    "resolve_clustering",
]
