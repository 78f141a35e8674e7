"""The REST clients against a stand-in that runs a real artefact: tests of the clients, not of TensorFlow Serving."""

import http.server
import socket
import subprocess
import sys
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from paths import EXPORT
from tf_serving_rest_server import serve_rest

from keras_netvlad.export import Artefact, export_saved_model, serialize_example
from keras_netvlad.layers import FrameMask, NetVLAD
from keras_netvlad.models import VideoClassifier

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    path = tmp_path_factory.mktemp("served") / "netvlad" / "7"
    keras.utils.set_random_seed(0)
    export_saved_model(VideoClassifier({"frames": 4}, 3, num_clusters=2, hidden_units=None), path)
    with serve_rest(path) as (url, asked):
        yield Artefact(path), url, asked


@pytest.fixture
def clients(monkeypatch):
    """The clients as modules, as a program beside them would import them."""
    monkeypatch.syspath_prepend(str(EXPORT))
    import live_stream_client
    import tf_serving_client

    return tf_serving_client, live_stream_client


def run(client, *arguments):
    command = [sys.executable, EXPORT / f"{client}.py", *arguments]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120)


def draw(batch=2, frames=5):
    return np.random.default_rng(0).normal(size=(batch, frames, 4)).astype("float32")


def assert_same(received, expected):
    assert set(received) == set(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(np.asarray(received[name]).astype(values.dtype), values)


# tf_serving_client.py


def test_the_client_gets_what_the_artefact_computes(served, tmp_path):
    artefact, url, _ = served
    inputs = {"frames": draw(), "num_frames": np.array([5, 2], "int32")}
    np.savez(tmp_path / "inputs.npz", **inputs)
    finished = run("tf_serving_client", f"{url}/netvlad", tmp_path / "inputs.npz", "--output", tmp_path / "outputs.npz")
    assert finished.returncode == 0, finished.stderr
    expected = artefact.run(inputs)
    with np.load(tmp_path / "outputs.npz") as received:
        assert_same(received, expected)
    assert f"video 0: class {expected['scores'][0].argmax()} " in finished.stdout


def test_bytes_of_frames_travel_as_they_are(served, clients):
    artefact, url, _ = served
    inputs = {
        "frames": np.random.default_rng(0).integers(0, 256, (3, 6, 4), "uint8"),
        "num_frames": np.array([6, 0, 3], "int32"),
    }
    received = clients[0].predict(f"{url}/netvlad/versions/7", inputs, "serve_quantized")
    assert_same(received, artefact.run(inputs, "serve_quantized"))


def test_examples_come_from_a_tfrecord_file_and_travel_as_base64(served, tmp_path):
    artefact, url, _ = served
    # The last byte of a record is the last feature's: zeros at the end must survive.
    records = [serialize_example({"frames": np.full((frames, 4), 9 * frames % 7, "uint8")}) for frames in (7, 0, 2)]
    assert records[0].endswith(b"\0")
    with tf.io.TFRecordWriter(str(tmp_path / "videos.tfrecord")) as writer:
        for record in records:
            writer.write(record)
    finished = run(
        "tf_serving_client",
        f"{url}/netvlad",
        tmp_path / "videos.tfrecord",
        *("--signature", "serve_examples", "--top", 1, "--output", tmp_path / "outputs.npz"),
    )
    assert finished.returncode == 0, finished.stderr
    expected = artefact.run({"examples": np.array(records, object)}, "serve_examples")
    with np.load(tmp_path / "outputs.npz") as received:
        assert_same(received, expected)
        assert np.isnan(received["scores"][1]).all()
    lines = finished.stdout.splitlines()
    assert lines[0].startswith(f"video 0: class {expected['scores'][0].argmax()} ")
    assert lines[1] == "video 1: no answer, its example holds no usable frames"
    assert lines[2].startswith("video 2: class ")


def test_a_single_output_keeps_its_name(tmp_path, clients):
    frames = keras.Input((None, 3), name="frames")
    num_frames = keras.Input((), dtype="int32", name="num_frames")
    pooled = NetVLAD(2)(frames, mask=FrameMask()(num_frames, frames))
    export_saved_model(keras.Model([frames, num_frames], {"pooled": pooled}), tmp_path / "pooling" / "1")
    inputs = {"frames": draw()[:, :, :3], "num_frames": np.array([5, 2], "int32")}
    with serve_rest(tmp_path / "pooling" / "1") as (url, _):
        received = clients[0].predict(f"{url}/pooling", inputs)
    assert_same(received, Artefact(tmp_path / "pooling" / "1").run(inputs))


def test_a_signature_is_read_from_the_server(served, clients):
    _, url, _ = served
    found = clients[0].read_signature(f"{url}/netvlad", "accumulate")
    assert found["version"] == 7
    assert found["inputs"]["frames"] == ([-1, -1, 4], "float32")
    assert found["inputs"]["num_frames"] == ([-1], "int32")
    assert found["outputs"]["frames_first_sum"] == ([-1, 2, 4], "float32")


def test_the_client_says_what_the_server_said(served, tmp_path):
    _, url, _ = served
    np.savez(tmp_path / "inputs.npz", frames=draw(), num_frames=np.array([5, 2], "int32"))
    for model, signature, words in (
        ("other", "serving_default", '{"error": "Servable not found for request: /v1/models/other:predict"}'),
        ("netvlad", "no_such", r'{"error": "Serving signature name: \"no_such\" not found in signature def"}'),
    ):
        finished = run(
            "tf_serving_client", f"{url}/{model}", tmp_path / "inputs.npz", "--signature", signature, "--top", 1
        )
        assert finished.returncode == 1
        assert finished.stderr == f"tf_serving_client: The server refused the request: {words}\n"


def test_nobody_there_is_one_sentence(tmp_path):
    np.savez(tmp_path / "inputs.npz", frames=draw())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound and not listening: nobody else takes the port, and nobody answers
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1/models/netvlad"
        finished = run("tf_serving_client", url, tmp_path / "inputs.npz")
    assert finished.returncode == 1
    assert finished.stderr.startswith("tf_serving_client: The server must be reachable; see that it runs. Received: ")
    assert "Connection refused" in finished.stderr
    assert finished.stderr.count("\n") == 1


def test_a_silent_server_is_given_up(clients):
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/v1/models/netvlad"
        with pytest.raises(TimeoutError, match=r"must answer within 0\.2 s; allow more"):
            clients[0].predict(url, {"frames": draw()}, timeout=0.2)


@pytest.mark.parametrize("body", [b"<html>", b"[1]", b'{"answer": 42}', b"\xff"])
def test_another_server_is_told_apart(clients, body):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request, daemon=True)
        thread.start()
        with pytest.raises(ValueError, match=r"must be a model's on TensorFlow Serving, http://.* Received: http://"):
            clients[0].predict(f"http://127.0.0.1:{server.server_port}/v1/models/netvlad", {"frames": draw()})
        thread.join(10)


