"""Reads `.npz` files of unknown origin: each array is compared with the file before memory is allocated for it."""

import errno
import math
import os
import sys
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from keras_netvlad.base.declared_sizes import check_declared_bytes

HEADER_READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def check_npz(path: str | os.PathLike[str]) -> list[str]:
    """Checks the headers of all arrays of a file.

    Args:
        path: Path of the file.

    Returns:
        The names of the arrays.

    Raises:
        ValueError: If the file is not a complete `.npz` file of plain arrays, or if it declares more data than it
            holds. The message is the reason only; the caller says which file was expected.
        OSError: If the file cannot be read.
    """
    with _value_errors(), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        check_declared_bytes(path, sum(member.file_size for member in members))
        names = [member.filename.removesuffix(".npy") for member in members]
        if len(set(names)) < len(names):
            raise ValueError("two arrays have the same name")
        for name, member in zip(names, members, strict=True):
            with archive.open(member) as file:
                version = npy.read_magic(file)
                if version not in HEADER_READERS:
                    raise ValueError(f"`{name}` is of version {version} of the .npy format, expected 1.0 or 2.0")
                shape, _, dtype = HEADER_READERS[version](file)
                if dtype.hasobject:
                    raise ValueError(f"`{name}` holds Python objects, which are not read")
                if file.tell() + math.prod(shape) * dtype.itemsize != member.file_size or min(shape, default=0) < 0:
                    raise ValueError(f"`{name}` does not have the size of its header, {dtype} {shape}")
                # An axis of length 0 must not hide the length of the others.
                check_declared_bytes(path, math.prod(max(size, 1) for size in shape) * max(dtype.itemsize, 1))
    return names


def read_npz(path: str | os.PathLike[str], names: Collection[str] | None = None) -> dict[str, NDArray]:
    """Reads arrays of a file, after `check_npz`.

    Args:
        path: Path of the file.
        names: Names of the arrays to read, or `None` for all.

    Returns:
        Dict from name to array.

    Example:

    >>> import os, tempfile
    >>> import numpy as np
    >>> from keras_netvlad.base.npz_files import read_npz
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = os.path.join(directory, "frames.npz")
    ...     np.savez(path, frames=np.zeros((2, 3)))
    ...     read_npz(path)["frames"].shape
    (2, 3)

    Raises:
        ValueError: As `check_npz`, or if an array is missing.
        OSError: If the file cannot be read.
    """
    found = check_npz(path)
    missing = sorted(set(names or ()) - set(found))
    if missing:
        raise ValueError(f"the file has no array `{missing[0]}`; it has {sorted(found)}")
    with _value_errors(), np.load(path, allow_pickle=False) as arrays:
        return {name: _checked_text(name, arrays[name]) for name in (found if names is None else names)}


def _checked_text(name: str, array: NDArray) -> NDArray:
    """Returns an array, or raises if it is text with a code point beyond Unicode, from which Python makes no string."""
    if array.dtype.kind == "U" and array.size and array.dtype.itemsize:
        codes = np.ascontiguousarray(array).reshape(-1).view(np.dtype("u4").newbyteorder(array.dtype.byteorder))
        if codes.max() > sys.maxunicode:
            raise ValueError(f"`{name}` holds text with a character above U+{sys.maxunicode:X}")
    return array


@contextmanager
def _value_errors() -> Iterator[None]:
    """Turns the errors of a damaged file into a `ValueError`, and keeps those of the operating system."""
    try:
        yield
    except (MemoryError, ValueError):
        raise
    except Exception as error:
        # zipfile, zlib and NumPy's parser of headers raise exceptions of more than ten classes.
        # Invalid argument: zipfile goes to the negative position that a damaged directory names.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise ValueError((str(error).splitlines() or [type(error).__name__])[0]) from error
