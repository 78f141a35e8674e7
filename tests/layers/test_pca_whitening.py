"""`PCAWhitening`: values against a singular value decomposition, contract, wrong samples, exports."""

import keras
import numpy as np
import pytest
import reference
from layer_contract import (
    BACKEND,
    check_config,
    check_dtypes,
    check_jit_compile,
    check_same_after_reload,
    check_shapes,
    double_precision,
    to_numpy,
)

from keras_netvlad import NetVLAD
from keras_netvlad.layers import PCAWhitening

pytestmark = pytest.mark.backends

# Float32 beside float64, of results of length 1: 4e-7 measured at worst, headroom 12.
TOLERANCE = 5e-6


def sample(num_samples, size, seed=0):
    """Correlated values far from zero."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(num_samples, size)) @ rng.normal(size=(size, size)) + 3.0).astype("float32")


def whitened(inputs, data, num_components):
    """The definition, row by row, by another decomposition; signs as they come."""
    data = data.astype("float64")
    _, values, directions = np.linalg.svd(data - data.mean(axis=0), full_matrices=False)
    deviations = values / np.sqrt(len(data) - 1)
    rows = []
    for row in inputs.astype("float64"):
        components = [directions[p] @ (row - data.mean(axis=0)) / deviations[p] for p in range(num_components)]
        rows.append(reference.normalized(np.array(components)))
    return np.array(rows)


def adapted(output_dim=None, data=None, **options):
    layer = PCAWhitening(output_dim, **options)
    layer.adapt(sample(60, 6) if data is None else data)
    return layer


@pytest.mark.parametrize(("shape", "output_dim"), [((80, 6), None), ((80, 6), 2), ((7, 6), None), ((9, 30), 8)])
def test_values_are_those_of_the_definition(shape, output_dim):
    data, inputs = sample(*shape), sample(5, shape[1], seed=1) - 1.0
    inputs[0] = data[0]
    outputs = to_numpy(adapted(output_dim, data)(inputs))
    expected = whitened(inputs, data, output_dim or shape[1])
    signs = np.sign(np.sum(outputs * expected, axis=0))
    np.testing.assert_allclose(outputs, expected * signs, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(np.linalg.norm(outputs, axis=1), 1.0, atol=1e-6)  # measured 2e-7


@pytest.mark.parametrize("shape", [(200, 6), (9, 30)])
def test_components_are_uncorrelated_of_variance_one_and_largest_first(shape):
    data = sample(*shape)
    layer = adapted(5, data, normalize_output=False)
    outputs = to_numpy(layer(data)).astype("float64")
    np.testing.assert_allclose(np.cov(outputs.T), np.eye(5), atol=1e-4)  # measured 1e-5
    directions = layer.projection.numpy()
    lengths = np.linalg.norm(directions, axis=0)  # of the inverse deviations
    assert (np.diff(lengths) > 0).all()
    # Signs are fixed: the largest value of each direction is positive.
    assert (directions[np.abs(directions).argmax(axis=0), np.arange(5)] > 0).all()


def test_both_sides_of_the_decomposition_agree():
    data = sample(12, 10)
    wide = np.pad(data, [[0, 0], [0, 5]])  # 15 values: the products of samples instead of the covariance
    tall, flat = adapted(6, data), adapted(6, wide)
    np.testing.assert_allclose(to_numpy(flat(wide)), to_numpy(tall(data)), atol=TOLERANCE)


def test_batches_are_one_sample():
    data = sample(60, 6)
    layer = adapted(3, (data[start : start + 7] for start in range(0, 60, 7)))
    np.testing.assert_array_equal(layer.projection.numpy(), adapted(3, data).projection.numpy())
    np.testing.assert_array_equal(layer.mean.numpy(), adapted(3, data).mean.numpy())


def test_before_adapt_it_normalizes_and_what_is_the_mean_becomes_zero():
    inputs = sample(4, 6)
    outputs = to_numpy(PCAWhitening(4)(inputs))
    np.testing.assert_allclose(outputs, [reference.normalized(row) for row in inputs[:, :4]], atol=1e-6)
    layer = adapted()
    assert not to_numpy(layer(layer.mean.numpy()[None])).any()


def test_the_contract_of_layers(tmp_path):
    def make(**arguments):
        return PCAWhitening(output_dim=3, **arguments)

    inputs = sample(4, 6)
    check_config(make)
    check_shapes(make, inputs)
    check_dtypes(make, inputs, None)
    check_jit_compile(make, inputs, None)
    layer = adapted(3, name="pooling")
    assert not layer.trainable_weights
    features = keras.Input((6,))
    check_same_after_reload(keras.Model(features, layer(features)), inputs, tmp_path / "model.keras")


def test_float64_is_computed_in_float64():
    data = sample(80, 6).astype("float64")
    with double_precision():
        layer = adapted(data=data, dtype="float64")
        outputs = to_numpy(layer(keras.ops.convert_to_tensor(data, dtype="float64")))
        expected = whitened(data, data, 6)
        signs = np.sign(np.sum(outputs * expected, axis=0))
        np.testing.assert_allclose(outputs, expected * signs, rtol=0, atol=1e-11)  # measured 1e-13


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_a_mixed_policy_rounds_only_the_result(dtype):
    # Far from zero, where rounding the input first would take most digits of the difference to the mean.
    data = sample(60, 6) + 100.0
    exact, layer = adapted(3, data), adapted(3, data, dtype=dtype)
    outputs = layer(data[:5])
    assert keras.backend.standardize_dtype(outputs.dtype) == dtype.removeprefix("mixed_")
    # Half a unit in the last place of values up to 1: 2.4e-4 and 2e-3. Measured with a rounded input: 0.1 and more.
    tolerance = 1e-3 if dtype == "mixed_float16" else 4e-3
    np.testing.assert_allclose(to_numpy(outputs), to_numpy(exact(data[:5])), rtol=0, atol=tolerance)


def test_gradients_pass_through_and_training_leaves_it_alone():
    layer = adapted(3)
    dense = keras.layers.Dense(6)
    model = keras.Sequential([keras.Input((4,)), dense, layer])
    model.compile("sgd", "mse")
    before = dense.kernel.numpy(), layer.projection.numpy()
    model.fit(sample(8, 4), np.ones((8, 3), "float32"), verbose=0)
    assert np.any(dense.kernel.numpy() != before[0])
    np.testing.assert_array_equal(layer.projection.numpy(), before[1])


@pytest.mark.parametrize(
    ("output_dim", "data", "message"),
    [
        (0, sample(9, 3), "`output_dim` must be a positive integer. Received: output_dim=0"),
        (7, sample(9, 3), "at most the number of values of a descriptor, 3. Received: output_dim=7"),
        (3, sample(3, 3), r"needs at least 4 samples for 3 components; .*`output_dim`. Received: .*\(3, 3\)"),
        (None, sample(9, 20), r"needs at least 21 samples for 20 components.*Received: .*\(9, 20\)"),
        (3, np.ones((9, 3)), "vary in 0 directions, for 3 components"),
        (3, sample(9, 2) @ np.ones((2, 3)), "`output_dim=1`. Received: 9 samples that vary in 1 directions"),
        (2, np.full((9, 3), np.nan), "Received: NaN or infinity in 9 of 9"),
        (2, sample(9, 3)[None], r"takes descriptors \(batch, values\).*Received: shape \(1, 9, 3\)"),
        (2, [], "takes an array .* or batches of such. Received: batches of shapes"),
        (2, [sample(9, 3), sample(9, 4)], r"Received: batches of shapes \[\(9, 3\), \(9, 4\)\]"),
    ],
    ids=str,
)
def test_wrong_samples_are_refused(output_dim, data, message):
    with pytest.raises(ValueError, match=message):
        PCAWhitening(output_dim).adapt(data)


def test_an_error_leaves_the_layer_as_it_was():
    layer = adapted(2)
    before = layer.projection.numpy()
    with pytest.raises(ValueError, match=r"was built for descriptors of 6 values. Received: .*\(9, 5\)"):
        layer.adapt(sample(9, 5))
    with pytest.raises(ValueError, match="vary in 0 directions"):
        layer.adapt(np.ones((9, 6)))
    np.testing.assert_array_equal(layer.projection.numpy(), before)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="exports run on TensorFlow: `make test`")
def test_both_formats_are_the_model_behind_netvlad(tmp_path):
    from keras_netvlad.export import export_model

    keras.utils.set_random_seed(0)
    frames = keras.Input((None, 8), name="frames")
    pooled = NetVLAD(4)(frames)
    clips = np.random.default_rng(0).normal(size=(50, 12, 8)).astype("float32")
    layer = adapted(16, keras.Model(frames, pooled).predict(clips, verbose=0), name="descriptor")
    model = keras.Model({"frames": frames}, {"descriptor": layer(pooled)}, name="places")
    assert all(report.ok for report in export_model(model, tmp_path / "out", data={"frames": clips}))
