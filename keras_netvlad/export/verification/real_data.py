"""`check_data`: reads and validates the real inputs that a user wants an artifact verified on."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from keras_netvlad.base.npz_files import read_npz
from keras_netvlad.export.signature import Signature

RealData = Mapping[str, ArrayLike] | str | os.PathLike[str]


def check_data(data: RealData, signature: Signature) -> dict[str, np.ndarray]:
    """Returns the user's inputs as arrays of the model's dtypes.

    Args:
        data: Dict of arrays by input name with the batch first, or the path of an `.npz` file that contains them.
        signature: The model's signature `serving_default`.

    Raises:
        ValueError: If the file cannot be read, or names, shapes or numbers of rows do not fit the signature.
    """
    if not isinstance(data, (str, os.PathLike)):
        return _check_arrays(data, signature)
    try:
        arrays = read_npz(data)
    except (OSError, ValueError) as error:
        raise ValueError(f"`data` must be an .npz file of arrays. Received: {data} ({error})") from error
    try:
        return _check_arrays(arrays, signature)
    except ValueError as error:
        raise ValueError(f"{error}, in {data}") from error


def _check_arrays(arrays: Any, signature: Signature) -> dict[str, np.ndarray]:
    expected = {port.name: port for port in signature.inputs}
    if not isinstance(arrays, Mapping) or set(arrays) != set(expected):
        received = sorted(arrays) if isinstance(arrays, Mapping) else type(arrays).__name__
        raise ValueError(f"`data` must be a dict with an array for each of {sorted(expected)}. Received: {received}")
    arrays = {name: np.asarray(arrays[name]) for name in expected}
    for name, values in arrays.items():
        is_text = expected[name].dtype == "string"
        if values.dtype.kind not in ("OSU" if is_text else "biuf"):
            kind = "strings" if is_text else "real numbers"
            raise ValueError(f"`data[{name!r}]` must hold {kind}. Received: dtype {values.dtype}")
        shape = expected[name].shape
        wanted = tuple(size or got for size, got in zip(shape, values.shape, strict=False))
        if len(values.shape) != len(shape) or wanted != values.shape:
            raise ValueError(f"`data[{name!r}]` must have shape {shape}. Received: shape {values.shape}")
    num_rows = {name: len(values) for name, values in arrays.items()}
    if len(set(num_rows.values())) != 1 or not min(num_rows.values()):
        raise ValueError(
            "`data` must hold one batch of one row or more, with the same number of rows in every array. "
            f"Received: {num_rows}"
        )
    dtypes = {name: "object" if port.dtype == "string" else port.dtype for name, port in expected.items()}
    return {name: values.astype(dtypes[name], copy=False) for name, values in arrays.items()}
