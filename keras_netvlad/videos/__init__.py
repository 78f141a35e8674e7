"""Work on the user's own video files. Importing this package loads nothing; each name loads what it needs.

`write_report` needs NumPy only.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_netvlad.videos.extraction import Extracted, extract_features
    from keras_netvlad.videos.report import write_report

__all__ = ["Extracted", "extract_features", "write_report"]

# A module with the name of a function would replace it as soon as it is imported. The names must differ.
_HOMES = {
    "Extracted": "keras_netvlad.videos.extraction",
    "extract_features": "keras_netvlad.videos.extraction",
    "write_report": "keras_netvlad.videos.report",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'keras_netvlad.videos' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
