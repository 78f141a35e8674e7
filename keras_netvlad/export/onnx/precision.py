"""Large dense kernels of an ONNX graph in float16 or int8; everything else as the model has it.

Only matrix products behind the pooling change: nearly all bytes of a video model are there. The pooling's own weights
in float16 would save 0.2% of the file and move the descriptor by half its largest value (trained models, speech), for
intra-normalization magnifies the rounding of clusters that are nearly empty; so does it of features.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper

PRECISIONS = ("float32", "float16", "int8")
# Largest difference, relative to the largest magnitude of the output, that an export allows unless told otherwise:
# ten times what trained models were measured to differ by on real frames (float16: 1.5e-4, int8: 5.5e-3).
TOLERANCES = {"float16": 2e-3, "int8": 5e-2}
# Values from which a kernel is written as int8. At batch 1 int8 takes 0.5 times float32's time from here, and 1.2
# times at a quarter of it.
INT8_MIN_VALUES = 2**20
# Levels of an int8 kernel and of activations, on either side of zero. 127 * (63 + 64) * 2 fits 16 bits: processors
# without VNNI add two such products in 16 bits and saturate beyond (an emulated Haswell lost up to 99% of a sum of
# 8-bit activations, and nothing of 7-bit ones).
KERNEL_LEVELS, ACTIVATION_LEVELS = 127, 63
# Values that are converted at a time.
BLOCK_VALUES = 2**22


@dataclass(frozen=True)
class StoredTensor:
    """A weight as a file will hold it.

    Attributes:
        name: Name of the initializer.
        shape: Tuple of integers.
        dtype: NumPy's.
        blocks: Function that yields the values in order, as arrays of that dtype; a block at a time, so that a
            conversion never holds the whole of a large weight twice.
    """

    name: str
    shape: tuple
    dtype: np.dtype
    blocks: Callable = field(repr=False)

    @property
    def num_bytes(self):
        """Size of its values."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize


def check_precision(precision):
    """Raises if an artefact can't be written in a precision."""
    if precision not in PRECISIONS:
        raise ValueError(f"`precision` must be one of {list(PRECISIONS)}. Received: precision={precision!r}")


def stored_tensor(name, values, dtype):
    """A weight in a float dtype of its own or of fewer bits."""

    def blocks():
        if values.dtype == dtype:
            yield values  # its own memory, no copy
            return
        for block in _blocks(values):
            with np.errstate(over="ignore"):
                converted = block.astype(dtype)
            if not np.isfinite(converted).all():
                raise ValueError(
                    f"{np.dtype(dtype)} holds finite weights of up to {np.finfo(dtype).max}; export with "
                    f"precision='float32' or scale the layer. Received: {name!r} with weights of up to "
                    f"{np.max(np.abs(block)):.3g}"
                )
            yield converted

    return StoredTensor(name, values.shape, np.dtype(dtype), blocks)


def reduce_precision(proto, weights, pooled, precision):
    """Rewrites the products of large dense kernels behind the pooling, in place.

    Args:
        proto: An ONNX model, its types inferred, whose weights are inputs.
        weights: Dict from the name of such an input to the weight's name, values and dtype.
        pooled: Names of those that belong to pooling layers, a set.
        precision: `"float16"` or `"int8"`.

    Returns:
        Dict from inputs of the rewritten graph to `StoredTensor`: the kernels, and scales that are new.

    Raises:
        ValueError: If there is no product to rewrite, or its kernel holds values that are not finite.
    """
    graph = proto.graph
    opset = next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    types = {
        value.name: (value.type.tensor_type.elem_type, len(value.type.tensor_type.shape.dim))
        for value in [*graph.input, *graph.value_info, *graph.output]
    }
    kernels = _find_kernels(graph, types, set(weights) - _needed_by(graph, pooled))
    sizes = {name: weights[name][1].size for name in kernels}
    smallest = INT8_MIN_VALUES if precision == "int8" else 0
    chosen = {name: products for name, products in kernels.items() if sizes[name] >= smallest}
    if not chosen:
        raise ValueError(
            f"`precision` {precision!r} needs a dense layer behind the pooling with a kernel in float16 or float32"
            + (f" of {smallest} or more values" if smallest else "")
            + "; export with precision='float32'. Received: "
            + (f"kernels of up to {max(sizes.values())} values" if sizes else "no such kernel")
        )
    stored, rewritten = {}, {}
    for name, products in chosen.items():
        path, values, _ = weights[name]
        if precision == "float16":
            stored[name] = stored_tensor(path, values, np.float16)
        else:
            scale = _column_scale(path, values)
            stored[name] = _int8_tensor(path, values, scale)
            stored[f"{name}_scale"] = stored_tensor(f"{path}_scale", scale, np.float32)
        for product in products:
            rewrite = _float16_product if precision == "float16" else _int8_product
            rewritten[product.output[0]] = rewrite(product, name, types, opset)
    _replace(graph, chosen, stored, rewritten)
    return stored


def _needed_by(graph, weights):
    """Names of all that the readers of some weights depend on, those weights included."""
    names = set()
    for node in reversed(graph.node):
        if names & set(node.output) or weights & set(node.input):
            names |= set(node.input)
    return names


