"""The float64 copy of a model."""

import threading

import keras
import numpy as np
import pytest
from small_classifier import batch

from keras_netvlad.export import export_onnx
from keras_netvlad.export.verification.float64_copy import float64_copy, rebuilt
from keras_netvlad.models import VideoClassifier, VideoEncoder
from keras_netvlad.models.poolings import POOLINGS


def test_a_float64_copy_judges_and_the_model_stays_as_it_is(model):
    before = [np.asarray(weight) for weight in model.weights]
    copy, why_not = float64_copy(model)
    assert why_not is None
    assert all(keras.backend.standardize_dtype(weight.dtype) == "float64" for weight in copy.weights)
    for weight, original, kept in zip(copy.weights, before, model.weights, strict=True):
        np.testing.assert_array_equal(weight, original.astype("float64"))
        np.testing.assert_array_equal(kept, original)
    inputs = {name: values.astype("float64") if name == "frames" else values for name, values in batch().items()}
    outputs = copy(inputs)
    assert outputs["scores"].dtype == "float64"
    # Measured: float32 rounding, 6e-8. A copy that computed in float32 would agree to the last bit.
    difference = np.abs(outputs["scores"] - np.asarray(model(batch())["scores"], "float64")).max()
    assert 0 < difference < 1e-6


class Scaled(keras.layers.Layer):
    """A user's layer that passes the initializer and the dtype of its weight by position."""

    def build(self, shape):
        self.scale = self.add_weight(shape[-1:], "ones", "float64", name="scale")

    def call(self, inputs):
        return inputs * self.scale


@pytest.mark.parametrize("pooling", [*POOLINGS, Scaled])
def test_every_pooling_has_a_float64_copy(pooling):
    if isinstance(pooling, str):
        original = VideoEncoder({"frames": 8}, pooling=pooling)
        copy, why_not = float64_copy(original)
    else:
        original = keras.Sequential([keras.Input((4,)), pooling()])
        with keras.utils.custom_object_scope({"Scaled": Scaled}):
            copy, why_not = float64_copy(original)
    assert why_not is None
    for weight, expected in zip(copy.weights, original.weights, strict=True):
        np.testing.assert_array_equal(weight, np.asarray(expected, "float64"))


@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
def test_a_quantized_model_is_made_again(mode):
    """Layers that are built quantized have their variables in another order than those that are quantized later."""
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4, bias_initializer="uniform")])
    model.quantize(mode)
    x = np.random.default_rng(0).normal(size=(3, 6)).astype("float32")
    np.testing.assert_array_equal(rebuilt(model, model.get_config())(x), model(x))


def test_a_model_with_lora_has_a_float64_copy():
    """The copy has kernels into which the factors are merged, as a saved model has."""
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
    model.layers[0].enable_lora(2)
    model.layers[0].lora_kernel_b.assign(np.ones((2, 4)))
    copy, why_not = float64_copy(model)
    assert why_not is None
    x = np.random.default_rng(0).normal(size=(3, 6)).astype("float32")
    np.testing.assert_allclose(copy(x), model(x), atol=1e-6)


@pytest.mark.slow
def test_no_float64_copy_is_said_with_its_reason(model, monkeypatch, tmp_path):
    quantized = VideoClassifier({"frames": 4}, 3, num_clusters=2, hidden_units=4)
    quantized.quantize("int8")
    assert float64_copy(quantized) == (None, "quantized layers")
    monkeypatch.setattr("keras_netvlad.export.verification.float64_copy.MAX_BYTES", 10)
    report = export_onnx(model, tmp_path / "model.onnx")
    assert "no copy in float64 to compare with: weights of" in str(report)
    assert all(comparison.to_float64 is None for comparison in report.comparisons)


def test_a_copy_leaves_the_random_numbers_alone(model):
    keras.utils.set_random_seed(3)
    expected = keras.layers.Dense(2)
    expected.build((None, 2))
    keras.utils.set_random_seed(3)
    float64_copy(model)
    layer = keras.layers.Dense(2)
    layer.build((None, 2))
    np.testing.assert_array_equal(layer.kernel, expected.kernel)


def test_threads_that_judge_at_once_leave_keras_as_it_was():
    add_weight = keras.Layer.add_weight
    model = VideoClassifier({"frames": 4}, 3, num_clusters=2, hidden_units=None)
    copies = []
    threads = [threading.Thread(target=lambda: copies.append(float64_copy(model))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert keras.Layer.add_weight is add_weight
    assert len(copies) == 8
    assert all(reason is None for _, reason in copies)
    weights = [np.concatenate([np.ravel(w) for w in copy.get_weights()]) for copy, _ in copies]
    assert all(np.array_equal(weights[0], other) for other in weights)
