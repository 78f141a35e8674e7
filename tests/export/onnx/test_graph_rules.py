import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from selection import slow_except

from keras_netvlad.export import export_onnx
from keras_netvlad.export.onnx import conversion
from keras_netvlad.export.onnx.graph_rules import simplify
from keras_netvlad.layers import NetVLAD
from keras_netvlad.models import VideoClassifier


def pooling():
    frames = keras.Input((None, 6), name="frames")
    return keras.Model({"frames": frames}, {"descriptor": NetVLAD(4, name="pool")(frames)})


def classifier():
    return VideoClassifier({"frames": 6}, 5, num_clusters=4, hidden_units=8)


def graph_of(model, path, **options):
    assert export_onnx(model, path, **options).ok
    return onnx.load(path)


def op_types(proto):
    return [node.op_type for node in proto.graph.node]


# The graphs that are written


def test_the_layer_is_20_nodes(tmp_path):
    types = op_types(graph_of(pooling(), tmp_path / "model.onnx"))
    assert len(types) == 20, types
    assert not {"Shape", "Gather", "Slice", "Unsqueeze", "Reciprocal"} & set(types)


def test_the_video_classifier_is_36_nodes_and_asks_for_one_length(tmp_path):
    types = op_types(graph_of(classifier(), tmp_path / "model.onnx"))
    assert len(types) == 36, types
    assert types.count("Shape") == types.count("Range") == 1
    assert not {"Gather", "Slice"} & set(types)


def maps_of(*sizes, data_format="channels_last"):
    size = (*sizes[:-2], 3, *sizes[-2:]) if data_format == "channels_first" else (*sizes, 3)
    maps = keras.Input(size, name="maps")
    layer = NetVLAD(2, assignment="conv", data_format=data_format, name="pool")
    return keras.Model({"maps": maps}, {"descriptor": layer(maps)})


@pytest.mark.parametrize(("data_format", "num_nodes"), [("channels_last", 22), ("channels_first", 23)])
@pytest.mark.parametrize("sizes", [(None, None), (7, 7), (None, 7, 7), (None, None, None)])
def test_maps_of_any_size_are_flattened_without_a_look_at_their_shape(sizes, data_format, num_nodes, tmp_path):
    types = op_types(graph_of(maps_of(*sizes, data_format=data_format), tmp_path / "model.onnx"))
    # The layer, a reshape, a squeezed kernel; and a transpose where the channels are first.
    assert len(types) == num_nodes, types
    assert not {"Shape", "Gather", "Slice", "Concat", "Flatten"} & set(types)


@pytest.mark.parametrize("opset", slow_except(range(13, 19), 18))
@pytest.mark.parametrize("make", [pooling, classifier])
def test_every_tensor_has_a_type_and_named_axes(make, opset, tmp_path):
    proto = graph_of(make(), tmp_path / "model.onnx", opset=opset)
    onnx.checker.check_model(proto, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    values = {value.name: value for value in [*inferred.graph.value_info, *inferred.graph.output]}
    for node in proto.graph.node:
        for name in node.output:
            tensor_type = values[name].type.tensor_type
            assert tensor_type.elem_type
            assert tensor_type.HasField("shape")
            if opset >= 15:  # before, the length is cut out of a shape, which inference does not follow
                for dim in tensor_type.shape.dim:
                    assert dim.HasField("dim_value") or dim.dim_param in ("batch", "frames"), (name, dim)


@pytest.mark.parametrize("opset", slow_except([13, 15, 18], 18))
@pytest.mark.parametrize(
    "make",
    [
        pooling,
        classifier,
        lambda: VideoClassifier({"rgb": 6, "audio": 3}, 5, num_clusters=2, hidden_units=None, dtype="float64"),
    ],
)
def test_the_rules_keep_the_values(make, opset, tmp_path, monkeypatch):
    model = make()
    graph_of(model, tmp_path / "simple.onnx", opset=opset)
    monkeypatch.setattr(conversion, "simplify", lambda graph, opset: None)
    graph_of(model, tmp_path / "plain.onnx", opset=opset)
    sessions = [
        onnxruntime.InferenceSession(tmp_path / name, providers=["CPUExecutionProvider"])
        for name in ("simple.onnx", "plain.onnx")
    ]
    generator = np.random.default_rng(0)
    for batch, frames in ((1, 1), (3, 5), (2, 300)):
        feeds = {}
        for value in sessions[0].get_inputs():
            dtype = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(int32)": "int32"}[value.type]
            if dtype == "int32":
                feeds[value.name] = np.arange(batch, dtype=dtype) * 2  # a video without frames among them
            else:
                feeds[value.name] = generator.normal(size=(batch, frames, value.shape[2])).astype(dtype)
        for name in (value.name for value in sessions[0].get_outputs()):
            (simple,), (plain,) = (session.run([name], feeds) for session in sessions)
            # Measured: up to 2.4e-7 of the largest value.
            assert np.abs(simple - plain).max() <= 2e-6 * np.abs(plain).max()


# The rules, where they must not apply


def graph(nodes, constants, shape=("batch", 3, 4), outputs=("y",)):
    return helper.make_graph(
        [helper.make_node(*node[:3], **(node[3] if len(node) > 3 else {})) for node in nodes],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )


def run(graph):
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.arange(1, 25, dtype="float32").reshape(2, 3, 4)})


