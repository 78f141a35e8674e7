"""`warm_up`: writes the warm-up requests of a SavedModel and runs them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_netvlad.base.names import NUM_FRAMES
from keras_netvlad.data.sequence_example import serialize_example
from keras_netvlad.export.serving.warmup import WARMUP_FILE, check_number_of_requests, read_warmup, write_warmup
from keras_netvlad.export.serving.warmup_sizes import port_shape
from keras_netvlad.export.serving_signatures import EXAMPLES, frame_streams
from keras_netvlad.export.signature import SERVING_DEFAULT, Signature
from keras_netvlad.export.verification.artefact import Artefact

# Name of a signature, batch size and number of frames.
Request = tuple[str, int, int]


def plan_requests(signatures: Mapping[str, Signature], sizes: Sequence[tuple[int, int]]) -> list[Request]:
    """Returns the warm-up requests for every signature.

    Args:
        signatures: The model's signatures by name.
        sizes: Pairs `(batch size, frames)`, as `warmup_sizes` returns them.

    Raises:
        ValueError: If there are more requests than a server takes.
    """
    requests: list[Request] = []
    for name, signature in signatures.items():
        has_frames = _takes_examples(signature) or any(None in port.shape[1:] for port in signature.inputs)
        # The length of the frames makes no difference to the sums that `describe` takes.
        chosen = sizes if has_frames else sorted({batch: (batch, frames) for batch, frames in sizes}.values())
        requests += [(name, batch, frames) for batch, frames in chosen]
    check_number_of_requests(len(requests))
    return requests


def warm_up(directory: Path, signatures: Mapping[str, Signature], requests: Sequence[Request]) -> None:
    """Writes warm-up requests and runs them, because a server does not load a version if one request fails.

    Args:
        directory: The SavedModel.
        signatures: The model's signatures by name.
        requests: The requests, as `plan_requests` returns them.

    Raises:
        ValueError: If a request fails.
    """
    path = directory / WARMUP_FILE
    path.parent.mkdir(exist_ok=True)
    default = signatures[SERVING_DEFAULT]
    write_warmup(
        path, [(name, make_request(signatures[name], default, batch, frames)) for name, batch, frames in requests]
    )
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


def make_request(signature: Signature, default: Signature, batch: int, frames: int) -> dict[str, np.ndarray]:
    """Returns inputs of zeros whose frames are all real.

    Args:
        signature: The signature to request.
        default: The model's signature `serving_default`.
        batch: Number of videos.
        frames: Number of frames of each video.
    """
    if _takes_examples(signature):
        video = {port.name: np.zeros((frames, port.shape[2] or 0), "uint8") for port in frame_streams(default)}
        return {EXAMPLES: np.array([serialize_example(video)] * batch, object)}
    return {
        port.name: np.full(
            port_shape(port, batch, frames),
            frames if port.name == NUM_FRAMES else 0,
            tf.as_dtype(port.dtype).as_numpy_dtype,
        )
        for port in signature.inputs
    }


def _takes_examples(signature: Signature) -> bool:
    return [port.name for port in signature.inputs] == [EXAMPLES]
