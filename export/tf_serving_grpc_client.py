"""Sends videos to TensorFlow Serving's gRPC interface. Needs `pip install tensorflow-serving-api`.

    python tf_serving_grpc_client.py 127.0.0.1:8500 NAME INPUTS.npz [--output OUTPUTS.npz]
    python tf_serving_grpc_client.py 127.0.0.1:8500 NAME VIDEOS.tfrecord --signature serve_examples

Like tf_serving_client.py, but numbers travel as bytes instead of text. INPUTS.npz holds one array for each input of
the signature, such as `frames` (batch, frames, features) and `num_frames` (batch,); VIDEOS.tfrecord holds serialized
`tf.train.SequenceExample`s. Prints the best classes of each video; `--output` writes all outputs to a file.
"""

import argparse
import contextlib
import os
import sys

import numpy as np
from tf_serving_client import limit_num_frames, print_best, read_inputs

INSTALL = "The gRPC client needs `pip install tensorflow-serving-api`; tf_serving_client.py needs nothing. Received: "


@contextlib.contextmanager
def connect(address):
    """Opens a channel for any number of requests, of any size; gRPC's own limit is 4 MB for an answer.

    Args:
        address: `host:port`.

    Yields:
        The channel.

    Raises:
        ImportError: If gRPC is not installed.
    """
    try:
        import grpc
    except ImportError as error:
        raise ImportError(f"{INSTALL}{error}") from error
    sizes = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(address, options=sizes) as channel:
        yield channel


def predict(channel, model, inputs, signature="serving_default", version=None, timeout=30):
    """Sends one batch.

    Args:
        channel: Of `connect`.
        model: Name that the model is served by.
        inputs: Dict from input name to array or, for inputs of bytes, to a list of bytes; the batch first. Numbers are
            converted to the type that the model takes. A `num_frames` above the number of frames is limited to it.
        signature: Name of the signature.
        version: Integer; by default the newest.
        timeout: Seconds for each of the two questions, for what the model takes and for the answer.

    Returns:
        Dict from output name to array.

    Raises:
        OSError: If the server cannot be reached or refuses the request. The message contains the server's answer.
        ValueError: If an input is missing, too many, of another kind of number or of another shape than the model's, or
            the signature is not there.
        ImportError: If tensorflow-serving-api is not installed.
    """
    tf, apis = _import_apis()
    stub = apis.prediction_service_pb2_grpc.PredictionServiceStub(channel)
    expected = _read_inputs(stub, apis, model, signature, version, timeout)
    if set(inputs) != set(expected):
        raise ValueError(f"The inputs must be the signature's, {sorted(expected)}. Received: {sorted(inputs)}")
    request = _name(apis.predict_pb2.PredictRequest(), model, version)
    request.model_spec.signature_name = signature
    for name, values in limit_num_frames(inputs).items():
        dtype = tf.as_dtype(expected[name].dtype)
        if dtype != tf.string:
            values = np.asarray(values)
            if not np.can_cast(values.dtype, dtype.as_numpy_dtype, "same_kind"):
                raise ValueError(f"Input {name!r} must become {dtype.name}. Received: {values.dtype}")
            values = values.astype(dtype.as_numpy_dtype)
        # A server that merges requests fills wrong shapes up before the model can refuse them.
        shape = tf.TensorShape(expected[name].tensor_shape)
        if not shape.is_compatible_with(np.shape(values)):
            raise ValueError(f"Input {name!r} must be of shape {shape}. Received: {np.shape(values)}")
        request.inputs[name].CopyFrom(tf.make_tensor_proto(values, dtype))
    answer = _ask(stub.Predict, request, timeout)
    return {name: tf.make_ndarray(values) for name, values in answer.outputs.items()}


def _import_apis():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        import tensorflow as tf
        from tensorflow_serving import apis
        from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2, prediction_service_pb2_grpc  # noqa: F401
    except ImportError as error:
        raise ImportError(f"{INSTALL}{error}") from error
    return tf, apis


def _read_inputs(stub, apis, model, signature, version, timeout):
    """The `TensorInfo` of each input of a signature, by name."""
    request = _name(apis.get_model_metadata_pb2.GetModelMetadataRequest(), model, version)
    request.metadata_field.append("signature_def")
    answer = _ask(stub.GetModelMetadata, request, timeout)
    signatures = apis.get_model_metadata_pb2.SignatureDefMap()
    answer.metadata["signature_def"].Unpack(signatures)
    if signature not in signatures.signature_def:
        names = sorted(name for name in signatures.signature_def if not name.startswith("__"))
        raise ValueError(f"The signature must be one of the model's, {names}. Received: {signature!r}")
    return dict(signatures.signature_def[signature].inputs)


def _name(request, model, version):
    request.model_spec.name = model
    if version is not None:
        request.model_spec.version.value = version
    return request


def _ask(method, request, timeout):
    import grpc

    try:
        return method(request, timeout=timeout)
    except grpc.RpcError as error:
        code, words = error.code(), " ".join((error.details() or error.code().name).split())
        if code == grpc.StatusCode.DEADLINE_EXCEEDED:
            raise TimeoutError(f"The server must answer within {timeout} s; allow more. Received: {words}") from error
        if code == grpc.StatusCode.UNAVAILABLE:
            raise OSError(f"The server must be reachable, with room for a request. Received: {words}") from error
        raise OSError(f"The server refused the request: {words}") from error


def main():
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", help="host:port")
    parser.add_argument("model", help="name that the model is served by")
    parser.add_argument("inputs", help="an .npz or a .tfrecord file")
    parser.add_argument("--output", help="an .npz file to write")
    parser.add_argument("--signature", default="serving_default", help="what to ask (default %(default)s)")
    parser.add_argument("--version", type=int, help="version to ask (default: the newest)")
    parser.add_argument("--top", type=int, default=3, help="classes to print for each video (default %(default)s)")
    parser.add_argument("--timeout", type=float, default=30, help="seconds (default %(default)s)")
    options = parser.parse_args()
    try:
        inputs = read_inputs(options.inputs)
        with connect(options.address) as channel:
            outputs = predict(channel, options.model, inputs, options.signature, options.version, options.timeout)
        print_best(outputs, options.top)
        if options.output:
            np.savez(options.output, **outputs)
    except (OSError, ValueError, ImportError) as error:
        print(f"tf_serving_grpc_client: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