def _find_kernels(graph, types, weights):
    """Dict from each float matrix that is only ever multiplied from the left to its products."""
    readers = defaultdict(list)
    for node in graph.node:
        for position, name in enumerate(node.input):
            readers[name].append((node, position))

    def products(name):
        found = []
        for node, position in readers[name]:
            if node.op_type == "Cast":  # a mixed policy's
                found += products(node.output[0])
            else:
                found.append(node if node.op_type == "MatMul" and position == 1 else None)
        return found

    kernels = {}
    for name in sorted(weights):
        found = products(name) if types[name][1] == 2 else []
        floats = (TensorProto.FLOAT, TensorProto.FLOAT16)
        if found and all(node is not None and types[node.input[1]][0] in floats for node in found):
            kernels[name] = found
    return kernels


def _float16_product(product, kernel, types, opset):
    """A true float16 product: a GPU multiplies it so, a CPU widens the kernel once, when it loads."""
    nodes, add = _writer(product)
    rows = _cast(add, product.input[0], types[product.input[0]][0], TensorProto.FLOAT16)
    result_type = types[product.input[1]][0]
    if result_type == TensorProto.FLOAT16:
        add("MatMul", [rows, kernel], output=product.output[0])
    else:
        add("Cast", [add("MatMul", [rows, kernel])], output=product.output[0], to=result_type)
    return nodes, {}


def _int8_product(product, kernel, types, opset):
    """An integer product that every runtime has, of an int8 kernel and rows in two terms of 7 bits.

    A row is `step * (high + low / 126)`, high and low integers from -63 to 63. One scale for each row: NaN stays in
    its row, and no row's answer depends on the others, where `DynamicQuantizeLinear` has one for the whole batch and
    answers NaN with numbers. The second term leaves the kernel's rounding as all there is, and costs a fifth of the
    time at batch 1, where reading the kernel is what takes long; with one term the largest difference is two to six
    times as large, and grows with every outlier of a descriptor.
    """
    nodes, add = _writer(product)
    rank = types[product.input[0]][1]
    constants = {
        "int8/last_axis": np.array([-1], np.int64),
        "int8/first_axis": np.array([0], np.int64),
        "int8/step": np.array(1 / ACTIVATION_LEVELS, np.float32),
        "int8/tiny": np.array(1e-30, np.float32),  # a row of zeros is no 0 / 0
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
    # The sum of the terms lies between the product and its factors: onnxruntime 1.32 fuses a product that (rows *
    # columns) and a bias follow, and scales the bias, too.
    sums = add("Mul", [sums, f"{kernel}_scale"])
    result_type = types[product.input[1]][0]
    if result_type == TensorProto.FLOAT:
        add("Mul", [sums, step], output=product.output[0])
    else:
        add("Cast", [add("Mul", [sums, step])], output=product.output[0], to=result_type)
    return nodes, constants


def _writer(product):
    """A list of nodes that take a product's place, and a function that appends to it and returns the output."""
    nodes = []
    prefix = product.output[0].removesuffix(":0")

    def add(op_type, inputs, output=None, **attributes):
        output = output or f"{prefix}/{op_type}_{len(nodes)}"
        nodes.append(helper.make_node(op_type, inputs, [output], name=output, **attributes))
        return output

    return nodes, add


def _cast(add, name, present, wanted):
    return name if present == wanted else add("Cast", [name], to=wanted)


def _replace(graph, chosen, stored, rewritten):
    """Puts rewritten products in their places, and the stored weights' types among the inputs."""
    nodes, constants = [], {}
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in chosen:
            continue  # a kernel in the dtype that a mixed policy computed in; nothing reads it any more
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


def _column_scale(name, values):
    """The size of one level in each column of a kernel `(rows, columns)`: `(columns,)`, float32."""
    largest = np.zeros(values.shape[1], np.float32)
    total = np.zeros(values.shape[1], np.float64)
    for block in _blocks(values):
        size = np.abs(block.astype(np.float32, copy=False))
        largest = np.maximum(largest, size.max(axis=0))  # NaN stays NaN
        total += size.sum(axis=0, dtype=np.float64)
    if not np.isfinite(largest).all():
        raise ValueError(
            f"int8 kernels are made of finite weights; train again. Received: {name!r} with NaN or infinity"
        )
    # The second: a column's levels add up to less than 32 bits hold, which those of 268 000 rows need not.
    scale = np.maximum(largest / KERNEL_LEVELS, total / (2**30 / ACTIVATION_LEVELS))
    scale = scale.astype(np.float32)
    return np.where(scale > 0, scale, np.float32(1))


def _int8_tensor(name, values, scale):
    def blocks():
        for block in _blocks(values):
            yield np.rint(block / scale).astype(np.int8)

    return StoredTensor(name, values.shape, np.dtype(np.int8), blocks)


def _blocks(values):
    values = np.atleast_1d(values)
    rows = max(1, BLOCK_VALUES // max(1, values[0].size if len(values) else 1))
    for start in range(0, len(values), rows):
        yield values[start : start + rows]
