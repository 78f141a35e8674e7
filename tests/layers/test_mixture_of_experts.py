"""`MixtureOfExperts`: values against the oracle, contract, parameters, regularization, exports."""

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
    double_precision,
    randomize_weights,
    to_numpy,
)
from selection import slow_except

from keras_netvlad.layers import MixtureOfExperts

pytestmark = pytest.mark.backends

OPTIONS = {
    "two_mixtures": {},
    "one_mixture": {"num_mixtures": 1},
    "three_mixtures": {"num_mixtures": 3},
    "gate_bias": {"gate_use_bias": True},
}
# Float32 beside float64: 1.2e-7 measured at worst of values up to 1, headroom 16.
TOLERANCE = 2e-6


def features(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def make_layer(size=6, units=5, **options):
    layer = MixtureOfExperts(units, **options)
    layer.build((None, size))
    randomize_weights(layer)
    return layer


def expected_scores(layer, inputs):
    weights = {weight.name: weight.numpy().astype("float64") for weight in layer.weights}
    return reference.mixture_of_experts(inputs, num_mixtures=layer.num_mixtures, **weights)


@pytest.mark.parametrize("options", OPTIONS)
def test_every_option_matches_the_oracle(options):
    layer, inputs = make_layer(**OPTIONS[options]), features(4, 6)
    received = to_numpy(layer(inputs))
    assert received.shape == (4, 5)
    np.testing.assert_allclose(received, expected_scores(layer, inputs), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("options", slow_except(OPTIONS, "gate_bias"))
def test_the_contract_of_layers(options, tmp_path):
    def make(**arguments):
        return MixtureOfExperts(3, **OPTIONS[options], **arguments)

    inputs = features(4, 6)
    check_config(make)
    check_shapes(make, inputs)
    check_file_round_trip_and_fit(make, inputs, tmp_path)
    check_gradients(make, inputs, None)
    check_dtypes(make, inputs, None)
    check_jit_compile(make, inputs, None)


def test_the_dummy_expert_always_says_no():
    layer = MixtureOfExperts(1, num_mixtures=2, gate_kernel_initializer="zeros", expert_kernel_initializer="zeros")
    layer.build((None, 3))
    layer.expert_bias.assign([50.0, 50.0])
    # Both experts are sure, and share two thirds of the gates. Measured 4e-8.
    np.testing.assert_allclose(to_numpy(layer(features(2, 3))), 2 / 3, atol=1e-6)


@pytest.mark.parametrize("num_mixtures", [1, 2, 4])
def test_parameters_are_those_of_the_formula(num_mixtures):
    # D C (M + 1) gates, (D + 1) C M experts.
    layer = make_layer(7, 5, num_mixtures=num_mixtures)
    assert layer.count_params() == 7 * 5 * (num_mixtures + 1) + (7 + 1) * 5 * num_mixtures
    layer = make_layer(7, 5, num_mixtures=num_mixtures, gate_use_bias=True)
    assert layer.count_params() == (7 + 1) * 5 * (2 * num_mixtures + 1)


def test_a_mask_is_passed_on():
    check_mask_passed_on(lambda **options: MixtureOfExperts(3, **options), features(2, 3, 4))


def test_float64_is_computed_in_float64():
    with double_precision():
        layer = MixtureOfExperts(4, gate_use_bias=True, dtype="float64")
        layer.build((None, 6))
        randomize_weights(layer)
        inputs = features(3, 6).astype("float64")
        received = to_numpy(layer(inputs))
        assert received.dtype == "float64"
        # Measured 2e-16; logits rounded to float32 are off by 1e-8 and more.
        np.testing.assert_allclose(received, expected_scores(layer, inputs), rtol=0, atol=1e-14)


def test_frames_are_scored_each():
    layer, inputs = make_layer(), features(2, 3, 6)
    rows = to_numpy(layer(inputs.reshape(6, 6))).reshape(2, 3, 5)
    np.testing.assert_allclose(to_numpy(layer(inputs)), rows, atol=1e-6)  # measured 6e-8
    frames = keras.Input((None, 6))
    assert keras.Model(frames, layer(frames)).output_shape == (None, None, 5)


def test_logits_of_any_size_give_finite_scores():
    layer = make_layer()
    for scale in (1e3, 1e30):
        assert np.isfinite(to_numpy(layer(features(3, 6) * np.float32(scale)))).all()


def test_regularizers_reach_the_gates_and_the_experts():
    layer = make_layer(
        gate_kernel_regularizer=keras.regularizers.L2(0.5), expert_kernel_regularizer=keras.regularizers.L2(0.25)
    )
    expected = 0.5 * np.sum(layer.gate_kernel.numpy() ** 2) + 0.25 * np.sum(layer.expert_kernel.numpy() ** 2)
    np.testing.assert_allclose(float(sum(layer.losses)), expected, rtol=1e-5)  # measured 1e-7


def test_every_argument_survives_its_configuration():
    weights = ("gate_kernel", "gate_bias", "expert_kernel", "expert_bias")
    layer = MixtureOfExperts(
        3,
        num_mixtures=4,
        gate_use_bias=True,
        **{f"{weight}_initializer": "ones" for weight in weights},
        **{f"{weight}_regularizer": "l1" for weight in weights},
        **{f"{weight}_constraint": "non_neg" for weight in weights},
    )
    again = MixtureOfExperts.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    again.build((None, 2))
    for weight in weights:
        variable = getattr(again, weight)
        assert np.all(variable.numpy() == 1)
        assert type(variable.regularizer).__name__ == "L1"
        assert type(variable.constraint).__name__ == "NonNeg"


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ({"units": 0}, (2, 6), r"`units` must be a positive integer. Received: units=0"),
        ({"num_mixtures": 0}, (2, 6), r"`num_mixtures` must be a positive integer. Received: num_mixtures=0"),
        ({"gate_use_bias": 1}, (2, 6), r"`gate_use_bias` must be True or False. Received: gate_use_bias=1"),
        ({}, (6,), r"classifies features of shape \(batch, ..., features\).*Received: shape \(6,\)"),
        ({}, (2, None), r"known, positive number of features. Received: shape \(2, None\)"),
    ],
)
def test_wrong_arguments_and_inputs_are_refused(options, shape, message):
    with pytest.raises(ValueError, match=message):
        MixtureOfExperts(**{"units": 3, **options}).build(shape)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="exports run on TensorFlow: `make test`")
@pytest.mark.parametrize("shape", slow_except([(6,), (None, 6)], (6,)), ids=["rows", "frames"])
def test_both_formats_are_the_model(shape, tmp_path):
    from keras_netvlad.export import export_model

    inputs = keras.Input(shape, name="features")
    layer = MixtureOfExperts(4, gate_use_bias=True, name="classes")
    model = keras.Model({"features": inputs}, {"scores": layer(inputs)}, name="experts")
    randomize_weights(layer)
    assert all(report.ok for report in export_model(model, tmp_path / "out"))


def test_no_positions_have_no_scores():
    layer = MixtureOfExperts(3)
    for shape in ((2, 0, 3, 6), (2, 3, 0, 6), (0, 3, 6)):
        assert tuple(layer(np.zeros(shape, "float32")).shape) == (*shape[:-1], 3)
