"""Order and names of the nodes of an ONNX file."""

import os
import subprocess
import sys

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from small_classifier import make_classifier

from keras_netvlad.export import export_onnx
from keras_netvlad.export.onnx import precision as onnx_precision
from keras_netvlad.export.onnx.canonical_graph import merge_equal_nodes, name_graph, remove_identities, sort_graph
from keras_netvlad.layers import NetVLAD


def parse(text):
    return onnx.parser.parse_graph(text)


LOOP = """
graph (float[n] x, int64 count, bool go) => (float[n] y) <float two = {2}, float unused = {3}> {
    ["scope/layer_1/while__12"] y_raw = Loop(count, go, x) <body = body_7
    (int64 i__1, bool c__2, float[unk__3] v__4) => (bool d__5, float[unk__6] w__9) {
        ["layer/Mul__8"] w__9 = Mul(sum__10, scaled)
        ["layer/Add__10"] sum__10 = Add(v__4, scaled)
        ["layer/Neg__14"] no__14 = Neg(v__4)
        d__5 = Identity(c__2)
    }>
    scaled = Mul(x, two)
    never = Neg(x)
    y = Neg(y_raw)
}
"""


def test_sorting_follows_tensors_into_subgraphs_and_drops_the_rest():
    graph = parse(LOOP)
    sort_graph(graph)
    assert [node.op_type for node in graph.node] == ["Mul", "Loop", "Neg"]
    (body,) = [attribute.g for attribute in graph.node[1].attribute]
    assert [node.op_type for node in body.node] == ["Identity", "Add", "Mul"]
    assert [tensor.name for tensor in graph.initializer] == ["two"]


def test_names_are_layers_operators_and_numbers():
    graph = parse(LOOP)
    sort_graph(graph)
    name_graph(graph, ["layer"], ["constant", "Neg"])
    multiply, loop, negative = graph.node
    assert (list(multiply.input), list(multiply.output)) == (["x", "constant_1"], ["Mul"])
    assert loop.name == "layer/Loop"
    assert list(negative.input) == list(loop.output) == ["layer/Loop"]
    assert (negative.name, list(negative.output)) == ("Neg_1", ["y"])
    body = loop.attribute[0].g
    assert body.name == "layer/Loop/body"
    assert [value.name for value in body.input] == [f"layer/Loop/body/input{end}" for end in ("", "_1", "_2")]
    identity, add, product = body.node
    assert list(add.input) == ["layer/Loop/body/input_2", "Mul"]
    assert list(product.input) == [add.output[0], "Mul"] == ["layer/Add", "Mul"]
    assert [value.name for value in body.output] == [identity.output[0], product.output[0]]
    assert not any(dim.dim_param for value in (*body.input, *body.output) for dim in value.type.tensor_type.shape.dim)


def test_a_second_output_gets_a_name():
    graph = parse("graph (float[4] x) => (float[2] y) { a, b = Split <num_outputs = 2> (x) y = Add(a, b) }")
    name_graph(graph, [], [])
    assert list(graph.node[0].output) == list(graph.node[1].input) == ["Split", "Split/output"]


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ("a = Neg(x) y = Identity(a) z = Abs(a)", [("Neg", "x", "y"), ("Abs", "y", "z")]),
        (
            "a = Neg(x) b = Identity(a) c = Identity(b) y = Abs(c) z = Abs(b)",
            [("Neg", "x", "a"), ("Abs", "a", "y"), ("Abs", "a", "z")],
        ),
        # Two outputs are the same tensor, or an output is the input.
        ("y = Neg(x) z = Identity(y)", [("Neg", "x", "y"), ("Identity", "y", "z")]),
        ("a = Neg(x) y = Identity(a) z = Identity(a)", [("Neg", "x", "y"), ("Identity", "y", "z")]),
        ("z = Neg(x) y = Identity(z)", [("Identity", "z", "y"), ("Neg", "x", "z")]),
        ("y = Identity(x) z = Neg(y)", [("Identity", "x", "y"), ("Neg", "x", "z")]),
    ],
)
def test_identities_stay_only_where_an_output_needs_them(nodes, expected):
    graph = parse(f"graph (float[4] x) => (float[4] y, float[4] z) {{ {nodes} }}")
    remove_identities(graph)
    assert sorted((node.op_type, node.input[0], node.output[0]) for node in graph.node) == sorted(expected)


@pytest.mark.parametrize("outputs", [("p", "q"), ("q", "p")])
def test_identities_in_a_loop_stand_where_the_second_output_is_the_first(outputs):
    body = f"body (int64 i, bool c, float[4] v) => (bool d, {', '.join(f'float[4] {name}' for name in outputs)})"
    body += "{ p = Neg(v) q = Identity(p) d = Identity(c) }"
    loop = f"y, z = Loop(n, go, x) <body = {body}>"
    graph = parse(f"graph (int64 n, bool go, float[4] x) => (float[4] y, float[4] z) {{ {loop} }}")
    remove_identities(graph)
    body = graph.node[0].attribute[0].g
    condition, first, second = (value.name for value in body.output)
    made = {node.output[0]: (node.op_type, node.input[0]) for node in body.node}
    assert made == {condition: ("Identity", "c"), first: ("Neg", "v"), second: ("Identity", first)}


