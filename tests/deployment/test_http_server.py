"""The example `serve_with_ray`: a real HTTP server on this machine's loopback address."""

import concurrent.futures
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import numpy as np
import pytest
from make_features import make_features
from paths import ROOT

from keras_netvlad.videos import Predictor, train

pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="`make engines` installs Ray"),
]
EXAMPLE = ROOT / "examples" / "serve_with_ray.py"
SECONDS = 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with videos and a run that was trained on them."""
    folder = tmp_path_factory.mktemp("http")
    train(make_features(folder), folder / "run", num_clusters=3, epochs=1, batch_size=4, verbose=0)
    return folder


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def post(url, content):
    with urllib.request.urlopen(urllib.request.Request(url, content), timeout=60) as response:
        return json.load(response)


def test_the_server_answers_as_the_predictor_and_merges_requests(folder):
    command = [sys.executable, str(EXAMPLE), str(folder / "run"), "--port", str(free_port()), "--wait", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    # A new process group, so that the processes that Ray starts are ended together with the server.
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True)
    try:
        timer = concurrent.futures.ThreadPoolExecutor(1)
        url = timer.submit(server.stdout.readline).result(timeout=SECONDS).strip()
        assert url.startswith("http://127.0.0.1:")
        videos = sorted((folder / "videos").rglob("*.*"))[:6]
        with concurrent.futures.ThreadPoolExecutor(len(videos)) as pool:
            answers = list(pool.map(lambda video: post(url, video.read_bytes()), videos))
        predictor = Predictor(folder / "run" / "predictor")
        for video, answer in zip(videos, answers, strict=True):
            assert list(answer["scores"]) == predictor.labels
            expected = predictor.predict(video).scores
            np.testing.assert_allclose(list(answer["scores"].values()), expected, atol=1e-5)
        assert max(answer["merged"] for answer in answers) > 1
        with pytest.raises(urllib.error.HTTPError) as refused:
            post(url, b"no video")
        assert refused.value.code == 400
        assert "must be a video file" in json.load(refused.value)["error"]
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def test_a_wrong_run_is_one_sentence_before_ray_starts(tmp_path):
    finished = subprocess.run(
        [sys.executable, str(EXAMPLE), str(tmp_path)], capture_output=True, text=True, timeout=SECONDS
    )
    assert finished.returncode == 1
    assert finished.stderr.splitlines()[-1].startswith("A predictor is a directory with predictor.json")
