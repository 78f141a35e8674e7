"""NetVLAD for Keras 3: pool any number of frame features into one descriptor, train it, serve it."""

from keras_netvlad._version import __version__
from keras_netvlad.layers import NetVLAD

__all__ = ["NetVLAD", "__version__"]