def test_files_that_hold_no_inputs_are_refused(clients, tmp_path):
    read_inputs = clients[0].read_inputs
    (tmp_path / "text.npz").write_text("frames")
    np.savez(tmp_path / "strings.npz", examples=np.array([b"a\0"]))
    np.savez(tmp_path / "objects.npz", examples=np.array([b"a\0"], object))
    (tmp_path / "short.tfrecord").write_bytes(b"\x05" + b"\0" * 11 + b"abc")
    (tmp_path / "shorter.tfrecord").write_bytes(b"\x05\0")
    for name in ("text.npz", "strings.npz", "objects.npz", "short.tfrecord", "shorter.tfrecord"):
        with pytest.raises(ValueError, match=rf"must be an \.npz file of arrays or .* Received: .*{name}"):
            read_inputs(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read_inputs(tmp_path / "nothing.npz")


# live_stream_client.py


def test_a_live_stream_is_the_whole_video(served, tmp_path):
    artefact, url, asked = served
    inputs = {"frames": draw(2, 40), "num_frames": np.array([40, 17], "int32")}
    np.savez(tmp_path / "inputs.npz", **inputs)
    del asked[:]
    finished = run(
        "live_stream_client",
        f"{url}/netvlad",
        tmp_path / "inputs.npz",
        *("--chunk", 13, "--output", tmp_path / "outputs.npz"),
    )
    assert finished.returncode == 0, finished.stderr
    expected = artefact.run(inputs)
    with np.load(tmp_path / "outputs.npz") as received:
        for name, values in expected.items():
            # Measured: at most 1.9e-7 of the largest value; the sums are added in another order.
            np.testing.assert_allclose(received[name], values, rtol=0, atol=2e-6 * np.abs(values).max())
    lines = finished.stdout.splitlines()
    assert [line for line in lines if line.startswith("after")] == [f"after {n} frames" for n in (13, 26, 39, 40)]
    assert lines[-2].startswith(f"video 0: class {expected['scores'][0].argmax()} ")
    # One question for the shapes, and then one version for the whole stream.
    assert asked[0] == "/v1/models/netvlad/metadata"
    assert set(asked[1:]) == {"/v1/models/netvlad/versions/7:predict"}


def test_the_answer_so_far_is_that_of_the_frames_so_far(served, clients):
    artefact, url, _ = served
    stream = clients[1].LiveStream(f"{url}/netvlad", batch=2)
    assert stream.streams == ["frames"]
    np.testing.assert_array_equal(stream.describe()["descriptor"], np.zeros((2, 8)))
    frames = draw(2, 30)
    size = sum(values.nbytes for values in stream.sums.values())
    for end in (10, 20, 30):
        stream.update({"frames": frames[:, end - 10 : end]})
        expected = artefact.run({"frames": frames[:, :end], "num_frames": np.array([end, end], "int32")})
        for name, values in stream.describe().items():
            np.testing.assert_allclose(values, expected[name], rtol=0, atol=2e-6 * np.abs(expected[name]).max())
    assert sum(np.asarray(values, "float32").nbytes for values in stream.sums.values()) == size


def test_a_stream_stays_with_its_version_when_a_label_moves(served, clients):
    _, url, asked = served
    del asked[:]
    stream = clients[1].LiveStream(f"{url}/netvlad/labels/stable")
    stream.update({"frames": draw(1)})
    assert asked == [f"/v1/models/netvlad/{path}" for path in ("labels/stable/metadata", "versions/7:predict")]


def test_streams_that_are_not_the_models_are_refused(served, clients):
    _, url, _ = served
    stream = clients[1].LiveStream(f"{url}/netvlad")
    with pytest.raises(ValueError, match=r"the model's streams, \['frames'\]\. Received: \['rgb'\]"):
        stream.update({"rgb": draw(1)})


def test_a_model_without_live_streams_is_told(tmp_path):
    frames = keras.Input((None, 3), name="frames")
    export_saved_model(keras.Model(frames, NetVLAD(2)(frames)), tmp_path / "plain" / "1")
    np.savez(tmp_path / "inputs.npz", frames=draw()[:, :, :3])
    with serve_rest(tmp_path / "plain" / "1") as (url, _):
        finished = run("live_stream_client", f"{url}/plain", tmp_path / "inputs.npz")
    assert finished.returncode == 1
    assert finished.stderr == (
        "live_stream_client: The signature must be one of the model's, ['serving_default']. Received: 'accumulate'\n"
    )
