"""`warm_up`: writes the warm-up requests of a SavedModel and runs them."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_netvlad.base.names import NUM_FRAMES
from keras_netvlad.data.sequence_example import serialize_example
from keras_netvlad.export.serving.warmup import WARMUP_FILE, read_warmup, write_warmup
from keras_netvlad.export.serving_signatures import EXAMPLES, frame_streams
from keras_netvlad.export.signature import SERVING_DEFAULT, Signature
from keras_netvlad.export.verification.artefact import Artefact


def warm_up(directory: Path, signatures: Mapping[str, Signature], max_batch_size: int, lengths: Iterable[int]) -> None:
    """Writes warm-up requests for every signature and runs them, because one failing request fails a server's load.

    Args:
        directory: The SavedModel.
        signatures: The model's signatures by name.
        max_batch_size: Requests are made at this batch size and at batch size 1.
        lengths: Numbers of frames of the requests.

    Raises:
        ValueError: If a request fails.
    """
    path = directory / WARMUP_FILE
    path.parent.mkdir(exist_ok=True)
    requests = [
        (name, request_of_zeros(signature, signatures[SERVING_DEFAULT], batch, frames))
        for name, signature in signatures.items()
        for batch in sorted({1, max_batch_size})
        for frames in lengths
    ]
    write_warmup(path, requests)
    artifact = Artefact(directory)
    for name, inputs in read_warmup(path):
        try:
            artifact.run(inputs, name)
        except Exception as error:
            # TensorFlow raises exceptions of many classes.
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            shapes = {key: values.shape for key, values in inputs.items()}
            raise ValueError(
                "Every warm-up request must run; choose other `warmup_frames`. "
                f"Received: `{name}` with {shapes} fails ({reason})"
            ) from error


def request_of_zeros(signature: Signature, default: Signature, batch: int, frames: int) -> dict[str, np.ndarray]:
    """Returns inputs of zeros whose frames are all real.

    Args:
        signature: The signature to request.
        default: The model's signature `serving_default`.
        batch: Number of videos.
        frames: Number of frames of each video.
    """
    if [port.name for port in signature.inputs] == [EXAMPLES]:
        video = {port.name: np.zeros((frames, port.shape[2] or 0), "uint8") for port in frame_streams(default)}
        return {EXAMPLES: np.array([serialize_example(video)] * batch, object)}
    inputs = {}
    for port in signature.inputs:
        sizes = [batch, frames] + [1] * len(port.shape)
        shape = [sizes[axis] if size is None else size for axis, size in enumerate(port.shape)]
        value = frames if port.name == NUM_FRAMES else 0
        inputs[port.name] = np.full(shape, value, tf.as_dtype(port.dtype).as_numpy_dtype)
    return inputs
