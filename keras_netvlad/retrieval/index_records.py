"""`index_records`: makes an index of the descriptors of records, which an ONNX artifact computes."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from keras_netvlad.base.file_digest import file_digest
from keras_netvlad.base.json_files import read_json_object
from keras_netvlad.base.names import DESCRIPTOR, EXTRACTION_FILE, NUM_FRAMES
from keras_netvlad.base.quantization import dequantize
from keras_netvlad.retrieval.descriptor_index import DescriptorIndex

BATCH_SIZE = 16


def index_records(
    records: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    artefact: str | os.PathLike[str],
    feature_dtype: Literal["uint8", "float16"] | None = None,
) -> DescriptorIndex:
    """Computes the descriptors of the clips in frame-level records, as `keras-netvlad extract` writes them.

    Args:
        records: Directory, whose `.tfrecord` files are read recursively; or a path, a pattern, or a list of these,
            as in `youtube8m`. Each record must have a unique `id`.
        artefact: Path of an ONNX file with an output `descriptor`, for example a `VideoEncoder` that `export_onnx`
            wrote. Its inputs are streams `(batch, frames, features)` of floats or bytes with the names in the records,
            and `num_frames`. Without `num_frames`, clips are run one at a time.
        feature_dtype: `"uint8"` or `"float16"`, as in `youtube8m`. By default the dtype in the `extraction.json` of the
            directory, or `"uint8"` if that file does not exist.

    Returns:
        A `DescriptorIndex` with the ids of the records. Its `source` has the SHA-256 of the model and, if
        `extract_features` wrote the directory, of the encoder.

    Example:

    >>> import os, tempfile
    >>> import numpy as np
    >>> from keras_netvlad import VideoEncoder
    >>> from keras_netvlad.data import write_youtube8m
    >>> from keras_netvlad.export import export_onnx
    >>> from keras_netvlad.retrieval.index_records import index_records
    >>> folder = tempfile.mkdtemp()
    >>> rng = np.random.default_rng(0)
    >>> clips = [{"id": name, "labels": [], "rgb": rng.uniform(-2, 2, (5, 8))} for name in ("one", "two", "three")]
    >>> write_youtube8m(os.path.join(folder, "clips.tfrecord"), clips)
    3
    >>> report = export_onnx(VideoEncoder({"rgb": 8}, num_clusters=4), os.path.join(folder, "model.onnx"))
    >>> index = index_records(folder, os.path.join(folder, "model.onnx"))
    >>> index.ids
    ['one', 'two', 'three']

    Raises:
        FileNotFoundError: If the records or the artifact do not exist.
        ValueError: If the artifact has other inputs or no output `descriptor`, if records are damaged or lack its
            streams, or if ids are not unique.
    """
    import tensorflow as tf

    from keras_netvlad.data import youtube8m

    session, streams, lengths = _open(artefact)
    files: Any = records
    if isinstance(records, (str, os.PathLike)) and Path(records).is_dir():
        files = sorted(str(path) for path in Path(records).rglob("*.tfrecord"))
        if not files:
            raise FileNotFoundError(f"The directory must hold `.tfrecord` files. Received: {records}")
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
    index = DescriptorIndex(_source_of(records, artefact))
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
                        f"`artefact` must take floats where records hold float16. Received: {artefact}, "
                        f"which takes `{name}` as bytes"
                    )
                feeds[name] = values
            for port in lengths:
                feeds[port.name] = inputs[NUM_FRAMES].astype("int64" if "int64" in port.type else "int32")
            index.add([_text(name, records) for name in inputs["id"]], session.run([DESCRIPTOR], feeds)[0])
    except tf.errors.InvalidArgumentError as error:
        reasons = [line for line in str(error).splitlines() if "ValueError: " in line]
        raise ValueError(reasons[0].split("ValueError: ", 1)[1] if reasons else str(error)) from error
    return index


def _text(name: bytes, records: Any) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"The ids of records must be text in UTF-8. Received: {name!r} in {records}") from error


def _source_of(records: Any, artefact: str | os.PathLike[str]) -> dict[str, str]:
    """Returns the digests of the model and, if the directory names it, of the encoder of the frames."""
    encoder = _settings(records)["encoder"]
    return {"model": file_digest(artefact), **({"encoder": encoder} if encoder else {})}


def _extracted_dtype(records: Any) -> Any:
    """Returns the dtype that `extract_features` stored in the directory, or `"uint8"`."""
    return _settings(records)["dtype"] or "uint8"


def _settings(records: Any) -> dict[str, Any]:
    """Returns the settings that `extract_features` stored in the directory, or `None` for each."""
    path = Path(records, EXTRACTION_FILE) if isinstance(records, (str, os.PathLike)) else None
    if path is None or not path.is_file():
        return {"dtype": None, "encoder": None}
    try:
        settings = read_json_object(path, {"dtype": str, "encoder": (str, None)})
        if settings["dtype"] not in ("uint8", "float16"):
            raise ValueError(f"dtype {settings['dtype']!r}")
    except ValueError as error:
        raise ValueError(
            "The file must hold the settings of `extract_features`; give `feature_dtype`, or move the records "
            f"elsewhere. Received: {path} ({error})"
        ) from error
    return settings


def _open(artefact: str | os.PathLike[str]) -> tuple[Any, dict[str, Any], list[Any]]:
    """Returns a session, its streams by name, and a list with the input `num_frames` if there is one."""
    import onnxruntime

    if not Path(artefact).is_file():
        raise FileNotFoundError(f"`artefact` must be an ONNX file. Received: {artefact}")
    try:
        session = onnxruntime.InferenceSession(str(artefact), providers=["CPUExecutionProvider"])
    except Exception as error:  # the exceptions of onnxruntime have no other base class
        raise ValueError(f"`artefact` must be an ONNX file that onnxruntime loads. Received: {artefact}") from error
    inputs, outputs = session.get_inputs(), [port.name for port in session.get_outputs()]
    streams = {port.name: port for port in inputs if port.name != NUM_FRAMES}
    shapes = {port.name: port.shape for port in inputs}
    fits = streams and all(
        port.type in ("tensor(float)", "tensor(uint8)") and len(port.shape) == 3 and isinstance(port.shape[2], int)
        for port in streams.values()
    )
    if not fits or DESCRIPTOR not in outputs:
        raise ValueError(
            f"`artefact` must take streams (batch, frames, features) of floats or bytes and have an output "
            f"`{DESCRIPTOR}`. Received: {artefact} with inputs {shapes} and outputs "
            f"{outputs}"
        )
    return session, streams, [port for port in inputs if port.name == NUM_FRAMES]
