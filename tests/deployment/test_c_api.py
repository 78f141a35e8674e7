"""SavedModels in TensorFlow's C API: the loader that TensorFlow Serving uses, in a process without Python."""

import os
import shutil
import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from paths import SUPPORT
from tensorflow.core.protobuf import saved_model_pb2

from keras_netvlad.export import export_saved_model, serialize_example
from keras_netvlad.models import VideoClassifier

SOURCE = SUPPORT / "c_api" / "run_saved_model.c"
COMPILER = shutil.which("gcc")
STREAMS = {"rgb": 6, "audio": 4}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(COMPILER is None, reason="compiles a C program; there is no gcc on this machine"),
]


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The C program, linked with the libraries that TensorFlow's own wheel holds."""
    path = tmp_path_factory.mktemp("program") / "run_saved_model"
    directory = Path(tf.__file__).parent
    libraries = [directory / name for name in ("libtensorflow_cc.so.2", "libtensorflow_framework.so.2")]
    warnings = ("-std=c11", "-Wall", "-Wextra", "-Werror")
    command = [COMPILER, *warnings, SOURCE, "-o", path, f"-I{directory}/include", *libraries, f"-Wl,-rpath,{directory}"]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr
    return path


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(1)
    model = VideoClassifier(STREAMS, 5, num_clusters={"rgb": 3, "audio": 2}, hidden_units=7, name="classifier")
    for weight in model.weights:
        weight.assign(np.random.default_rng(weight.shape.rank).normal(size=weight.shape))
    return model


