"""TFRecord files with random access: finds the offset of each record and reads records at offsets."""

import array
import glob
import os
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

HEADER = struct.Struct("<QI")  # length of the record, and its masked CRC-32C
FOOTER_BYTES = 4  # masked CRC-32C of the record


def find_files(files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[str]:
    """Lists the files that match paths or patterns, sorted by name, each file once.

    Args:
        files: Path, pattern such as `"data/train*.tfrecord"`, or a list of those.

    Returns:
        List of paths as strings.

    Raises:
        FileNotFoundError: If a path or pattern matches no file.
        TypeError: If `files` is neither a path nor a list of paths.
    """
    patterns = [files] if isinstance(files, (str, os.PathLike)) else files
    if not isinstance(patterns, (list, tuple)) or not all(isinstance(p, (str, os.PathLike)) for p in patterns):
        raise TypeError(f"`files` must be a path, a pattern, or a list of them. Received: files={files!r}")
    found: set[str] = set()
    for pattern in (str(Path(p)) if isinstance(p, os.PathLike) else p for p in patterns):
        matches = [pattern] if os.path.isfile(pattern) else [m for m in glob.glob(pattern) if os.path.isfile(m)]
        if not matches:
            raise FileNotFoundError(f"`files` must match at least one file. Received: {pattern!r}, which matches none")
        found.update(matches)
    if not found:
        raise FileNotFoundError(f"`files` must match at least one file. Received: files={files!r}")
    return sorted(found)


def index_records(path: str) -> tuple[NDArray[np.int64], str | None]:
    """Finds the offset of each record of a file. It reads only the headers, not the records.

    Args:
        path: Path of an uncompressed TFRecord file.

    Returns:
        `(offsets, fault)`: the offsets, and `None` or a description of the damage after the last intact record.

    Raises:
        OSError: If the file cannot be read.
    """
    offsets = array.array("q")
    offset = 0
    with open(path, "rb", buffering=0) as file:
        end = os.fstat(file.fileno()).st_size
        while offset < end:
            header = os.pread(file.fileno(), HEADER.size, offset)
            if len(header) < HEADER.size:
                return np.array(offsets, np.int64), "the file ends within a record's header"
            length, checksum = HEADER.unpack(header)
            if checksum != _masked_crc(header[:8]):
                kind = "the file is not a TFRecord file" if not offsets else "the header is damaged"
                return np.array(offsets, np.int64), f"{kind} (the checksum of a record's length is wrong)"
            if offset + HEADER.size + length + FOOTER_BYTES > end:
                return np.array(offsets, np.int64), "the file ends within the record"
            offsets.append(offset)
            offset += HEADER.size + length + FOOTER_BYTES
    return np.array(offsets, np.int64), None


def read_records(paths: tf.Tensor, offsets: tf.Tensor) -> tf.Tensor:
    """Reads records at given offsets and verifies their checksums, in TensorFlow's kernels.

    Args:
        paths: String tensor `(B,)`, the file of each record.
        offsets: int64 tensor `(B,)`, the offset of each record in its file.

    Returns:
        String tensor `(B,)`, the serialized records.

    Raises:
        tensorflow.errors.DataLossError: If a checksum is wrong.
    """

    def one(path, offset):
        # tf.data.TFRecordDataset is this operation without offsets. Without a buffer it reads the record only.
        file = tf.raw_ops.TFRecordDatasetV2(filenames=[path], compression_type="", buffer_size=0, byte_offsets=[offset])
        return tf.data.experimental.from_variant(file, tf.TensorSpec([], tf.string)).take(1)

    places = tf.data.Dataset.from_tensor_slices((paths, offsets))
    return places.flat_map(one).batch(tf.size(paths, tf.int64)).get_single_element()


def _crc_table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)  # Castagnoli's polynomial, reversed
        table.append(byte)
    return table


_TABLE = _crc_table()


def _masked_crc(data):
    """Returns the CRC-32C of a few bytes, masked as in TFRecord files. Pure Python is fast enough for headers."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 255]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
