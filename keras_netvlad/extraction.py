"""Deprecated name: `extract_features` is in `keras_netvlad.videos`."""

import warnings

from keras_netvlad.videos import Extracted, extract_features

__all__ = ["Extracted", "extract_features"]

warnings.warn(
    "`keras_netvlad.extraction` is deprecated; import `extract_features` from `keras_netvlad.videos`.",
    DeprecationWarning,
    stacklevel=2,
)
