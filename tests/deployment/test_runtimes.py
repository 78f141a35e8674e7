"""The artifacts in every runtime that can be had here, compared with the Keras model and the float64 reference."""

import json
import shutil
import subprocess
from pathlib import Path

import keras
import numpy as np
import onnx
import pytest
import reference
from paths import EXPORT
from selection import slow_cases, slow_except

from keras_netvlad.export import Artefact, export_model, export_onnx, export_saved_model, verify
from keras_netvlad.export.verification.artifact_in_runtime import ArtifactInRuntime
from keras_netvlad.layers import FrameMask, NetVLAD
from keras_netvlad.models import VideoClassifier

NODE = EXPORT / "node"
WIDTH = 2  # of the maps

# Of the largest value of an output. Measured, from the oracle and from the Keras model, the worst of the models below:
#   onnxruntime        1.6e-7  7.5e-7
#   onnx.reference     5.3e-7  3.9e-7
#   OpenVINO           5.3e-7  3.0e-7; reading the SavedModel the same
#   tract              7.7e-7  2.2e-7
#   onnxruntime-node   1.6e-7  7.5e-7
TOLERANCE = 2e-6


def onnxruntime_node(path):
    """Opens an ONNX file in Node, as `verify(runtime=...)` takes it: a function from a path to a function of arrays."""
    if shutil.which("node") is None or not (NODE / "node_modules").is_dir():
        pytest.skip("`make runtimes` installs onnxruntime-node, if Node is installed")

    def run(inputs):
        request = Path(path).with_suffix(".json")
        lists = {name: np.where(np.isnan(values), None, values).tolist() for name, values in inputs.items()}
        request.write_text(json.dumps({"inputs": lists}))
        command = ["node", NODE / "client.mjs", path, request]
        finished = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert finished.returncode == 0, finished.stderr
        outputs = json.loads(finished.stdout)["outputs"]
        return {name: np.array(values, "float64") for name, values in outputs.items()}

    return run


RUNTIMES = [
    "onnxruntime",
    "onnx.reference",
    *(pytest.param(runtime, marks=pytest.mark.runtimes) for runtime in ("openvino", "tract", onnxruntime_node)),
]


def opened(runtime, path):
    """The function that runs an artifact in a runtime."""
    return (Artefact(path) if runtime == "onnxruntime" else ArtifactInRuntime(path, runtime)).run


# The models, with large random weights: those of a new model would hide a wrong bias, and make every softmax flat


def one_stream():
    return VideoClassifier({"frames": 6}, 5, num_clusters=3, hidden_units=7)


def two_streams():
    return VideoClassifier({"rgb": 6, "audio": 4}, 5, {"rgb": 3, "audio": 2}, hidden_units=None, activation="softmax")


def maps():
    inputs = keras.Input((None, None, 6), name="maps")
    return keras.Model(
        {"maps": inputs}, {"descriptor": NetVLAD(3, num_ghost_clusters=2, assignment="conv", name="netvlad")(inputs)}
    )


def video_maps():
    inputs = keras.Input((None, WIDTH, WIDTH, 6), name="maps")
    num_frames = keras.Input((), dtype="int32", name="num_frames")
    descriptor = NetVLAD(3, name="netvlad")(inputs, mask=FrameMask()(num_frames, inputs))
    return keras.Model({"maps": inputs, "num_frames": num_frames}, {"descriptor": descriptor})


MODELS = (one_stream, two_streams, maps, video_maps)


@pytest.fixture(scope="module", params=slow_except(MODELS, one_stream), ids=lambda make: make.__name__)
def model(request):
    model = request.param()
    generator = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(generator.normal(size=weight.shape))
    return model


@pytest.fixture(scope="module")
def paths(model, tmp_path_factory):
    directory = tmp_path_factory.mktemp("artefacts")
    assert export_onnx(model, directory / "model.onnx").ok
    assert export_saved_model(model, directory / "saved_model").ok
    return directory


def draw(model, batch, length, num_frames=None):
    """Inputs; frames beyond `num_frames` hold NaN."""
    generator = np.random.default_rng(length)
    shapes = {
        tensor.name: [
            size or filler for size, filler in zip(tensor.shape, (batch, length, WIDTH, WIDTH, 6), strict=False)
        ]
        for tensor in model.inputs
    }
    lengths = shapes.pop("num_frames", None)
    inputs = {name: generator.normal(size=shape).astype("float32") for name, shape in shapes.items()}
    if lengths is None:
        return inputs
    for values in inputs.values():
        values[np.arange(length) >= np.array(num_frames)[:, None]] = np.nan
    return {**inputs, "num_frames": np.array(num_frames, "int32")}


def exact(model, inputs):
    if isinstance(model, VideoClassifier):
        return reference.video_classifier(model, inputs, inputs["num_frames"])
    maps, mask = inputs["maps"], None
    if "num_frames" in inputs:
        mask = np.arange(maps.shape[1]) < inputs["num_frames"][:, None]
    return {"descriptor": reference.netvlad(maps, mask=mask, **reference.options_of(model.get_layer("netvlad")))}


