"""`convert_signatures`: signatures of a Keras model as the content of a LiteRT file."""

import re
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from keras_netvlad.export.reason import reason_of
from keras_netvlad.export.saved_model import write_saved_model
from keras_netvlad.export.signature import Signature

SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)
# The location of an operation in the converter's errors: its type and its name, but not the calls that lead to it.
OPERATION = re.compile(r'fused\["(?!\w*PartitionedCall)(\w+):", "([^"@]+)@')


def convert_signatures(model: keras.Model, signatures: Mapping[str, Signature], directory: Path) -> bytearray:
    """Converts signatures of a model with TensorFlow's converter.

    Args:
        model: The Keras model, which computes in float32.
        signatures: The signatures to write, by name.
        directory: Existing directory for a SavedModel that the converter reads. It is removed again.

    Returns:
        The content of a LiteRT file with all signatures.

    Raises:
        ValueError: If LiteRT has no operator for an operation of the model.
    """
    checked = {name: _with_equal_rows(signature) for name, signature in signatures.items()}
    with tempfile.TemporaryDirectory(dir=directory) as saved_model:
        write_saved_model(model, checked, Path(saved_model), keras_endpoint=False)
        _avoid_rsqrt_of_zero(Path(saved_model) / "saved_model.pb")
        converter = tf.lite.TFLiteConverter.from_saved_model(saved_model, signature_keys=list(checked))
        try:
            return bytearray(converter.convert())
        except Exception as error:
            # The converter raises exceptions of several classes.
            raise ValueError(
                "The model must be made of operations that LiteRT has; export it as SavedModel or ONNX, or change the "
                f"layer. Received: {_operations(error) or reason_of(error)}"
            ) from error


def _avoid_rsqrt_of_zero(path: Path) -> None:
    """Makes every Rsqrt of a SavedModel take at least the smallest normal number.

    The kernel of LiteRT 2.3 computes NaN for the reciprocal square root of 0, where TensorFlow computes infinity. Keras
    limits it from above, for example in `UnitNormalization`, so that a frame of zeros would become NaN.
    """
    saved_model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    for function in saved_model.meta_graphs[0].graph_def.library.function:
        for node in [node for node in function.node_def if node.op == "Rsqrt"]:
            dtype = node.attr["T"]
            smallest = function.node_def.add(op="Const", name=f"{node.name}/smallest")
            smallest.attr["dtype"].CopyFrom(dtype)
            value = tf.as_dtype(dtype.type).as_numpy_dtype(SMALLEST_NORMAL)
            smallest.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
            limited = function.node_def.add(op="Maximum", name=f"{node.name}/limited")
            limited.attr["T"].CopyFrom(dtype)
            limited.input.extend([node.input[0], f"{smallest.name}:output:0"])
            node.input[0] = f"{limited.name}:z:0"
    path.write_bytes(saved_model.SerializeToString())


def _operations(error: Exception) -> str:
    """Returns the operations that an error of the converter is about, and the places of the model where they are."""
    found = dict.fromkeys(OPERATION.findall(str(error)))
    return ", ".join(f"{operation} in {place!r}" for operation, place in found)


def _with_equal_rows(signature: Signature) -> Signature:
    """Returns a signature that fails if its inputs have different numbers of rows.

    LiteRT has no assertions. Without this, a `num_frames` of one row would be used for all videos. A reshape to the
    number of rows of the first input fails unless the numbers are equal.
    """
    batched = [port for port in signature.inputs if port.shape and port.shape[0] is None]
    first, others = batched[:1], batched[1:]

    def compute(values: Mapping[str, Any]) -> dict[str, Any]:
        values = dict(values)
        for port in others:
            rows, sizes = tf.shape(values[first[0].name])[0], tf.shape(values[port.name])
            # Sizes that are known become constants of the graph.
            known = [sizes[axis] if size is None else size for axis, size in enumerate(port.shape)]
            values[port.name] = tf.reshape(values[port.name], [rows, *known[1:]])
        return signature.compute(values)

    return replace(signature, compute=compute)
