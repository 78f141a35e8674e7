"""`parity.json`: what is known of an artefact, beside it."""

import datetime
import json
from pathlib import Path

import keras
import tensorflow as tf

from keras_netvlad._version import __version__
from keras_netvlad.export.model_signature import SERVING_DEFAULT

LABELS = "labels"


def parity_path(artefact_path):
    """Where the file lies: `parity.json` in a SavedModel, `<name>.onnx.parity.json` beside an ONNX model."""
    path = Path(artefact_path)
    return path.with_name(f"{path.name}.parity.json") if path.suffix == ".onnx" else path / "parity.json"


def write_parity(artefact_path, report, metadata, precision="float32"):
    """Writes what an artefact is, what it was verified to compute, and what its maker says of it."""
    content = {
        "producer": f"keras_netvlad {__version__}, keras {keras.__version__}, tensorflow {tf.__version__}",
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "precision": precision,
        "metadata": metadata or {},
        "parity": None if report is None else report.as_dict(),
    }
    parity_path(artefact_path).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_parity(artefact_path):
    """Reads it back.

    Returns:
        A dict; empty if there is no such file.

    Raises:
        ValueError: If the file is damaged.
    """
    path = parity_path(artefact_path)
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"The file must hold JSON; export the artefact again. Received: {path} ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"The file must hold a JSON object; export the artefact again. Received: {path}")
    return content


def check_metadata(metadata, signatures):
    """Returns what the maker says of a model as a dict that JSON can hold, or raises.

    Args:
        metadata: Dict from names to JSON values, or `None`. `"labels"`, if there, names the classes.
        signatures: The model's, by name.
    """
    if metadata is None:
        return {}
    if not isinstance(metadata, dict) or not all(isinstance(key, str) for key in metadata):
        raise ValueError(f"`metadata` must be a dict with strings for keys. Received: metadata={metadata!r}")
    try:
        json.dumps(metadata, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`metadata` must hold what JSON can hold. Received: {error}") from error
    labels = metadata.get(LABELS)
    if labels is not None:
        sizes = {port.shape[-1] for port in signatures[SERVING_DEFAULT].outputs if len(port.shape) == 2}
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise ValueError(f"`metadata['labels']` must be a list of strings. Received: {type(labels).__name__}")
        if len(labels) not in sizes:
            raise ValueError(
                f"`metadata['labels']` must name every class of an output, whose sizes are {sorted(map(str, sizes))}. "
                f"Received: {len(labels)} labels"
            )
    return dict(metadata)
