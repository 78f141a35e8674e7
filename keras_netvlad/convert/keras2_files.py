"""Reads `.h5` files of Keras 2, of a model or of its weights: the configuration, and the weights of each layer."""

import json
import re
from itertools import count, takewhile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_netvlad.convert.tensor_files import Readers, read_h5, unreadable

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
# `model.save` writes the weights here, and `model.save_weights` at the root.
WEIGHTS = "model_weights"


class Keras2File(NamedTuple):
    """The content of a file of Keras 2.

    Attributes:
        config: Configuration of the model; or `None` in a file of weights alone.
        layers: Names of the tensors of each layer, in the order in which Keras 2 stores them.
        readers: Functions that read the tensors, by name: `LAYER/WEIGHT`, without `:0`.
        largest: Number of values of the largest dataset.
    """

    config: dict[str, Any] | None
    layers: dict[str, list[str]]
    readers: Readers
    largest: int


def is_hdf5(path: Path) -> bool:
    """Returns whether a file is an HDF5 file. Keras 2 also writes them with the suffix `.keras`."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return file.read(len(HDF5_MAGIC)) == HDF5_MAGIC


def read_keras2(path: Path) -> Keras2File:
    """Opens a file that `model.save` or `model.save_weights` of Keras 2 wrote. Links to other files are not followed.

    Raises:
        ValueError: If the file is damaged, or is another kind of HDF5 file.
        ImportError: If h5py is not installed.
    """
    datasets = read_h5(path)
    import h5py

    attributes: dict[str, dict[str, Any]] = {}
    sizes = [0]

    def visit(name: str | bytes, item: Any) -> None:
        if isinstance(item, h5py.Group) and isinstance(name, str):
            attributes[name] = dict(item.attrs)
        if isinstance(item, h5py.Dataset):
            sizes.append(int(item.size or 0))

    try:
        with h5py.File(path, "r") as file:
            attributes[""] = dict(file.attrs)
            file.visititems(visit)
        root = WEIGHTS if WEIGHTS in attributes else ""
        config = _config(attributes[""])
        layers: dict[str, list[str]] = {}
        readers: Readers = {}
        for layer in _names(attributes[root], "layer_names"):
            group = f"{root}/{layer}".lstrip("/")
            weights = _names(attributes[group], "weight_names")
            layers[layer] = [_tensor_name(layer, weight) for weight in weights]
            readers |= {
                name: datasets[f"{group}/{weight}"] for name, weight in zip(layers[layer], weights, strict=True)
            }
    except Exception as error:
        raise unreadable(path, "a whole .h5 file that Keras 2 wrote", error) from error
    if not readers:
        raise ValueError(
            "The .h5 file must have the weights of a model of Keras 2; write it with `model.save('model.h5')` or "
            f"`model.save_weights('weights.h5')`. Received: {path}, without weights in that form"
        )
    return Keras2File(config, layers, readers, max(sizes))


def _config(attributes: dict[str, Any]) -> dict[str, Any] | None:
    text = attributes.get("model_config")
    if text is None:
        return None
    config = json.loads(text)
    if not isinstance(config, dict):
        raise ValueError("its model_config is not a JSON object")
    return config


def _names(attributes: dict[str, Any], kind: str) -> list[str]:
    """Returns a list of names, which Keras 2 divides into numbered attributes if it is longer than 64 KiB."""
    numbered = takewhile(attributes.__contains__, (f"{kind}{number}" for number in count()))
    parts = [kind] if kind in attributes else numbered
    names = [name for part in parts for name in np.ravel(attributes[part])]
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def _tensor_name(layer: str, weight: str) -> str:
    weight = weight.removesuffix(":0")
    # TensorFlow 1 numbers the scope of a layer that is built again in the same graph.
    scope = re.match(rf"{re.escape(layer)}(_\d+)?/", weight)
    return f"{layer}/{weight[scope.end() :] if scope else weight}"
