"""NetVLAD for Keras 3: pool any number of frame features into one descriptor, train it, serve it.

Importing this package registers every class that a `.keras` file may name. If Keras has not been imported yet, they are
registered as soon as it is. Modules that need no Keras, such as `keras_netvlad.retrieval`, therefore start without it.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import wrapt

from keras_netvlad._version import __version__

if TYPE_CHECKING:
    from keras_netvlad.layers import NetVLAD
    from keras_netvlad.models import VideoClassifier, VideoEncoder
    from keras_netvlad.stream import NetVLADStream

__all__ = ["NetVLAD", "NetVLADStream", "VideoClassifier", "VideoEncoder", "__version__"]

_HOMES = {
    "NetVLAD": "keras_netvlad.layers",
    "NetVLADStream": "keras_netvlad.stream",
    "VideoClassifier": "keras_netvlad.models",
    "VideoEncoder": "keras_netvlad.models",
}
_REGISTERED = ("layers", "losses", "metrics", "models")
_PACKAGES = (*_REGISTERED, "callbacks", "convert", "data", "export", "plot", "retrieval", "training", "videos")


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _PACKAGES:
        return importlib.import_module(f"keras_netvlad.{name}")
    raise AttributeError(f"module 'keras_netvlad' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_PACKAGES])


def _register(_: ModuleType) -> None:
    # One of these packages may be importing Keras right now. It then imports `registration` at its end.
    if not any(f"keras_netvlad.{name}" in sys.modules for name in _REGISTERED):
        importlib.import_module("keras_netvlad.registration")


wrapt.register_post_import_hook(_register, "keras")
