"""`StoredTensor`: a weight in the dtype in which a file stores it, converted block by block."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import DTypeLike

# Values that are converted at a time.
BLOCK_VALUES = 2**22


@dataclass(frozen=True)
class StoredTensor:
    """A weight as a file stores it.

    Attributes:
        name: Name of the initializer.
        shape: Tuple of integers.
        dtype: NumPy dtype.
        blocks: Function that yields the values in order, as arrays of `dtype`. It yields one block at a time, so that
            no conversion holds a second copy of a large weight.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    blocks: Callable[[], Iterator[np.ndarray]] = field(repr=False)

    @property
    def num_bytes(self) -> int:
        """Size of the values."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize


def stored_tensor(name: str, values: np.ndarray, dtype: DTypeLike) -> StoredTensor:
    """Returns a weight in its own float dtype or in a smaller one.

    Args:
        name: Name of the initializer.
        values: The weight. It is not copied.
        dtype: Float dtype to store.

    Raises:
        ValueError: While the blocks are read, if `dtype` cannot hold a value.
    """

    def blocks() -> Iterator[np.ndarray]:
        if values.dtype == dtype:
            yield values  # no copy
            return
        for block in split_blocks(values):
            with np.errstate(over="ignore"):
                converted = block.astype(dtype)
            if not np.isfinite(converted).all():
                raise ValueError(
                    f"{np.dtype(dtype)} holds finite weights of up to {np.finfo(dtype).max}; export with "
                    f"precision='float32' or scale the layer. Received: {name!r} with weights of up to "
                    f"{np.max(np.abs(block)):.3g}"
                )
            yield converted

    return StoredTensor(name, values.shape, np.dtype(dtype), blocks)


def split_blocks(values: np.ndarray) -> Iterator[np.ndarray]:
    """Yields an array in blocks of rows, of at most `BLOCK_VALUES` values unless a row has more."""
    values = np.atleast_1d(values)
    rows = max(1, BLOCK_VALUES // max(1, values[0].size if len(values) else 1))
    for start in range(0, len(values), rows):
        yield values[start : start + rows]
