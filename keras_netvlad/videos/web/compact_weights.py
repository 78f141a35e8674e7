"""`compact_weights`: an ONNX model whose large weights are stored in fewer bytes."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import onnx
from onnx import numpy_helper

# Weights with fewer values stay as they are: they take a hundredth of a file.
MIN_VALUES = 1024
LEVELS = 127


def compact_weights(model: onnx.ModelProto, dtype: Literal["float16", "int8"]) -> onnx.ModelProto:
    """Returns an ONNX model whose large weights are stored in fewer bytes.

    The model computes in float32 as before: a runtime expands the weights once, when it opens the file. All
    runtimes accept it, and it is as fast as the original. Only the weights are rounded.

    Args:
        model: An ONNX model whose weights are initializers.
        dtype: `"float16"`; or `"int8"`, where each output channel of a convolution or dense layer has its own scale.

    Returns:
        A new model. Weights of less than 1,024 values, and those that no `Conv`, `MatMul` or `Gemm` reads, are kept.

    Raises:
        ValueError: If a weight is not finite, or too large for float16.
    """
    compact = onnx.ModelProto()
    compact.CopyFrom(model)
    graph = compact.graph
    axes = _channel_axes(graph)
    expanding: list[onnx.NodeProto] = []
    for tensor in list(graph.initializer):
        name = tensor.name
        if name not in axes or tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        if values.size < MIN_VALUES:
            continue
        limit = np.finfo(dtype).max if dtype == "float16" else np.finfo("float32").max
        largest = np.abs(values).max()
        if not largest <= limit:  # also for NaN
            raise ValueError(
                f"Weights in {dtype} must be finite and at most {limit:.6g}; use float32. Received: {largest:.6g} in "
                f"{name!r}"
            )
        graph.initializer.remove(tensor)
        stored, expanded = f"{name}/{dtype}", name
        if dtype == "int8":
            levels, scale = _levels(values, axes[name])
            graph.initializer.append(numpy_helper.from_array(levels, stored))
            graph.initializer.append(numpy_helper.from_array(scale, f"{name}/scale"))
            expanded = f"{name}/levels"
            expanding.append(onnx.helper.make_node("Mul", [expanded, f"{name}/scale"], [name], f"{name}/scaled"))
        else:
            graph.initializer.append(numpy_helper.from_array(values.astype(np.float16), stored))
        cast = onnx.helper.make_node("Cast", [stored], [expanded], f"{expanded}/cast", to=onnx.TensorProto.FLOAT)
        expanding.append(cast)
    nodes = [*reversed(expanding), *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return compact


def _levels(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns weights as int8 levels, and the size of one level in each channel, which broadcasts against them."""
    others = tuple(index for index in range(values.ndim) if index != axis % values.ndim)
    scale = np.abs(values).max(axis=others, keepdims=True) / LEVELS
    scale = np.where(scale > 0, scale, 1).astype(np.float32)
    return np.rint(values / scale).astype(np.int8), scale


def _channel_axes(graph: onnx.GraphProto) -> dict[str, int]:
    """Returns the axis of the output channels of each weight that only convolutions and dense products read.

    Weights may be transposed on the way. Nodes are sorted, so the readers of a node's output are seen before the node.
    """
    axes: dict[str, set[int | None]] = {}
    for node in reversed(graph.node):
        for position, name in enumerate(node.input):
            axes.setdefault(name, set()).update(_axes_of_input(node, position, axes))
    found = {name: next(iter(of_readers)) for name, of_readers in axes.items() if len(of_readers) == 1}
    return {name: axis for name, axis in found.items() if axis is not None}


def _axes_of_input(node: onnx.NodeProto, position: int, axes: Mapping[str, set[int | None]]) -> set[int | None]:
    """Returns the axes that the readers of an input take for output channels. `None` is one that reads no kernel."""
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type == "Transpose" and "perm" in attributes:
        order = attributes["perm"]
        return {None if axis is None else order[axis] for axis in axes.get(node.output[0], {None})}
    if position != 1:
        return {None}
    if node.op_type == "Gemm":
        return {0 if attributes.get("transB") else 1}
    return {{"Conv": 0, "MatMul": -1}.get(node.op_type)}
