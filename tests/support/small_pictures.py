"""Small models from pixels: of videos, and of places with a whitening behind the descriptor."""

import keras
import numpy as np

from keras_netvlad import VideoClassifier, VideoEncoder
from keras_netvlad.layers import FrameEncoder, PCAWhitening
from keras_netvlad.models import from_pixels

NUM_FEATURES, NUM_CLUSTERS, NUM_VALUES = 6, 4, 5


def make_backbone(size=(24, 24), pooled=False):
    """A backbone whose map has a quarter of the size of the picture."""
    return keras.Sequential(
        [
            keras.Input((*size, 3)),
            keras.layers.Conv2D(NUM_FEATURES, 3, strides=2, padding="same", activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Conv2D(NUM_FEATURES, 3, strides=2, padding="same"),
            *([keras.layers.GlobalAveragePooling2D()] if pooled else []),
        ],
        name="backbone",
    )


def make_places(pooled=False, preprocessing="MobileNetV2", seed=0):
    """A model of videos from pixels to whitened descriptors."""
    keras.utils.set_random_seed(seed)
    encoder = VideoEncoder({"frames": NUM_FEATURES}, num_clusters=NUM_CLUSTERS)
    pixels = from_pixels(FrameEncoder(make_backbone(pooled=pooled), preprocessing), encoder)
    whitening = PCAWhitening(NUM_VALUES, name="whitening")
    whitening.adapt(np.random.default_rng(seed).normal(size=(40, NUM_FEATURES * NUM_CLUSTERS)))
    return keras.Model(pixels.input, {"descriptor": whitening(pixels.output["descriptor"])}, name="places")


def make_video_pixels():
    """A classifier of videos from pixels."""
    classifier = VideoClassifier({"frames": NUM_FEATURES}, num_classes=3, num_clusters=2, hidden_units=None)
    return from_pixels(FrameEncoder(make_backbone(), "MobileNetV2"), classifier)
