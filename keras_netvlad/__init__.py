"""NetVLAD for Keras 3: pool any number of frame features into one descriptor, train it, serve it."""

from keras_netvlad._version import __version__
from keras_netvlad.layers import NetVLAD
from keras_netvlad.models import VideoClassifier
from keras_netvlad.stream import NetVLADStream

__all__ = ["NetVLAD", "NetVLADStream", "VideoClassifier", "__version__"]
