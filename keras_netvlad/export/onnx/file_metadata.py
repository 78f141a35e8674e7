"""`append_metadata`: adds key-value metadata to an ONNX file that is already written."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from keras_netvlad.export.parity_file import Parity
from keras_netvlad.export.pictures import LAYOUT
from keras_netvlad.export.signature import Signature

# The entry with the name of the signature that a file computes.
SIGNATURE = "signature"
# The entry with the digest of the weights, which tells the files of two trainings apart.
WEIGHTS_DIGEST = "weights_sha256"


def append_metadata(
    path: Path, default: Signature, precision: str, metadata: Mapping[str, Any], parity: Parity | None
) -> None:
    """Appends metadata to an ONNX file without reading it.

    Concatenated protobuf messages are parsed as one merged message, so the entries can follow the model.

    Args:
        path: Path of the ONNX file.
        default: The model's signature `serving_default`, for the entry `feature_sizes`; not for pictures.
        precision: Precision of the file, for the entry `precision`.
        metadata: The user's metadata; one entry for each key except `signature` and `weights_sha256`, which
            are set here.
        parity: Result of the verification, for the entry `parity`: the largest relative difference of each output.
    """
    sizes = {port.name: port.shape[-1] for port in default.inputs if len(port.shape) > 1}
    feature_sizes = {} if LAYOUT in metadata else {"feature_sizes": sizes}
    entries = {"precision": precision, **feature_sizes, **metadata}
    for key in (SIGNATURE, WEIGHTS_DIGEST):
        entries.pop(key, None)
    if parity is not None:
        entries["parity"] = {
            f"{row['signature']}:{row['output']}": row["max_relative_difference"] for row in parity["outputs"]
        }
    proto = onnx.ModelProto()
    for key, value in entries.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        proto.metadata_props.add(key=key, value=text)
    with open(path, "ab") as file:
        file.write(proto.SerializeToString())
