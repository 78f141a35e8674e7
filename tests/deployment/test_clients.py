"""The onnxruntime and Node clients, run as processes on a real artefact."""

import json
import shutil
import subprocess
import sys

import keras
import numpy as np
import onnxruntime
import pytest
from paths import EXPORT

from keras_netvlad.export import Artefact, export_onnx
from keras_netvlad.models import VideoClassifier

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("artefacts")
    keras.utils.set_random_seed(0)
    model = VideoClassifier({"frames": 4}, 5, num_clusters=2, hidden_units=None)
    assert export_onnx(model, directory / "model.onnx").ok
    (directory / "cut.onnx").write_bytes((directory / "model.onnx").read_bytes()[:1000])
    # Weights in a second file, which did not come along.
    assert export_onnx(model, directory / "large.onnx", external_data_threshold=0).ok
    (directory / "large.onnx.data").unlink()
    return directory


def draw():
    frames = np.random.default_rng(0).normal(size=(2, 5, 4)).astype("float32")
    frames[1, 2:] = np.nan  # padding
    return {"frames": frames, "num_frames": np.array([5, 2], "int32")}


def with_int64(inputs):
    """Counts as NumPy makes them."""
    return {**inputs, "num_frames": inputs["num_frames"].astype("int64")}


def run(command, *arguments):
    command = [str(part) for part in (*command, *arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def assert_refused(finished, name, message):
    """One sentence on stderr, code 1, nothing on stdout."""
    assert finished.returncode == 1
    assert finished.stdout == ""
    *notes, sentence = finished.stderr.splitlines()
    assert all(note.startswith(("CPUExecutionProvider: ", "CUDAExecutionProvider: ")) for note in notes), notes
    assert sentence.startswith(f"{name}: ")
    assert message in sentence


# What is wrong with the inputs, and what is said about it.
WRONG_INPUTS = {
    "one missing": (lambda inputs: {"frames": inputs["frames"]}, "The inputs must be the model's, ["),
    "one too many": (lambda inputs: {**inputs, "audio": inputs["frames"]}, "The inputs must be the model's, ["),
    "another feature size": (lambda inputs: {**inputs, "frames": inputs["frames"][:, :, :3]}, "5, 3)"),
    "another rank": (lambda inputs: {**inputs, "frames": inputs["frames"][0]}, "Received: (5, 4)"),
    "another batch": (lambda inputs: {**inputs, "num_frames": inputs["num_frames"][:1]}, "Received: (1"),
    "counts with fractions": (lambda inputs: {**inputs, "num_frames": np.array([5.5, 2.5])}, "num_frames"),
    "counts beyond int32": (lambda inputs: {**inputs, "num_frames": np.array([5, 2**32 + 2])}, "fit int32"),
    "text": (lambda inputs: {**inputs, "frames": inputs["frames"].astype(str)}, "frames"),
}
WRONG_MODELS = {
    "absent.onnx": "absent.onnx",
    "cut.onnx": "cut.onnx",
    "large.onnx": "large.onnx.data",
    ".": "Received: ",
}


# onnxruntime_client.py

ONNXRUNTIME = (sys.executable, EXPORT / "onnxruntime_client.py")


def test_the_onnxruntime_client_gets_what_the_artefact_computes(directory, tmp_path):
    np.savez(tmp_path / "inputs.npz", **with_int64(draw()))
    finished = run(
        ONNXRUNTIME, directory / "model.onnx", tmp_path / "inputs.npz", "--output", tmp_path / "outputs.npz", "--top", 2
    )
    assert finished.returncode == 0, finished.stderr
    expected = Artefact(directory / "model.onnx").run(draw())
    with np.load(tmp_path / "outputs.npz") as outputs:
        assert set(outputs) == set(expected)
        for name, values in expected.items():
            # Measured on the CPU: 0. A GPU rounds otherwise.
            np.testing.assert_allclose(outputs[name], values, rtol=0, atol=1e-5)
    first, second = finished.stdout.splitlines()
    scores = expected["scores"]
    best, next_best = np.argsort(scores[0])[:-3:-1]
    assert first == f"video 0: class {best} {scores[0, best]:.3f}, class {next_best} {scores[0, next_best]:.3f}"
    assert second.startswith(f"video 1: class {scores[1].argmax()} ")
    assert "ExecutionProvider: " in finished.stderr


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="a GPU provider may be used here"
)
def test_without_a_gpu_it_says_so_and_can_be_told_to_fail(directory, tmp_path):
    np.savez(tmp_path / "inputs.npz", **draw())
    finished = run(ONNXRUNTIME, directory / "model.onnx", tmp_path / "inputs.npz")
    assert finished.returncode == 0
    assert finished.stderr.startswith("CPUExecutionProvider: ")
    finished = run(ONNXRUNTIME, directory / "model.onnx", tmp_path / "inputs.npz", "--require-gpu")
    assert_refused(finished, "onnxruntime_client", "install onnxruntime-gpu")


@pytest.mark.parametrize("wrong", WRONG_INPUTS)
def test_the_onnxruntime_client_refuses_inputs(wrong, directory, tmp_path):
    change, message = WRONG_INPUTS[wrong]
    np.savez(tmp_path / "inputs.npz", **change(draw()))
    finished = run(ONNXRUNTIME, directory / "model.onnx", tmp_path / "inputs.npz")
    assert_refused(finished, "onnxruntime_client", message)


@pytest.mark.parametrize("model", WRONG_MODELS)
def test_the_onnxruntime_client_refuses_models(model, directory, tmp_path):
    np.savez(tmp_path / "inputs.npz", **draw())
    finished = run(ONNXRUNTIME, directory / model, tmp_path / "inputs.npz")
    assert_refused(finished, "onnxruntime_client", WRONG_MODELS[model])


def test_the_onnxruntime_client_refuses_other_files(directory, tmp_path):
    np.savez(tmp_path / "objects.npz", frames=np.array([{}], object))
    np.savez(tmp_path / "inputs.npz", **draw())
    (tmp_path / "cut.npz").write_bytes((tmp_path / "inputs.npz").read_bytes()[:200])
    (tmp_path / "text.npz").write_text("frames")
    for name in ("objects", "cut", "text"):
        finished = run(ONNXRUNTIME, directory / "model.onnx", tmp_path / f"{name}.npz")
        assert_refused(finished, "onnxruntime_client", "must be an .npz file of plain arrays")
    finished = run(ONNXRUNTIME, directory / "model.onnx", tmp_path / "absent.npz")
    assert_refused(finished, "onnxruntime_client", "No such file")


# node/client.mjs

NODE = ("node", EXPORT / "node" / "client.mjs")
_without_node = pytest.mark.skipif(
    shutil.which("node") is None or not (EXPORT / "node" / "node_modules").is_dir(),
    reason="`make runtimes` installs onnxruntime-node, if Node is installed",
)


def needs_node(test):
    """Marks a test that runs onnxruntime-node."""
    return pytest.mark.runtimes(_without_node(test))


def write_json(path, inputs):
    """As a REST body, `null` for NaN."""
    lists = {
        name: (np.where(np.isnan(values), None, values) if values.dtype.kind == "f" else values).tolist()
        for name, values in inputs.items()
    }
    path.write_text(json.dumps({"inputs": lists}))
    return path


@needs_node
def test_the_node_client_gets_what_the_artefact_computes(directory, tmp_path):
    finished = run(NODE, directory / "model.onnx", write_json(tmp_path / "inputs.json", draw()))
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""
    outputs = json.loads(finished.stdout)["outputs"]
    expected = Artefact(directory / "model.onnx").run(draw())
    assert set(outputs) == set(expected)
    for name, values in expected.items():
        # Measured: 0; the package's onnxruntime is of another version than Python's.
        np.testing.assert_allclose(np.array(outputs[name]), values, rtol=0, atol=1e-6)


@needs_node
def test_nan_comes_back_from_node_as_null(directory, tmp_path):
    inputs = draw()
    inputs["frames"][1, 0, 0] = np.nan
    outputs = json.loads(run(NODE, directory / "model.onnx", write_json(tmp_path / "inputs.json", inputs)).stdout)
    first, second = outputs["outputs"]["descriptor"]
    assert None not in first
    assert None in second


@needs_node
@pytest.mark.parametrize("wrong", WRONG_INPUTS)
def test_the_node_client_refuses_inputs(wrong, directory, tmp_path):
    change, message = WRONG_INPUTS[wrong]
    finished = run(NODE, directory / "model.onnx", write_json(tmp_path / "inputs.json", change(draw())))
    assert_refused(finished, "client", message)


@needs_node
@pytest.mark.parametrize("model", WRONG_MODELS)
def test_the_node_client_refuses_models(model, directory, tmp_path):
    finished = run(NODE, directory / model, write_json(tmp_path / "inputs.json", draw()))
    assert_refused(finished, "client", WRONG_MODELS[model])


@needs_node
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"inputs": {"frames": [[[1, 2, 3, 4], [1, 2]]], "num_frames": [2]}}', "rows of equal length"),
        ('{"inputs": {"frames": [[[1, 2, 3, 4]], []], "num_frames": [1, 0]}}', "rows of equal length"),
        ('{"inputs": {"frames": [[[1, 2, 3, [4]]]], "num_frames": [1]}}', "float32 numbers only. Received: [4]"),
        ('{"inputs": {"frames": [[[1, 2, 3, 4]]], "num_frames": [null]}}', "int32 numbers only. Received: null"),
        ('{"inputs": {"frames": [[[1, 2, NaN, 4]]], "num_frames": [1]}}', "must be a JSON file, with null for NaN"),
        ('{"inputs": [[1, 2], [3, 4]]}', 'must hold {"inputs": {NAME: nested list, ...}}'),
        ('{"instances": [{"frames": [[1, 2, 3, 4]], "num_frames": 1}]}', "must hold {"),
        ("null", "must hold {"),
    ],
)
def test_the_node_client_refuses_other_files(text, message, directory, tmp_path):
    (tmp_path / "inputs.json").write_text(text)
    assert_refused(run(NODE, directory / "model.onnx", tmp_path / "inputs.json"), "client", message)


@needs_node
def test_the_node_client_names_a_missing_file_and_wants_two_arguments(directory):
    assert_refused(run(NODE, directory / "model.onnx", directory / "absent.json"), "client", "absent.json")
    assert_refused(run(NODE, directory / "model.onnx"), "client", "Expected two arguments")


@pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")
def test_without_its_package_the_node_client_says_how_to_get_it(directory, tmp_path):
    shutil.copy(NODE[1], tmp_path)
    finished = run(("node", tmp_path / "client.mjs"), directory / "model.onnx", tmp_path / "inputs.json")
    assert_refused(finished, "client", "npm install")
