"""`int8_kernel`: a dense kernel as int8 levels with one scale per column."""

from collections.abc import Iterator

import numpy as np

from keras_netvlad.export.onnx.stored_tensor import StoredTensor, split_blocks

# Levels of an int8 kernel and of activations, on either side of zero. 127 * (63 + 64) * 2 fits into 16 bits. Processors
# without VNNI add two such products in 16 bits and saturate beyond: an emulated Haswell lost up to 99% of a sum of
# 8-bit activations, and nothing of a sum of 7-bit activations.
KERNEL_LEVELS, ACTIVATION_LEVELS = 127, 63
# Levels of activations between `QuantizeLinear` and `DequantizeLinear`. GPUs add all products in 32 bits.
QDQ_ACTIVATION_LEVELS = 127


def int8_kernel(name: str, values: np.ndarray, scale: np.ndarray) -> StoredTensor:
    """Returns a kernel `(rows, columns)` rounded to multiples of the scale of each column.

    Args:
        name: Name of the initializer.
        values: The kernel.
        scale: `(columns,)`, as `column_scale` returns it.
    """

    def blocks() -> Iterator[np.ndarray]:
        for block in split_blocks(values):
            yield np.rint(block / scale).astype(np.int8)

    return StoredTensor(name, values.shape, np.dtype(np.int8), blocks)


def column_scale(name: str, values: np.ndarray, activation_levels: int = ACTIVATION_LEVELS) -> np.ndarray:
    """Returns the size of one level in each column of a kernel `(rows, columns)`, as float32 `(columns,)`.

    Args:
        name: Name of the weight, for the error.
        values: The kernel.
        activation_levels: Largest level of the activations that the kernel is multiplied with.

    Raises:
        ValueError: If the kernel has values that are not finite.
    """
    largest = np.zeros(values.shape[1], np.float32)
    total = np.zeros(values.shape[1], np.float64)
    for block in split_blocks(values):
        size = np.abs(block.astype(np.float32, copy=False))
        largest = np.maximum(largest, size.max(axis=0))  # keeps NaN
        total += size.sum(axis=0, dtype=np.float64)
    if not np.isfinite(largest).all():
        raise ValueError(
            f"int8 kernels are made of finite weights; train again. Received: {name!r} with NaN or infinity"
        )
    # The second bound keeps the sum of a column's products within 32 bits, for kernels of more than 268 000 rows, or
    # 133 000 with 127 levels of activations.
    scale = np.maximum(largest / KERNEL_LEVELS, total / (2**30 / activation_levels))
    scale = scale.astype(np.float32)
    return np.where(scale > 0, scale, np.float32(1))
