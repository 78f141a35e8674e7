"""Work on the user's own video files: extract features, train on them, and classify videos.

The names are imported when they are used, so that `keras_netvlad.videos.predict` starts without TensorFlow.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_netvlad.videos.extraction import Extracted, extract_features
    from keras_netvlad.videos.predict import Predictor
    from keras_netvlad.videos.results import Results
    from keras_netvlad.videos.training import train

__all__ = ["Extracted", "Predictor", "Results", "extract_features", "train"]

_HOMES = {
    "Extracted": "extraction",
    "Predictor": "predict",
    "Results": "results",
    "extract_features": "extraction",
    "train": "training",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"keras_netvlad.videos.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'keras_netvlad.videos' has no attribute {name!r}")
