"""`inspect_artefact`: reads the facts about an artifact from its files, without running it."""

import math
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import onnx
import tensorflow as tf
from google.protobuf.message import DecodeError

from keras_netvlad.export.description import Description
from keras_netvlad.export.litert.litert_file import read_litert
from keras_netvlad.export.parity_file import read_parity
from keras_netvlad.export.serving.warmup import WARMUP_FILE, read_warmup
from keras_netvlad.export.signature import SERVING_DEFAULT
from keras_netvlad.export.verification.artefact import (
    LITERT_SUFFIX,
    Ports,
    count_bytes,
    find_kind,
    read_saved_model,
    signatures_of,
)

# The result of every reader: the program that wrote the artifact, its signatures, and the number of values by dtype.
Contents = tuple[str, dict[str, tuple[Ports, Ports]], dict[str, int]]


def inspect_artefact(path: str | os.PathLike[str]) -> Description:
    """Reads the facts about an artifact from its files, without running it.

    Args:
        path: Directory of a SavedModel, an `.onnx` file or a `.tflite` file.

    Returns:
        A `Description`, which prints as a page.

    Example:

    >>> import os, tempfile
    >>> from keras_netvlad import VideoClassifier
    >>> from keras_netvlad.export import export_onnx, inspect_artefact
    >>> model = VideoClassifier({"frames": 8}, num_classes=3, num_clusters=2, hidden_units=None)
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     report = export_onnx(model, os.path.join(directory, "model.onnx"))
    ...     inspect_artefact(os.path.join(directory, "model.onnx")).signatures["serving_default"][0]
    {'frames': (('batch', 'frames', 8), 'float32'), 'num_frames': (('batch',), 'int32')}

    Raises:
        FileNotFoundError: If there is no artifact at `path`.
        ValueError: If a file is damaged or has another format.
    """
    path = Path(path)
    kind = find_kind(path)
    read = {"saved_model": _read_saved_model, "onnx": _read_onnx, "litert": read_litert}[kind]
    made_with, signatures, stored = read(path)
    warmup = path / WARMUP_FILE
    return Description(
        str(path),
        kind,
        count_bytes(path),
        made_with,
        signatures,
        stored,
        len(read_warmup(warmup)) if warmup.is_file() else 0,
        read_parity(path),
    )


def find_artefacts(path: str | os.PathLike[str]) -> list[Path]:
    """Finds the artifact at a path, or all artifacts below a directory, such as a server's model directory.

    Args:
        path: Path of an artifact or of a directory. Hidden directories are ignored.

    Returns:
        Paths of the artifacts, with versions in numerical order.

    Example:

    >>> import os, tempfile
    >>> from keras_netvlad import VideoClassifier
    >>> from keras_netvlad.export import export_model
    >>> from keras_netvlad.export.inspection import find_artefacts
    >>> model = VideoClassifier({"frames": 8}, num_classes=3, num_clusters=2, name="classifier")
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     reports = export_model(model, os.path.join(directory, "out"))
    ...     [path.name for path in find_artefacts(directory)]
    ['1', 'model.onnx']

    Raises:
        FileNotFoundError: If there are no artifacts.
    """
    path = Path(path)
    if path.is_file() or (path / "saved_model.pb").is_file():
        return [path]
    found = [file.parent if file.name == "saved_model.pb" else file for file in path.rglob("*") if _is_artifact(file)]
    found = [one for one in found if not any(part.startswith(".") for part in one.relative_to(path).parts)]
    if not found:
        raise FileNotFoundError(
            f"There must be a SavedModel, an .onnx or a .tflite file at or below the path. Received: {path}"
        )
    return sorted(found, key=lambda one: [(int(part) if part.isdecimal() else 0, part) for part in one.parts])


def _is_artifact(file: Path) -> bool:
    return file.is_file() and (file.name == "saved_model.pb" or file.suffix in (".onnx", LITERT_SUFFIX))


def _read_saved_model(path: Path) -> Contents:
    meta_graph = read_saved_model(path)
    signatures = {
        name: (dict(sorted(inputs.items())), dict(sorted(outputs.items())))
        for name, (inputs, outputs) in sorted(signatures_of(meta_graph).items(), key=lambda item: _order(item[0]))
    }
    try:
        reader = tf.train.load_checkpoint(str(path / "variables" / "variables"))
    except (tf.errors.OpError, ValueError) as error:
        raise _damaged(path / "variables", "a SavedModel's variables") from error
    stored: Counter[str] = Counter()
    for name, shape in reader.get_variable_to_shape_map().items():
        dtype = reader.get_variable_to_dtype_map()[name].name
        if dtype != "string":  # the object graph
            stored[dtype] += math.prod(shape)
    return f"TensorFlow {meta_graph.meta_info_def.tensorflow_version}", signatures, dict(stored)


def _order(name: str) -> tuple[bool, str]:
    """Sorts `serving_default` before the other signatures."""
    return name != SERVING_DEFAULT, name


def _read_onnx(path: Path) -> Contents:
    stored: Counter[str] = Counter()
    try:
        proto = onnx.load(path, load_external_data=False)
        signature = (_value_infos(proto.graph.input), _value_infos(proto.graph.output))
        for tensor in proto.graph.initializer:
            stored[onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).name] += math.prod(tensor.dims)
        (opset,) = [entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")]
        name = {entry.key: entry.value for entry in proto.metadata_props}.get("signature", SERVING_DEFAULT)
    except (DecodeError, ValueError, KeyError) as error:
        raise _damaged(path, "an ONNX model") from error
    return f"{proto.producer_name} {proto.producer_version}, opset {opset}", {name: signature}, dict(stored)


def _value_infos(values: Iterable[onnx.ValueInfoProto]) -> Ports:
    return {
        value.name: (
            tuple(
                dim.dim_param or (dim.dim_value if dim.HasField("dim_value") else None)
                for dim in value.type.tensor_type.shape.dim
            ),
            onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name,
        )
        for value in values
    }


def _damaged(path: Path, expected: str) -> ValueError:
    return ValueError(
        f"The file must be {expected}; export it again. Received: {path}, which is damaged or has another format"
    )
