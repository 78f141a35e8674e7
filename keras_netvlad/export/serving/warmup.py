"""Reads and writes the file of requests that TensorFlow Serving runs before it uses a version.

The file is a TFRecord of `PredictionLog`. The messages are declared here from their public field numbers, because the
package that contains them, `tensorflow-serving-api`, requires one exact version of TensorFlow.
"""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from tensorflow.core.framework import tensor_pb2

from keras_netvlad.base.full_disk_error import write_error
from keras_netvlad.data.record_files import index_records

# Path of the file in the directory of a version.
WARMUP_FILE = Path("assets.extra", "tf_serving_warmup_requests")
# The server refuses a file with more requests.
MAX_REQUESTS = 1000
STRING, BYTES, MESSAGE = 9, 12, 11  # field types of protobuf
# Message: field name, number, type, repeated, type name. A map is encoded like a repeated message of key and value, and
# a `TensorProto` like a field of bytes.
MESSAGES = {
    "ModelSpec": (("name", 1, STRING, False, None), ("signature_name", 3, STRING, False, None)),
    "Input": (("key", 1, STRING, False, None), ("value", 2, BYTES, False, None)),
    "PredictRequest": (("model_spec", 1, MESSAGE, False, "ModelSpec"), ("inputs", 2, MESSAGE, True, "Input")),
    "PredictLog": (("request", 1, MESSAGE, False, "PredictRequest"),),
    "PredictionLog": (("predict_log", 6, MESSAGE, False, "PredictLog"),),
}


def check_number_of_requests(number: int) -> None:
    """Raises if there are more requests than a server takes."""
    if number > MAX_REQUESTS:
        raise ValueError(f"A server takes at most {MAX_REQUESTS} warm-up requests; leave some out. Received: {number}")