SQUARE = ("Mul", ["x", "x"], ["s"])
TOTAL = ("ReduceSum", ["s", "axis"], ["y"])


@pytest.mark.parametrize(
    ("nodes", "outputs", "expected"),
    [
        ([SQUARE, TOTAL], ["y"], ["ReduceSumSquare"]),
        # The squares are wanted, too.
        ([SQUARE, TOTAL], ["y", "s"], ["Mul", "ReduceSum"]),
        # A product of two things.
        ([("Neg", ["x"], ["n"]), ("Mul", ["x", "n"], ["s"]), TOTAL], ["y"], ["Neg", "Mul", "ReduceSum"]),
        ([("Reciprocal", ["x"], ["r"]), ("Mul", ["x", "r"], ["y"])], ["y"], ["Div"]),
        # The inverse is wanted, too; and squared.
        ([("Reciprocal", ["x"], ["r"]), ("Mul", ["x", "r"], ["y"])], ["y", "r"], ["Reciprocal", "Mul"]),
        ([("Reciprocal", ["x"], ["r"]), ("Mul", ["r", "r"], ["y"])], ["y"], ["Reciprocal", "Mul"]),
        # A sum over another axis than the one that the transpose swaps.
        (
            [
                ("Transpose", ["x"], ["t"], {"perm": [0, 2, 1]}),
                ("ReduceSum", ["x", "axis"], ["s"], {"keepdims": 0}),
                ("Unsqueeze", ["s", "axis"], ["u"]),
                ("MatMul", ["x", "t"], ["m"]),
                ("Mul", ["m", "u"], ["y"]),
            ],
            ["y"],
            ["Transpose", "ReduceSum", "Unsqueeze", "MatMul", "Mul"],
        ),
        # Two elements of a shape.
        (
            [
                ("Shape", ["x"], ["shape"]),
                ("Cast", ["shape"], ["cast"], {"to": TensorProto.FLOAT}),
                ("Slice", ["cast", "one", "three", "zero"], ["y"]),
            ],
            ["y"],
            ["Shape", "Cast", "Slice"],
        ),
        # Nothing reads it.
        ([("Neg", ["x"], ["unused"]), ("Abs", ["x"], ["y"])], ["y"], ["Abs"]),
    ],
)
def test_a_rule_applies_where_it_may(nodes, outputs, expected):
    constants = {
        "axis": np.array([2]),
        "one": np.array([1]),
        "three": np.array([3]),
        "zero": np.array([0]),
    }
    original = graph(nodes, constants, outputs=outputs)
    simple = onnx.GraphProto.FromString(original.SerializeToString())
    simplify(simple, 18)
    assert [node.op_type for node in simple.node] == expected
    used = {name for node in simple.node for name in node.input}
    assert {tensor.name for tensor in simple.initializer} <= used
    for received, wanted in zip(run(simple), run(original), strict=True):
        np.testing.assert_allclose(received, wanted, rtol=1e-6)


def reshaped(before, first, last, permutation=(0, 2, 1), lengths="in_order"):
    """Nodes that transpose `x`, ask for one length of a tensor, and reshape by it."""
    return [
        ("Transpose", ["x"], ["t"], {"perm": permutation}),
        ("Shape", [before], ["shape"]),
        ("Gather", ["shape", lengths], ["permuted"]),
        ("Cast", ["permuted"], ["cast"], {"to": TensorProto.INT32}),
        ("Slice", ["cast", first, last, "zero"], ["batch"]),
        ("Concat", ["batch", "rest"], ["target"], {"axis": 0}),
        ("Cast", ["target"], ["wide"], {"to": TensorProto.INT64}),
        ("Reshape", ["t", "wide"], ["y"]),
    ]


@pytest.mark.parametrize(
    ("nodes", "applies"),
    [
        (reshaped("t", "zero", "one"), True),
        (reshaped("x", "zero", "one"), True),  # the batch is the same before the transpose
        (reshaped("t", "one", "two"), False),  # another length
        (reshaped("t", "zero", "one", lengths="reversed"), False),  # the length of another axis
        (reshaped("x", "zero", "one", (1, 0, 2)), False),  # another axis comes first
    ],
)
def test_a_reshape_keeps_the_batch_only_where_it_asks_for_it(nodes, applies):
    constants = {
        **{name: np.array([value]) for value, name in enumerate(("zero", "one", "two"))},
        "in_order": np.array([0, 1, 2]),
        "reversed": np.array([2, 1, 0]),
        "rest": np.array([-1, 2], "int32"),
    }
    original = graph(nodes, constants)
    simple = onnx.GraphProto.FromString(original.SerializeToString())
    simplify(simple, 18)
    assert ([node.op_type for node in simple.node] == ["Transpose", "Reshape"]) is applies
    for received, wanted in zip(run(simple), run(original), strict=True):
        np.testing.assert_array_equal(received, wanted)