@pytest.fixture(scope="module")
def saved_model(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("served") / "classifier" / "1"
    export_saved_model(model, path)
    return path


def signature_of(saved_model, name):
    proto = saved_model_pb2.SavedModel.FromString((saved_model / "saved_model.pb").read_bytes())
    (meta_graph,) = proto.meta_graphs
    return meta_graph.signature_def[name]


def constant_text_of(saved_model):
    """The name of a tensor of strings in the graph."""
    proto = saved_model_pb2.SavedModel.FromString((saved_model / "saved_model.pb").read_bytes())
    return next(
        f"{node.name}:0"
        for node in proto.meta_graphs[0].graph_def.node
        if node.op == "Const" and node.attr["dtype"].type == tf.string.as_datatype_enum
    )


def run(program, *arguments):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [str(argument) for argument in (program, *arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


def last_line(finished):
    """Returns the program's error message; TensorFlow's notes on the machine stand above it."""
    return [line for line in finished.stderr.splitlines() if line.startswith("run_saved_model: ")][-1]


def ask(program, saved_model, inputs, directory, name="serving_default"):
    """Runs one signature; inputs go in and outputs come back as files of raw bytes."""
    signature = signature_of(saved_model, name)
    arguments = []
    for key, info in signature.inputs.items():
        dtype = tf.as_dtype(info.dtype)
        values = np.ascontiguousarray(inputs[key], dtype.as_numpy_dtype)
        write_input(values, directory / f"{key}.in")
        sizes = ",".join(map(str, values.shape))
        arguments.append(f"{info.name}:{dtype.name}:{sizes}:{directory / key}.in")
    keys = sorted(signature.outputs)
    arguments += ["--", *(f"{signature.outputs[key].name}:{directory / key}.out" for key in keys)]
    finished = run(program, saved_model, *arguments)
    assert finished.returncode == 0, finished.stderr
    shapes = [[int(size) for size in line.split(",")] for line in finished.stdout.splitlines()]
    dtypes = [tf.as_dtype(signature.outputs[key].dtype).as_numpy_dtype for key in keys]
    return {
        key: np.fromfile(directory / f"{key}.out", dtype).reshape(shape)
        for key, dtype, shape in zip(keys, dtypes, shapes, strict=True)
    }


def write_input(values, path):
    if values.dtype != object:
        values.tofile(path)
        return
    with tf.io.TFRecordWriter(str(path)) as writer:
        for value in values.flat:
            writer.write(value)


def draw(batch, frames):
    generator = np.random.default_rng(0)
    return {name: generator.normal(size=(batch, frames, size)).astype("float32") for name, size in STREAMS.items()}


def draw_bytes(batch, frames):
    generator = np.random.default_rng(0)
    return {name: generator.integers(0, 256, (batch, frames, size), "uint8") for name, size in STREAMS.items()}


def of_bytes(model, streams, num_frames):
    """The model's answer to bytes, whose meaning is YouTube-8M's."""
    floats = {name: (values * (4 / 255) + (4 / 512 - 2)).astype("float32") for name, values in streams.items()}
    return {name: np.asarray(values) for name, values in model({**floats, "num_frames": num_frames}).items()}


def assert_near(received, expected):
    assert set(received) == set(expected)
    for name, values in expected.items():
        # Measured: at most 3.0e-7 of the largest value.
        np.testing.assert_allclose(received[name], values, rtol=0, atol=2e-6 * np.abs(values).max())


@pytest.mark.parametrize(("batch", "frames", "num_frames"), [(1, 1, [1]), (3, 5, [5, 2, 0]), (2, 300, [300, 120])])
def test_serving_default_equals_keras(program, saved_model, model, tmp_path, batch, frames, num_frames):
    inputs = {**draw(batch, frames), "num_frames": np.array(num_frames, "int32")}
    expected = {name: np.asarray(values) for name, values in model(inputs).items()}
    for name in STREAMS:
        inputs[name][np.arange(frames) >= np.array(num_frames)[:, None]] = np.nan
    assert_near(ask(program, saved_model, inputs, tmp_path), expected)


def test_a_live_stream_of_two_chunks_equals_keras(program, saved_model, model, tmp_path):
    streams = draw(2, 12)
    totals = {
        key: np.zeros([2, *(dim.size for dim in info.tensor_shape.dim[1:])], "float32")
        for key, info in signature_of(saved_model, "describe").inputs.items()
    }
    for part in (slice(0, 7), slice(7, 12)):
        chunk = {name: values[:, part] for name, values in streams.items()}
        counts = np.full(2, part.stop - part.start, "int32")
        totals = ask(program, saved_model, {**chunk, **totals, "num_frames": counts}, tmp_path, "accumulate")
    received = ask(program, saved_model, totals, tmp_path, "describe")
    whole = model({**streams, "num_frames": np.array([12, 12], "int32")})
    assert_near(received, {name: np.asarray(values) for name, values in whole.items()})


def test_bytes_of_frames_equal_keras(program, saved_model, model, tmp_path):
    streams, num_frames = draw_bytes(3, 5), np.array([5, 2, 0], "int32")
    received = ask(program, saved_model, {**streams, "num_frames": num_frames}, tmp_path, "serve_quantized")
    assert_near(received, of_bytes(model, streams, num_frames))


def test_records_equal_keras_and_a_bad_one_fails_alone(program, saved_model, model, tmp_path):
    streams, lengths = draw_bytes(3, 5), np.array([5, 2, 4], "int32")
    records = [
        serialize_example({name: values[row, :length] for name, values in streams.items()})
        for row, length in enumerate(lengths)
    ]
    # Short strings are stored in another way than long ones.
    inputs = {"examples": np.array([*records, b"", serialize_example({"rgb": streams["rgb"][0]})], object)}
    received = ask(program, saved_model, inputs, tmp_path, "serve_examples")
    np.testing.assert_array_equal(received.pop("num_frames"), [5, 2, 4, 0, -1])
    assert all(np.isnan(values[3:]).all() for values in received.values())
    assert_near({name: values[:3] for name, values in received.items()}, of_bytes(model, streams, lengths))


def test_libpython_is_not_linked(program):
    listed = subprocess.run(["ldd", str(program)], capture_output=True, text=True, timeout=60).stdout
    assert "libtensorflow_cc.so.2" in listed
    assert "libpython" not in listed


def test_a_missing_directory_is_told_in_tensorflows_words(program, tmp_path):
    finished = run(program, tmp_path / "nothing", "--", "scores:0:scores.out")
    assert finished.returncode == 1
    assert last_line(finished).startswith("run_saved_model: TensorFlow failed to load the SavedModel: Could not find")
    assert str(tmp_path / "nothing") in last_line(finished)


def test_missing_weights_are_told_in_tensorflows_words(program, saved_model, tmp_path):
    shutil.copytree(saved_model, tmp_path / "1")
    (weights,) = (tmp_path / "1" / "variables").glob("variables.data-*")
    weights.unlink()
    finished = run(program, tmp_path / "1", "--", "scores:0:scores.out")
    assert finished.returncode == 1
    assert last_line(finished).startswith("run_saved_model: TensorFlow failed to load the SavedModel: ")
    assert weights.name in last_line(finished)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--", "no_such_tensor:0:scores.out"], "one of the graph's, OPERATION:INDEX. Received: no_such_tensor:0"),
        (["--", "{output}x:scores.out"], "one of the graph's, OPERATION:INDEX. Received: {output}x"),
        (["--", "scores.out"], "an output TENSOR:FILE. Received: scores.out"),
        (["{input}:float64:1:a.in", "--", "{output}:a.out"], "float32, int32, uint8 or string. Received: float64"),
        (["{input}:string:1:{source}", "--", "{output}:a.out"], "with a record for each. Received: {source}"),
        (["{input}:string:0:{source}", "--", "{output}:a.out"], "with a record for each. Received: {source}"),
        (["--", "{text}:a.out"], "An output must hold numbers. Received: a.out"),
        (["{input}:int32:x:a.in", "--", "{output}:a.out"], "integer of at least 0. Received: x"),
        (["{input}:int32:1:no_such_file", "--", "{output}:a.out"], "that can be read. Received: no_such_file"),
        (["{input}:int32:1:{source}", "--", "{output}:a.out"], "exactly the bytes of its shape. Received: {source}"),
        (["--", "{output}:a.out"], "TensorFlow failed to run the SavedModel: "),
        ([], "usage: run_saved_model"),
    ],
)
def test_wrong_use_is_one_sentence(program, saved_model, arguments, message):
    signature = signature_of(saved_model, "serving_default")
    names = {
        "input": signature.inputs["num_frames"].name,
        "output": signature.outputs["scores"].name,
        "text": constant_text_of(saved_model),
        "source": SOURCE,
    }
    finished = run(program, saved_model, *(argument.format(**names) for argument in arguments))
    assert finished.returncode == 1
    assert message.format(**names) in finished.stderr
    assert not finished.stdout
