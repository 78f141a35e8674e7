import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from selection import slow_except

from keras_netvlad.export import export_onnx
from keras_netvlad.export.onnx import conversion
from keras_netvlad.export.onnx.canonical_graph import sort_graph
from keras_netvlad.export.onnx.graph_rules import simplify
from keras_netvlad.export.onnx.graph_view import reads
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


def test_the_video_classifier_is_38_nodes_and_asks_for_one_length(tmp_path):
    types = op_types(graph_of(classifier(), tmp_path / "model.onnx"))
    assert len(types) == 38, types  # 2 of them compare the numbers of rows
    assert (types.count("Shape"), types.count("Range")) == (2, 1)
    assert not {"Gather", "Slice"} & set(types)


def maps_of(*sizes, data_format="channels_last"):
    size = (*sizes[:-2], 3, *sizes[-2:]) if data_format == "channels_first" else (*sizes, 3)
    maps = keras.Input(size, name="maps")
    layer = NetVLAD(2, assignment="conv", data_format=data_format, name="pool")
    return keras.Model({"maps": maps}, {"descriptor": layer(maps)})


@pytest.mark.parametrize(("data_format", "num_nodes"), [("channels_last", 22), ("channels_first", 23)])
@pytest.mark.parametrize("sizes", slow_except([(None, None), (7, 7), (None, 7, 7), (None, None, None)], (None, None)))
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


# Each rule on the smallest graph that it rewrites, and on graphs that lack one precondition and have all the others

CONSTANTS = {
    **{name: np.array([value]) for value, name in enumerate(("zero", "one", "two", "three", "four"))},
    **{"minus_two": np.array([-2]), "minus_one": np.array([-1]), "nothing": np.array([], "int64")},
    **{"rest": np.array([-1, 2]), "int32_rest": np.array([-1, 2], "int32")},
    **{"in_order": np.array([0, 1, 2]), "reversed": np.array([2, 1, 0])},
    **{"c": np.float32(30), "bounds": np.float32([20, 30, 40]), "yes": np.array(True)},
}


def parse(nodes, shape=(2, 3, 4), outputs="float y", opset=18):
    """A graph of `x` from nodes in ONNX's text format."""
    text = f"""<ir_version: 8, opset_import: ["" : {opset}]>
    graph (float[{",".join(map(str, shape))}] x) => ({outputs}) {{ {nodes} }}"""
    proto = onnx.parser.parse_model(text)
    for value in proto.graph.output:
        value.type.tensor_type.ClearField("shape")
    tensors = [onnx.numpy_helper.from_array(value, name) for name, value in CONSTANTS.items()]
    proto.graph.initializer.extend(tensors)
    sort_graph(proto.graph)
    return proto


def simplified(original):
    """The graph after the rules, which computes the same."""
    simple = onnx.ModelProto.FromString(original.SerializeToString())
    simplify(simple.graph, original.opset_import[0].version)
    for received, wanted in zip(run(simple), run(original), strict=True):
        assert received.dtype == wanted.dtype
        np.testing.assert_allclose(received, wanted, rtol=1e-6)
    used = {name for node in simple.graph.node for name in reads(node)}
    assert {tensor.name for tensor in simple.graph.initializer} <= used
    return simple


def run(proto):
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (x,) = session.get_inputs()
    return session.run(None, {"x": np.arange(1, np.prod(x.shape) + 1, dtype="float32").reshape(x.shape)})


def branches(name):
    """A node whose subgraphs read a tensor."""
    then = f"then () => (float[a] p) {{ p = Neg({name}) }}"
    otherwise = f"otherwise () => (float[a] q) {{ q = Abs({name}) }}"
    return f"w = If(yes) <then_branch = {then}, else_branch = {otherwise}>"


