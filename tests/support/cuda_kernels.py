"""Which nodes of a graph onnxruntime's CUDA provider takes, by its table of kernels.

The facts are those of onnxruntime's docs/OperatorKernels.md at commit 001d12d, for operator sets 16 to 18: the dtypes
of the kernels of the operators in this package's graphs. Kernels read shapes, axes and limits in host memory.
"""

import onnx
from onnx import TensorProto

FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE}
NUMBERS = FLOATS | {TensorProto.INT32, TensorProto.INT64}
ALL = NUMBERS | {TensorProto.BOOL, TensorProto.INT8, TensorProto.UINT8}
OF_FLOATS = """
AveragePool BatchNormalization Conv Erf Exp Gemm GlobalAveragePool Log MatMul MaxPool ReduceSumSquare Reciprocal Relu
Round Sigmoid Softmax Softplus Sqrt Tanh
"""
OF_NUMBERS = "Add Abs Div Equal Greater Less Max Min Mul Neg Pow Range ReduceMax ReduceSum Sub Where"
OF_ALL = """
Cast Concat ConstantOfShape Expand Flatten Gather Identity Reshape Shape Slice Split Squeeze Transpose Unsqueeze
"""
KERNELS = {
    **dict.fromkeys(OF_FLOATS.split(), FLOATS),
    **dict.fromkeys(OF_NUMBERS.split(), NUMBERS),
    **dict.fromkeys(OF_ALL.split(), ALL),
    "And": {TensorProto.BOOL},
    "Not": {TensorProto.BOOL},
    "Or": {TensorProto.BOOL},
    "Clip": FLOATS | {TensorProto.INT64, TensorProto.INT8, TensorProto.UINT8},
    "Pad": FLOATS | {TensorProto.BOOL},
    "ReduceMean": FLOATS | {TensorProto.INT32},
    "MatMulInteger": {TensorProto.INT8, TensorProto.INT32},
    "QuantizeLinear": {TensorProto.FLOAT, TensorProto.INT8, TensorProto.UINT8},
    "DequantizeLinear": {TensorProto.FLOAT, TensorProto.INT8, TensorProto.UINT8},
}
HOST_INPUTS = {
    "Range": (0, 1, 2),
    "Slice": (1, 2, 3, 4),
    "ConstantOfShape": (0,),
    "Pad": (1,),
    **dict.fromkeys(["Expand", "Reshape", "ReduceMax", "ReduceMean", "ReduceSum", "ReduceSumSquare"], (1,)),
    **dict.fromkeys(["Split", "Squeeze", "Unsqueeze"], (1,)),
}


def nodes_on_the_cpu(proto):
    """Returns the types and dtypes of the nodes without a CUDA kernel."""
    proto = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    graph = proto.graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info, *graph.output)}
    types.update((tensor.name, tensor.data_type) for tensor in graph.initializer)
    found = set()
    for node in graph.node:
        opset = next(entry.version for entry in proto.opset_import if entry.domain == "")
        schema = onnx.defs.get_schema(node.op_type, opset)
        variable = {one.type_param_str for one in schema.type_constraints if len(one.allowed_type_strs) > 1}
        for names, parameters in ((node.input, schema.inputs), (node.output, schema.outputs)):
            for position, name in enumerate(names):
                is_data = name and parameters[min(position, len(parameters) - 1)].type_str in variable
                if is_data and types[name] not in KERNELS.get(node.op_type, ()):
                    found.add((node.op_type, TensorProto.DataType.Name(types[name])))
    return found


def copies_to_the_host(proto):
    """Returns the nodes that read data of the device as a shape, an axis or a limit.

    What is computed from shapes and constants alone stays on the host.
    """
    makers = {name: node for node in proto.graph.node for name in node.output}
    inputs = {value.name for value in proto.graph.input}
    found = set()
    for node in proto.graph.node:
        pending = [node.input[place] for place in HOST_INPUTS.get(node.op_type, ()) if place < len(node.input)]
        while pending:
            name = pending.pop()
            if name in inputs:
                found.add((node.op_type, name))
            elif name in makers and makers[name].op_type != "Shape":
                pending += makers[name].input
    return found
