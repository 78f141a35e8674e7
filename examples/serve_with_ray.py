"""Answers HTTP requests with the classes of video files: Ray Serve runs a predictor and merges requests.

    pip install 'keras_netvlad[video,ray]'
    python examples/serve_with_ray.py RUN [--port 8000] [--replicas 1] [--wait 0.02]
    curl --data-binary @clip.mp4 http://127.0.0.1:8000/

RUN is a run of `keras-netvlad train`, or its predictor. The answer is a JSON object with the score of each class. A
request that is not a video gets status 400, one of more than 100 MB gets 413, and both get a sentence that says why.

Every replica is a process. It decodes and encodes the videos of several requests in threads, and classifies up to 8 of
them at once. Only this machine can reach the server, because Ray Serve does not authenticate users. Put a proxy with
authentication in front of it before you open it to others. Ctrl-C or SIGTERM ends it.
"""

import argparse
import asyncio
import signal
import sys
import tempfile

import numpy as np
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse

from keras_netvlad.base.video_decoding import UnreadableVideoError
from keras_netvlad.videos import Predictor
from keras_netvlad.videos.predict import predictor_directory

HOST = "127.0.0.1"
MAX_BYTES = 100_000_000
BATCH_SIZE, REQUEST_SECONDS = 8, 60


@serve.deployment(max_ongoing_requests=2 * BATCH_SIZE)
class Classifier:
    """A replica: Ray makes one object for many requests."""

    def __init__(self, directory, wait):
        self.predictor = Predictor(directory)
        self.classify.set_batch_wait_timeout_s(wait)

    async def __call__(self, request: Request):
        """Answers one request."""
        content = bytearray()
        async for part in request.stream():
            content += part
            if len(content) > MAX_BYTES:
                return JSONResponse({"error": f"The video must have at most {MAX_BYTES} bytes."}, 413)
        try:
            features = await asyncio.to_thread(self.encode, content)
        except UnreadableVideoError as error:
            return JSONResponse({"error": f"The request must be a video file. Received: {error}"}, 400)
        scores, num_merged = await self.classify(features)
        return {"scores": dict(zip(self.predictor.labels, scores.tolist(), strict=True)), "merged": num_merged}

    def encode(self, content):
        """Returns the features `(T, D)` of the bytes of a video file."""
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            return self.predictor.features(file.name)

    @serve.batch(max_batch_size=BATCH_SIZE)
    async def classify(self, videos):
        """Returns the scores of each video of a batch, padded to one length, and the number of videos."""
        counts = np.array([len(features) for features in videos], "int32")
        frames = np.zeros((len(videos), counts.max(), videos[0].shape[1]), videos[0].dtype)
        for row, features in zip(frames, videos, strict=True):
            row[: len(features)] = features
        inputs = {self.predictor.settings["stream"]: frames, "num_frames": counts}
        (scores,) = self.predictor.classifier.run(["scores"], inputs)
        return [(one, len(videos)) for one in scores]


def main():
    """Serves until a signal comes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", help="run of `keras-netvlad train`, or a predictor")
    parser.add_argument("--port", type=int, default=8000, help="default %(default)s")
    parser.add_argument("--replicas", type=int, default=1, help="processes (default %(default)s)")
    parser.add_argument(
        "--wait", type=float, default=0.02, metavar="SECONDS", help="for more videos to classify (default %(default)s)"
    )
    options = parser.parse_args()
    directory = predictor_directory(options.run).absolute()
    try:
        Predictor(directory)  # before Ray starts processes
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    signals = {signal.SIGINT, signal.SIGTERM}
    ray.init(address="local", include_dashboard=False, _node_ip_address=HOST, log_to_driver=False)
    try:
        serve.start(http_options={"host": HOST, "port": options.port, "request_timeout_s": REQUEST_SECONDS})
        serve.run(Classifier.options(num_replicas=options.replicas).bind(str(directory), options.wait))
        # Signals are held back until `sigwait` takes them, so that Ray's processes are ended in order.
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        print(f"http://{HOST}:{options.port}/", flush=True)
        signal.sigwait(signals)
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
