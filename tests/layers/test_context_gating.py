"""`ContextGating`: values against the oracle, contract, parameters, masks, exports."""

import keras
import numpy as np
import pytest
import reference
from layer_contract import (
    BACKEND,
    check_config,
    check_dtypes,
    check_file_round_trip_and_fit,
    check_gradients,
    check_jit_compile,
    check_mask_passed_on,
    check_shapes,
    loss_and_gradients,
    randomize_weights,
    to_numpy,
)

from keras_netvlad.layers import ContextGating

pytestmark = pytest.mark.backends

OPTIONS = {
    "plain": {},
    "batch_normalization": {"batch_normalization": True},
    "reduction": {"reduction": 3},
    "reduction_and_batch_normalization": {"reduction": 3, "batch_normalization": True},
}
# Float32 beside float64, relative to the largest value: 1.5e-7 measured at worst, headroom 13.
TOLERANCE = 2e-6


def features(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def make_layer(size=6, rank=2, **options):
    layer = ContextGating(**options)
    layer.build((*[None] * (rank - 1), size))
    randomize_weights(layer)
    return layer


@pytest.mark.parametrize("options", OPTIONS)
def test_every_option_matches_the_oracle(options):
    layer, inputs = make_layer(**OPTIONS[options]), features(4, 6)
    expected = reference.context_gating(inputs, **reference.gating_options_of(layer))
    np.testing.assert_allclose(to_numpy(layer(inputs)), expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


@pytest.mark.parametrize("options", OPTIONS)
def test_the_contract_of_layers(options, tmp_path):
    def make(**arguments):
        return ContextGating(**OPTIONS[options], **arguments)

    inputs = features(4, 6)
    check_config(make)
    check_shapes(make, inputs)
    check_file_round_trip_and_fit(make, inputs, tmp_path)
    check_gradients(make, inputs, None)
    check_dtypes(make, inputs, None)
    check_jit_compile(make, inputs, None)


def test_every_argument_survives_its_configuration():
    layer = ContextGating(
        kernel_initializer="zeros",
        bias_initializer="ones",
        kernel_regularizer=keras.regularizers.L2(0.1),
        bias_regularizer="l1",
        kernel_constraint="non_neg",
        bias_constraint="max_norm",
    )
    again = ContextGating.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    again.build((None, 4))
    assert again.kernel.regularizer.l2 == pytest.approx(0.1)
    assert again.bias.regularizer is not None
    assert type(again.kernel.constraint).__name__ == "NonNeg"
    assert type(again.bias.constraint).__name__ == "MaxNorm"
    # Zero kernel and a bias of one: every gate is sigmoid(1). Measured 3e-8.
    np.testing.assert_allclose(to_numpy(again(np.ones((1, 4), "float32"))), 0.7310586, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # Miech 2017: D^2, and the offset; batch normalization's scale and offset instead of the bias.
        ({}, 12 * 12 + 12),
        ({"batch_normalization": True}, 12 * 12 + 2 * 12),
        # Lin 2018, section 3.3: 2 F^2 / r, "ignoring biases or batch normalization".
        ({"reduction": 4}, 2 * 12 * 12 // 4 + 3 + 12),
        ({"reduction": 4, "batch_normalization": True}, 2 * 12 * 12 // 4 + 2 * 3),
    ],
)
def test_parameters_are_those_of_the_formula(options, expected):
    layer = make_layer(12, **options)
    assert sum(int(np.prod(weight.shape)) for weight in layer.trainable_variables) == expected


def test_frames_are_gated_each_and_padding_stays_out_of_batch_statistics():
    inputs = features(3, 5, 6)
    rows = to_numpy(make_layer(batch_normalization=True)(inputs.reshape(15, 6))).reshape(3, 5, 6)
    layer = make_layer(rank=3, batch_normalization=True)
    np.testing.assert_allclose(to_numpy(layer(inputs)), rows, atol=1e-6)  # measured 2e-7
    mask = np.arange(5) < np.array([[5], [2], [3]])
    statistics = []
    for padding in (0.0, np.nan):
        layer = make_layer(rank=3, batch_normalization=True)
        before = layer.normalization.moving_mean.numpy()
        outputs = to_numpy(layer(np.where(mask[..., None], inputs, np.float32(padding)), mask=mask, training=True))
        assert np.isfinite(outputs).all()
        assert not outputs[~mask].any()
        statistics.append(layer.normalization.moving_mean.numpy())
        logits = inputs[mask].astype("float64") @ layer.kernel.numpy()
        # Measured 1e-7.
        np.testing.assert_allclose(statistics[-1], 0.99 * before + 0.01 * logits.mean(axis=0), atol=1e-6)
    np.testing.assert_array_equal(*statistics)


@pytest.mark.parametrize("options", OPTIONS)
def test_gradients_are_finite_where_padding_is_not(options):
    layer, inputs = make_layer(rank=3, **OPTIONS[options]), features(3, 5, 6)
    mask = np.arange(5) < np.array([[5], [2], [3]])
    for padding in (0.0, np.nan):
        padded = np.where(mask[..., None], inputs, np.float32(padding))
        loss, input_gradient, gradients = loss_and_gradients(layer, padded, mask, training=True)
        assert np.isfinite(loss)
        assert np.isfinite(input_gradient).all()
        assert all(np.isfinite(gradient).all() for gradient in gradients)
        assert not input_gradient[~mask].any()


def test_a_mask_is_passed_on():
    layer = ContextGating()
    mask = np.ones((2, 3), bool)
    assert layer.compute_mask(features(2, 3, 4), mask) is mask
    check_mask_passed_on(ContextGating, features(2, 3, 4))


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ({"reduction": 0}, (2, 6), r"`reduction` must be a positive integer. Received: reduction=0"),
        ({"reduction": 7}, (2, 6), r"must leave at least one unit of the 6 features. Received: reduction=7"),
        ({"batch_normalization": 1}, (2, 6), r"`batch_normalization` must be True or False. Received: .*=1"),
        ({}, (6,), r"gates features of shape \(batch, ..., features\).*Received: shape \(6,\)"),
        ({}, (2, None), r"known, positive number of features. Received: shape \(2, None\)"),
    ],
)
def test_wrong_arguments_and_inputs_are_refused(options, shape, message):
    with pytest.raises(ValueError, match=message):
        ContextGating(**options).build(shape)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="exports run on TensorFlow: `make test`")
@pytest.mark.parametrize("options", OPTIONS)
def test_both_formats_are_the_model(options, tmp_path):
    from keras_netvlad.export import export_model

    inputs = keras.Input((6,), name="features")
    layer = ContextGating(**OPTIONS[options], name="gated")
    model = keras.Model({"features": inputs}, {"gated": layer(inputs)}, name="gating")
    randomize_weights(layer)
    assert all(report.ok for report in export_model(model, tmp_path / "out"))
