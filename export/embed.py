"""`Embed`: videos as bytes in, descriptors out; for the workers of Ray, Spark, Beam or anything else that pickles.

    from embed import Embed
    descriptors = Embed("model.onnx")({"rgb": [bytes_of_video_1, ...], "audio": [...]})

NumPy and onnxruntime are all it needs. `examples/embed_with_ray.py`, `embed_with_spark.py` and `embed_with_beam.py` use
it for millions of videos.
"""

from pathlib import Path

import numpy as np

NUM_FRAMES = "num_frames"
_SESSIONS = {}


class Embed:
    """Turns videos into descriptors, with a model that `export_onnx` wrote.

    An object is a path and a few numbers, and pickles as that. The session is opened at the first call in each process,
    which keeps it for all objects of the same path.

    Args:
        path: ONNX file that every worker can read.
        output: Which output to take: `"descriptor"`, or `"scores"`.
        batch_size: Integer, how many videos the model gets at once; memory grows with it.
        round_to: Integer. Videos are padded to a multiple of so many frames, so that the runtime meets few shapes.
        providers: onnxruntime's execution providers in order of preference; by default a GPU's where there is one.
        num_threads: Integer, threads of a session. Workers of one machine share its cores: give each its part.

    Call arguments:
        videos: Dict from the name of each stream, an input of the model, to a sequence of videos. A video is an array
            `(T, D)` or the bytes of a `uint8` one. `uint8` features are dequantized as YouTube-8M's where the model
            takes floats. All streams of a video have as many frames.

    Returns:
        `(videos, F)`, float32, in the order given.

    Raises:
        ValueError: If there is no such output, if a stream is missing or has more videos than another, if bytes are no
            whole frames, if features are of another dtype, or if streams of a video differ in length.
    """

    def __init__(self, path, output="descriptor", batch_size=32, round_to=32, providers=None, num_threads=0):
        self.path = str(Path(path).absolute())
        self.output = output
        self.batch_size = batch_size
        self.round_to = round_to
        self.providers = providers
        self.num_threads = num_threads

    def __call__(self, videos):
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

    def session(self):
        """The onnxruntime session of this process."""
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
    """Frames `(T, D)` of an array or of bytes."""
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
    """Videos as one array of the model's dtype, zeros behind each."""
    dtype = "uint8" if onnx_type == "tensor(uint8)" else "float32"
    batch = np.zeros((len(stream), longest, stream[0].shape[1]), dtype)
    for row, video in zip(batch, stream, strict=True):
        if dtype == "float32" and video.dtype == np.uint8:
            # YouTube-8M's 256 levels from -2 to 2, as the layer `Dequantize` has them.
            video = video * np.float32(4 / 255) + np.float32(4 / 512 - 2)
        row[: len(video)] = video
    return batch
