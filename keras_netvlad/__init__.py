"""NetVLAD for Keras 3: pool any number of frame features into one descriptor, train it, serve it.

Importing this package registers every class that a `.keras` file may name. If Keras is not loaded yet, that happens
when it is, so that what needs no Keras, such as `keras_netvlad.retrieval.DescriptorIndex`, starts without it.
"""

import importlib
from typing import TYPE_CHECKING, Any

import wrapt

from keras_netvlad._version import __version__

if TYPE_CHECKING:
    from keras_netvlad.layers import NetVLAD
    from keras_netvlad.models import VideoClassifier
    from keras_netvlad.stream import NetVLADStream

__all__ = ["NetVLAD", "NetVLADStream", "VideoClassifier", "__version__"]

_MODULES = {
    "NetVLAD": "keras_netvlad.layers",
    "NetVLADStream": "keras_netvlad.stream",
    "VideoClassifier": "keras_netvlad.models",
}
_PACKAGES = ("callbacks", "convert", "data", "export", "layers", "losses", "metrics", "models", "plot", "retrieval")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    if name in _PACKAGES:
        return importlib.import_module(f"keras_netvlad.{name}")
    raise AttributeError(f"module 'keras_netvlad' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_PACKAGES])


wrapt.register_post_import_hook("keras_netvlad.registration:register", "keras")
