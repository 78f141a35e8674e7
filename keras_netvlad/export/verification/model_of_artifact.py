"""`model_of_artifact`: the Keras model that an artifact was made from."""

import os
from typing import Any

import keras
import onnx

from keras_netvlad.export.parity_file import read_parity
from keras_netvlad.export.pictures import LAYOUT, SIZE, picture_facts
from keras_netvlad.export.verification.artefact import find_kind
from keras_netvlad.layers import FrameEncoder
from keras_netvlad.models.picture_model import picture_model, takes_pictures


def model_of_artifact(model: keras.Model, path: str | os.PathLike[str]) -> keras.Model:
    """Returns the model that an artifact was made from: the model, or its `picture_model` if the artifact is one.

    Args:
        model: The Keras model.
        path: Path of an artifact.
    """
    has_encoder = any(isinstance(layer, FrameEncoder) for layer in getattr(model, "layers", []))
    if not has_encoder and not takes_pictures(model):
        return model
    facts, own = _read_facts(path), picture_facts(model)
    layout, size = facts.get(LAYOUT), facts.get(SIZE)
    if (
        layout not in ("nhwc", "nchw")
        or not isinstance(size, str)
        or (layout, size) == (own.get(LAYOUT), own.get(SIZE))
    ):
        return model
    sizes = size.split("x")
    is_fixed = len(sizes) == 2 and all(part.isdecimal() for part in sizes)
    return picture_model(model, layout, [int(part) for part in sizes] if is_fixed else None)


def _read_facts(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the metadata of an artifact, or nothing if they cannot be read; loading the artifact says why."""
    try:
        if find_kind(path) != "onnx":
            return read_parity(path).get("metadata") or {}
        proto = onnx.load(path, load_external_data=False)
    except Exception:
        # A damaged file raises exceptions of several classes.
        return {}
    return {entry.key: entry.value for entry in proto.metadata_props}
