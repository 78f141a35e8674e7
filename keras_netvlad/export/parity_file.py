"""`parity.json`: the file next to an artifact that records its origin, its metadata and its verification."""

import datetime
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import keras
import tensorflow as tf

from keras_netvlad._version import __version__
from keras_netvlad.base.json_files import read_json_object


class OutputParity(TypedDict):
    """The largest differences of one output in one signature. A difference that is not finite is `None`."""

    signature: str
    output: str
    max_absolute_difference: float | None
    max_relative_difference: float | None
    max_relative_difference_to_float64: float | None
    ok: bool


class TopAgreement(TypedDict):
    """The number of rows of the user's data with the same top class in model and artifact."""

    output: str
    same: int
    rows: int
    min: float | None


class Parity(TypedDict):
    """The result of a verification, as JSON stores it.

    `judge` is `"float64"` if a float64 copy of the model was compared as well, and otherwise the reason why not.
    """

    ok: bool
    kind: str
    num_bytes: int
    load_seconds: float
    tolerance: float
    judge: str
    num_runs: int
    outputs: list[OutputParity]
    top_1_agreement: TopAgreement | None


# The values that `Description` prints.
SCHEMA = {
    "producer": (str, None),
    "created": (str, None),
    "precision": (str, None),
    "signature": (str, None),
    "metadata": ({"labels": ([str], None)}, None),
    "parity": (
        {
            "ok": bool,
            "num_runs": int,
            "tolerance": float,
            "outputs": [
                {
                    "signature": str,
                    "output": str,
                    "max_relative_difference": (float, None),
                    "max_relative_difference_to_float64": (float, None),
                }
            ],
            "top_1_agreement": ({"output": str, "same": int, "rows": int}, None),
        },
        None,
    ),
}


def parity_path(artifact_path: str | os.PathLike[str]) -> Path:
    """Returns the path of the file: `parity.json` in a SavedModel, `<name>.parity.json` next to other artifacts."""
    path = Path(artifact_path)
    is_file = path.suffix in (".onnx", ".tflite")
    return path.with_name(f"{path.name}.parity.json") if is_file else path / "parity.json"


def write_parity(
    artifact_path: str | os.PathLike[str],
    parity: Parity | None,
    metadata: Mapping[str, Any],
    precision: str,
    signature: str | None = None,
) -> None:
    """Writes the file for an artifact.

    Args:
        artifact_path: Path of the artifact.
        parity: Result of the verification, or `None` if the artifact was not verified.
        metadata: The user's metadata, validated by `check_metadata`.
        precision: Precision of the artifact.
        signature: Name of the signature of an ONNX file, or `None` for other artifacts, which have several.
    """
    content = {
        "producer": f"keras_netvlad {__version__}, keras {keras.__version__}, tensorflow {tf.__version__}",
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "precision": precision,
        **({} if signature is None else {"signature": signature}),
        "metadata": metadata,
        "parity": parity,
    }
    parity_path(artifact_path).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_parity(artifact_path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads the file of an artifact.

    Args:
        artifact_path: Path of the artifact.

    Returns:
        The content: `producer`, `created`, `precision`, `signature`, `metadata` and `parity`. Empty if there is no
        such file.

    Raises:
        ValueError: If the file is damaged.
        OSError: If the file cannot be read.
    """
    path = parity_path(artifact_path)
    if not path.is_file():
        return {}
    try:
        return read_json_object(path, SCHEMA)
    except ValueError as error:
        raise ValueError(
            f"The file must hold the result of a verification as JSON; export the artifact again. Received: {path} "
            f"({error})"
        ) from error