SQUARES = """
    s = Mul(x, x)
    y = ReduceSum(s, two)
"""
DIVISION = """
    r = Reciprocal(x)
    y = Mul(x, r)
"""
# The graphs of the next two rules have as many frames as clusters, so that wrong axes fit, too.
SHARE = """
    s = ReduceSum <keepdims = 0> (x, one)
    column = Unsqueeze(s, one)
    least = Max(column, c)
    share = Div(x, least)
    y = Transpose <perm = [0, 2, 1]> (share)
"""
SUM = """
    s = ReduceSum <keepdims = 0> (x, one)
    u = Unsqueeze(s, two)
    t = Transpose <perm = [0, 2, 1]> (x)
    y = Mul(t, u)
"""
FLATTEN = """
    y = Flatten(x)
"""
RESHAPE = """
    shape = Shape(x)
    batch = Slice(shape, zero, one, zero)
    target = Concat <axis = 0> (batch, rest)
    y = Reshape(x, target)
"""
TRANSPOSED = """
    t = Transpose <perm = [0, 2, 1]> (x)
    shape = Shape(t)
    permuted = Gather(shape, in_order)
    cast = Cast <to = 6> (permuted)
    batch = Slice(cast, zero, one, zero)
    target = Concat <axis = 0> (batch, int32_rest)
    wide = Cast <to = 7> (target)
    y = Reshape(t, wide)
"""
LENGTH = """
    shape = Shape(x)
    cast = Cast <to = 6> (shape)
    part = Slice(cast, one, two, zero)
    y = Squeeze(part, zero)
"""
SQUARE, INT32 = {"shape": (3, 3, 3)}, {"outputs": "int32 y"}


@pytest.mark.parametrize(
    ("nodes", "options", "expected"),
    [
        (SQUARES, {}, ["ReduceSumSquare"]),
        (SQUARES, {"opset": 13}, ["ReduceSumSquare"]),
        (SQUARES.replace("ReduceSum", "ReduceSum <keepdims = 0>"), {}, ["ReduceSumSquare"]),
        (SQUARES.replace("ReduceSum", "ReduceSum <keepdims = 0>"), {"opset": 13}, ["ReduceSumSquare"]),
        (DIVISION, {}, ["Div"]),
        (DIVISION.replace("Mul(x, r)", "Mul(r, x)"), {}, ["Div"]),
        (SHARE, SQUARE, ["Transpose", "ReduceSum", "Max", "Div"]),
        (SUM, SQUARE, ["Transpose", "ReduceSum", "Mul"]),
        (
            SUM.replace("y = Mul(t, u)", f"z = Mul(t, u) {branches('u')} y = Add(z, w)"),
            SQUARE,
            ["Transpose", "ReduceSum", "Mul", "If", "Add"],
        ),
        (FLATTEN, {}, ["Reshape"]),
        (FLATTEN.replace("Flatten", "Flatten <axis = 1>"), {}, ["Reshape"]),
        (RESHAPE, {}, ["Reshape"]),
        (TRANSPOSED, {}, ["Transpose", "Reshape"]),
        (TRANSPOSED.replace("Shape(t)", "Shape(x)"), {}, ["Transpose", "Reshape"]),
        (LENGTH, INT32, ["Shape", "Squeeze", "Cast"]),
        (LENGTH.replace("one, two", "zero, one"), INT32, ["Shape", "Squeeze", "Cast"]),
        # Nothing reads it.
        ("unused = Neg(x) y = Abs(x)", {}, ["Abs"]),
    ],
)
def test_a_rule_rewrites(nodes, options, expected):
    assert op_types(simplified(parse(nodes, **options))) == expected


