"""TFRecord files, record by record: where each begins, and what it holds."""

import glob
import os
import struct
from pathlib import Path

import numpy as np
import tensorflow as tf

HEADER = struct.Struct("<QI")  # length of the record, and its masked CRC-32C
FOOTER_BYTES = 4  # masked CRC-32C of the record


def find_files(files):
    """Lists files in the order of their names, each once.

    Args:
        files: Path, pattern such as `"data/train*.tfrecord"`, or a list of those.

    Returns:
        List of paths, strings.

    Raises:
        FileNotFoundError: If a path or pattern matches no file.
        TypeError: If it is no path.
    """
    patterns = [files] if isinstance(files, (str, Path)) else files
    if not isinstance(patterns, (list, tuple)) or not all(isinstance(p, (str, Path)) for p in patterns):
        raise TypeError(f"`files` must be a path, a pattern, or a list of them. Received: files={files!r}")
    found = set()
    for pattern in map(str, patterns):
        matches = [pattern] if os.path.isfile(pattern) else [m for m in glob.glob(pattern) if os.path.isfile(m)]
        if not matches:
            raise FileNotFoundError(f"`files` must match at least one file. Received: {pattern!r}, which matches none")
        found.update(matches)
    if not found:
        raise FileNotFoundError(f"`files` must match at least one file. Received: files={files!r}")
    return sorted(found)


def index_records(path):
    """Finds where each record of a file begins, by walking from header to header: the records are not read.

    Args:
        path: Path of a TFRecord file, not compressed.

    Returns:
        `offsets, fault`: int64 array, and `None` or what is wrong with the file behind the last of them.

    Raises:
        OSError: If the file can't be read.
    """
    offsets, offset = [], 0
    with open(path, "rb", buffering=0) as file:
        end = os.fstat(file.fileno()).st_size
        while offset < end:
            header = os.pread(file.fileno(), HEADER.size, offset)
            if len(header) < HEADER.size:
                return np.array(offsets, "int64"), "the file ends within a record's header"
            length, checksum = HEADER.unpack(header)
            if checksum != _masked_crc(header[:8]):
                kind = "the file is no TFRecord file" if not offsets else "the header is damaged"
                return np.array(offsets, "int64"), f"{kind} (the sum of a record's length is wrong)"
            if offset + HEADER.size + length + FOOTER_BYTES > end:
                return np.array(offsets, "int64"), "the file ends within the record"
            offsets.append(offset)
            offset += HEADER.size + length + FOOTER_BYTES
    return np.array(offsets, "int64"), None


def read_records(paths, offsets):
    """Reads records where they lie and checks their sums, in TensorFlow's kernels.

    Args:
        paths: String tensor `(B,)`, the file of each record.
        offsets: int64 tensor `(B,)`, where in it the record begins.

    Returns:
        String tensor `(B,)`.

    Raises:
        tensorflow.errors.DataLossError: If a record is not what was written.
    """

    def one(path, offset):
        # tf.data.TFRecordDataset is this operation without offsets. Without a buffer it reads the record, no more.
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
    """CRC-32C of a few bytes, rotated and shifted as TFRecord files have it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 255]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