EQUAL_NODES = """
graph (float[4] x, int64 n, bool go) => (float[4] y, float[4] z) <float one = {1}, float same = {1}, float two = {2}> {
    a = Add(x, one)
    b = Add(x, same)
    c = Add(x, two)
    d = Neg(b)
    e = Neg(a)
    f = RandomNormalLike <seed = 3.0> (x)
    g = RandomNormalLike <seed = 3.0> (x)
    h = LeakyRelu <alpha = 0.5> (x)
    i = LeakyRelu <alpha = 0.25> (x)
    j = Loop(n, go, e) <body = b (int64 k, bool l, float[4] v) => (bool m, float[4] w) {
        m = Identity(l)
        p = Mul(v, e)
        q = Mul(v, d)
        w = Add(p, q)
    }>
    y = Sum(c, d, e, f, g, h, i, j)
    z = Sum(c, d, e, f, g, h, i, j)
}
"""


def test_of_equal_nodes_the_first_stays():
    graph = parse(EQUAL_NODES)
    merge_equal_nodes(graph)
    assert [node.output[0] for node in graph.node] == list("acdfghijyz")
    assert list(graph.node[-1].input) == list("cddfghij")
    loop = graph.node[-3]
    product, total = loop.attribute[0].g.node[1:]
    assert (loop.input[2], list(product.input), list(total.input)) == ("d", ["v", "d"], ["p", "p"])
    sort_graph(graph)
    assert [tensor.name for tensor in graph.initializer] == ["two", "one"]


def test_every_node_of_a_model_is_named_after_its_layer(tmp_path):
    export_onnx(make_classifier(), tmp_path / "model.onnx", verify=False)
    names = [node.name for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert len(set(names)) == len(names)
    checks = {"frames_rows", "num_frames_of_frames_rows"}  # that `num_frames` has as many rows as the frames
    assert {name.split("/")[0] for name in names} == {"frames_mask", "frames_netvlad", "hidden", "scores", *checks}


def recurrent_model(*layers):
    keras.utils.set_random_seed(0)
    frames = keras.Input((None, 3), name="frames")
    hidden = frames
    for layer in layers:
        hidden = layer(hidden)
    return keras.Model(frames, NetVLAD(2, name="descriptor")(hidden), name="recurrent")


def lstm():
    return recurrent_model(keras.layers.LSTM(2, return_sequences=True, name="lstm"))


def gru():
    return recurrent_model(keras.layers.GRU(2, return_sequences=True, name="gru"))


def masked_both_ways():
    inner = keras.layers.LSTM(2, return_sequences=True)
    return recurrent_model(keras.layers.Masking(name="masking"), keras.layers.Bidirectional(inner, name="both_ways"))


@pytest.mark.parametrize(
    "make_model",
    [lstm, pytest.param(gru, marks=pytest.mark.slow), pytest.param(masked_both_ways, marks=pytest.mark.slow)],
)
def test_recurrent_layers_export_to_the_same_bytes_each_time(make_model, tmp_path):
    model = make_model()
    for name in ("first.onnx", "second.onnx"):
        export_onnx(model, tmp_path / name, verify=False)
    assert (tmp_path / "first.onnx").read_bytes() == (tmp_path / "second.onnx").read_bytes()
    session = onnxruntime.InferenceSession(tmp_path / "first.onnx", providers=["CPUExecutionProvider"])
    for frames in (1, 9):
        data = np.random.default_rng(frames).normal(size=(3, frames, 3)).astype("float32")
        data[1, frames // 2 :] = 0  # masked
        (received,) = session.run(None, {"frames": data})
        # Measured: up to 2e-7.
        np.testing.assert_allclose(received, model(data), atol=1e-5)


@pytest.mark.slow
def test_a_verified_model_is_exported_to_the_same_bytes_each_time(artefacts, model, tmp_path):
    export_onnx(model, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_bytes() == (artefacts[0] / "model.onnx").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_reduced_precisions_give_the_same_bytes_each_time(model, precision, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_precision, "INT8_MIN_VALUES", 1)
    for name in ("first.onnx", "second.onnx"):
        export_onnx(model, tmp_path / name, precision=precision)
    assert (tmp_path / "first.onnx").read_bytes() == (tmp_path / "second.onnx").read_bytes()


EXPORT = """
import sys
from small_classifier import make_classifier
from keras_netvlad.export import export_onnx, export_saved_model
for name in ("serving_default", "serve_quantized", "accumulate", "describe"):
    export_onnx(make_classifier(), f"{sys.argv[1]}_{name}.onnx", verify=False, signature=name)
export_saved_model(make_classifier(), sys.argv[1], verify=False)
"""


@pytest.mark.slow
def test_two_processes_export_a_model_to_the_same_bytes(tmp_path):
    for seed in ("1", "2"):  # of the hashes, by which Python orders sets
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        subprocess.run([sys.executable, "-c", EXPORT, tmp_path / seed], check=True, env=environment)
    for name in ("serving_default", "serve_quantized", "accumulate", "describe"):
        first, second = (tmp_path / f"{seed}_{name}.onnx" for seed in "12")
        assert first.read_bytes() == second.read_bytes()
    for name in ("variables.index", "variables.data-00000-of-00001"):
        first, second = (tmp_path / seed / "variables" / name for seed in "12")
        assert first.read_bytes() == second.read_bytes()
