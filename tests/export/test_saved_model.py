"""SavedModels: weights, graph and loaders."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_classifier import batch

from keras_netvlad.export import Artefact, export_saved_model, inspect_artefact
from keras_netvlad.layers import NetVLAD
from keras_netvlad.models import VideoClassifier


def test_a_saved_model_stores_each_weight_once(tmp_path):
    large = VideoClassifier({"frames": 64}, 100, num_clusters=32, hidden_units=256)
    export_saved_model(large, tmp_path / "1")
    stored = (tmp_path / "1" / "variables" / "variables.data-00000-of-00001").stat().st_size
    assert stored < 1.01 * 4 * large.count_params()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "float32"),
        ({"product_dtype": "bfloat16"}, "mixed_bfloat16"),
        ({"dtype": "mixed_float16"}, "mixed_float16"),
        ({"dtype": "float64"}, "float64"),
    ],
)
def test_the_precision_of_a_saved_model_is_that_of_its_layers(tmp_path, options, expected):
    frames = keras.Input((None, 4), name="frames", dtype="float64" if expected == "float64" else "float32")
    model = keras.Model(frames, NetVLAD(2, name="descriptor", **options)(frames))
    export_saved_model(model, tmp_path / "1", verify=False)
    assert inspect_artefact(tmp_path / "1").parity["precision"] == expected


def test_a_saved_model_loads_with_plain_tensorflow(artefacts, model):
    signature = tf.saved_model.load(artefacts[0] / "classifier" / "1").signatures["serving_default"]
    outputs = signature(**{name: tf.constant(values) for name, values in batch().items()})
    np.testing.assert_allclose(outputs["scores"], model(batch())["scores"], rtol=1e-5)


def test_a_saved_model_holds_no_device_no_python_and_no_xla(artefacts):
    from tensorflow.core.protobuf import saved_model_pb2

    proto = saved_model_pb2.SavedModel()
    proto.ParseFromString((artefacts[0] / "classifier" / "1" / "saved_model.pb").read_bytes())
    (meta_graph,) = proto.meta_graphs
    functions = meta_graph.graph_def.library.function
    nodes = [*meta_graph.graph_def.node, *(node for function in functions for node in function.node_def)]
    assert not {node.op for node in nodes} & {"PyFunc", "EagerPyFunc", "PyFuncStateless"}
    assert not any(node.op.startswith("Xla") for node in nodes)
    assert not any("_XlaMustCompile" in node.attr and node.attr["_XlaMustCompile"].b for node in nodes)
    assert not any(function.attr["_XlaMustCompile"].b for function in functions)
    # Reading the weights' files is placed on the CPU, whichever machine loads them; nothing else is placed.
    assert not any("GPU" in node.device or "task" in node.device for node in nodes)


@pytest.mark.slow
def test_saved_model_cli_runs_it(artefacts, tmp_path):
    np.savez(tmp_path / "batch.npz", **batch())
    finished = subprocess.run(
        [
            os.path.join(os.path.dirname(sys.executable), "saved_model_cli"),
            *("run", "--dir", str(artefacts[0] / "classifier" / "1")),
            *("--tag_set", "serve", "--signature_def", "serving_default"),
            "--inputs",
            f"frames={tmp_path}/batch.npz[frames];num_frames={tmp_path}/batch.npz[num_frames]",
            *("--outdir", str(tmp_path)),
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr
    expected = Artefact(artefacts[0] / "classifier" / "1").run(batch())
    np.testing.assert_allclose(np.load(tmp_path / "scores.npy"), expected["scores"], rtol=1e-5)


def test_the_same_model_gives_the_same_weights_and_hashes(artefacts, model, tmp_path):
    export_saved_model(model, tmp_path / "1", verify=False)
    fingerprints, weights = [], []
    for path in (artefacts[0] / "classifier" / "1", tmp_path / "1"):
        fingerprints.append(tf.saved_model.experimental.read_fingerprint(str(path)))
        weights.append({file.name: file.read_bytes() for file in (path / "variables").iterdir()})
    assert weights[0] == weights[1]
    for key in ("graph_def_program_hash", "signature_def_hash", "saved_object_graph_hash", "checkpoint_hash"):
        assert getattr(fingerprints[0], key) == getattr(fingerprints[1], key) != 0


def test_tfsm_layer_takes_and_returns_what_the_model_does(artefacts, model, tmp_path):
    layer = keras.layers.TFSMLayer(artefacts[0] / "classifier" / "1")
    outputs = layer(batch())
    for name, values in model(batch()).items():
        np.testing.assert_allclose(outputs[name], values, rtol=1e-5, atol=1e-7)
    assert len(layer.weights) == len(model.weights)

    frames, index = keras.Input((None, 4), name="frames"), keras.Input((1,), dtype="int32", name="index")
    pooled, vector = NetVLAD(2, name="pooled")(frames), keras.layers.Embedding(5, 2, name="vector")(index)
    values = [np.ones((2, 3, 4), "float32"), np.ones((2, 1), "int32")]
    for name, other, inputs in (
        ("list", keras.Model([frames, index], [pooled, vector]), values),
        ("tensor", keras.Model(frames, pooled), values[0]),
        ("sequential", keras.Sequential([keras.Input((None, 4), name="frames"), NetVLAD(2, name="out")]), values[0]),
    ):
        export_saved_model(other, tmp_path / name, verify=False)
        received = keras.layers.TFSMLayer(tmp_path / name)(inputs)
        keras.tree.map_structure(
            lambda one, two: np.testing.assert_allclose(one, two, rtol=1e-5), received, other(inputs)
        )
