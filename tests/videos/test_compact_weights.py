"""Weights of an ONNX model in float16 and int8: how they are rounded, and which ones."""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from keras_netvlad.videos.web.compact_weights import compact_weights

GENERATOR = np.random.default_rng(0)
SHAPES = {"conv": (16, 8, 3, 3), "turned": (3, 3, 8, 16), "matrix": (32, 64), "gemm": (64, 32), "bias": (2048,)}


def model(*nodes, weights, inputs, output="y", opset=18):
    """An ONNX model with a single output of free shape."""
    floats = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, floats, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(output, floats, None)],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def run(proto, **inputs):
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


def products(weights):
    """Models with one kernel each: a convolution, one whose kernel is transposed on the way, and dense layers."""
    turn = helper.make_node("Transpose", ["turned"], ["kernel"], perm=[3, 2, 0, 1])
    image, rows = {"x": (1, 8, 6, 6)}, {"x": (5, 32)}
    return {
        "conv": model(helper.make_node("Conv", ["x", "conv"], ["y"]), weights=weights, inputs=image),
        "turned": model(turn, helper.make_node("Conv", ["x", "kernel"], ["y"]), weights=weights, inputs=image),
        "matrix": model(helper.make_node("MatMul", ["x", "matrix"], ["y"]), weights=weights, inputs=rows),
        "gemm": model(helper.make_node("Gemm", ["x", "gemm"], ["y"], transB=1), weights=weights, inputs=rows),
    }


@pytest.mark.parametrize(("name", "axis"), [("conv", 0), ("turned", 3), ("matrix", 1), ("gemm", 0)])
@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_each_channel_is_rounded_by_itself(name, axis, dtype):
    values = GENERATOR.normal(size=SHAPES[name]).astype("float32")
    # Channels of very different sizes, one of which is zero.
    size = np.logspace(-3, 3, values.shape[axis]).astype("float32")
    size[1] = 0
    values *= size.reshape([-1 if index == axis else 1 for index in range(values.ndim)])
    original = products({name: values})[name]
    compact = compact_weights(original, dtype)
    assert len(compact.SerializeToString()) < (0.6 if dtype == "float16" else 0.4) * len(original.SerializeToString())
    stored = {TensorProto.FLOAT16: "float16", TensorProto.INT8: "int8"}
    assert dtype in [stored.get(tensor.data_type) for tensor in compact.graph.initializer]
    if dtype == "float16":
        rounded = values.astype("float16").astype("float32")
    else:
        others = tuple(index for index in range(values.ndim) if index != axis)
        step = np.abs(values).max(axis=others, keepdims=True) / 127
        rounded = np.rint(values / np.where(step, step, 1)) * step
    x = GENERATOR.normal(size=[size.dim_value for size in original.graph.input[0].type.tensor_type.shape.dim])
    expected, received = (
        run(products({name: rounded})[name], x=x.astype("float32")),
        run(compact, x=x.astype("float32")),
    )
    np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_other_weights_are_kept():
    """A bias, a small kernel, a matrix that is also added, and one whose channels are rows and columns."""
    weights = {name: GENERATOR.normal(size=shape).astype("float32") for name, shape in SHAPES.items()}
    small = GENERATOR.normal(size=(32, 31)).astype("float32")
    nodes = [
        helper.make_node("MatMul", ["x", "matrix"], ["once"]),
        helper.make_node("Add", ["matrix", "matrix"], ["twice"]),
        helper.make_node("MatMul", ["x", "twice"], ["other"]),
        helper.make_node("Add", ["once", "other"], ["sum"]),
        helper.make_node("MatMul", ["x", "small"], ["unused"]),
        helper.make_node("Add", ["bias", "bias"], ["unused_bias"]),
        helper.make_node("MatMul", ["x", "square"], ["columns"]),
        helper.make_node("Gemm", ["columns", "square"], ["unused_rows"], transB=1),
        helper.make_node("Identity", ["sum"], ["y"]),
    ]
    square = GENERATOR.normal(size=(32, 32)).astype("float32")
    kept = {"matrix": weights["matrix"], "bias": weights["bias"], "small": small, "square": square}
    original = model(*nodes, weights=kept, inputs={"x": (5, 32)})
    assert compact_weights(original, "int8") == original


@pytest.mark.parametrize(
    ("dtype", "value", "largest"), [("float16", 1e5, "100000"), ("int8", np.inf, "inf"), ("float16", np.nan, "nan")]
)
def test_weights_without_a_value_in_the_dtype_are_named(dtype, value, largest):
    values = np.ones((32, 64), "float32")
    values[3, 4] = value
    message = rf"Weights in {dtype} must be finite and at most .*; use float32. Received: {largest} in 'matrix'"
    with pytest.raises(ValueError, match=message):
        compact_weights(products({"matrix": values})["matrix"], dtype)
