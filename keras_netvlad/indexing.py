"""Deprecated name: `index_records` is in `keras_netvlad.retrieval`."""

import warnings

from keras_netvlad.retrieval.index_records import index_records

__all__ = ["index_records"]

warnings.warn(
    "`keras_netvlad.indexing` is deprecated; import `index_records` from `keras_netvlad.retrieval`.",
    DeprecationWarning,
    stacklevel=2,
)
