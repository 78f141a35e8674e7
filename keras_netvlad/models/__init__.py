"""Video models built from the layers."""

from keras_netvlad.models.ensemble import ensemble
from keras_netvlad.models.from_pixels import from_pixels
from keras_netvlad.models.loading import load_model
from keras_netvlad.models.picture_model import picture_model
from keras_netvlad.models.soft_targets import soft_targets
from keras_netvlad.models.video_classifier import VideoClassifier
from keras_netvlad.models.video_encoder import VideoEncoder

__all__ = [
    "VideoClassifier",
    "VideoEncoder",
    "ensemble",
    "from_pixels",
    "load_model",
    "picture_model",
    "soft_targets",
]

# Importing one of the packages that define serializable classes registers all of them.
import keras_netvlad.registration  # noqa: F401
