"""`index_records`: records of frame features to an index of descriptors, by an ONNX artefact."""

import json
import os
from pathlib import Path

import numpy as np

from keras_netvlad.base.names import DESCRIPTOR, EXTRACTION_FILE, NUM_FRAMES
from keras_netvlad.base.quantization import dequantize
from keras_netvlad.retrieval.descriptor_index import DescriptorIndex

BATCH_SIZE = 16


def index_records(records, artefact, feature_dtype=None):
    """Computes the descriptor of each clip of YouTube-8M's frame-level records, as `keras-netvlad extract` writes them.

    Args:
        records: Directory, all `.tfrecord` files of which are taken, with those below it; or a path, a pattern, or a
            list of those, as of `youtube8m`. Every record has an `id` of its own.
        artefact: Path of an ONNX file with an output `descriptor`, as `export_onnx` writes it. Its inputs are streams
            `(batch, frames, features)`, floats or bytes, that the records have under the same names, and `num_frames`,
            without which clips are run one by one.
        feature_dtype: `"uint8"` or `"float16"`, as of `youtube8m`; by default what the `extraction.json` of a directory
            says, and bytes where there is none.

    Returns:
        A `DescriptorIndex`.

    Example:

    >>> import os, tempfile
    >>> import numpy as np
    >>> from keras_netvlad import VideoClassifier
    >>> from keras_netvlad.data import write_youtube8m
    >>> from keras_netvlad.export import export_onnx
    >>> from keras_netvlad.retrieval.index_records import index_records
    >>> folder = tempfile.mkdtemp()
    >>> rng = np.random.default_rng(0)
    >>> clips = [{"id": name, "labels": [], "rgb": rng.uniform(-2, 2, (5, 8))} for name in ("one", "two", "three")]
    >>> write_youtube8m(os.path.join(folder, "clips.tfrecord"), clips)
    3
    >>> model = VideoClassifier({"rgb": 8}, num_classes=2, num_clusters=4, hidden_units=None)
    >>> report = export_onnx(model, os.path.join(folder, "model.onnx"))
    >>> index = index_records(folder, os.path.join(folder, "model.onnx"))
    >>> index.ids
    ['one', 'two', 'three']

    Raises:
        FileNotFoundError: If there are no records, or no artefact.
        ValueError: On an artefact of other inputs or without descriptors, records that lack its streams or are damaged,
            or ids that are not unique.
    """
    import tensorflow as tf

    from keras_netvlad.data import youtube8m

    session, streams, lengths = _open(artefact)
    if not isinstance(records, (list, tuple)) and Path(records).is_dir():
        files = sorted(str(path) for path in Path(records).rglob("*.tfrecord"))
        if not files:
            raise FileNotFoundError(f"The directory must hold `.tfrecord` files. Received: {records}")
    else:
        files = records
    if feature_dtype is None:
        feature_dtype = _extracted_dtype(records)
    batches = youtube8m(
        files,
        BATCH_SIZE if lengths else 1,
        feature_sizes={name: port.shape[-1] for name, port in streams.items()},
        feature_dtype=feature_dtype,
        max_frames=np.iinfo("int32").max,
        with_ids=True,
    )
    index = DescriptorIndex()
    try:
        for inputs, _ in batches.as_numpy_iterator():
            feeds = {}
            for name, port in streams.items():
                values = inputs[name]
                if port.type == "tensor(float)":
                    is_bytes = values.dtype == np.uint8
                    values = dequantize(values) if is_bytes else values.astype("float32")
                elif values.dtype != np.uint8:
                    raise ValueError(
                        f"The artefact must take floats where records hold float16. Received: {artefact}, "
                        f"which takes `{name}` as bytes"
                    )
                feeds[name] = values
            for port in lengths:
                feeds[port.name] = inputs[NUM_FRAMES].astype("int64" if "int64" in port.type else "int32")
            index.add([name.decode() for name in inputs["id"]], session.run([DESCRIPTOR], feeds)[0])
    except tf.errors.InvalidArgumentError as error:
        reasons = [line for line in str(error).splitlines() if "ValueError: " in line]
        raise ValueError(reasons[0].split("ValueError: ", 1)[1] if reasons else str(error)) from error
    return index


def _extracted_dtype(records):
    """The type that `extract_features` wrote down in the directory."""
    settings = Path(records, EXTRACTION_FILE) if isinstance(records, (str, os.PathLike)) else None
    return json.loads(settings.read_text())["dtype"] if settings is not None and settings.is_file() else "uint8"


def _open(artefact):
    """A session, its streams by name, and the port of the number of frames, in a list of one or none."""
    import onnxruntime

    if not Path(artefact).is_file():
        raise FileNotFoundError(f"The artefact must be an ONNX file. Received: {artefact}")
    try:
        session = onnxruntime.InferenceSession(str(artefact), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes, which share no base but this
        raise ValueError(f"The artefact must be an ONNX file that onnxruntime loads. Received: {artefact}") from error
    inputs, outputs = session.get_inputs(), [port.name for port in session.get_outputs()]
    streams = {port.name: port for port in inputs if port.name != NUM_FRAMES}
    shapes = {port.name: port.shape for port in inputs}
    fits = streams and all(
        port.type in ("tensor(float)", "tensor(uint8)") and len(port.shape) == 3 and isinstance(port.shape[2], int)
        for port in streams.values()
    )
    if not fits or DESCRIPTOR not in outputs:
        raise ValueError(
            f"The artefact must take streams (batch, frames, features) of floats or bytes and have an output "
            f"`{DESCRIPTOR}`. Received: {artefact} with inputs {shapes} and outputs "
            f"{outputs}"
        )
    return session, streams, [port for port in inputs if port.name == NUM_FRAMES]
