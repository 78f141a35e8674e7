"""Moving statistics: a batch of nothing but padding leaves them, and any other batch moves them as Keras does."""

import keras
import numpy as np
import pytest

from keras_netvlad import NetVLAD, VideoEncoder
from keras_netvlad.layers import ContextGating, NetRVLAD, NeXtVLAD, SoftDBoW
from keras_netvlad.layers.batch_normalization import BatchNormalization

pytestmark = pytest.mark.backends

NORMALIZED = {"assignment_batch_normalization": True}
LAYERS = {
    "netvlad": lambda: NetVLAD(3, **NORMALIZED),
    "netvlad with a convolution": lambda: NetVLAD(3, assignment="conv", data_format="channels_last", **NORMALIZED),
    "netvlad of rounded products": lambda: NetVLAD(3, product_dtype="bfloat16", dtype="mixed_bfloat16", **NORMALIZED),
    "netrvlad": lambda: NetRVLAD(3, **NORMALIZED),
    "soft_dbow": lambda: SoftDBoW(3, **NORMALIZED),
    "nextvlad": lambda: NeXtVLAD(3, groups=2, **NORMALIZED),
    "gating": lambda: ContextGating(batch_normalization=True),
    "gating with a bottleneck": lambda: ContextGating(batch_normalization=True, reduction=2),
}


def frames(*shape, seed=0):
    return np.random.default_rng(seed).normal(1, 2, size=shape).astype("float32")


def moving_statistics(layer):
    return {w.path: keras.ops.convert_to_numpy(w).copy() for w in layer.weights if "moving" in w.path}


@pytest.mark.parametrize("name", LAYERS)
def test_a_batch_of_padding_leaves_the_moving_statistics_of_a_layer(name):
    layer, inputs = LAYERS[name](), frames(2, 5, 4)
    layer(inputs, mask=np.ones((2, 5), bool), training=True)
    before = moving_statistics(layer)
    assert len(before) == 2
    nothing = np.full_like(inputs, np.nan)
    layer(nothing, mask=np.zeros((2, 5), bool), training=True)
    if not name.startswith("gating"):  # which has no frame weights
        layer(nothing, mask=np.zeros((2, 5), "float32"), training=True)
    for path, value in moving_statistics(layer).items():
        np.testing.assert_array_equal(value, before[path], err_msg=path)
    mask = np.zeros((2, 5), bool)
    mask[1, 3] = True
    layer(inputs, mask=mask, training=True)
    assert all((value != before[path]).all() for path, value in moving_statistics(layer).items())


def test_a_training_step_on_padding_leaves_the_moving_statistics_of_a_model():
    encoder = VideoEncoder(
        {"rgb": 4, "audio": 3}, num_clusters=2, pooling_options=NORMALIZED, input_batch_normalization=True
    )
    encoder.compile("sgd", "mse")
    inputs = {"rgb": frames(2, 5, 4), "audio": frames(2, 5, 3), "num_frames": np.array([5, 3], "int32")}
    target = np.zeros((2, 14), "float32")
    encoder.train_on_batch(inputs, target)
    before = moving_statistics(encoder)
    assert len(before) == 8
    encoder.train_on_batch({**inputs, "num_frames": np.zeros(2, "int32")}, target)
    for path, value in moving_statistics(encoder).items():
        np.testing.assert_array_equal(value, before[path], err_msg=path)
    encoder.train_on_batch({**inputs, "num_frames": np.array([0, 1], "int32")}, target)
    assert all((value != before[path]).all() for path, value in moving_statistics(encoder).items())


@pytest.mark.parametrize("mask", [None, [[1, 1, 0], [0, 0, 0]]])
@pytest.mark.parametrize("trainable", [True, False])
def test_other_batches_give_the_numbers_of_keras(mask, trainable):
    layers = [BatchNormalization(trainable=trainable), keras.layers.BatchNormalization(trainable=trainable)]
    mask = None if mask is None else np.array(mask, bool)
    for training in (True, False, None):
        ours, theirs = (layer(frames(2, 3, 4), training=training, mask=mask) for layer in layers)
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(ours), keras.ops.convert_to_numpy(theirs))
        for our_weight, their_weight in zip(*(layer.weights for layer in layers), strict=True):
            np.testing.assert_array_equal(
                keras.ops.convert_to_numpy(our_weight), keras.ops.convert_to_numpy(their_weight)
            )
