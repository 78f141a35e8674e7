"""`reduce_precision`: large dense kernels of an ONNX graph in float16 or int8.

Only matrix products behind the pooling change, because they hold nearly all bytes of a video model. The pooling's own
weights in float16 would save 0.2% of the file and change the descriptor by half its largest value (trained models,
speech): intra-normalization magnifies the rounding of nearly empty clusters. The same holds for features in float16.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, get_args

import numpy as np
import onnx
from onnx import TensorProto, helper

from keras_netvlad.base.validation import check_choice
from keras_netvlad.export.onnx.graph_view import reads
from keras_netvlad.export.onnx.int8_kernel import (
    ACTIVATION_LEVELS,
    QDQ_ACTIVATION_LEVELS,
    column_scale,
    int8_kernel,
)
from keras_netvlad.export.onnx.stored_tensor import StoredTensor, stored_tensor
from keras_netvlad.export.onnx.weights import WeightValues

Precision = Literal["float32", "float16", "int8", "int8-qdq"]
PRECISIONS = get_args(Precision)
# Smallest number of values for which a kernel is written as int8. At batch 1, int8 takes 0.5 times as long as float32
# from this size, and 1.2 times as long at a quarter of it.
INT8_MIN_VALUES = 2**20
# Dict from the name of a tensor to its ONNX element type and its rank.
Types = Mapping[str, tuple[int, int]]
# The nodes that replace a product, and the constants that they read.
Replacement = tuple[list[onnx.NodeProto], dict[str, np.ndarray]]
# Appends a node with the given type, inputs, output and attributes, and returns the name of its output.
AddNode = Callable[..., str]


def check_precision(precision: str) -> str:
    """Returns the precision, or raises if an ONNX file cannot be written in it."""
    return check_choice("precision", precision, PRECISIONS)


def graph_precision(proto: onnx.ModelProto, weights: Iterable[str]) -> str:
    """Returns the precision that the model itself has in a graph.

    Args:
        proto: An ONNX model with inferred types, whose weights are inputs.
        weights: Names of the inputs that stand for weights.

    Returns:
        `"float32"`; `"float16"` or `"float64"` if all weights have it; or `"mixed_float16"` if there are both float32
        and float16.
    """
    graph = proto.graph
    tensors = {
        value.name: value.type.tensor_type.elem_type for value in [*graph.input, *graph.value_info, *graph.output]
    }
    floats = {TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16", TensorProto.DOUBLE: "float64"}
    stored = {floats[tensors[name]] for name in weights if tensors.get(name) in floats}
    if len(stored) == 1 and stored != {"float32"}:
        return stored.pop()
    return "mixed_float16" if TensorProto.FLOAT16 in tensors.values() else "float32"


def reduce_precision(
    proto: onnx.ModelProto, weights: Mapping[str, WeightValues], pooled: set[str], precision: str
) -> dict[str, StoredTensor]:
    """Rewrites the products of large dense kernels behind the pooling, in place.

    Args:
        proto: An ONNX model with inferred types, whose weights are inputs.
        weights: Dict from the name of each input that stands for a weight to the weight.
        pooled: Names of the inputs that stand for weights of pooling layers.
        precision: `"float16"`, `"int8"` or `"int8-qdq"`.

    Returns:
        Dict from inputs of the rewritten graph to `StoredTensor`: the kernels, and the scales of int8 kernels.

    Raises:
        ValueError: If there is no product to rewrite, or a kernel has values that are not finite.
    """
    graph = proto.graph
    opset = next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    types = _types(graph)
    chosen = large_kernels(proto, weights, pooled, precision)
    stored: dict[str, StoredTensor] = {}
    rewritten: dict[str, Replacement] = {}
    for name, products in chosen.items():
        path, values, _ = weights[name]
        if precision == "float16":
            stored[name] = stored_tensor(path, values, np.float16)
        else:
            levels = QDQ_ACTIVATION_LEVELS if precision == "int8-qdq" else ACTIVATION_LEVELS
            scale = column_scale(path, values, levels)
            stored[name] = int8_kernel(path, values, scale)
            stored[f"{name}_scale"] = stored_tensor(f"{path}_scale", scale, np.float32)
        for product in products:
            rewritten[product.output[0]] = REWRITES[precision](product, name, types, opset)
    _replace(graph, chosen, stored, rewritten)
    return stored


def large_kernels(
    proto: onnx.ModelProto, weights: Mapping[str, WeightValues], pooled: set[str], precision: str
) -> dict[str, list[onnx.NodeProto]]:
    """Finds the large dense kernels behind the pooling.

    Args:
        proto, weights, pooled, precision: See `reduce_precision`.

    Returns:
        Dict from inputs that stand for kernels to the products that read them.

    Raises:
        ValueError: If there is no such kernel.
    """
    kernels = _find_kernels(proto.graph, _types(proto.graph), set(weights) - _needed_by(proto.graph, pooled))
    sizes = {name: weights[name].values.size for name in kernels}
    smallest = 0 if precision == "float16" else INT8_MIN_VALUES
    chosen = {name: products for name, products in kernels.items() if sizes[name] >= smallest}
    if not chosen:
        raise ValueError(
            f"`precision` {precision!r} needs a dense layer behind the pooling with a kernel in float16 or float32"
            + (f" of {smallest} or more values" if smallest else "")
            + "; export with precision='float32'. Received: "
            + (f"kernels of up to {max(sizes.values())} values" if sizes else "no such kernel")
        )
    return chosen


def _types(graph: onnx.GraphProto) -> dict[str, tuple[int, int]]:
    return {
        value.name: (value.type.tensor_type.elem_type, len(value.type.tensor_type.shape.dim))
        for value in [*graph.input, *graph.value_info, *graph.output]
    }


def _needed_by(graph: onnx.GraphProto, weights: set[str]) -> set[str]:
    """Returns the names of all tensors that the readers of some weights depend on, including these weights."""
    names: set[str] = set()
    for node in reversed(graph.node):
        if names & set(node.output) or weights & set(reads(node)):
            names |= set(reads(node))
    return names


def _find_kernels(graph: onnx.GraphProto, types: Types, weights: Iterable[str]) -> dict[str, list[onnx.NodeProto]]:
    """Returns a dict from each float matrix that is used only as the right factor of products to these products."""
    readers: dict[str, list[tuple[onnx.NodeProto, int]]] = defaultdict(list)
    for node in graph.node:
        for position, name in enumerate(reads(node)):
            readers[name].append((node, position))

    def products(name: str) -> list[onnx.NodeProto | None]:
        """Returns the reading products, and `None` for every other reader."""
        found: list[onnx.NodeProto | None] = []
        for node, position in readers[name]:
            if node.op_type == "Cast":  # from a mixed dtype policy
                found += products(node.output[0])
            else:
                found.append(node if node.op_type == "MatMul" and position == 1 else None)
        return found

    kernels = {}
    for name in sorted(weights):
        found = products(name) if types[name][1] == 2 else []
        floats = (TensorProto.FLOAT, TensorProto.FLOAT16)
        nodes = [node for node in found if node is not None and types[node.input[1]][0] in floats]
        if nodes and len(nodes) == len(found):
            kernels[name] = nodes
    return kernels


def _float16_product(product: onnx.NodeProto, kernel: str, types: Types, opset: int) -> Replacement:
    """Writes a float16 product. A GPU multiplies in float16; a CPU converts the kernel once, while it loads."""
    nodes, add = _writer(product)
    rows = _cast(add, product.input[0], types[product.input[0]][0], TensorProto.FLOAT16)
    result_type = types[product.input[1]][0]
    if result_type == TensorProto.FLOAT16:
        add("MatMul", [rows, kernel], output=product.output[0])
    else:
        add("Cast", [add("MatMul", [rows, kernel])], output=product.output[0], to=result_type)
    return nodes, {}


def _int8_product(product: onnx.NodeProto, kernel: str, types: Types, opset: int) -> Replacement:
    """Writes an integer product, which every runtime has, of an int8 kernel and rows in two terms of 7 bits.

    A row is `step * (high + low / 126)` with integers `high` and `low` from -63 to 63. Each row has its own scale, so
    NaN stays in its row and no row depends on the others. `DynamicQuantizeLinear` has one scale for the whole batch,
    and turns NaN into numbers. With the second term only the kernel's rounding remains. It costs a fifth of the time at
    batch 1, where most of the time is spent on reading the kernel. With one term the largest difference is two to six
    times as large and grows with every outlier of a descriptor.
    """
    nodes, add = _writer(product)
    rank = types[product.input[0]][1]
    constants: dict[str, np.ndarray] = {
        "int8/last_axis": np.array([-1], np.int64),
        "int8/first_axis": np.array([0], np.int64),
        "int8/step": np.array(1 / ACTIVATION_LEVELS, np.float32),
        "int8/tiny": np.array(1e-30, np.float32),  # avoids 0 / 0 in a row of zeros
        "int8/low_levels": np.array(2 * ACTIVATION_LEVELS, np.float32),
        "int8/offset": np.array(ACTIVATION_LEVELS + 1, np.float32),
        # Unsigned: onnxruntime's product of signed rows takes 40 times as long on x86.
        "int8/zero_point": np.array(ACTIVATION_LEVELS + 1, np.uint8),
        f"int8/terms_{rank}": np.array([1, 0.5 / ACTIVATION_LEVELS], np.float32).reshape(2, *[1] * rank),
    }
    rows = _cast(add, product.input[0], types[product.input[0]][0], TensorProto.FLOAT)
    size = add("Abs", [rows])
    if opset < 18:
        largest = add("ReduceMax", [size], axes=[-1], keepdims=1)
    else:
        largest = add("ReduceMax", [size, "int8/last_axis"], keepdims=1)
    step = add("Add", [add("Mul", [largest, "int8/step"]), "int8/tiny"])
    scaled = add("Div", [rows, step])
    high = add("Round", [scaled])
    low = add("Round", [add("Mul", [add("Sub", [scaled, high]), "int8/low_levels"])])
    # Both terms as rows of one product: the kernel is read once.
    terms = add("Concat", [add("Unsqueeze", [term, "int8/first_axis"]) for term in (high, low)], axis=0)
    terms = add("Cast", [add("Add", [terms, "int8/offset"])], to=TensorProto.UINT8)
    sums = add("Cast", [add("MatMulInteger", [terms, kernel, "int8/zero_point"])], to=TensorProto.FLOAT)
    sums = add("ReduceSum", [add("Mul", [sums, f"int8/terms_{rank}"]), "int8/first_axis"], keepdims=0)
    # The terms are added before the scales are applied: onnxruntime 1.32 fuses a product followed by its scales and a
    # bias, and then scales the bias as well.
    sums = add("Mul", [sums, f"{kernel}_scale"])
    result_type = types[product.input[1]][0]
    if result_type == TensorProto.FLOAT:
        add("Mul", [sums, step], output=product.output[0])
    else:
        add("Cast", [add("Mul", [sums, step])], output=product.output[0], to=result_type)
    return nodes, constants


def _int8_qdq_product(product: onnx.NodeProto, kernel: str, types: Types, opset: int) -> Replacement:
    """Writes a product of dequantized int8 values, which GPU runtimes run as an integer product.

    TensorRT takes scales that are constants, and zero points of zero. So the rows are divided by their own step in
    float32, as in `_int8_product`, and then quantized with the constant scale 1. No calibration is needed. A row is
    `step * (high + low / 254)` with integers `high` and `low` from -127 to 127.
    """
    nodes, add = _writer(product)
    constants: dict[str, np.ndarray] = {
        "qdq/last_axis": np.array([-1], np.int64),
        "qdq/step": np.array(1 / QDQ_ACTIVATION_LEVELS, np.float32),
        "qdq/tiny": np.array(1e-30, np.float32),  # avoids 0 / 0 in a row of zeros
        "qdq/low_levels": np.array(2 * QDQ_ACTIVATION_LEVELS, np.float32),
        "qdq/one": np.array(1, np.float32),
        "qdq/zero": np.array(0, np.int8),
    }
    rows = _cast(add, product.input[0], types[product.input[0]][0], TensorProto.FLOAT)
    size = add("Abs", [rows])
    if opset < 18:
        largest = add("ReduceMax", [size], axes=[-1], keepdims=1)
    else:
        largest = add("ReduceMax", [size, "qdq/last_axis"], keepdims=1)
    step = add("Add", [add("Mul", [largest, "qdq/step"]), "qdq/tiny"])
    scaled = add("Div", [rows, step])
    high = add("Round", [scaled])
    low = add("Mul", [add("Sub", [scaled, high]), "qdq/low_levels"])  # `QuantizeLinear` rounds it
    # Both terms as rows of one product: the kernel is read once.
    levels = add("QuantizeLinear", [add("Concat", [high, low], axis=0), "qdq/one", "qdq/zero"])
    levels = add("DequantizeLinear", [levels, "qdq/one", "qdq/zero"])
    weights = add("DequantizeLinear", [kernel, f"{kernel}_scale"], axis=1)
    sums = add("MatMul", [levels, weights])
    of_high, of_low = f"{sums}/high", f"{sums}/low"
    count: dict[str, Any] = {} if opset < 18 else {"num_outputs": 2}
    nodes.append(helper.make_node("Split", [sums], [of_high, of_low], name=f"{sums}/Split", axis=0, **count))
    sums = add("Add", [of_high, add("Div", [of_low, "qdq/low_levels"])])
    result_type = types[product.input[1]][0]
    if result_type == TensorProto.FLOAT:
        add("Mul", [sums, step], output=product.output[0])
    else:
        add("Cast", [add("Mul", [sums, step])], output=product.output[0], to=result_type)
    return nodes, constants


# The functions that write a product, by the precision.
REWRITES: dict[str, Callable[[onnx.NodeProto, str, Types, int], Replacement]] = {
    "float16": _float16_product,
    "int8": _int8_product,
    "int8-qdq": _int8_qdq_product,
}


def _writer(product: onnx.NodeProto) -> tuple[list[onnx.NodeProto], AddNode]:
    """Returns an empty list for the nodes that replace a product, and a function that appends to it."""
    nodes: list[onnx.NodeProto] = []
    prefix = product.output[0].removesuffix(":0")

    def add(op_type: str, inputs: list[str], output: str | None = None, **attributes: Any) -> str:
        output = output or f"{prefix}/{op_type}_{len(nodes)}"
        nodes.append(helper.make_node(op_type, inputs, [output], name=output, **attributes))
        return output

    return nodes, add


def _cast(add: AddNode, name: str, present: int, wanted: int) -> str:
    return name if present == wanted else add("Cast", [name], to=wanted)


def _replace(
    graph: onnx.GraphProto,
    chosen: Mapping[str, list[onnx.NodeProto]],
    stored: Mapping[str, StoredTensor],
    rewritten: Mapping[str, Replacement],
) -> None:
    """Replaces the products of the chosen kernels, and declares the stored weights as inputs."""
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, np.ndarray] = {}
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in chosen:
            continue  # the kernel in the compute dtype of a mixed policy, which no node reads any more
        new_nodes, new_constants = rewritten.get(node.output[0], ([node], {}))
        nodes += new_nodes
        constants.update(new_constants)
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(onnx.numpy_helper.from_array(values, name) for name, values in constants.items())
    inputs = [value for value in graph.input if value.name not in stored]
    del graph.input[:]
    graph.input.extend(inputs)
    for name, tensor in stored.items():
        elem_type = helper.np_dtype_to_tensor_dtype(tensor.dtype)
        graph.input.append(helper.make_tensor_value_info(name, elem_type, tensor.shape))
