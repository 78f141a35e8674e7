"""The bytes of YouTube-8M."""

import numpy as np
import pytest

from keras_netvlad.base.quantization import LEVELS, OFFSET, SCALE, dequantize, quantize, share_outside

BYTES = np.arange(LEVELS, dtype="uint8")


def reference(byte):
    """The starter code of YouTube-8M, `utils.Dequantize`, with its default limits 2 and -2."""
    scalar = (2.0 - -2.0) / 255.0
    bias = (2.0 - -2.0) / 512.0 + -2.0
    return float(byte) * scalar + bias


def test_a_byte_stands_for_the_value_of_the_data_sets_own_code():
    expected = np.array([reference(byte) for byte in BYTES])
    np.testing.assert_array_equal(dequantize(BYTES, "float64"), expected)
    np.testing.assert_array_equal(dequantize(BYTES), expected.astype("float32"))
    assert (SCALE, OFFSET) == (4 / 255, 4 / 512 - 2)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_byte_survives_the_way_to_a_value_and_back(dtype):
    values = dequantize(BYTES, dtype)
    assert values.dtype == dtype
    np.testing.assert_array_equal(quantize(values), BYTES)


def test_a_value_becomes_its_nearest_byte():
    values = np.random.default_rng(0).uniform(-1.99, 1.99, 1000)
    nearest = np.abs(values[:, None] - dequantize(BYTES, "float64")).argmin(axis=1)
    np.testing.assert_array_equal(quantize(values), nearest)
    assert quantize(values).dtype == np.uint8


def test_values_outside_the_levels_are_clipped():
    np.testing.assert_array_equal(quantize([-np.inf, -1e9, -2.0, 2.0, 1e9, np.inf]), [0, 0, 0, 255, 255, 255])
    assert share_outside([-3.0, -2.0, 0.0, 2.0, 2.5]) == pytest.approx(0.4)


def test_bytes_are_returned_unchanged():
    assert quantize(BYTES) is BYTES
