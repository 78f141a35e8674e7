"""The gRPC client against a stand-in that runs a real artefact: a test of the client, not of TensorFlow Serving."""

import concurrent.futures
import socket
import subprocess
import sys
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from paths import EXPORT
from tensorflow.core.protobuf import saved_model_pb2

from keras_netvlad.export import Artefact, export_saved_model, serialize_example
from keras_netvlad.models import VideoClassifier

REASON = "`make runtimes` installs tensorflow-serving-api"
grpc = pytest.importorskip("grpc", reason=REASON)
prediction_service_pb2_grpc = pytest.importorskip("tensorflow_serving.apis.prediction_service_pb2_grpc", reason=REASON)
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2  # noqa: E402

pytestmark = pytest.mark.runtimes


class Servicer(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Answers a request as TensorFlow Serving documents it."""

    def __init__(self, path):
        self.path, self.artefact = path, Artefact(path)
        self.deadlines = []  # seconds that each request allowed
        self.is_released = threading.Event()  # requests for the model `slow` wait for it

    def check(self, spec, context):
        self.deadlines.append(context.time_remaining())
        if spec.name == "slow":
            self.is_released.wait(60)
        is_version = spec.version.value == int(self.path.name) or not spec.HasField("version")
        if spec.name != self.path.parent.name or not is_version:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {spec.name}")

    def GetModelMetadata(self, request, context):
        self.check(request.model_spec, context)
        assert list(request.metadata_field) == ["signature_def"]
        proto = saved_model_pb2.SavedModel.FromString((self.path / "saved_model.pb").read_bytes())
        signatures = get_model_metadata_pb2.SignatureDefMap(signature_def=proto.meta_graphs[0].signature_def)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.metadata["signature_def"].Pack(signatures)
        return response

    def Predict(self, request, context):
        self.check(request.model_spec, context)
        name = request.model_spec.signature_name
        arrays = {key: tf.make_ndarray(values) for key, values in request.inputs.items()}
        for key, (_, dtype) in self.artefact.signatures[name][0].items():
            received = tf.as_dtype(request.inputs[key].dtype).name
            if received != dtype:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"Expects {dtype} but {received} is provided")
        try:
            outputs = self.artefact.run(arrays, name)
        except tf.errors.OpError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
        return predict_pb2.PredictResponse(
            outputs={key: tf.make_tensor_proto(values) for key, values in outputs.items()}
        )


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    path = tmp_path_factory.mktemp("served") / "netvlad" / "7"
    keras.utils.set_random_seed(0)
    export_saved_model(VideoClassifier({"frames": 4}, 3, num_clusters=2, hidden_units=None), path)
    servicer = Servicer(path)
    sizes = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(4), options=sizes)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer, f"127.0.0.1:{port}"
    servicer.is_released.set()
    server.stop(None).wait(30)


@pytest.fixture
def client(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPORT))
    import tf_serving_grpc_client

    return tf_serving_grpc_client


def run(*arguments):
    command = [sys.executable, EXPORT / "tf_serving_grpc_client.py", *arguments]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120)


def last_line(finished):
    """Returns the client's error message; TensorFlow's notes on the machine stand above it."""
    return finished.stderr.splitlines()[-1]


def draw(batch=2, frames=5):
    frames = np.random.default_rng(0).normal(size=(batch, frames, 4)).astype("float32")
    return {"frames": frames, "num_frames": np.array([5, 2], "int32")[:batch]}


def assert_same(received, expected):
    assert set(received) == set(expected)
    for name, values in expected.items():
        assert received[name].dtype == values.dtype
        np.testing.assert_array_equal(received[name], values)


def test_the_command_gets_what_the_artefact_computes(served, tmp_path):
    servicer, address = served
    np.savez(tmp_path / "inputs.npz", **draw())
    finished = run(address, "netvlad", tmp_path / "inputs.npz", "--output", tmp_path / "outputs.npz")
    assert finished.returncode == 0, finished.stderr
    expected = servicer.artefact.run(draw())
    with np.load(tmp_path / "outputs.npz") as received:
        assert_same(received, expected)
    assert f"video 0: class {expected['scores'][0].argmax()} " in finished.stdout


def test_examples_come_from_a_tfrecord_file(served, tmp_path):
    servicer, address = served
    records = [serialize_example({"frames": np.full((frames, 4), 9 * frames % 7, "uint8")}) for frames in (7, 0, 2)]
    assert records[0].endswith(b"\0")
    with tf.io.TFRecordWriter(str(tmp_path / "videos.tfrecord")) as writer:
        for record in records:
            writer.write(record)
    arguments = ("--signature", "serve_examples", "--version", 7, "--output", tmp_path / "outputs.npz")
    finished = run(address, "netvlad", tmp_path / "videos.tfrecord", *arguments)
    assert finished.returncode == 0, finished.stderr
    with np.load(tmp_path / "outputs.npz") as received:
        assert_same(received, servicer.artefact.run({"examples": np.array(records, object)}, "serve_examples"))
    assert "video 1: no answer, its example holds no usable frames\n" in finished.stdout


def test_every_signature_answers_and_numbers_become_the_models_types(served, client):
    servicer, address = served
    generator = np.random.default_rng(0)
    sums = {"frames_first_sum": generator.normal(size=(2, 2, 4)), "frames_second_sum": np.ones((2, 2))}
    counts = np.array([5, 2])  # int64, and the sums float64
    requests = {
        "serving_default": {**draw(), "num_frames": counts},
        "serve_quantized": {"frames": generator.integers(0, 256, (2, 5, 4), "uint8"), "num_frames": counts},
        "serve_examples": {"examples": [serialize_example({"frames": np.ones((3, 4), "uint8")})]},
        "accumulate": {**draw(), "num_frames": counts, **sums},
        "describe": sums,
    }
    assert set(requests) == set(servicer.artefact.signatures)
    with client.connect(address) as channel:
        for name, inputs in requests.items():
            received = client.predict(channel, "netvlad", inputs, name)
            dtypes = {key: dtype for key, (_, dtype) in servicer.artefact.signatures[name][0].items()}
            arrays = {
                key: np.array(values, object) if dtypes[key] == "string" else values.astype(dtypes[key])
                for key, values in inputs.items()
            }
            assert_same(received, servicer.artefact.run(arrays, name))


def test_requests_and_answers_may_be_large(served, client):
    servicer, address = served
    frames = np.random.default_rng(0).normal(size=(1, 500_000, 4)).astype("float32")  # 8 MB; gRPC's own limit is 4
    inputs = {"frames": frames, "num_frames": np.array([500_000], "int32")}
    with client.connect(address) as channel:
        assert_same(client.predict(channel, "netvlad", inputs), servicer.artefact.run(inputs))
        count = 100_000
        sums = {"frames_first_sum": np.ones((count, 2, 4), "f4"), "frames_second_sum": np.ones((count, 2), "f4")}
        received = client.predict(channel, "netvlad", sums, "describe")
    assert sum(values.nbytes for values in received.values()) > 4 * 2**20


def test_the_client_says_what_the_server_said(served, tmp_path):
    _, address = served
    np.savez(tmp_path / "inputs.npz", **draw())
    for arguments in (["other"], ["netvlad", "--version", "8"]):
        finished = run(address, arguments[0], tmp_path / "inputs.npz", *arguments[1:])
        assert finished.returncode == 1
        words = f"Servable not found for request: {arguments[0]}"
        assert last_line(finished) == f"tf_serving_grpc_client: The server refused the request: {words}"


def test_a_record_that_is_none_is_refused_in_the_servers_words(served, client):
    _, address = served
    with (
        client.connect(address) as channel,
        pytest.raises(OSError, match=r"refused the request: .*Invalid protocol message"),
    ):
        client.predict(channel, "netvlad", {"examples": [b"\x0anot a proto"]}, "serve_examples")


@pytest.mark.parametrize(
    ("changes", "signature", "message"),
    [
        ({"mask": np.ones(2)}, "serving_default", r"the signature's, \['frames', 'num_frames'\]\. Received: .*'mask'"),
        ({"num_frames": np.ones(2)}, "serving_default", r"'num_frames' must become int32\. Received: float64"),
        ({"frames": np.array([b"a"])}, "serving_default", r"'frames' must become float32\. Received: \|S1"),
        ({"frames": np.ones((2, 5, 3))}, "serving_default", r"'frames' .* \(None, None, 4\)\. Received: \(2, 5, 3\)"),
        ({"num_frames": np.array(5)}, "serving_default", r"'num_frames' must be of shape \(None,\)\. Received: \(\)"),
        ({}, "serve", r"signature must be one of the model's, \['accumulate', 'describe', .* Received: 'serve'"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(served, client, changes, signature, message):
    _, address = served
    with client.connect(address) as channel, pytest.raises(ValueError, match=message):
        client.predict(channel, "netvlad", {**draw(), **changes}, signature)


def test_nobody_there_is_one_sentence(tmp_path):
    np.savez(tmp_path / "inputs.npz", **draw())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound and not listening: nobody else takes the port, and nobody answers
        finished = run(f"127.0.0.1:{free.getsockname()[1]}", "netvlad", tmp_path / "inputs.npz")
    assert finished.returncode == 1
    start = "tf_serving_grpc_client: The server must be reachable, with room for a request. Received: "
    assert last_line(finished).startswith(start)
    assert "Traceback" not in finished.stderr


def test_a_server_that_is_too_slow_is_given_up(served, client):
    servicer, address = served
    with (
        client.connect(address) as channel,
        pytest.raises(TimeoutError, match=r"must answer within 0\.3 s; allow more\. Received: "),
    ):
        client.predict(channel, "slow", draw(), timeout=0.3)
    assert servicer.deadlines[-1] <= 0.3


def test_without_the_package_the_error_names_it(client, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_serving", None)
    with (
        client.connect("127.0.0.1:1") as channel,
        pytest.raises(ImportError, match="pip install tensorflow-serving-api"),
    ):
        client.predict(channel, "netvlad", draw())
