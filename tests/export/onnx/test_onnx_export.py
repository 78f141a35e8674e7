"""ONNX files: graph, weights, operator sets and metadata."""

import json

import keras
import numpy as np
import onnx
import onnx.version_converter
import onnxruntime
import pytest
import tensorflow as tf
from selection import slow_except
from small_classifier import FEATURE_SIZE, batch

from keras_netvlad.export import export_onnx
from keras_netvlad.layers import NetVLAD


def signature_of(path):
    return onnx.load(path, load_external_data=False)


def test_onnx_axes_are_named_and_shared(artefacts):
    graph = signature_of(artefacts[0] / "model.onnx").graph
    dims = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in [*graph.input, *graph.output]
    }
    assert dims == {
        "frames": ["batch", "frames", FEATURE_SIZE],
        "num_frames": ["batch"],
        "scores": ["batch", 5],
        "descriptor": ["batch", 4 * FEATURE_SIZE],
    }


def test_onnx_passes_the_full_checker_and_names_its_weights(artefacts, model):
    proto = signature_of(artefacts[0] / "model.onnx")
    onnx.checker.check_model(proto, full_check=True)
    onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    assert {weight.path for weight in model.weights} <= {tensor.name for tensor in proto.graph.initializer}
    assert proto.opset_import[0].version == 18
    assert proto.producer_name == "keras_netvlad"


def test_onnx_picks_padding_with_where(artefacts):
    ops = [node.op_type for node in signature_of(artefacts[0] / "model.onnx").graph.node]
    assert ops.count("Where") >= 2


@pytest.mark.parametrize("opset", slow_except([13, 15, 17], 13))
def test_every_opset_computes_the_same(model, tmp_path, opset):
    assert export_onnx(model, tmp_path / "model.onnx", opset=opset).ok
    assert signature_of(tmp_path / "model.onnx").opset_import[0].version == opset


@pytest.mark.parametrize("opset", [15, 17, 19, 20, 21, 22, 23])
def test_onnx_converts_the_file_to_other_opsets(artefacts, opset):
    proto = signature_of(artefacts[0] / "model.onnx")
    converted = onnx.version_converter.convert_version(proto, opset)
    converted.ir_version = 10
    sessions = [
        onnxruntime.InferenceSession(one.SerializeToString(), providers=["CPUExecutionProvider"])
        for one in (proto, converted)
    ]
    for feeds in (batch(), batch(1, (1,)), batch(5, (0, 9, 2))):
        wanted, received = (session.run(None, feeds) for session in sessions)
        for one, other in zip(wanted, received, strict=True):
            np.testing.assert_allclose(other, one, atol=1e-6)


def test_no_reduction_has_an_attribute_that_webgpu_reads_wrongly(artefacts):
    nodes = signature_of(artefacts[0] / "model.onnx").graph.node
    assert "noop_with_empty_axes" not in {attribute.name for node in nodes for attribute in node.attribute}


def test_external_weights_are_one_aligned_file(model, tmp_path):
    report = export_onnx(model, tmp_path / "model.onnx", external_data_threshold=1)
    assert report.ok
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "model.onnx",
        "model.onnx.data",
        "model.onnx.parity.json",
    ]
    tensors = [
        tensor
        for tensor in signature_of(tmp_path / "model.onnx").graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    ]
    assert len(tensors) == len(model.weights)
    entries = [{entry.key: entry.value for entry in tensor.external_data} for tensor in tensors]
    assert {entry["location"] for entry in entries} == {"model.onnx.data"}
    assert all(int(entry["offset"]) % 65536 == 0 for entry in entries)
    written = sum((tmp_path / name).stat().st_size for name in ("model.onnx", "model.onnx.data"))
    # Measured before the report itself went into the file's metadata.
    assert report.num_bytes <= written < report.num_bytes + 1000


