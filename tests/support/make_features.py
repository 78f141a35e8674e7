"""Features and a run of `train` on labeled clips, with a small backbone of random weights."""

import keras
from make_labeled_videos import make_labeled_videos

from keras_netvlad.videos import extract_features

SIZE, D = 32, 16
CLASSES = ("bikes", "flower", "temple")


def make_backbone(path):
    """Saves a small image model with random weights, which includes its preprocessing."""
    keras.utils.set_random_seed(0)
    layers = [
        keras.Input((SIZE, SIZE, 3)),
        keras.layers.Rescaling(1 / 127.5, -1),
        keras.layers.Conv2D(12, 5, strides=4, padding="same", activation="relu"),
        keras.layers.Conv2D(D, 3, strides=2, padding="same"),
    ]
    keras.Sequential(layers).save(path)
    return str(path)


def make_features(folder, **options):
    """Writes `folder/videos` and `folder/features`: three classes with 6 clips of 2 seconds, in 3 groups each."""
    make_labeled_videos(folder / "videos", CLASSES, clips_per_class=6, groups_per_class=3, seconds=2.0, size=(64, 48))
    backbone = make_backbone(folder / "backbone.keras")
    labels = folder / "videos" / "labels.csv"
    extract_features(
        folder / "videos",
        folder / "features",
        backbone,
        **{"size": SIZE, "fps": 2, "labels": labels, "split": (0.4, 0.3, 0.3), **options},
    )
    return folder / "features"
