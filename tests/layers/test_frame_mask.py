"""`FrameMask`: number of frames to mask."""

import keras
import numpy as np
import pytest
from layer_contract import to_numpy

from keras_netvlad import NetVLAD
from keras_netvlad.layers import FrameMask

pytestmark = pytest.mark.backends

FRAMES = np.zeros((5, 4, 2), "float32")
NUM_FRAMES = np.array([0, 1, 4, 9, -3])
EXPECTED = [[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0]]


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "int8"])
def test_the_first_frames_of_each_video_are_real(dtype):
    mask = FrameMask()((NUM_FRAMES.clip(0) if dtype == "uint8" else NUM_FRAMES).astype(dtype), FRAMES)
    assert keras.backend.standardize_dtype(mask.dtype) == "bool"
    np.testing.assert_array_equal(to_numpy(mask), np.array(EXPECTED, bool))


@pytest.mark.parametrize(
    ("dtype", "count", "expected"),
    [
        ("int64", 2**31, 4),
        ("int64", 2**40, 4),
        ("int64", 2**32 + 1, 4),
        ("int64", -5, 0),
        ("int64", -(2**31) - 1, 0),
        ("uint32", 2**31, 4),
        ("uint32", 3, 3),
    ],
)
def test_counts_beyond_int32_do_not_wrap(dtype, count, expected):
    if keras.backend.backend() == "jax":
        pytest.skip("JAX holds integers in 32 bits unless `jax_enable_x64` is set")
    mask = FrameMask()(np.array([count], dtype), FRAMES[:1])
    assert to_numpy(mask).sum() == expected


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 2), (5, 4, 3, 3, 2)])
def test_frames_may_have_any_rank_from_2(shape):
    mask = FrameMask()(NUM_FRAMES, np.zeros(shape, "float32"))
    np.testing.assert_array_equal(to_numpy(mask), np.array(EXPECTED, bool))


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16", "float16"])
def test_large_numbers_are_exact_under_any_policy(dtype):
    mask = FrameMask(dtype=dtype)(np.array([2049]), np.zeros((1, 2052), "float16"))
    assert to_numpy(mask).sum() == 2049


def test_the_symbolic_shape_is_the_real_shape():
    mask = FrameMask()(keras.KerasTensor((None,), "int32"), keras.KerasTensor((None, None, 2)))
    assert mask.shape == (None, None)
    assert mask.dtype == "bool"
    assert FrameMask()(keras.KerasTensor((5,), "int32"), keras.KerasTensor(FRAMES.shape)).shape == (5, 4)


def test_a_model_masks_by_number_of_frames_and_survives_a_file(tmp_path):
    frames, num_frames = keras.Input((None, 2)), keras.Input((), dtype="int32")
    pooled = NetVLAD(3)(frames, mask=FrameMask(name="mask")(num_frames, frames))
    model = keras.Model([frames, num_frames], pooled)
    inputs = np.random.default_rng(0).normal(size=FRAMES.shape).astype("float32")
    outputs = to_numpy(model([inputs, NUM_FRAMES.astype("int32")]))
    np.testing.assert_array_equal(outputs[[0, 4]], 0.0)
    pooling = model.layers[-1]
    np.testing.assert_array_equal(outputs, to_numpy(pooling(inputs, mask=np.array(EXPECTED, bool))))
    model.save(tmp_path / "model.keras")
    reloaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(to_numpy(reloaded([inputs, NUM_FRAMES.astype("int32")])), outputs)
    np.testing.assert_allclose(reloaded.predict([inputs, NUM_FRAMES.astype("int32")], verbose=0), outputs, atol=1e-6)


def test_the_layer_has_no_weights_and_a_registered_config():
    layer = FrameMask(name="mask")
    layer(NUM_FRAMES, FRAMES)
    assert not layer.weights
    serialized = keras.saving.serialize_keras_object(layer)
    assert serialized["registered_name"] == "keras_netvlad>FrameMask"
    assert keras.saving.deserialize_keras_object(serialized).get_config() == layer.get_config()


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize(
    ("num_frames", "frames", "error", "message"),
    [
        (np.ones((5, 1), "int32"), FRAMES, ValueError, r"`num_frames` must have shape \(batch,\).*shape \(5, 1\)"),
        (np.ones((), "int32"), FRAMES, ValueError, r"`num_frames` must have shape \(batch,\).*shape \(\)"),
        (np.ones(5, "float32"), FRAMES, TypeError, "`num_frames` must hold integers; .*dtype float32"),
        (np.ones(5, bool), FRAMES, TypeError, "`num_frames` must hold integers; .*dtype bool"),
        (np.ones(5, "int32"), np.ones(5, "float32"), ValueError, r"`frames` must have shape .*shape \(5,\)"),
        (np.ones(1, "int32"), FRAMES, ValueError, r"one integer for each video of `frames`\. Received: 1 for 5 videos"),
    ],
)
def test_wrong_arguments_are_refused(num_frames, frames, error, message, symbolic):
    if symbolic:
        num_frames, frames = (keras.KerasTensor(a.shape, a.dtype.name) for a in (num_frames, frames))
    with pytest.raises(error, match=message):
        FrameMask()(num_frames, frames)
