"""Action spotting of SoccerNet: NetVLAD and NetVLAD++ (Giancola & Ghanem 2021)."""

import keras
import numpy as np
from numpy.typing import NDArray

from keras_netvlad.base.names import NUM_FRAMES
from keras_netvlad.convert.arrays import from_arrays
from keras_netvlad.convert.networks.tensors import Tensors, assign
from keras_netvlad.convert.rows import reorder_rows
from keras_netvlad.layers import NetRVLAD, TemporalPooling
from keras_netvlad.models.scoring_model import ScoringModel
from keras_netvlad.models.video_classifier import VideoClassifier

STREAM = "frames"
PARTS = (("pool_layer",), ("pool_layer_before", "pool_layer_after"))
# Share of the descriptor that training drops.
DROPOUT = 0.4


def is_soccernet(tensors: Tensors) -> bool:
    """Returns whether the names are those of SoccerNet's model."""
    return any(name.startswith("pool_layer") for name in tensors.names)


def soccernet(tensors: Tensors) -> keras.Model:
    """Returns the classifier of windows of frame features of a checkpoint.

    The first score is that of the background. NetVLAD++ (`pool_layer_before` and `pool_layer_after`) pools the frames
    before and after the middle of the window with separate clusters. If features are not of 512 values, a linear layer
    (`feature_extractor`) comes first. NetRVLAD has no `clusters2`.

    Args:
        tensors: Tensors of the checkpoint.

    Returns:
        A `VideoClassifier` of the stream `frames`; with a linear layer first, a functional model with the same inputs
        and outputs that contains it.

    Raises:
        ValueError: If the checkpoint is of another network.
    """
    parts = PARTS[any(name.startswith("pool_layer_") for name in tensors.names)]
    has_centroids = any(name.endswith(".clusters2") for name in tensors.names)
    has_projection = any(name.startswith("feature_extractor.") for name in tensors.names)
    kinds = ("clusters", "clusters2") if has_centroids else ("clusters",)
    expected = [f"{part}.{kind}" for part in parts for kind in kinds] + ["fc.weight", "fc.bias"]
    expected += ["feature_extractor.weight", "feature_extractor.bias"] if has_projection else []
    tensors.check_names(expected)
    poolings = [_pooling(tensors, part, has_centroids) for part in parts]
    size = poolings[0].feature_size
    kernel, bias = tensors.read_of_rank("fc.weight", 2), tensors.read_of_rank("fc.bias", 1)
    pooling = poolings[0] if len(poolings) == 1 else TemporalPooling(*poolings, name="temporal_pooling")
    model = VideoClassifier(
        {STREAM: size}, len(bias), pooling=pooling, hidden_units=None, dropout=DROPOUT, name="soccernet"
    )
    scores = model.get_layer("scores")
    rows: list[NDArray[np.float64]] = []
    start = 0
    for layer in poolings:
        stop = start + layer.num_clusters * size
        if kernel.shape[1] < stop:
            break
        rows.extend(reorder_rows(kernel.T[start:stop], layer.num_clusters, size))
        start = stop
    rows.extend(kernel.T[start:])
    assign(scores.kernel, np.array(rows), "fc.weight")
    assign(scores.bias, bias, "fc.bias")
    return _with_projection(tensors, model, size) if has_projection else model


def _pooling(tensors, part, has_centroids):
    """Returns a NetVLAD, or a NetRVLAD, which has no centroids."""
    kernel = tensors.read_of_rank(f"{part}.clusters", 2)
    if has_centroids:
        centroids = tensors.read_of_rank(f"{part}.clusters2", 3)
        return from_arrays(kernel, centroids[0].T, normalize_input=True, name=part)
    layer = NetRVLAD(kernel.shape[1], use_bias=False, normalize_input=True, name=part)
    layer.build((None, None, kernel.shape[0]))
    assign(layer.kernel, kernel, f"{part}.clusters")
    return layer


def _with_projection(tensors, model, size):
    """Returns a model that maps each frame linearly before the classifier."""
    kernel = tensors.read_of_rank("feature_extractor.weight", 2).T
    frames = keras.Input((None, kernel.shape[0]), name=STREAM)
    num_frames = keras.Input((), dtype="int32", name=NUM_FRAMES)
    layer = keras.layers.Dense(size, name="feature_extractor")
    features = layer(frames)
    assign(layer.kernel, kernel, "feature_extractor.weight")
    assign(layer.bias, tensors.read("feature_extractor.bias"), "feature_extractor.bias")
    outputs = model({STREAM: features, NUM_FRAMES: num_frames})
    return ScoringModel({STREAM: frames, NUM_FRAMES: num_frames}, dict(outputs), name="soccernet_with_projection")
