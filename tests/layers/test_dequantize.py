import keras
import numpy as np
import pytest

from keras_netvlad.layers import Dequantize

pytestmark = pytest.mark.backends

LEVELS = np.arange(256, dtype="uint8")
EXACT = LEVELS.astype("float64") * 4 / 255 + 4 / 512 - 2


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # Measured: 3.0e-7 in float32; below it, half a unit in the last place of 2.
    [("float32", 6e-7), ("float64", 1e-15), ("float16", 9.8e-4), ("mixed_bfloat16", 7.9e-3)],
)
def test_every_byte_is_its_level(dtype, tolerance):
    if dtype == "float64" and keras.backend.backend() == "jax":
        pytest.skip("JAX has float64 only after jax_enable_x64; `make test` runs it on TensorFlow")
    layer = Dequantize(dtype=dtype)
    features = layer(LEVELS.reshape(2, 128))
    assert keras.backend.standardize_dtype(features.dtype) == layer.compute_dtype
    received = keras.ops.convert_to_numpy(keras.ops.cast(features, "float64"))
    np.testing.assert_allclose(received, EXACT.reshape(2, 128), rtol=0, atol=tolerance)


def test_it_is_a_layer_of_a_model(tmp_path):
    inputs = keras.Input((None, 4), dtype="uint8", name="frames")
    model = keras.Model(inputs, Dequantize(name="floats")(inputs))
    assert model.output_shape == (None, None, 4)
    assert model.output.dtype == "float32"
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    frames = LEVELS.reshape(2, 32, 4)
    np.testing.assert_array_equal(loaded.predict(frames, verbose=0), model.predict(frames, verbose=0))


@pytest.mark.parametrize("dtype", ["float32", "int32", "int8"])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(TypeError, match=rf"takes uint8 features, one byte each. Received: dtype {dtype}"):
        Dequantize()(np.zeros((2, 3), dtype))