def requests(model):
    """Batches of one and three, each of length 1, 5 and 300; with `num_frames`, whole and cut short."""
    for batch in (1, 3):
        for length in (1, 5, 300):
            yield draw(model, batch, length, [length] * batch)
            if len(model.inputs) > 1:
                yield draw(model, batch, length, [length // 2, length, 0][:batch])


def difference(received, expected):
    """The largest, relative to the largest value of each output; NaN and missing or foreign names count as infinite."""
    if set(received) != set(expected):
        return np.inf
    errors = [np.abs(received[name] - values).max() / (np.abs(values).max() or 1) for name, values in expected.items()]
    return max(np.inf if np.isnan(error) else error for error in errors)


def worst_difference(run, model):
    """Over all requests, from the oracle and from the Keras model."""
    from_oracle = from_keras = 0
    for inputs in requests(model):
        received = run(inputs)
        from_oracle = max(from_oracle, difference(received, exact(model, inputs)))
        from_keras = max(from_keras, difference(received, {name: np.array(v) for name, v in model(inputs).items()}))
    print(f"{from_oracle:.1e} from the oracle, {from_keras:.1e} from Keras")
    return max(from_oracle, from_keras)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_onnx_model_is_the_oracle(runtime, model, paths):
    assert worst_difference(opened(runtime, paths / "model.onnx"), model) <= TOLERANCE


@pytest.mark.runtimes
def test_openvino_reads_the_saved_model_too(model, paths):
    # Of its signatures it takes `serving_default` and leaves the ops of the others out, also those it does not know.
    assert worst_difference(opened("openvino", paths / "saved_model"), model) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_weights_in_a_second_file_are_found(runtime, model, paths):
    path = paths / "external.onnx"
    if not path.exists():
        assert export_onnx(model, path, external_data_threshold=0).ok
    inputs = draw(model, 3, 5, [5, 2, 0])
    assert difference(opened(runtime, path)(inputs), exact(model, inputs)) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_oldest_opset_is_the_oracle(runtime, model, paths):
    path = paths / "opset_13.onnx"
    if not path.exists():
        assert export_onnx(model, path, opset=13).ok
    inputs = draw(model, 3, 5, [5, 2, 0])
    assert difference(opened(runtime, path)(inputs), exact(model, inputs)) <= TOLERANCE


@pytest.mark.parametrize("opset", slow_except([13, 18], 18))
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_live_stream_is_the_oracle(runtime, opset, tmp_path):
    model = two_streams()
    for weight in model.weights:
        weight.assign(np.random.default_rng(len(weight.shape)).normal(size=weight.shape))
    names = ["accumulate", "describe"]
    export_model(model, tmp_path / "out", ["onnx"], opset, onnx_signatures=names)
    paths = [str(tmp_path / "out" / f"{name}.onnx") for name in names]
    accumulate, describe = (opened(runtime, path) for path in paths)
    sums = {
        value.name: np.zeros((3, *(dim.dim_value for dim in value.type.tensor_type.shape.dim[1:])), "float32")
        for value in onnx.load(paths[1]).graph.input
    }
    inputs = draw(model, 3, 20, [20, 7, 0])
    for start, length in ((0, 6), (6, 1), (7, 13)):
        chunk = {name: inputs[name][:, start : start + length] for name in ("rgb", "audio")}
        chunk["num_frames"] = np.clip(inputs["num_frames"] - start, 0, length)
        received = accumulate({**chunk, **sums})
        sums = {name: np.array(received[name], "float32") for name in sums}
    assert difference(describe(sums), exact(model, inputs)) <= TOLERANCE


@pytest.fixture(scope="module")
def streams(tmp_path_factory):
    """A model of two streams, and the directory of its ONNX files."""
    model = two_streams()
    directory = tmp_path_factory.mktemp("streams") / "out"
    names = ["serving_default", "accumulate", "describe"]
    export_model(model, directory, ["onnx"], onnx_signatures=names, verify=False)
    return model, directory


@pytest.mark.parametrize("name", ["model", *slow_except(["accumulate", "describe"])])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_verification_runs_in_every_runtime(runtime, name, streams):
    model, directory = streams
    report = verify(model, directory / f"{name}.onnx", runtime=runtime)
    assert report.ok, report
    assert max(comparison.relative for comparison in report.comparisons) < 1e-5
    # OpenVINO removes the check of the rows from the graph.
    assert report.answers_unequal_rows == (runtime == "openvino" and name != "describe")


@pytest.mark.runtimes
def test_the_verification_runs_a_saved_model_in_openvino(tmp_path):
    model = two_streams()
    export_saved_model(model, tmp_path / "1", verify=False)
    report = verify(model, tmp_path / "1", runtime="openvino")
    assert report.ok, report
    assert {comparison.signature for comparison in report.comparisons} == {"serving_default"}
    assert report.answers_unequal_rows


@pytest.fixture(scope="module")
def large_model():
    keras.utils.set_random_seed(0)
    return VideoClassifier({"frames": 64}, 50, num_clusters=16, hidden_units=1024)  # int8 wants a million values


# Measured, scores: float16 1.2e-5 (onnxruntime, OpenVINO, Node) and 1.7e-5 (onnx.reference, tract), int8 1.6e-4 in all.
@pytest.mark.parametrize(("precision", "tolerance"), [("int8", 1e-3), *slow_cases([("float16", 1e-4)])])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_smaller_precision_runs_everywhere(runtime, large_model, precision, tolerance, tmp_path):
    assert export_onnx(large_model, tmp_path / "model.onnx", precision=precision).ok
    inputs = draw(large_model, 3, 20, [20, 7, 0])
    received, expected = opened(runtime, tmp_path / "model.onnx")(inputs), exact(large_model, inputs)
    print(f"{precision}: {difference(received, expected):.1e} from the oracle")
    assert TOLERANCE < difference(received, expected) <= tolerance  # a difference of none would be another file's
