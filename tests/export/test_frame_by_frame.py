"""Which models may be pooled chunk by chunk, and the reason where a model may not."""

import re

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_netvlad.export import export_saved_model
from keras_netvlad.export.serving_signatures import live_stream_obstacle, serving_signatures
from keras_netvlad.export.verification.chunked_videos import compare_chunks
from keras_netvlad.layers import VLAD, ContextGating, FrameMask, NetFV, NetRVLAD, NetVLAD, NeXtVLAD

SIZE = 6


def make_model(pool, count_dtype="int32"):
    frames = keras.Input((None, SIZE), name="frames")
    count = keras.Input((), dtype=count_dtype, name="num_frames")
    descriptor = pool(frames, FrameMask()(count, frames), count)
    return keras.Model({"frames": frames, "num_frames": count}, {"descriptor": descriptor})


def pooled(features, mask):
    return NetVLAD(2, name="pool")(features, mask=mask)


class Doubled(layers.Dense):
    """A layer of the user's, which may do anything."""


class OwnPooling(NetVLAD):
    """A pooling of the user's, whose `call` may differ from its sums."""


def normalized(x):
    layer = layers.Normalization(mean=np.arange(SIZE), variance=np.ones(SIZE))
    return layer(x)


def split(x):
    first, second = ops.split(x, 2, axis=-1)
    return ops.concatenate([second, first], axis=-1)


