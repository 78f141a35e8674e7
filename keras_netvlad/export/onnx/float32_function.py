"""`float32_function`: a TensorFlow function that computes in float32 where the original computes in bfloat16."""

from collections.abc import Callable, Iterable
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2, node_def_pb2, types_pb2


def float32_function(function: Any) -> Callable[..., Any] | None:
    """Returns a copy of a function that computes in float32 where the original computes in bfloat16.

    ONNX Runtime has no bfloat16 products on CPUs, and tf2onnx writes float16 for bfloat16, which overflows at 65504.
    The original, and the model that it was traced from, do not change.

    Args:
        function: A concrete function.

    Returns:
        A function with the same arguments, in float32, and the same results; or `None` if the original does not use
        bfloat16.
    """
    graph_def = function.graph.as_graph_def()
    nodes = [*graph_def.node, *(node for body in graph_def.library.function for node in body.node_def)]
    if types_pb2.DT_BFLOAT16 not in {dtype for node in nodes for dtype in _dtypes(node)}:
        return None
    # Other graphs of the process may use functions of the same name.
    names = {body.signature.name: f"{body.signature.name}_float32" for body in graph_def.library.function}
    for node in nodes:
        node.op = names.get(node.op, node.op)
        for attribute in node.attr.values():
            _change(attribute, names)
    for node in graph_def.node:  # in functions, others name the outputs of these nodes by their operator
        if node.op == "Cast" and node.attr["SrcT"] == node.attr["DstT"]:
            node.op = "Identity"
            node.attr["T"].type = node.attr["DstT"].type
            for name in ("SrcT", "DstT", "Truncate"):
                node.attr.pop(name, None)
    for body in graph_def.library.function:
        body.signature.name = names[body.signature.name]
        for argument in (*body.signature.input_arg, *body.signature.output_arg):
            argument.type = _float32(argument.type)
        for attribute in [value for values in body.arg_attr.values() for value in values.attr.values()]:
            attribute.ClearField("list")  # the shapes of the original's arguments
    del graph_def.library.gradient[:]

    def compute(*arguments: Any) -> Any:
        tensors = [*tf.nest.flatten(arguments), *function.captured_inputs]
        tensors = [tf.cast(tensor, tf.float32) if tensor.dtype == tf.bfloat16 else tensor for tensor in tensors]
        results = tf.graph_util.import_graph_def(
            graph_def,
            {original.name: tensor for original, tensor in zip(function.inputs, tensors, strict=True)},
            [result.name for result in function.outputs],
        )
        return tf.nest.pack_sequence_as(function.structured_outputs, results)

    return compute


def _dtypes(node: node_def_pb2.NodeDef) -> Iterable[int]:
    for attribute in node.attr.values():
        yield attribute.type
        yield from attribute.list.type


def _change(attribute: attr_value_pb2.AttrValue, names: dict[str, str]) -> None:
    """Replaces bfloat16 by float32, and the names of functions, in an attribute of a node."""
    kind = attribute.WhichOneof("value")
    if kind == "type":
        attribute.type = _float32(attribute.type)
    elif kind == "tensor" and attribute.tensor.dtype == types_pb2.DT_BFLOAT16:
        attribute.tensor.CopyFrom(tf.make_tensor_proto(tf.make_ndarray(attribute.tensor).astype("float32")))
    elif kind == "func":
        attribute.func.name = names.get(attribute.func.name, attribute.func.name)
    elif kind == "list":
        attribute.list.type[:] = [_float32(dtype) for dtype in attribute.list.type]
        for function in attribute.list.func:
            function.name = names.get(function.name, function.name)


def _float32(dtype: int) -> int:
    return types_pb2.DT_FLOAT if dtype == types_pb2.DT_BFLOAT16 else dtype
