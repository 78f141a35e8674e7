"""A small classifier of one stream, and batches for it."""

import keras
import numpy as np

from keras_netvlad.models import VideoClassifier

FEATURE_SIZE = 6


def make_classifier():
    keras.utils.set_random_seed(0)
    return VideoClassifier({"frames": FEATURE_SIZE}, 5, num_clusters=4, hidden_units=8, name="classifier")


def batch(frames=7, num_frames=(7, 3)):
    generator = np.random.default_rng(1)
    return {
        "frames": generator.normal(size=(len(num_frames), frames, FEATURE_SIZE)).astype("float32"),
        "num_frames": np.array(num_frames, "int32"),
    }
