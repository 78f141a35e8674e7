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
# A damaged shape must not ask for all the memory there is: one value may stand for a whole tensor.
MAX_VALUES = 2**30
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
        requests: List of pairs of a signature's name and a dict of arrays by input name, at most 1000. An array of
            equal values takes the room of one.

    Raises:
        ValueError: If there are more.
    """
    if len(requests) > MAX_REQUESTS:
        raise ValueError(
            f"A server takes at most {MAX_REQUESTS} warm-up requests; leave some out. Received: {len(requests)}"
        )
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, inputs in requests:
            log = PREDICTION_LOG()
            request = log.predict_log.request
            request.model_spec.signature_name = signature
            for name, values in inputs.items():
                request.inputs.add(key=name, value=_tensor_proto(np.asarray(values)).SerializeToString())
            writer.write(log.SerializeToString())


def read_warmup(path):
    """Reads the requests back.

    Returns:
        A list of pairs, as `write_warmup` takes it.

    Raises:
        ValueError: If the file is truncated, damaged or something else.
    """
    requests = []
    try:
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            request = PREDICTION_LOG.FromString(record).predict_log.request
            inputs = {item.key: _array(item.value) for item in request.inputs}
            if not inputs:
                raise ValueError("a record without inputs")
            requests.append((request.model_spec.signature_name or "serving_default", inputs))
    except (tf.errors.OpError, DecodeError, ValueError, TypeError, KeyError) as error:
        reason = (str(getattr(error, "message", error)).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            "The warm-up file must hold PredictionLog records of predict requests; publish again. "
            f"Received: {path}, record {len(requests)} ({reason})"
        ) from error
    return requests


def _array(serialized):
    proto = tensor_pb2.TensorProto.FromString(serialized)
    if math.prod(dim.size for dim in proto.tensor_shape.dim) > MAX_VALUES:
        raise ValueError(f"a tensor of more than {MAX_VALUES} values")
    return tf.make_ndarray(proto)


def _tensor_proto(values):
    proto = tf.make_tensor_proto(values[(slice(0, 1),) * values.ndim] if _is_constant(values) else values)
    for dim, size in zip(proto.tensor_shape.dim, values.shape, strict=True):
        dim.size = size
    return proto


def _is_constant(values):
    # TensorFlow fills a tensor with the last value given.
    return values.size > 1 and values.dtype != object and (values == values.flat[0]).all()


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