FRAME_BY_FRAME = {
    "dense": lambda x, m, n: pooled(layers.Dense(4, "gelu")(x), m),
    "normalizations": lambda x, m, n: pooled(
        layers.LayerNormalization()(layers.BatchNormalization()(ops.where(m[:, :, None], x, 0.0), mask=m)), m
    ),
    "fixed normalization": lambda x, m, n: pooled(normalized(x), m),
    "unit norm": lambda x, m, n: pooled(ops.normalize(x, axis=-1), m),
    "features relative to their mean": lambda x, m, n: pooled(x - ops.mean(x, axis=2, keepdims=True), m),
    "pointwise convolution": lambda x, m, n: pooled(layers.Conv1D(4, 1, activation="relu")(x), m),
    "dropout and activation": lambda x, m, n: pooled(layers.Activation("softmax")(layers.Dropout(0.5)(x)), m),
    "sequential": lambda x, m, n: pooled(keras.Sequential([layers.Dense(5), layers.ReLU()])(x), m),
    "a layer for each frame": lambda x, m, n: pooled(layers.TimeDistributed(Doubled(4))(x), m),
    "split features": lambda x, m, n: ops.concatenate(
        [NetVLAD(2, name="left")(x[:, :, :2], mask=m), NetVLAD(2, name="right")(x[..., 2:], mask=m)], axis=-1
    ),
    "split and joined": lambda x, m, n: pooled(split(x), m),
    "gating": lambda x, m, n: pooled(ContextGating()(x), m),
    "weights of the frames": lambda x, m, n: pooled(
        x, ops.squeeze(layers.Dense(1, "sigmoid")(x), -1) * ops.cast(m, "float32")
    ),
    "selected frames": lambda x, m, n: pooled(x, ops.logical_and(m, ops.max(x, axis=-1) > 0.5)),
    "cast count": lambda x, m, n: pooled(x, FrameMask()(ops.cast(n, "int64"), x)),
    "one layer twice": lambda x, m, n: (lambda layer: layer(x, mask=m) - layer(2.0 * x, mask=m))(NetVLAD(2)),
    "netrvlad": lambda x, m, n: NetRVLAD(2)(x, mask=m),
    "netfv": lambda x, m, n: NetFV(2)(x, mask=m),
    "nextvlad": lambda x, m, n: NeXtVLAD(2, groups=2)(x, mask=m),
    "vlad": lambda x, m, n: VLAD(2)(x, mask=m),
    "layers behind": lambda x, m, n: layers.Dense(3)(layers.BatchNormalization()(pooled(x, m))),
}
COMBINES_FRAMES = {
    "halves": (
        lambda x, m, n: layers.Concatenate()(
            [
                NetVLAD(2)(x, mask=FrameMask()(n // 2, x)),
                NetVLAD(2)(x, mask=ops.logical_and(m, ops.logical_not(FrameMask()(n // 2, x)))),
            ]
        ),
        "computes with `num_frames` before the pooling",
    ),
    "first frames": (lambda x, m, n: pooled(x, FrameMask()(ops.minimum(n, 5), x)), "computes with `num_frames`"),
    "softmax over time": (
        lambda x, m, n: pooled(
            x,
            ops.where(m, ops.softmax(ops.where(m, ops.squeeze(layers.Dense(1)(x), -1), -1e9), axis=1), 0.0),
        ),
        r"`softmax\w*` \(Softmax\) may combine frames before the pooling",
    ),
    "softmax over the last of two axes": (
        lambda x, m, n: pooled(x, ops.where(m, ops.softmax(ops.max(x, axis=2)), 0.0)),
        r"\(Softmax\) may combine frames",
    ),
    "convolution": (lambda x, m, n: pooled(layers.Conv1D(4, 3, padding="same")(x), m), r"\(Conv1D\) may combine"),
    "strides": (lambda x, m, n: pooled(layers.Conv1D(4, 1, 2)(x), FrameMask()(n, x[:, ::2])), r"\(\w+\) may combine"),
    "centered by the video's mean": (
        lambda x, m, n: pooled(x - ops.mean(x, axis=1, keepdims=True), m),
        r"\(Mean\) may combine frames",
    ),
    "recurrent": (lambda x, m, n: pooled(layers.GRU(4, return_sequences=True)(x), m), r"\(GRU\) may combine frames"),
    "attention": (lambda x, m, n: pooled(layers.Attention()([x, x]), m), r"\(Attention\) may combine frames"),
    "normalization over time": (
        lambda x, m, n: pooled(layers.GroupNormalization(2)(x), m),
        r"\(GroupNormalization\) may combine frames",
    ),
    "lambda": (lambda x, m, n: pooled(layers.Lambda(lambda x: x[:, ::-1])(x), m), r"\(Lambda\) may combine frames"),
    "own layer": (lambda x, m, n: pooled(Doubled(4)(x), m), r"\(Doubled\) may combine frames"),
    "own activation": (
        lambda x, m, n: pooled(layers.Dense(4, lambda x: x - ops.mean(x, axis=1, keepdims=True))(x), m),
        r"\(Dense\) may combine frames",
    ),
    "reversed": (lambda x, m, n: pooled(x[:, ::-1], m), r"\(GetItem\) may combine frames"),
    "sequential": (
        lambda x, m, n: pooled(keras.Sequential([layers.Dense(4), layers.Conv1D(4, 3, padding="causal")])(x), m),
        r"\(Conv1D\) may combine frames",
    ),
    "masks aligned with the batch": (
        lambda x, m, n: pooled(x * ops.expand_dims(ops.cast(m, "float32"), 0)[0][:, :, None], m),
        r"may combine frames",
    ),
    "padding": (lambda x, m, n: pooled(x, ops.logical_not(m)), "does not exclude the frames beyond `num_frames`"),
    "mask of the features": (
        lambda x, m, n: pooled(x, ops.any(x != 0.0, axis=-1)),
        "does not exclude the frames beyond `num_frames`",
    ),
    "no mask": (lambda x, m, n: NetVLAD(2, name="pool")(x), "`pool` has no mask that is made of `num_frames`"),
    "length as a feature": (
        lambda x, m, n: layers.Concatenate()([pooled(x, m), ops.cast(n, "float32")[:, None]]),
        "an output depends on `num_frames` past the sums",
    ),
    "another pooling": (
        lambda x, m, n: layers.Concatenate()([pooled(x, m), layers.GlobalAveragePooling1D()(x, mask=m)]),
        "an output depends on `frames` past the sums",
    ),
    "own pooling": (lambda x, m, n: OwnPooling(2)(x, mask=m), "an output depends on `frames` past the sums"),
}


@pytest.mark.parametrize("kind", FRAME_BY_FRAME)
def test_a_live_stream_is_offered_and_right_if_each_frame_is_processed_alone(kind):
    keras.utils.set_random_seed(0)
    model = make_model(FRAME_BY_FRAME[kind])
    signatures = serving_signatures(model)
    assert live_stream_obstacle(model, signatures["serving_default"]) is None
    comparisons = list(compare_chunks(lambda inputs, name: signatures[name].compute(inputs), signatures, None))
    assert len(comparisons) == 4
    # Measured: up to 5e-7.
    assert max(comparison.relative for comparison in comparisons) < 1e-5


@pytest.mark.parametrize("kind", COMBINES_FRAMES)
def test_a_live_stream_is_not_offered_if_frames_are_combined(kind):
    make, reason = COMBINES_FRAMES[kind]
    signatures = serving_signatures(make_model(make))
    assert list(signatures) == ["serving_default", "serve_quantized", "serve_examples"]
    obstacle = live_stream_obstacle(make_model(make), signatures["serving_default"])
    assert re.search(reason, obstacle), obstacle


def test_two_streams_that_are_joined_before_the_pooling_are_named_after_it():
    rgb, audio = keras.Input((None, 3), name="rgb"), keras.Input((None, 2), name="audio")
    count = keras.Input((), dtype="int32", name="num_frames")
    joined = layers.Concatenate()([rgb, audio])
    descriptor = NetVLAD(2, name="pool")(joined, mask=FrameMask()(count, rgb))
    signatures = serving_signatures(keras.Model([rgb, audio, count], {"descriptor": descriptor}))
    assert [port.name for port in signatures["describe"].inputs] == ["pool_first_sum", "pool_second_sum"]
    run = compare_chunks(lambda inputs, name: signatures[name].compute(inputs), signatures, None)
    assert max(comparison.relative for comparison in run) < 1e-5


def test_a_layer_that_another_model_uses_too_keeps_its_live_stream():
    model = make_model(lambda x, m, n: pooled(x, m))
    model.get_layer("pool")(keras.Input((None, SIZE)))
    assert "accumulate" in serving_signatures(model)


@pytest.mark.slow
def test_the_report_says_why_there_is_no_live_stream(halves, tmp_path):
    report = export_saved_model(halves, tmp_path / "1")
    assert report.ok
    reason = r"\n  no signatures for live streams: `.*` computes with `num_frames` before the pooling"
    assert re.search(reason, str(report))
