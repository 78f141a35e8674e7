"""Work on the user's own video files: extract features, train on them, classify videos, find events in long ones, and
report on a run.

Importing this package loads nothing; each name loads what it needs. `Predictor`, `Vocabulary`, `spot`, `average_map`,
`write_report` and `write_web_page` need no Keras.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_netvlad.videos.extraction import Extracted, extract_features
    from keras_netvlad.videos.predict import Predictor
    from keras_netvlad.videos.report import write_report
    from keras_netvlad.videos.results import Results
    from keras_netvlad.videos.spotting import Spot, spot
    from keras_netvlad.videos.spotting_metric import AverageMAP, average_map
    from keras_netvlad.videos.training import train
    from keras_netvlad.videos.vocabulary import Vocabulary
    from keras_netvlad.videos.vocabulary_building import build_vocabulary
    from keras_netvlad.videos.web import write_web_page

__all__ = [
    "AverageMAP",
    "Extracted",
    "Predictor",
    "Results",
    "Spot",
    "Vocabulary",
    "average_map",
    "build_vocabulary",
    "extract_features",
    "spot",
    "train",
    "write_report",
    "write_web_page",
]

# A module with the name of a function would replace it as soon as it is imported. The names must differ.
_HOMES = {
    "AverageMAP": "keras_netvlad.videos.spotting_metric",
    "Extracted": "keras_netvlad.videos.extraction",
    "Predictor": "keras_netvlad.videos.predict",
    "Results": "keras_netvlad.videos.results",
    "Spot": "keras_netvlad.videos.spotting",
    "average_map": "keras_netvlad.videos.spotting_metric",
    "Vocabulary": "keras_netvlad.videos.vocabulary",
    "build_vocabulary": "keras_netvlad.videos.vocabulary_building",
    "extract_features": "keras_netvlad.videos.extraction",
    "spot": "keras_netvlad.videos.spotting",
    "train": "keras_netvlad.videos.training",
    "write_report": "keras_netvlad.videos.report",
    "write_web_page": "keras_netvlad.videos.web",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'keras_netvlad.videos' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
