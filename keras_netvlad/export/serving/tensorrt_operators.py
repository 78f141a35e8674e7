"""`tensorrt_obstacle`: the first node of an ONNX graph that TensorRT's parser does not take.

The facts are those of onnx-tensorrt's operator table for TensorRT 10.1 (docs/operators.md, commit 96e7811). They name
the operators, the dtypes of their data and the inputs that must be constants. A graph that fits can still fail to build
an engine, which only a machine with a GPU shows.
"""

from collections.abc import Iterator

import onnx
from onnx import NodeProto, TensorProto

from keras_netvlad.export.onnx.graph_view import subgraphs

FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16})
NUMBERS = FLOATS | {TensorProto.INT32, TensorProto.INT64}
ALL = NUMBERS | {TensorProto.BOOL}
# Operators by the dtypes of their data. `DOUBLE` is left out: TensorRT computes it in float32.
OF_FLOATS = """
Acos Acosh Asin Asinh Atan Atanh AveragePool BatchNormalization Ceil Celu Clip Conv ConvTranspose Cos Cosh CumSum
Dropout Einsum Elu Erf Exp Floor GRU Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool HardSigmoid HardSwish Hardmax
InstanceNormalization IsInf LRN LSTM LayerNormalization LeakyRelu Log LogSoftmax LpNormalization LpPool MatMul MaxPool
MeanVarianceNormalization PRelu Pow QuantizeLinear RNN Reciprocal Resize Round Scan Selu Sigmoid Sin Sinh Softmax
Softplus Softsign Sqrt Tan Tanh ThresholdedRelu Upsample
"""
OF_NUMBERS = """
Abs Add ArgMax ArgMin DepthToSpace Div Equal Gelu Greater GreaterOrEqual IsNaN Less LessOrEqual Max Mean Min Mod Mul Neg
Pad Range ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
ReduceSumSquare Relu ScatterElements ScatterND Shrink Sign SpaceToDepth Sub Sum TopK
"""
OF_ALL = """
Concat Constant ConstantOfShape Expand EyeLike Flatten Gather GatherElements GatherND Identity If Loop OneHot Reshape
ReverseSequence Shape Size Slice Split Squeeze Tile Transpose Trilu Unsqueeze Where
"""
OPERATORS = {
    **dict.fromkeys(OF_FLOATS.split(), FLOATS),
    **dict.fromkeys(OF_NUMBERS.split(), NUMBERS),
    **dict.fromkeys(OF_ALL.split(), ALL),
    **dict.fromkeys(["And", "Not", "Or", "Xor"], frozenset({TensorProto.BOOL})),
    "Cast": ALL | {TensorProto.UINT8},
    "DequantizeLinear": frozenset({TensorProto.INT8}),
}
# Dict from an operator to the position of an input that must be a constant: axes, or the zero point of a quantization.
CONSTANTS = {
    **{name: 1 for name in OPERATORS if name.startswith("Reduce") or name in ("CumSum", "Squeeze", "Unsqueeze")},
    **{"Slice": 3, "Pad": 3, "QuantizeLinear": 1, "DequantizeLinear": 1},
}


def tensorrt_obstacle(proto: onnx.ModelProto) -> str | None:
    """Returns why TensorRT's parser does not take a graph, or `None` if all nodes are in its operator table.

    Args:
        proto: An ONNX model. Its weights may be external and absent.

    Returns:
        The first node that does not fit with the reason, such as `"MatMulInteger: TensorRT has no such operator"`.
    """
    proto = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    opset = next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    byte_ports = {
        value.name
        for value in (*proto.graph.input, *proto.graph.output)
        if value.type.tensor_type.elem_type == TensorProto.UINT8
    }
    return next(_obstacles(proto.graph, opset, byte_ports, {}, set()), None)


def _obstacles(
    graph: onnx.GraphProto, opset: int, byte_ports: set[str], outer_types: dict[str, int], outer_constants: set[str]
) -> Iterator[str]:
    """Yields the reason for each node of a graph and its subgraphs that TensorRT does not take."""
    values = (*graph.input, *graph.value_info, *graph.output)
    types = {**outer_types, **{value.name: value.type.tensor_type.elem_type for value in values}}
    types.update((tensor.name, tensor.data_type) for tensor in graph.initializer)
    constants = outer_constants | {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type not in OPERATORS or node.domain not in ("", "ai.onnx"):
            yield f"{node.op_type}: TensorRT has no such operator"
            continue
        for name in _data(node, opset):
            if types.get(name) == TensorProto.UINT8 and (node.op_type != "Cast" or name not in byte_ports):
                yield f"{node.op_type} of UINT8: TensorRT only casts inputs and outputs of this type"
            elif types.get(name) not in OPERATORS[node.op_type]:
                yield f"{node.op_type} of {TensorProto.DataType.Name(types.get(name, 0))}"
        position = CONSTANTS.get(node.op_type, len(node.input))
        if position < len(node.input) and node.input[position] and node.input[position] not in constants:
            yield f"{node.op_type}: its input {position} must be a constant"
        for subgraph in subgraphs(node):
            yield from _obstacles(subgraph, opset, byte_ports, types, constants)


def _data(node: NodeProto, opset: int) -> Iterator[str]:
    """Yields the tensors of a node to which the dtypes of the table apply: no shapes, indices, masks and scales."""
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        yield node.input[0]
        return
    if subgraphs(node):
        return  # the nodes of the subgraphs are checked
    schema = onnx.defs.get_schema(node.op_type, opset)
    allowed = {constraint.type_param_str: len(constraint.allowed_type_strs) for constraint in schema.type_constraints}
    for names, parameters in ((node.input, schema.inputs), (node.output, schema.outputs)):
        for position, name in enumerate(names):
            parameter = parameters[min(position, len(parameters) - 1)]
            if name and allowed.get(parameter.type_str, 1) > 1:
                yield name
