"""Reads the weights of a model for an ONNX graph, and attaches them to the graph as initializers."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import onnx
import tensorflow as tf

from keras_netvlad.export.onnx.conversion import placeholder
from keras_netvlad.export.onnx.graph_view import reads, rename_reads
from keras_netvlad.export.onnx.stored_tensor import StoredTensor

# Runtimes map external data page by page. The largest page granularity in use is 64 KiB (Windows).
PAGE_BYTES = 65536


class WeightValues(NamedTuple):
    """A weight for a graph: the name of its initializer, its values, and the dtype that the graph declares."""

    name: str
    values: np.ndarray
    dtype: np.dtype


def read_weights(proto: onnx.ModelProto, weights: Sequence[keras.Variable]) -> dict[str, WeightValues]:
    """Reads the weights of a model without copying them.

    Args:
        proto: The model's graph, whose weights are inputs.
        weights: The model's weights, in the order of `weights_of`.

    Returns:
        Dict from the name of each input that stands for a weight to the weight.
    """
    declared = {value.name: value.type.tensor_type.elem_type for value in proto.graph.input}
    values: dict[str, WeightValues] = {}
    for index, weight in enumerate(weights):
        taken = {other.name for other in values.values()}
        name = weight.path if weight.path not in taken else f"{weight.path}_{index}"
        # The dtype is the graph's, because bfloat16 is written as float32. The array shares the memory of the
        # tensor: `weight.numpy()` would copy it, which takes 2.4 GB for a large hidden layer.
        dtype = onnx.helper.tensor_dtype_to_np_dtype(declared[placeholder(index)])
        array = np.asarray(tf.convert_to_tensor(weight.value))
        values[placeholder(index)] = WeightValues(name, array, dtype)
    return values


def attach_weights(
    proto: onnx.ModelProto, tensors: Mapping[str, StoredTensor], path: Path, external_data_threshold: int
) -> str:
    """Turns the inputs that stand for weights into initializers named after their variables.

    Args:
        proto: The graph, changed in place.
        tensors: Dict from the name of each such input to the weight.
        path: Path of the ONNX file.
        external_data_threshold: Number of bytes from which the values are written to `<path>.data`.

    Returns:
        The SHA-256 of all weights, in hexadecimal: of the name, dtype, shape and values of each, in the order of the
        file. Two files with the same digest hold the same weights.
    """
    digest = hashlib.sha256()
    names = {name: tensor.name for name, tensor in tensors.items()}
    for node in proto.graph.node:
        rename_reads(node, names)
    used = {name for node in proto.graph.node for name in reads(node)}
    inputs = [value for value in proto.graph.input if value.name not in names]
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)

    stored = [tensor for tensor in tensors.values() if tensor.name in used]
    protos = [
        onnx.TensorProto(
            name=tensor.name, dims=tensor.shape, data_type=onnx.helper.np_dtype_to_tensor_dtype(tensor.dtype)
        )
        for tensor in stored
    ]
    if sum(tensor.num_bytes for tensor in stored) < external_data_threshold:
        for tensor, entry in zip(stored, protos, strict=True):
            entry.raw_data = b"".join(block.tobytes() for block in tensor.blocks())
            digest.update(_header(tensor))
            digest.update(entry.raw_data)
    else:
        _write_external_data(stored, protos, path.with_name(f"{path.name}.data"), digest)
    proto.graph.initializer.extend(protos)
    return digest.hexdigest()


def _header(tensor: StoredTensor) -> bytes:
    return f"{tensor.name} {tensor.dtype} {tensor.shape}".encode()


def _write_external_data(
    tensors: Sequence[StoredTensor], protos: Sequence[onnx.TensorProto], data_path: Path, digest: Any
) -> None:
    """Writes the values to a separate file, each tensor on a page boundary, and adds them to a digest."""
    with open(data_path, "wb") as file:
        for tensor, entry in zip(tensors, protos, strict=True):
            file.seek(-(-file.tell() // PAGE_BYTES) * PAGE_BYTES)
            offset = file.tell()
            digest.update(_header(tensor))
            for block in tensor.blocks():
                content = np.ascontiguousarray(block).reshape(-1).view("uint8").data
                file.write(content)
                digest.update(content)
            entry.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", data_path.name), ("offset", offset), ("length", file.tell() - offset)):
                entry.external_data.add(key=key, value=str(value))
        file.flush()
        os.fsync(file.fileno())
