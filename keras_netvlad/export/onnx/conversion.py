"""`convert_graph`: a Keras model as an ONNX graph whose weights are inputs."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import onnx
import tensorflow as tf
import tf2onnx
from tf2onnx.optimizer import _get_optimizers, optimize_graph

from keras_netvlad._version import __version__
from keras_netvlad.base.validation import check_integer
from keras_netvlad.export.float8 import check_no_float8
from keras_netvlad.export.forward import forward
from keras_netvlad.export.onnx.canonical_graph import name_graph
from keras_netvlad.export.onnx.float32_function import float32_function
from keras_netvlad.export.onnx.graph_rules import name_positions, shape_of_bytes, simplify
from keras_netvlad.export.onnx.row_check import check_rows
from keras_netvlad.export.reason import explained_tracing
from keras_netvlad.export.signature import SERVING_DEFAULT, Signature
from keras_netvlad.export.verification.artefact import PAST

OPSETS = range(13, max(tf2onnx.constants.OPSET_TO_IR_VERSION) + 1)

# All optimizers except the merge of equal nodes: `merge_equal_nodes` does that in an order that is always the same.
OPTIMIZERS = {name: factory for name, factory in _get_optimizers().items() if name != "merge_duplication"}

# tf2onnx warns that it has no `LSTM` operator for weights that are inputs. It writes a `Loop`, which computes the same.
logging.getLogger("tf2onnx.tfonnx").addFilter(lambda record: not str(record.msg).startswith("rewriter"))


def check_opset(opset: int) -> int:
    """Returns the operator set, or raises if tf2onnx cannot write this package's graphs in it."""
    return check_integer("opset", opset, OPSETS[0], OPSETS[-1])


def convert_graph(
    model: keras.Model, signature: Signature, weights: Sequence[keras.Variable], opset: int
) -> onnx.ModelProto:
    """Converts a model to an ONNX graph.

    The weights do not pass through the converter: they are inputs of the graph, named by `placeholder`. So the graph
    is small and its size does not depend on the weights.

    Args:
        model: The Keras model.
        signature: One of its signatures.
        weights: Its weights, in the order of `weights_of`.
        opset: ONNX operator set.

    Returns:
        The ONNX model, with named axes and types of all tensors.

    Raises:
        ValueError: If ONNX has no operator for an operation of the model, a layer is quantized to float8, or a
            recurrent layer computes in float16.
    """
    signature = _in_one_namespace(signature)
    check_no_float8(model, "ONNX")
    weight_specs = [
        tf.TensorSpec(weight.shape, weight.dtype, placeholder(index)) for index, weight in enumerate(weights)
    ]
    input_specs = {port.name: tf.TensorSpec(port.shape, port.dtype, port.name) for port in signature.inputs}
    # TensorFlow numbers the name of an input that equals the name of an argument. No input starts with an underscore.
    function = tf.function(lambda _weights, _inputs: forward(model, signature, _weights, _inputs), autograph=False)
    with explained_tracing():
        traced = function.get_concrete_function(weight_specs, input_specs)
    in_float32 = float32_function(traced)
    if in_float32 is not None:
        function = tf.function(in_float32, autograph=False)
        weight_specs, input_specs = tf.nest.map_structure(_in_float32, (weight_specs, input_specs))
        traced = function.get_concrete_function(weight_specs, input_specs)
    proto = _converted(traced, opset)
    simplify(proto.graph, opset)
    layers = {layer.name for layer in model._flatten_layers(include_self=False)}
    name_graph(proto.graph, layers, [weight.path for weight in weights])
    proto.graph.name = model.name if signature.name == SERVING_DEFAULT else f"{model.name}_{signature.name}"
    proto.graph.doc_string = ""  # the converter writes a name of TensorFlow that is different each time
    proto.producer_name, proto.producer_version = "keras_netvlad", __version__
    _name_axes(proto, signature)
    check_rows(proto.graph, signature, opset)
    shape_of_bytes(proto.graph)
    _check_loops(proto.graph)
    try:
        proto = infer_types(proto)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ValueError(
            f"The model must be made of ops that opset {opset} can express; export it as a SavedModel or change the "
            f"layer. Received: {' '.join(str(error).split())}"
        ) from error
    return proto


def placeholder(index: int) -> str:
    """Returns the name of the graph's input that stands for a weight."""
    return f"weight.{index}"


