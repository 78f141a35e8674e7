"""Video models, assembled from the layers."""

from keras_netvlad.models.loading import load_model
from keras_netvlad.models.video_classifier import VideoClassifier

__all__ = ["VideoClassifier", "load_model"]
