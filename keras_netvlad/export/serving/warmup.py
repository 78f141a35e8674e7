"""The file of requests that TensorFlow Serving runs before it takes a version into service.

A TFRecord of `PredictionLog`. Its messages are declared here from their public field numbers, for the package that has
them (`tensorflow-serving-api`) wants one exact version of TensorFlow beside it.
"""

import math

import numpy as np
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from tensorflow.core.framework import tensor_pb2

# The server refuses a file of more.
MAX_REQUESTS = 1000
STRING, BYTES, MESSAGE = 9, 12, 11  # field types of protobuf
# Message: field name, number, type, repeated, type name. A map is a repeated message of key and value, and a
# `TensorProto` has the same bytes as a field of bytes.
MESSAGES = {
    "ModelSpec": (("name", 1, STRING, False, None), ("signature_name", 3, STRING, False, None)),
    "Input": (("key", 1, STRING, False, None), ("value", 2, BYTES, False, None)),
    "PredictRequest": (("model_spec", 1, MESSAGE, False, "ModelSpec"), ("inputs", 2, MESSAGE, True, "Input")),
    "PredictLog": (("request", 1, MESSAGE, False, "PredictRequest"),),
    "PredictionLog": (("predict_log", 6, MESSAGE, False, "PredictLog"),),
}


def write_warmup(path, requests):
    """Writes requests in the form that the server replays.

    Args:
        path: Of the file, by convention `<version>/assets.extra/tf_serving_warmup_requests`.
        requests: List of pairs of a signature's name and a dict of arrays by input name, at most 1000. Bytes come in
            arrays of objects. An array of equal values takes the room of one.

    Example:

    >>> import os, tempfile
    >>> requests = [("serving_default", {"frames": np.zeros((32, 300, 1152), "float32")})]  # 44 MB
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = os.path.join(directory, "tf_serving_warmup_requests")
    ...     write_warmup(path, requests)
    ...     ((signature, inputs),) = read_warmup(path)
    ...     os.path.getsize(path) < 100, signature, inputs["frames"].shape
    (True, 'serving_default', (32, 300, 1152))

    Raises:
        ValueError: If there are more requests, one without inputs, or other kinds of arrays. Nothing is written then.
        OSError: If the file can't be written.
    """
    if len(requests) > MAX_REQUESTS:
        raise ValueError(
            f"A server takes at most {MAX_REQUESTS} warm-up requests; leave some out. Received: {len(requests)}"
        )
    records = [_serialize(signature, inputs) for signature, inputs in requests]
    open(path, "wb").close()  # raises what Python raises
    try:
        with tf.io.TFRecordWriter(str(path)) as writer:
            for record in records:
                writer.write(record)
    except tf.errors.OpError as error:
        raise OSError(f"The disk must have room for the warm-up file. Received: {path} ({error.message})") from error


def read_warmup(path):
    """Reads the requests back.

    It takes no more memory than the file has bytes, whatever shapes a damaged or hostile file claims: an array of equal
    values is a view of one of them, and can't be written to.

    Args:
        path: Of the file.

    Returns:
        A list of pairs, as `write_warmup` takes it, which has an example.

    Raises:
        ValueError: If the file is truncated, damaged or something else, or holds more than 1000 requests.
        OSError: If the file can't be read.
    """
    open(path, "rb").close()  # raises what Python raises
    requests = []
    try:
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            request = PREDICTION_LOG.FromString(record).predict_log.request
            inputs = {item.key: _array(item.value) for item in request.inputs}
            if not inputs:
                raise ValueError("a record without inputs")
            if len(requests) == MAX_REQUESTS:
                raise ValueError(f"more than the {MAX_REQUESTS} that a server takes")
            requests.append((request.model_spec.signature_name or "serving_default", inputs))
    except (tf.errors.OpError, DecodeError, ValueError, TypeError, KeyError) as error:
        reason = (str(getattr(error, "message", error)).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            "The warm-up file must hold PredictionLog records of predict requests; publish again. "
            f"Received: {path}, record {len(requests)} ({reason})"
        ) from error
    return requests


def _serialize(signature, inputs):
    if not inputs:
        raise ValueError(f"A warm-up request must have inputs; leave it out. Received: `{signature}` with {inputs!r}")
    log = PREDICTION_LOG()
    request = log.predict_log.request
    request.model_spec.signature_name = signature
    for name, values in inputs.items():
        values = np.asarray(values)
        if values.dtype.kind in "SUc":  # NumPy's own arrays of bytes cut zeros off their ends
            raise ValueError(
                f"Input {name!r} must be an array of real numbers, or of objects if they are bytes. "
                f"Received: {values.dtype}"
            )
        request.inputs.add(key=name, value=_tensor_proto(values).SerializeToString())
    return log.SerializeToString()


def _tensor_proto(values):
    first = values[(slice(0, 1),) * values.ndim]
    is_constant = values.size > 1 and bool((values == first).all())
    # TensorFlow fills a tensor with the last value given.
    proto = tf.make_tensor_proto(first if is_constant else values)
    for dim, size in zip(proto.tensor_shape.dim, values.shape, strict=True):
        dim.size = size
    return proto


def _array(serialized):
    proto = tensor_pb2.TensorProto.FromString(serialized)
    shape = [dim.size for dim in proto.tensor_shape.dim]
    if proto.tensor_shape.unknown_rank or min(shape, default=0) < 0:
        raise ValueError(f"a tensor of unknown shape {shape}")
    num_given = sum(len(values) for field, values in proto.ListFields() if field.name.endswith("_val"))
    if num_given <= 1 and not proto.tensor_content:  # one for all, or none for zeros
        del proto.tensor_shape.dim[:]
        return np.broadcast_to(tf.make_ndarray(proto), shape)
    if math.prod(shape) > len(serialized):  # a value takes a byte at least
        raise ValueError(f"a tensor of shape {shape} with fewer values")
    return tf.make_ndarray(proto)


def _prediction_log():
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
    pool = descriptor_pool.DescriptorPool()  # of its own: the public names belong to tensorflow-serving-api
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("keras_netvlad.PredictionLog"))


PREDICTION_LOG = _prediction_log()