def infer_types(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Checks a graph and infers the types and shapes of its tensors. This is cheap while the weights are inputs."""
    onnx.checker.check_model(proto, full_check=True)
    return onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)


def _in_one_namespace(signature: Signature) -> Signature:
    """Returns a signature whose inputs have other names than its outputs, with the prefix `PAST` where needed."""
    outputs = {port.name for port in signature.outputs}
    names = {port.name: f"{PAST}{port.name}" if port.name in outputs else port.name for port in signature.inputs}

    def compute(values: Mapping[str, Any]) -> dict[str, Any]:
        return signature.compute({name: values[in_file] for name, in_file in names.items()})

    inputs = tuple(replace(port, name=names[port.name]) for port in signature.inputs)
    return replace(signature, inputs=inputs, compute=compute)


def _check_loops(graph: onnx.GraphProto) -> None:
    """Raises if a loop computes in float16, because onnxruntime 1.32 crashes while it loads some of these files."""
    half = onnx.TensorProto.FLOAT16
    for node in graph.node:
        bodies = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
        for body in bodies:
            casts = [attribute.i for inner in body.node if inner.op_type == "Cast" for attribute in inner.attribute]
            types = [value.type.tensor_type.elem_type for value in (*body.input, *body.output, *body.value_info)]
            types += [tensor.data_type for tensor in body.initializer]
            if half in (*casts, *types):
                raise ValueError(
                    "Recurrent layers in ONNX files must compute in float32 or bfloat16, because onnxruntime crashes "
                    "on some loops of float16; give these layers `dtype='float32'`, or export a SavedModel. Received: "
                    f"float16 in the layer {node.name.split('/')[0]!r}"
                )
            _check_loops(body)


def _converted(traced: tf.types.experimental.ConcreteFunction, opset: int) -> onnx.ModelProto:
    """Converts a traced function as `tf2onnx.convert.from_function` does, but with `OPTIMIZERS` only."""
    converted = _as_onnx(traced, opset)
    try:
        # tf2onnx would copy the graph before each optimizer, in case that fails. The copies take most of the time.
        optimized = optimize_graph(converted, catch_errors=False, optimizers=OPTIMIZERS)
    except Exception:
        # An optimizer that fails, with any exception, may have changed the graph. It is left out in a new one.
        optimized = optimize_graph(_as_onnx(traced, opset), optimizers=OPTIMIZERS)
    return optimized.make_model("")


def _as_onnx(traced: tf.types.experimental.ConcreteFunction, opset: int) -> Any:
    """Returns tf2onnx's graph of a traced function, not optimized."""
    # Tensors that a layer holds besides its weights, such as the mean of `keras.layers.Normalization`.
    constants = {
        symbol.name: value for value, symbol in traced.graph.captures if isinstance(value, tf.__internal__.EagerTensor)
    }
    constants = {name: value.numpy() for name, value in constants.items() if value.dtype != tf.resource}
    inputs, outputs = ([tensor.name for tensor in tensors] for tensors in (traced.inputs, traced.outputs))
    with tf.device("/cpu:0"):
        frozen = tf2onnx.tf_loader.from_function(traced, inputs, outputs)
        _set_constants(frozen, constants)
        inputs = [name for name in inputs if name not in constants]
        with tf.Graph().as_default() as graph:
            tf.import_graph_def(frozen, name="")
            return tf2onnx.tfonnx.process_tf_graph(
                graph,
                continue_on_error=True,
                opset=opset,
                custom_op_handlers={
                    "SelectV2": (_write_where, []),
                    "Less": (_write_less, []),
                    "Erfc": (_write_erfc, []),
                },
                input_names=inputs,
                output_names=outputs,
                tensors_to_rename=tf2onnx.convert.tensor_names_from_structed(traced, inputs, outputs),
            )


def _set_constants(graph: tf.compat.v1.GraphDef, constants: Mapping[str, Any]) -> None:
    """Replaces placeholders of a graph, given by the names of their tensors, by constants."""
    values = {name.split(":")[0]: value for name, value in constants.items()}
    for node in graph.node:
        if node.name in values:
            dtype = node.attr["dtype"].type
            node.op = "Const"
            node.attr.clear()
            node.attr["dtype"].type = dtype
            node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(values[node.name], dtype))


def _in_float32(spec: tf.TensorSpec) -> tf.TensorSpec:
    return tf.TensorSpec(spec.shape, tf.float32, spec.name) if spec.dtype == tf.bfloat16 else spec


def _write_where(context: Any, node: Any, name: str, args: Any) -> None:
    """Converts `SelectV2` to `Where`. tf2onnx multiplies by the condition instead, and NaN times 0 is NaN."""
    node.type = "Where"


def _write_less(context: Any, node: Any, name: str, args: Any) -> None:
    """Keeps comparisons of integers. tf2onnx casts both sides to float, where integers above 2^24 are not exact.

    In the condition of a loop, tf2onnx later replaces the int32 counter by ONNX's int64 counter. There both sides
    become int64.
    """
    if any(side.is_graph_input() for side in node.inputs):
        for side in list(node.input):
            if context.get_dtype(side) in (onnx.TensorProto.INT32, onnx.TensorProto.INT64):
                context.insert_new_node_on_input(node, "Cast", side, to=onnx.TensorProto.INT64)


def _write_erfc(context: Any, node: Any, name: str, args: Any) -> None:
    """Converts `Erfc`, which the exact GELU of Keras uses and ONNX lacks, to 1 - `Erf`."""
    node.type = "Erf"
    one = context.make_const(
        tf2onnx.utils.make_name("one"),
        np.array(1, tf2onnx.utils.map_onnx_to_numpy_type(context.get_dtype(node.input[0]))),
    )
    erf = node.output[0]
    context.insert_new_node_on_output("Sub", erf, tf2onnx.utils.make_name("erfc"), inputs=[one.output[0], erf])


def _name_axes(proto: onnx.ModelProto, signature: Signature) -> None:
    """Names the unknown axes of inputs and outputs, and puts the outputs into the order of the signature."""
    for values, ports in ((proto.graph.input, signature.inputs), (proto.graph.output, signature.outputs)):
        by_name = {port.name: port for port in ports}
        for value in values:
            if value.name in by_name:
                port = by_name[value.name]
                dims = [name or size for name, size in zip(port.axis_names, port.shape, strict=True)]
                shape = onnx.helper.make_tensor_type_proto(value.type.tensor_type.elem_type, dims)
                value.type.CopyFrom(shape)
    order = [port.name for port in signature.outputs]
    outputs = sorted(proto.graph.output, key=lambda value: order.index(value.name))
    del proto.graph.output[:]
    proto.graph.output.extend(outputs)
    # The converter invents names for axes, such as `unk__36`. Shape inference repeats this with the named axes.
    del proto.graph.value_info[:]
    name_positions(proto.graph)
