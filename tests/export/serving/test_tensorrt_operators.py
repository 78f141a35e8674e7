"""Exported graphs fit the operator tables of TensorRT and CUDA, and operators that do not fit are named."""

import keras
import numpy as np
import onnx
import pytest
from cuda_kernels import copies_to_the_host, nodes_on_the_cpu
from onnx import TensorProto, helper
from small_pictures import make_places, make_video_pixels

from keras_netvlad import VideoClassifier
from keras_netvlad.export import export_onnx
from keras_netvlad.export.onnx import precision
from keras_netvlad.export.serving.tensorrt_operators import tensorrt_obstacle
from keras_netvlad.layers import NetVLAD
from keras_netvlad.models import ensemble


def obstacle_in(model, path, **options):
    export_onnx(model, path, verify=False, **options)
    return tensorrt_obstacle(onnx.load(path))


def check_cuda(path):
    """Every node has a CUDA kernel for its dtype, and no tensor is copied from the GPU to the host."""
    proto = onnx.load(path)
    assert nodes_on_the_cpu(proto) == set()
    assert copies_to_the_host(proto) == set()


def maps():
    pictures = keras.Input((None, None, 3), name="maps")
    return keras.Model({"maps": pictures}, {"descriptor": NetVLAD(2, assignment="conv")(pictures)})


def preset():
    options = {"feature_sizes": {"rgb": 6, "audio": 4}, "num_clusters": 4, "hidden_units": 8}
    return VideoClassifier.from_preset("gated_netvlad", num_classes=3, **options)


def classifier(**options):
    return VideoClassifier({"frames": 6}, 3, num_clusters=4, **options)


MODELS = {
    "classifier": classifier,
    "maps": maps,
    "gated_netvlad": preset,
    "ensemble": lambda: ensemble([classifier(pooling="netvlad"), classifier(pooling="soft_dbow")]),
    "videos from pixels": make_video_pixels,
}


@pytest.mark.parametrize("name", MODELS)
def test_tensorrt_takes_every_operator(name, tmp_path):
    assert obstacle_in(MODELS[name](), tmp_path / "model.onnx") is None
    check_cuda(tmp_path / "model.onnx")


@pytest.mark.parametrize("form", ["float16", "int8-qdq"])
def test_tensorrt_takes_the_forms_for_gpus(form, tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "INT8_MIN_VALUES", 1)
    assert obstacle_in(classifier(hidden_units=8), tmp_path / "model.onnx", precision=form) is None
    check_cuda(tmp_path / "model.onnx")


def test_tensorrt_does_not_take_the_form_for_cpus(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "INT8_MIN_VALUES", 1)
    assert "UINT8" in obstacle_in(classifier(hidden_units=8), tmp_path / "model.onnx", precision="int8")
    assert nodes_on_the_cpu(onnx.load(tmp_path / "model.onnx")) == {("MatMulInteger", "UINT8")}


@pytest.mark.parametrize("options", [{"layout": "nhwc"}, {"layout": "nchw"}, {"size": (20, 28)}])
def test_tensorrt_takes_the_pictures(options, tmp_path):
    assert obstacle_in(make_places(), tmp_path / "model.onnx", **options) is None
    check_cuda(tmp_path / "model.onnx")


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_bytes_are_cast_and_nothing_else(layout, tmp_path):
    export_onnx(make_places(), tmp_path / "model.onnx", verify=False, layout=layout)
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert [node.op_type for node in graph.node if "images" in node.input] == ["Cast"]


def test_tensorrt_takes_bytes_of_features(tmp_path):
    assert obstacle_in(classifier(), tmp_path / "model.onnx", signature="serve_quantized") is None


def graph_of(*nodes, constants=(), dtype=TensorProto.FLOAT, output=TensorProto.FLOAT):
    inputs = [helper.make_tensor_value_info(name, dtype, [2, 3]) for name in ("x", "y")]
    outputs = [helper.make_tensor_value_info("out", output, None)]
    graph = helper.make_graph(list(nodes), "graph", inputs, outputs, list(constants))
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    )


def test_a_copy_to_the_host_is_found():
    nodes = [
        helper.make_node("Cast", ["x"], ["sizes"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["y", "sizes"], ["out"]),
    ]
    assert copies_to_the_host(graph_of(*nodes)) == {("Reshape", "x")}


@pytest.mark.parametrize(
    ("proto", "reason"),
    [
        (graph_of(helper.make_node("MatMulInteger", ["x", "y"], ["out"])), "MatMulInteger: TensorRT has no such"),
        (
            graph_of(helper.make_node("Shape", ["x"], ["out"]), dtype=TensorProto.UINT8, output=TensorProto.INT64),
            "Shape of UINT8: TensorRT only casts",
        ),
        (graph_of(helper.make_node("Sqrt", ["x"], ["out"]), dtype=TensorProto.DOUBLE), "Sqrt of DOUBLE"),
        (
            graph_of(
                helper.make_node("Cast", ["x"], ["axes"], to=TensorProto.INT64),
                helper.make_node("ReduceSum", ["y", "axes"], ["out"]),
            ),
            "ReduceSum: its input 1 must be a constant",
        ),
        (graph_of(helper.make_node("Gelu", ["x"], ["out"], domain="com.microsoft")), "Gelu: TensorRT has no such"),
    ],
)
def test_a_misfit_is_named(proto, reason):
    assert tensorrt_obstacle(proto).startswith(reason)


def test_a_misfit_in_a_branch_is_named():
    def branch(op_type):
        output = helper.make_tensor_value_info("branch", TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node(op_type, ["x"], ["branch"])], op_type, [], [output])

    condition = onnx.numpy_helper.from_array(np.array(True), "condition")
    node = helper.make_node("If", ["condition"], ["out"], then_branch=branch("Det"), else_branch=branch("Sqrt"))
    assert tensorrt_obstacle(graph_of(node, constants=[condition])) == "Det: TensorRT has no such operator"