@pytest.mark.parametrize(
    ("nodes", "options", "old", "new"),
    [
        # Squares: of two tensors, read twice, over axes that are unknown.
        (SQUARES, {}, "Mul(x, x)", "Mul(x, c)"),
        (SQUARES, {"outputs": "float y, float s"}, "", ""),
        (SQUARES, {}, "y = ReduceSum(s, two)", "z = ReduceSum(s, two) y = Add(z, s)"),
        (SQUARES, {}, "y = ReduceSum(s, two)", f"z = ReduceSum(s, two) {branches('s')} y = Add(z, w)"),
        (SQUARES, {}, "y = ReduceSum(s, two)", "axes = Abs(two) y = ReduceSum(s, axes)"),
        (SQUARES, {}, "ReduceSum(s, two)", "ReduceSum(s)"),
        (SQUARES, {}, "ReduceSum", "ReduceMean"),
        # Division: the inverse is read twice.
        (DIVISION, {"outputs": "float y, float r"}, "", ""),
        (DIVISION, {}, "y = Mul(x, r)", "z = Mul(x, r) y = Add(z, r)"),
        (DIVISION, {}, "y = Mul(x, r)", f"z = Mul(x, r) {branches('r')} y = Add(z, w)"),
        (DIVISION, {}, "Mul(x, r)", "Mul(r, r)"),
        # Shares: a step is read twice; other axes; another sum; a limit that is not one number.
        *((SHARE, {**SQUARE, "outputs": f"float y, float {name}"}, "", "") for name in ("share", "least", "column")),
        (SHARE.replace("y =", "z ="), SQUARE, "(share)", f"(share) {branches('share')} y = Add(z, w)"),
        (SHARE, SQUARE, "[0, 2, 1]", "[0, 1, 2]"),
        (SHARE, SQUARE, "[0, 2, 1]", "[1, 2, 0]"),
        (SHARE, SQUARE, "<perm = [0, 2, 1]>", ""),
        (SHARE, SQUARE, "Unsqueeze(s, one)", "Unsqueeze(s, two)"),
        (SHARE, SQUARE, "(x, one)", "(x, two)"),
        (SHARE, SQUARE, "s = ReduceSum <keepdims = 0> (x, one)", "n = Neg(x) s = ReduceSum <keepdims = 0> (n, one)"),
        (SHARE, SQUARE, "s = ReduceSum <keepdims = 0> (x, one)", "s = ReduceMax <keepdims = 0> (x, one)"),
        (SHARE, SQUARE, "Max(column, c)", "Max(column, bounds)"),
        (SHARE, SQUARE, "Max(column, c)", "Max(column, c, bounds)"),
        (SHARE, SQUARE, "least = Max(column, c)", "d = Neg(c) least = Max(column, d)"),
        (SHARE, SQUARE, "Max(column, c)", "Min(column, c)"),
        (SHARE, SQUARE, "Div(x, least)", "Div(least, x)"),
        # Sums: of kept axes, of other axes, of a tensor that is not transposed, read in another way.
        (SUM, SQUARE, "<keepdims = 0>", ""),
        (SUM, SQUARE, "(x, one)", "(x, two)"),
        (SUM, SQUARE, "Unsqueeze(s, two)", "Unsqueeze(s, one)"),
        (SUM, {**SQUARE, "outputs": "float y, float s"}, "", ""),
        (SUM, {**SQUARE, "outputs": "float y, float u"}, "", ""),
        (SUM, SQUARE, "y = Mul(t, u)", "z = Mul(t, u) y = Add(z, s)"),
        (SUM, SQUARE, "y = Mul(t, u)", f"z = Mul(t, u) {branches('s')} y = Add(z, w)"),
        (SUM, SQUARE, "t = Transpose <perm = [0, 2, 1]> (x)", "n = Neg(x) t = Transpose <perm = [0, 2, 1]> (n)"),
        (SUM, SQUARE, "[0, 2, 1]", "[0, 1, 2]"),
        (SUM, SQUARE, "<perm = [0, 2, 1]>", ""),
        # Shapes: another axis, another tensor, two lengths, lengths that are computed, another meaning of 0.
        (FLATTEN, {}, "Flatten", "Flatten <axis = 2>"),
        (FLATTEN, {}, "Flatten", "Flatten <axis = 0>"),
        (RESHAPE, {}, "zero, one, zero", "one, two, zero"),
        (RESHAPE, {}, "zero, one, zero", "zero, two, zero"),
        (RESHAPE, {}, "batch = Slice(shape, zero, one, zero)", "end = Abs(one) batch = Slice(shape, zero, end, zero)"),
        (RESHAPE, {}, "shape = Shape(x)", "more = Concat <axis = 0> (x, x) shape = Shape(more)"),
        (RESHAPE, {}, "(batch, rest)", "(rest, batch)"),
        (RESHAPE.replace("(batch, rest)", "(batch, minus_one, last)"), {}, "target = ", "last = Abs(two) target = "),
        (RESHAPE, {}, "Reshape(x", "Reshape <allowzero = 1> (x"),
        (TRANSPOSED, {}, "zero, one, zero", "one, two, zero"),
        (TRANSPOSED, {}, "in_order", "reversed"),
        (TRANSPOSED.replace("Shape(t)", "Shape(x)"), {}, "[0, 2, 1]", "[1, 0, 2]"),
        (TRANSPOSED.replace("Shape(t)", "Shape(x)"), {}, "<perm = [0, 2, 1]>", ""),
        # Lengths: a step is read twice; bounds that are computed, negative or too large; a part of a part.
        *((LENGTH, {"outputs": f"int32 y, int32 {name}"}, "", "") for name in ("part", "cast")),
        (LENGTH, {"outputs": "int32 y, int64 shape"}, "", ""),
        (LENGTH, INT32, "y = Squeeze(part, zero)", "z = Squeeze(part, zero) y = Add(z, part)"),
        (LENGTH, INT32, "y = Squeeze(part, zero)", "z = Squeeze(part, zero) y = Add(z, cast)"),
        (LENGTH, INT32, "part = Slice(cast, one, two, zero)", "end = Abs(two) part = Slice(cast, one, end, zero)"),
        (LENGTH, INT32, "one, two, zero", "minus_two, minus_one, zero"),
        (LENGTH, INT32, "one, two, zero", "two, four, zero"),
        (LENGTH, INT32, "Shape", "Shape <start = 1>"),
        (LENGTH, {**INT32, "opset": 14}, "", ""),
        (LENGTH, INT32, "Squeeze(part, zero)", "Neg(part)"),
    ],
)
def test_a_rule_keeps_a_graph_that_lacks_one_precondition(nodes, options, old, new):
    assert old in nodes
    original = parse(nodes.replace(old, new), **options)
    assert simplified(original).graph == original.graph


