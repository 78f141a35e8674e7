"""Deprecated name: the statistics of clusters are in `keras_netvlad.cluster_statistics`."""

import warnings

from keras_netvlad.cluster_statistics import (
    assignment_entropy,
    cluster_shares,
    dead_clusters,
    dominant_clusters,
    usage_entropy,
)

__all__ = ["assignment_entropy", "cluster_shares", "dead_clusters", "dominant_clusters", "usage_entropy"]

warnings.warn(
    "`keras_netvlad.usage` is deprecated; import from `keras_netvlad.cluster_statistics`.",
    DeprecationWarning,
    stacklevel=2,
)