def write_warmup(path: str | os.PathLike[str], requests: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """Writes requests in the format that the server reads.

    Args:
        path: Path of the file. The server reads `<version>/assets.extra/tf_serving_warmup_requests`.
        requests: At most 1000 pairs of the name of a signature and a dict of arrays by input name. Bytes must be in
            arrays of objects. An array whose values are all equal takes the space of one value.

    Example:

    >>> import os, tempfile
    >>> import numpy as np
    >>> from keras_netvlad.export.serving.warmup import read_warmup, write_warmup
    >>> requests = [("serving_default", {"frames": np.zeros((32, 300, 1152), "float32")})]  # 44 MB
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = os.path.join(directory, "tf_serving_warmup_requests")
    ...     write_warmup(path, requests)
    ...     ((signature, inputs),) = read_warmup(path)
    ...     os.path.getsize(path) < 100, signature, inputs["frames"].shape
    (True, 'serving_default', (32, 300, 1152))

    Raises:
        ValueError: If there are more than 1000 requests, or one has no inputs or invalid arrays. Nothing is written.
        OSError: If the file cannot be written.
    """
    check_number_of_requests(len(requests))
    records = [_serialize(signature, inputs) for signature, inputs in requests]
    open(path, "wb").close()  # raises Python's own OSError
    try:
        with tf.io.TFRecordWriter(str(path)) as writer:
            for record in records:
                writer.write(record)
    except tf.errors.OpError as error:
        raise write_error(error.message, path) from error


def read_warmup(path: str | os.PathLike[str]) -> list[tuple[str, dict[str, np.ndarray]]]:
    """Reads the requests of a file. See `write_warmup` for an example.

    It takes no more memory than the file has bytes, even if a damaged or hostile file declares large shapes. An array
    whose values are all equal is a read-only view of one value.

    Args:
        path: Path of the file.

    Returns:
        A list of pairs of the name of a signature and a dict of arrays by input name.

    Raises:
        ValueError: If the file is truncated, damaged or of another format, or has more than 1000 requests.
        OSError: If the file cannot be read.
    """
    # TensorFlow's reader allocates the length that a record's header declares, and crashes where that fails.
    offsets, fault = index_records(str(path))
    requests: list[tuple[str, dict[str, np.ndarray]]] = []
    try:
        for record in tf.data.TFRecordDataset(str(path)).take(len(offsets)).as_numpy_iterator():
            request = PREDICTION_LOG.FromString(record).predict_log.request
            inputs = {item.key: _array(item.value) for item in request.inputs}
            if not inputs:
                raise ValueError("a record without inputs")
            if len(requests) == MAX_REQUESTS:
                raise ValueError(f"more than the {MAX_REQUESTS} that a server takes")
            requests.append((request.model_spec.signature_name or "serving_default", inputs))
        if fault is not None:
            raise ValueError(fault)
    except (tf.errors.OpError, DecodeError, ValueError, TypeError, KeyError) as error:
        reason = (str(getattr(error, "message", error)).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            "The warm-up file must hold PredictionLog records of predict requests; publish again. "
            f"Received: {path}, record {len(requests)} ({reason})"
        ) from error
    return requests


def _serialize(signature: str, inputs: Mapping[str, Any]) -> bytes:
    if not inputs:
        raise ValueError(f"A warm-up request must have inputs; leave it out. Received: `{signature}` with {inputs!r}")
    log = PREDICTION_LOG()
    request = log.predict_log.request
    request.model_spec.signature_name = signature
    for name, values in inputs.items():
        values = np.asarray(values)
        if values.dtype.kind in "SUc":  # NumPy's own byte strings lose trailing zeros
            raise ValueError(
                f"Input {name!r} must be an array of real numbers, or of objects if they are bytes. "
                f"Received: {values.dtype}"
            )
        request.inputs.add(key=name, value=_tensor_proto(values).SerializeToString())
    return log.SerializeToString()


def _tensor_proto(values: np.ndarray) -> tensor_pb2.TensorProto:
    first = values[(slice(0, 1),) * values.ndim]
    is_constant = values.size > 1 and bool((values == first).all())
    # TensorFlow fills the rest of a tensor with the last value of the message.
    proto = tf.make_tensor_proto(first if is_constant else values)
    for dim, size in zip(proto.tensor_shape.dim, values.shape, strict=True):
        dim.size = size
    return proto


def _array(serialized: bytes) -> np.ndarray:
    proto = tensor_pb2.TensorProto.FromString(serialized)
    shape = [dim.size for dim in proto.tensor_shape.dim]
    if proto.tensor_shape.unknown_rank or min(shape, default=0) < 0:
        raise ValueError(f"a tensor of unknown shape {shape}")
    num_given = sum(len(values) for field, values in proto.ListFields() if field.name.endswith("_val"))
    if num_given <= 1 and not proto.tensor_content:  # one value for all elements, or none for zeros
        del proto.tensor_shape.dim[:]
        return np.broadcast_to(tf.make_ndarray(proto), shape)
    if math.prod(shape) > len(serialized):  # a value takes at least one byte
        raise ValueError(f"a tensor of shape {shape} with fewer values")
    return tf.make_ndarray(proto)


def _prediction_log() -> Any:
    """Returns the class of the message `PredictionLog`."""
    file = descriptor_pb2.FileDescriptorProto(
        name="keras_netvlad_warmup.proto", package="keras_netvlad", syntax="proto3"
    )
    for message_name, fields in MESSAGES.items():
        message = file.message_type.add(name=message_name)
        for name, number, kind, is_repeated, type_name in fields:
            message.field.add(
                name=name,
                number=number,
                type=kind,
                label=3 if is_repeated else 1,
                type_name=f".keras_netvlad.{type_name}" if type_name else None,
            )
    pool = descriptor_pool.DescriptorPool()  # not the default pool, whose names tensorflow-serving-api uses
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("keras_netvlad.PredictionLog"))


PREDICTION_LOG = _prediction_log()