def reduction(op_type, attribute, axes=""):
    return f"y = {op_type} <keepdims = 1, noop_with_empty_axes = {attribute}> (x{axes})"


@pytest.mark.parametrize(
    ("nodes", "op_type", "num_attributes"),
    [
        (reduction("ReduceSum", 1, ", one"), "ReduceSum", 1),
        (reduction("ReduceSum", 0, ", one"), "ReduceSum", 1),
        (reduction("ReduceSum", 0), "ReduceSum", 1),
        (reduction("ReduceMax", 1, ", one"), "ReduceMax", 1),
        # No axes: all axes, unless the attribute is set.
        (reduction("ReduceSum", 1), "Identity", 0),
        (reduction("ReduceSum", 1, ", nothing"), "Identity", 0),
        # The axes are known when the graph runs.
        ("axes = Abs(one) " + reduction("ReduceSum", 1, ", axes"), "ReduceSum", 2),
        # This reduction squares its input even without axes.
        (reduction("ReduceSumSquare", 1, ", nothing"), "ReduceSumSquare", 2),
    ],
)
def test_reductions_lose_an_attribute_that_changes_nothing(nodes, op_type, num_attributes):
    node = simplified(parse(nodes)).graph.node[-1]
    assert (node.op_type, len(node.attribute)) == (op_type, num_attributes)


def test_reductions_in_subgraphs_lose_the_attribute():
    nodes = (
        branches("x")
        .replace("w =", "y =")
        .replace("p = Neg(x)", reduction("ReduceSum", 1, ", one").replace("y =", "p ="))
    )
    (node,) = simplified(parse(nodes)).graph.node
    assert [attribute.name for attribute in node.attribute[0].g.node[0].attribute] == ["keepdims"]
