"""The generalized mean: zeros, negative values, any scale, its exponent, chunks; and pyramids of images."""

import itertools

import keras
import numpy as np
import pytest
from layer_contract import BACKEND, double_precision, loss_and_gradients, to_numpy

from keras_netvlad import NetVLAD, NetVLADStream, VideoEncoder
from keras_netvlad.layers import GeMPooling, NetFV

pytestmark = pytest.mark.backends

FRAMES = (2, 7, 6)


def positive_array(shape=FRAMES, seed=0):
    return np.random.default_rng(seed).uniform(0.1, 2, shape).astype("float32")


def generalized_mean(x, exponent):
    """In float64, relative to the largest value, so that no power is too large or too small."""
    x = np.asarray(x, "float64")
    largest = x.max(axis=1, keepdims=True)
    return largest[:, 0] * np.mean((x / largest) ** exponent, axis=1) ** (1 / exponent)


@pytest.mark.parametrize("exponent", [1, 3, 60])
@pytest.mark.parametrize("scale", [1e-5, 1.0, 1e30])
def test_features_of_any_scale_have_a_mean(exponent, scale):
    x = positive_array() * np.float32(scale)
    layer = GeMPooling(exponent=exponent)
    expected = generalized_mean(x, exponent)
    # Measured 3e-7 relative to the value.
    np.testing.assert_allclose(to_numpy(layer(x)), expected, rtol=3e-6)
    _, gradient, by_weights = loss_and_gradients(layer, x)
    assert all(np.isfinite(values).all() for values in (gradient, *by_weights))
    assert np.any(gradient)


def test_it_lies_between_the_mean_and_the_maximum():
    x = positive_array()
    values = [to_numpy(GeMPooling(exponent=exponent)(x)) for exponent in (1, 2, 3, 10, 1000)]
    np.testing.assert_allclose(values[0], x.mean(axis=1), rtol=1e-6)
    assert all((low < high).all() for low, high in itertools.pairwise(values))
    # The share of the largest of 7 values: 7^(-1/1000).
    np.testing.assert_allclose(values[-1], x.max(axis=1), rtol=3e-3)


def test_zeros_and_negative_values_count_as_epsilon_and_pass_no_gradient():
    x = positive_array()
    x[:, ::2] = np.float32([[0.0], [-0.0], [-5.0], [-1e30]])
    x[:, :, 0] = 0.0
    layer = GeMPooling(epsilon=1e-3)
    np.testing.assert_array_equal(to_numpy(layer(x)), to_numpy(layer(np.maximum(x, np.float32(1e-3)))))
    np.testing.assert_allclose(to_numpy(layer(x))[:, 0], 1e-3, rtol=1e-5)
    _, gradient, by_weights = loss_and_gradients(layer, x)
    assert np.isfinite(gradient).all()
    assert np.isfinite(by_weights[0]).all()
    assert not gradient[x <= 0].any()
    assert gradient[:, 1::2, 1:].all()


@pytest.mark.parametrize("dtype", ["float16", "mixed_float16"])
def test_float16_holds_what_its_powers_would_not(dtype):
    x = positive_array().astype("float16") * np.float16(3e4)
    layer = GeMPooling(dtype=dtype)
    np.testing.assert_allclose(to_numpy(layer(x)), generalized_mean(x, 3), rtol=1e-3)


def test_training_keeps_the_exponent_at_one_or_more():
    x = positive_array()
    layer = GeMPooling(exponent=1.5)
    model = keras.Sequential([keras.Input((None, 6)), layer])
    model.compile(keras.optimizers.SGD(10.0), "mse", run_eagerly=True)
    model.fit(x, np.zeros((2, 6), "float32"), epochs=2, verbose=0)  # smaller means need a smaller exponent
    assert float(layer.exponent.numpy()) == 1.0
    fixed = GeMPooling(trainable=False)
    fixed.build(FRAMES)
    assert fixed.trainable_weights == []


def test_a_stream_of_hours_keeps_its_digits():
    layer, x = GeMPooling(), positive_array((1, 1000, 6))
    stream = NetVLADStream(layer)
    for _ in range(30):
        for start in range(0, 1000, 100):
            stream.update(x[:, start : start + 100])
    assert stream.first_sum.shape == (1, 1, 6)
    # Measured 2e-7.
    np.testing.assert_allclose(stream.descriptor(), generalized_mean(x, 3), rtol=2e-6)
    stream.reset()
    stream.update(x, mask=np.zeros((1, 1000), bool))
    assert not stream.descriptor().any()


def test_a_float64_stream_is_float64():
    with double_precision():
        layer = GeMPooling(dtype="float64")
        x = positive_array().astype("float64")
        rtol = 1e-14
        np.testing.assert_allclose(to_numpy(layer(x)), generalized_mean(x, 3), rtol=rtol)
        np.testing.assert_allclose(to_numpy(layer.describe(*layer.aggregate(x))), generalized_mean(x, 3), rtol=rtol)
        # The constraint keeps every digit of an exponent.
        constrained = layer.exponent.constraint(keras.ops.convert_to_tensor(1.1, "float64"))
        np.testing.assert_array_equal(to_numpy(constrained), 1.1)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: GeMPooling(exponent=0.5), "`exponent` must be a finite number of 1 or more. Received: exponent=0.5"),
        (lambda: GeMPooling(epsilon=0), "`epsilon` must be a finite number above 0. Received: epsilon=0"),
        (lambda: GeMPooling(name="g").describe(np.ones((1, 1, 6)), np.ones((1, 1))), "`g` has no exponent yet"),
        (lambda: built().describe(np.ones((1, 1, 5)), np.ones((1, 1))), r"\(batch, 1, 6\).*Received: .*\(1, 1, 5\)"),
        (lambda: built().describe(np.ones((1, 1, 6)), np.ones((1,))), r"Received: .*\(1, 1, 6\) and \(1,\)"),
    ],
)
def test_wrong_arguments_are_refused(act, message):
    with pytest.raises(ValueError, match=message):
        act()


def built():
    layer = GeMPooling()
    layer.build(FRAMES)
    return layer


@pytest.mark.parametrize("make", [GeMPooling, lambda: NetVLAD(3), lambda: NetFV(3)])
def test_the_sums_of_a_pyramid_are_those_of_all_its_positions(make):
    """Multi-scale pooling: maps of one image at several scales, each pooled by itself, and their sums added."""
    layer = make()
    pyramid = [positive_array((2, height, width, 6), seed=height) for height, width in ((4, 5), (3, 3), (2, 2))]
    sums = [layer.aggregate(maps) for maps in pyramid]
    received = layer.describe(sum(first for first, _ in sums), sum(second for _, second in sums))
    positions = np.concatenate([maps.reshape(2, -1, 6) for maps in pyramid], axis=1)
    # Measured 2e-7.
    np.testing.assert_allclose(to_numpy(received), to_numpy(layer(positions)), rtol=0, atol=2e-6)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="exports run on TensorFlow: `make test`")
@pytest.mark.slow
def test_an_encoder_exports_its_live_stream(tmp_path):
    from keras_netvlad.export import export_model

    encoder = VideoEncoder({"frames": 6}, pooling="gem", pooling_options={"exponent": 2.5}, name="gem")
    reports = export_model(encoder, tmp_path / "out", onnx_signatures="all")
    assert all(report.ok for report in reports)
    assert any("accumulate" in str(report) for report in reports)
