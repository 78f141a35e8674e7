"""The REST client against a server that runs a real artefact and speaks TensorFlow Serving's protocol."""

import http.server
import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from keras_netvlad.export import Artefact, export_saved_model
from keras_netvlad.models import VideoClassifier

CLIENT = Path(__file__).parents[1] / "export" / "tf_serving_client.py"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    path = tmp_path_factory.mktemp("served") / "1"
    export_saved_model(VideoClassifier({"frames": 4}, 3, num_clusters=2, hidden_units=None), path)
    artefact = Artefact(path)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            inputs = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["inputs"]
            if self.path == "/v1/models/netvlad:predict":
                arrays = {"frames": np.array(inputs["frames"], "float32"), "num_frames": np.array(inputs["num_frames"])}
                outputs = {name: values.tolist() for name, values in artefact.run(arrays).items()}
                status, answer = 200, {"outputs": outputs}
            else:
                status, answer = 404, {"error": "Servable not found"}
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield artefact, f"http://127.0.0.1:{server.server_port}/v1/models"
    server.shutdown()
    server.server_close()


def ask(directory, url, *arguments):
    generator = np.random.default_rng(0)
    inputs = {"frames": generator.normal(size=(2, 5, 4)).astype("float32"), "num_frames": np.array([5, 2], "int32")}
    np.savez(directory / "inputs.npz", **inputs)
    command = [sys.executable, str(CLIENT), url, str(directory / "inputs.npz"), *arguments]
    return inputs, subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_the_client_gets_what_the_artefact_computes(served, tmp_path):
    artefact, url = served
    inputs, finished = ask(tmp_path, f"{url}/netvlad", "--output", str(tmp_path / "outputs.npz"))
    assert finished.returncode == 0, finished.stderr
    expected = artefact.run(inputs)
    with np.load(tmp_path / "outputs.npz") as received:
        for name in expected:
            np.testing.assert_allclose(received[name], expected[name], rtol=1e-6)
    assert f"video 0: class {expected['scores'][0].argmax()} " in finished.stdout


@pytest.mark.slow
def test_the_client_says_what_the_server_said(served, tmp_path):
    _, url = served
    _, finished = ask(tmp_path, f"{url}/other")
    assert finished.returncode == 1
    assert finished.stderr == 'tf_serving_client: The server refused the request: {"error": "Servable not found"}\n'