def test_a_sequential_model_exports(tmp_path):
    model = keras.Sequential([keras.Input((None, 3), name="frames"), NetVLAD(2), keras.layers.Dense(2, name="scores")])
    assert export_onnx(model, tmp_path / "model.onnx").ok


def test_an_op_without_onnx_form_is_named_and_nothing_written(tmp_path):
    class Eigenvalues(keras.Layer):
        def call(self, x):
            return tf.linalg.eigvalsh(tf.matmul(x, x, transpose_a=True))

        def compute_output_shape(self, shape):
            return (shape[0], shape[2])

    frames = keras.Input((None, 3), name="frames")
    model = keras.Model({"frames": frames}, {"values": Eigenvalues()(frames)})
    with pytest.raises(ValueError, match=r"made of ops that opset 18 can express.*SelfAdjointEig"):
        export_onnx(model, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("opset", [12, 19, 0, "18", True, 18.0])
def test_opsets_that_cannot_be_written_are_refused(model, tmp_path, opset):
    with pytest.raises(ValueError, match=r"`opset` must be an integer from 13 to 18. Received: opset="):
        export_onnx(model, tmp_path / "model.onnx", opset=opset)


def test_an_onnx_file_carries_its_metadata(model, tmp_path):
    metadata = {"labels": ["a", "b", "c", "d", "é"], "trained_on": "speech"}
    report = export_onnx(model, tmp_path / "model.onnx", metadata=metadata)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    entries = session.get_modelmeta().custom_metadata_map
    assert json.loads(entries["labels"]) == metadata["labels"]
    assert json.loads(entries["feature_sizes"]) == {"frames": FEATURE_SIZE}
    assert (entries["trained_on"], entries["precision"]) == ("speech", "float32")
    rows = {f"{row['signature']}:{row['output']}": row for row in report.as_dict()["outputs"]}
    assert json.loads(entries["parity"]) == {key: row["max_relative_difference"] for key, row in rows.items()}
    content = json.loads((tmp_path / "model.onnx.parity.json").read_text(encoding="utf-8"))
    assert (content["metadata"], content["precision"], content["parity"]) == (metadata, "float32", report.as_dict())


def test_onnxruntime_takes_any_batch_and_length(artefacts):
    session = onnxruntime.InferenceSession(artefacts[0] / "model.onnx", providers=["CPUExecutionProvider"])
    for size, frames in ((1, 1), (2, 300), (5, 3)):
        scores = session.run(["scores"], batch(frames, (frames,) * size))[0]
        assert scores.shape == (size, 5)


@pytest.mark.parametrize("name", ["inputs", "weights", "weight_0"])
def test_inputs_may_be_called_as_the_converter_calls_its_own(name, tmp_path):
    features = keras.Input((None, 4), name=name)
    model = keras.Model({name: features}, {"out": NetVLAD(2)(features)})
    assert export_onnx(model, tmp_path / "model.onnx").ok


@pytest.mark.parametrize("policy", slow_except(["float16", "mixed_float16"], "float16"))
def test_a_loop_of_float16_is_refused_because_onnxruntime_crashes_on_some(tmp_path, policy):
    frames = keras.Input((None, 3), name="frames")
    hidden = keras.layers.GRU(2, return_sequences=True, dtype=policy, name="gru")(frames)
    model = keras.Model(frames, {"descriptor": NetVLAD(2)(hidden)})
    with pytest.raises(ValueError, match=r"must compute in float32 or bfloat16, .* Received: float16 in .* 'gru'$"):
        export_onnx(model, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_an_output_of_bfloat16_is_float32_in_the_file(tmp_path):
    frames = keras.Input((None, 3), name="frames")
    embedding = keras.layers.Dense(2, dtype="mixed_bfloat16")(NetVLAD(2)(frames))
    report = export_onnx(keras.Model(frames, {"embedding": embedding}), tmp_path / "model.onnx")
    assert report.ok
    (output,) = onnx.load(tmp_path / "model.onnx").graph.output
    assert output.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
