"""`Embed`: turns videos into descriptors in the workers of Ray, Spark, Beam or any other engine that pickles.

    export_onnx(VideoEncoder({"rgb": 1024, "audio": 128}), "encoder.onnx")  # once, with keras_netvlad

    from embed import Embed
    descriptors = Embed("encoder.onnx")({"rgb": [bytes_of_video_1, ...], "audio": [...]})

The workers need NumPy and onnxruntime only. `examples/embed_with_ray.py`, `embed_with_spark.py` and
`embed_with_beam.py` use it for millions of videos.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

NUM_FRAMES = "num_frames"
_SESSIONS: dict[tuple[str, str, int], Any] = {}


class Embed:
    """Turns videos into descriptors with a `VideoEncoder` or `VideoClassifier` that `export_onnx` wrote.

    An object holds a path and a few numbers, so it is small when pickled. Each process opens the session at its first
    call and shares it between all objects with the same path.

    Args:
        path: ONNX file that every worker can read.
        output: The output to return: `"descriptor"`, or `"scores"` of a classifier.
        batch_size: Integer, number of videos that the model processes at once. Memory grows with it.
        round_to: Integer. Videos are padded to a multiple of this number of frames, so that the runtime sees few
            different shapes.
        providers: Execution providers of onnxruntime in order of preference. By default all that are available.
        num_threads: Integer, number of threads of a session. Workers on one machine share its cores, so give each
            worker its share.

    Call arguments:
        videos: Dict from the name of each stream, an input of the model, to a sequence of videos. A video is an array
            `(T, D)`, or the bytes of a `uint8` array. If the model takes floats, `uint8` features are dequantized as in
            YouTube-8M. All streams of a video must have the same number of frames.

    Returns:
        Array `(videos, F)`, float32, in the given order.

    Raises:
        ValueError: If the output does not exist, if a stream is missing or has another number of videos, if bytes are
            not complete frames, if features have another dtype, or if the streams of a video differ in length.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        output: str = "descriptor",
        batch_size: int = 32,
        round_to: int = 32,
        providers: Sequence[str] | None = None,
        num_threads: int = 0,
    ) -> None:
        self.path = str(Path(path).absolute())
        self.output = output
        self.batch_size = batch_size
        self.round_to = round_to
        self.providers = providers
        self.num_threads = num_threads

    def __call__(self, videos: Mapping[str, Sequence[ArrayLike | bytes]]) -> NDArray[np.float32]:
        """Returns descriptors `(videos, F)`."""
        session = self.session()
        streams = {port.name: port for port in session.get_inputs() if port.name != NUM_FRAMES}
        if set(streams) - set(videos):
            raise ValueError(f"Videos must have the streams {sorted(streams)}. Received: {sorted(videos)}")
        if self.output not in {port.name for port in session.get_outputs()}:
            outputs = sorted(port.name for port in session.get_outputs())
            raise ValueError(f"`output` must be one of the model's, {outputs}. Received: {self.output!r}")
        counts = {name: len(videos[name]) for name in streams}
        count = max(counts.values())
        if len(set(counts.values())) > 1:
            raise ValueError(f"All streams must have as many videos as each other. Received: {counts}")
        parts = [
            self._run(session, streams, {name: videos[name][start : start + self.batch_size] for name in streams})
            for start in range(0, count, self.batch_size)
        ]
        if parts:
            return np.concatenate(parts)
        size = next(port.shape[-1] for port in session.get_outputs() if port.name == self.output)
        return np.zeros((0, size), "float32")

    def session(self) -> Any:
        """Returns the onnxruntime session of this process."""
        key = self.path, str(self.providers), self.num_threads
        if key not in _SESSIONS:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = self.num_threads
            providers = self.providers or onnxruntime.get_available_providers()
            _SESSIONS[key] = onnxruntime.InferenceSession(self.path, options, providers=providers)
        return _SESSIONS[key]

    def _run(self, session, streams, videos):
        frames = {name: [_as_frames(video, name, port) for video in videos[name]] for name, port in streams.items()}
        lengths = [[len(video) for video in stream] for stream in frames.values()]
        for video, of_streams in enumerate(zip(*lengths, strict=True)):
            if len(set(of_streams)) > 1:
                raise ValueError(
                    "The streams of a video must have as many frames as each other. "
                    f"Received: {dict(zip(frames, of_streams, strict=True))} for video {video} of the batch"
                )
        longest = max(1, *lengths[0])
        longest += -longest % self.round_to
        inputs = {name: _padded(stream, longest, streams[name].type) for name, stream in frames.items()}
        inputs[NUM_FRAMES] = np.array(lengths[0], "int32")
        return session.run([self.output], inputs)[0]


def _as_frames(video, name, port):
    """Returns the frames `(T, D)` of an array or of bytes."""
    feature_size = port.shape[-1]
    if isinstance(video, (bytes, bytearray, memoryview)):
        if len(video) % feature_size:
            raise ValueError(
                f"Bytes of stream {name!r} must be whole frames of {feature_size} bytes. Received: {len(video)} bytes"
            )
        return np.frombuffer(video, "uint8").reshape(-1, feature_size)
    video = np.asarray(video)
    if video.ndim != 2 or video.shape[1] != feature_size:
        raise ValueError(
            f"A video of stream {name!r} must be frames (T, {feature_size}). Received: an array of shape {video.shape}"
        )
    takes_bytes = port.type == "tensor(uint8)"
    if video.dtype != np.uint8 and (takes_bytes or video.dtype.kind != "f"):
        kinds = "uint8" if takes_bytes else "uint8, which is dequantized, or floats"
        raise ValueError(f"Features of stream {name!r} must be {kinds}. Received: an array of {video.dtype}")
    return video


def _padded(stream, longest, onnx_type):
    """Returns the videos as one array of the dtype of the model, padded with zeros."""
    dtype = "uint8" if onnx_type == "tensor(uint8)" else "float32"
    batch = np.zeros((len(stream), longest, stream[0].shape[1]), dtype)
    for row, video in zip(batch, stream, strict=True):
        if dtype == "float32" and video.dtype == np.uint8:
            # The 256 levels of YouTube-8M from -2 to 2, as in the layer `Dequantize`.
            video = video * np.float32(4 / 255) + np.float32(4 / 512 - 2)
        row[: len(video)] = video
    return batch
