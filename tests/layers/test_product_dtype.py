"""Matrix products of bfloat16: their error, and the places where they are not used."""

import keras
import numpy as np
import onnx
import pytest
import reference
from layer_contract import loss_and_gradients, randomize_weights, to_numpy

from keras_netvlad import NetVLAD
from keras_netvlad.export import export_onnx, export_saved_model
from keras_netvlad.models import VideoClassifier

pytestmark = pytest.mark.backends

FRAMES = (2, 30, 16)
OPTIONS = {
    "plain": {},
    "ghosts": {"num_ghost_clusters": 2},
    "normalized input": {"normalize_input": True},
    "batch normalization": {"assignment_batch_normalization": True},
    "sums": {"intra_normalization": False, "output_normalization": False},
}


def make_layer(**options):
    layer = NetVLAD(4, product_dtype="bfloat16", **options)
    layer.build(FRAMES)
    randomize_weights(layer)
    return layer


def random_array(shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("masked", [False, True])
def test_descriptors_are_off_by_the_rounding_of_bfloat16_and_no_more(options, masked):
    layer, inputs = make_layer(**OPTIONS[options]), random_array(FRAMES)
    mask = np.arange(30) < [[30], [7]] if masked else None
    expected = reference.netvlad(inputs, mask=mask, **reference.options_of(layer))
    if masked:
        inputs[1, 7:] = np.nan
    difference = np.abs(to_numpy(layer(inputs, mask=mask)) - expected).max() / np.abs(expected).max()
    # Measured 2e-3 to 2e-2: logits of up to 15 are rounded in steps of 1/16.
    assert 1e-4 < difference < 6e-2


def test_gradients_are_those_of_float32_up_to_rounding():
    layer, inputs = make_layer(), random_array(FRAMES)
    rounded = loss_and_gradients(layer, inputs)[2]
    layer.product_dtype = None
    for gradient, expected in zip(rounded, loss_and_gradients(layer, inputs)[2], strict=True):
        # Measured 3e-3 to 2e-2 of the largest.
        assert 0 < np.abs(gradient - expected).max() < 6e-2 * np.abs(expected).max()


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_sums_are_not_rounded(dtype):
    layer = make_layer(dtype=dtype)
    frames = keras.ops.cast(random_array(FRAMES), "bfloat16")
    assignments = to_numpy(layer.assign(frames)).astype("float64")
    first, second = map(to_numpy, layer.aggregate(frames))
    assert first.dtype == second.dtype == "float32"
    expected = assignments.swapaxes(1, 2) @ to_numpy(keras.ops.cast(frames, "float32")).astype("float64")
    # Measured 2e-7 and 1e-7.
    np.testing.assert_allclose(first, expected, rtol=0, atol=2e-6 * np.abs(expected).max())
    np.testing.assert_allclose(second, assignments.sum(axis=1), rtol=2e-6)


def test_it_is_kept_in_the_configuration():
    layer = make_layer()
    assert NetVLAD.from_config(layer.get_config()).product_dtype == "bfloat16"
    model = VideoClassifier({"frames": 8}, 3, 2, hidden_units=None, product_dtype="bfloat16")
    copy = VideoClassifier.from_config(model.get_config())
    assert copy.get_layer("frames_netvlad").product_dtype == "bfloat16"


@pytest.mark.parametrize("product_dtype", ["float16", "float32", "int8", 16])
def test_other_dtypes_are_refused(product_dtype):
    with pytest.raises(ValueError, match=f"`product_dtype` must be None or 'bfloat16'.*{product_dtype!r}"):
        NetVLAD(4, product_dtype=product_dtype)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return VideoClassifier({"frames": 8}, 3, num_clusters=4, hidden_units=5, product_dtype="bfloat16")


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports run on TensorFlow: `make test`")
def test_a_saved_model_has_them_and_passes_the_oracle(model, tmp_path):
    report = export_saved_model(model, tmp_path / "model")
    assert report.ok
    assert report.judge == "float64"
    assert report.tolerance > 1e-3


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports run on TensorFlow: `make test`")
def test_an_onnx_file_multiplies_in_float32(model, tmp_path):
    assert export_onnx(model, tmp_path / "model.onnx").ok
    graph = onnx.load(tmp_path / "model.onnx").graph
    casts = {attribute.i for node in graph.node if node.op_type == "Cast" for attribute in node.attribute}
    assert not casts & {onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT16}
    assert model.get_layer("frames_netvlad").product_dtype == "bfloat16"
