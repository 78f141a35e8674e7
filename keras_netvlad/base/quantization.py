"""The quantization of YouTube-8M: one byte for each feature, 256 levels from -2 to 2.

`keras_netvlad.layers.Dequantize` computes `dequantize` inside a model.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

LOWEST, HIGHEST, LEVELS = -2.0, 2.0, 256
# Byte `q` stands for `q * SCALE + OFFSET`.
SCALE = (HIGHEST - LOWEST) / (LEVELS - 1)
OFFSET = (HIGHEST - LOWEST) / (2 * LEVELS) + LOWEST


def quantize(values: ArrayLike) -> NDArray[np.uint8]:
    """Returns the nearest byte of each value. Values outside -2 to 2 are clipped; bytes are returned unchanged."""
    values = np.asarray(values)
    if values.dtype == np.uint8:
        return values
    clipped = np.clip(values.astype("float64"), LOWEST, HIGHEST)
    return np.clip(np.rint((clipped - OFFSET) / SCALE), 0, LEVELS - 1).astype("uint8")


def dequantize(values: ArrayLike, dtype: str = "float32") -> NDArray[np.floating]:
    """Returns the value that each byte stands for, computed in float64 and rounded once."""
    return (np.asarray(values).astype("float64") * SCALE + OFFSET).astype(dtype)


def share_outside(values: ArrayLike) -> float:
    """Returns the share of values outside -2 to 2, which `quantize` clips."""
    values = np.asarray(values)
    return float(np.mean((values < LOWEST) | (values > HIGHEST)))
