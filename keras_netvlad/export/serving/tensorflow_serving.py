"""`publish`: a model as the next version that TensorFlow Serving picks up."""

import re
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_netvlad.base.atomic_files import staged
from keras_netvlad.base.names import NUM_FRAMES
from keras_netvlad.base.validation import check_integer
from keras_netvlad.data.sequence_example import serialize_example
from keras_netvlad.export.model_signature import SERVING_DEFAULT
from keras_netvlad.export.parity_file import check_metadata, write_parity
from keras_netvlad.export.saved_model import write_saved_model
from keras_netvlad.export.serving.batching_parameters import batching_parameters
from keras_netvlad.export.serving.warmup import read_warmup, write_warmup
from keras_netvlad.export.serving_signatures import EXAMPLES, frame_streams, serving_signatures
from keras_netvlad.export.verification.artefact import Artefact
from keras_netvlad.export.verification.verify import checked

MODEL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
WARMUP_FILE = Path("assets.extra", "tf_serving_warmup_requests")
BATCHING_FILE = "batching_params.pbtxt"


def publish(
    model,
    base_path,
    name=None,
    version=None,
    *,
    max_batch_size=32,
    warmup_frames=(1, 300),
    tolerance=None,
    data=None,
    min_agreement=None,
    metadata=None,
):
    """Publishes a model as `<base_path>/<name>/<version>/`, which a running TensorFlow Serving loads by itself.

    The version is written aside, verified in every signature, warmed up, and appears by one rename: a server that
    polls the directory never sees a part of it, whatever happens to this process. Beside the SavedModel it holds

    - `parity.json`: what was verified, and `metadata`;
    - `assets.extra/tf_serving_warmup_requests`: requests that the server runs before it takes the version into
      service, replayed here first, for one bad request would fail the load;
    - `batching_params.pbtxt`: for a server that batches (`--enable_per_model_batching_parameters`).

    Args:
        model: A functional or Sequential Keras model with named inputs.
        base_path: Directory of all models; made if it does not exist.
        name: Name to serve the model by; by default its own.
        version: Positive integer that is not there yet; by default one more than the highest there.
        max_batch_size: Integer, rows that the server merges at most, and the largest batch to warm up.
        warmup_frames: Lengths to warm up with, in frames, each at batch size 1 and `max_batch_size`; empty for none.
        tolerance, data, min_agreement: As of `verify`.
        metadata: As of `export_saved_model`.

    Returns:
        The `Report` of the verification; its `path` is the version's.

    Example:

    >>> import os, tempfile
    >>> from keras_netvlad import VideoClassifier
    >>> from keras_netvlad.export import publish
    >>> model = VideoClassifier({"frames": 8}, num_classes=3, num_clusters=2, name="classifier")
    >>> with tempfile.TemporaryDirectory() as base_path:
    ...     reports = [publish(model, base_path) for _ in range(2)]
    ...     sorted(os.listdir(os.path.join(base_path, "classifier")))
    ['1', '2']

    Raises:
        ValueError, TypeError: If the model can't be exported or an argument is none of the above.
        ParityError: If the artefact computes something else than the model. Nothing is written then.
        FileExistsError: If the version asked for is there already.
        OSError: If the directory can't be written.
    """
    signatures = serving_signatures(model)
    metadata = check_metadata(metadata, signatures)
    max_batch_size = check_integer("max_batch_size", max_batch_size, 1)
    warmup_frames = tuple(check_integer("warmup_frames", frames, 0) for frames in warmup_frames)
    if version is not None:
        check_integer("version", version, 1)
    directory = Path(base_path) / check_model_name(name or model.name)
    while True:
        target = directory / str(next_version(directory) if version is None else version)
        try:
            with staged(target) as stage:
                write_saved_model(model, signatures, stage)
                report = checked(model, stage, target, tolerance, data, min_agreement)
                write_parity(stage, report, metadata)
                (stage / BATCHING_FILE).write_text(batching_parameters(max_batch_size))
                if warmup_frames:
                    _warm_up(signatures, stage, max_batch_size, warmup_frames)
            return report
        except FileExistsError:
            # Another publisher took the number meanwhile: the next one is free.
            if version is not None:
                raise


def check_model_name(name):
    """Returns a name that a directory, a URL and a server's configuration can all bear, or raises."""
    if not MODEL_NAME.fullmatch(name):
        raise ValueError(
            "A served model's name must be made of letters, digits, `_`, `-` and `.`; give another `name`. "
            f"Received: {name!r}"
        )
    return name


def next_version(directory):
    """One more than the highest version in a model's directory; 1 if there is none."""
    versions = [int(path.name) for path in directory.glob("*") if path.name.isdecimal()]
    return max(versions, default=0) + 1


def _warm_up(signatures, stage, max_batch_size, lengths):
    """Writes the warm-up requests, and runs what can be read back of them."""
    path = stage / WARMUP_FILE
    path.parent.mkdir(exist_ok=True)
    write_warmup(
        path,
        [
            (name, _zeros(signature, signatures[SERVING_DEFAULT], batch, frames))
            for name, signature in signatures.items()
            for batch in sorted({1, max_batch_size})
            for frames in lengths
        ],
    )
    artefact = Artefact(stage)
    for name, inputs in read_warmup(path):
        try:
            artefact.run(inputs, name)
        except Exception as error:
            # Whatever TensorFlow raises; in a server it would fail the load.
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            shapes = {key: values.shape for key, values in inputs.items()}
            raise ValueError(
                "Every warm-up request must run; choose other `warmup_frames`. "
                f"Received: `{name}` with {shapes} fails ({reason})"
            ) from error


def _zeros(signature, default, batch, frames):
    """A request of zeros, all of whose frames are real."""
    if [port.name for port in signature.inputs] == [EXAMPLES]:
        video = {port.name: np.zeros((frames, port.shape[2]), "uint8") for port in frame_streams(default)}
        return {EXAMPLES: np.array([serialize_example(video)] * batch, object)}
    inputs = {}
    for port in signature.inputs:
        sizes = [batch, frames] + [1] * len(port.shape)
        shape = [sizes[axis] if size is None else size for axis, size in enumerate(port.shape)]
        value = frames if port.name == NUM_FRAMES else 0
        inputs[port.name] = np.full(shape, value, tf.as_dtype(port.dtype).as_numpy_dtype)
    return inputs
