"""`check_declared_weights`: refuses a file of weights that declares more than it holds, before memory is allocated."""

import io
import os
import zipfile
from typing import IO, Any

import h5py

from keras_netvlad.base.declared_sizes import check_declared_bytes

# The member of a `.keras` file that holds the weights. The arrays of larger ones are left to Keras, which checks them
# while it reads.
WEIGHTS, MAX_CHECKED_WEIGHTS = "model.weights.h5", 64 << 20


def check_declared_weights(path: str | os.PathLike[str]) -> None:
    """Raises if a file of weights declares far more than it holds: as a member of an archive, or as an array.

    Args:
        path: Path of an HDF5 file or a `.keras` archive. Other files are not checked.

    Raises:
        ValueError: As `check_declared_bytes`.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            check_declared_bytes(path, sum(member.file_size for member in archive.infolist()), "members")
            if WEIGHTS in archive.namelist() and archive.getinfo(WEIGHTS).file_size <= MAX_CHECKED_WEIGHTS:
                check_declared_bytes(path, _declared_by_hdf5(io.BytesIO(archive.read(WEIGHTS))), "weights")
    elif h5py.is_hdf5(path):
        check_declared_bytes(path, _declared_by_hdf5(path), "weights")


def _declared_by_hdf5(file: str | os.PathLike[str] | IO[bytes]) -> int:
    num_bytes = 0

    def add(_: str, item: Any) -> None:
        nonlocal num_bytes
        num_bytes += item.size * item.dtype.itemsize if isinstance(item, h5py.Dataset) else 0

    with h5py.File(file, "r") as opened:
        opened.visititems(add)
    return num_bytes
