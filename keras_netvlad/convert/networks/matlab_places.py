"""VGG16-NetVLAD of Arandjelović et al. 2016 from MATLAB's files, which hloc reads too."""

from typing import Any

import keras
import numpy as np

from keras_netvlad.convert.arrays import as_numbers
from keras_netvlad.convert.matlab import TO_STRUCT, as_matrix, from_matlab, read_network, text_of
from keras_netvlad.convert.networks.place_model import place_model, whitening
from keras_netvlad.convert.networks.vgg16 import VGG16_LAYERS, vgg16
from keras_netvlad.convert.rows import reorder_rows
from keras_netvlad.convert.tensor_files import listed

WHITENINGS = ("WPCA", "PCA")
# Names of the layers behind the VGG16, in this order; those in brackets may be absent.
HEAD = "[preL2], vlad:core, [vlad:intranorm], postL2, [WPCA or PCA, finalL2]"


def matlab_places(source: Any) -> keras.Model:
    """Returns the model of pictures of a `.mat` file: VGG16 up to conv5_3, NetVLAD and, if present, the whitening.

    The pictures are RGB from 0 to 255, and the network subtracts the mean color `averageImage(1, 1, :)`.

    Args:
        source: Path of the file, of version 7 or older, whose layers are structs.

    Raises:
        ValueError: If the network has other layers.
    """
    net, layers, names = read_network(source)
    types = [text_of(getattr(layer, "type", None)) for layer in layers]
    _check_layers(names, types)
    convolutions = _convolutions(layers, names)
    backbone = vgg16(_mean(net), [_weights(layers[place], names[place]) for place in convolutions])
    core = names.index("vlad:core")
    pooling = from_matlab(
        list(np.ravel(layers[core].weights)),
        normalize_input="preL2" in names,
        intra_normalization="vlad:intranorm" in names,
        name="netvlad",
    )
    if names[-1] == "finalL2":
        kernel, bias = _weights(layers[-2], names[-2])
        # In two steps, for each copy takes 1 GB.
        kernel = as_matrix(names[-2], kernel)
        kernel = reorder_rows(kernel, pooling.num_clusters, pooling.feature_size)
        head = whitening(kernel, bias, f"{names[-2]} kernel", f"{names[-2]} bias")
    else:
        # The descriptor of the original is feature-major.
        shape = (pooling.num_clusters, pooling.feature_size)
        head = [keras.layers.Reshape(shape), keras.layers.Permute((2, 1)), keras.layers.Flatten(name="feature_major")]
    return place_model(backbone, pooling, head, None, "vgg16_netvlad")


def _check_layers(names: list[str], types: list[str]) -> None:
    """Raises if the layers are not those of VGG16 up to conv5_3, NetVLAD and a whitening."""
    size = len(VGG16_LAYERS)
    expected = [kind for kind, _ in VGG16_LAYERS]
    tail = [name for name in names[size:] if name not in ("preL2", "vlad:intranorm")]
    is_complete = tail in (["vlad:core", "postL2"], *(["vlad:core", "postL2", name, "finalL2"] for name in WHITENINGS))
    order = [name for name in ("preL2", "vlad:core", "vlad:intranorm", "postL2") if name in names[size:]]
    if types[:size] != expected or not is_complete or names[size : size + len(order)] != order:
        raise ValueError(
            f"The network must have the layers of VGG16 from conv1_1 to conv5_3, and then {HEAD}; if some are class "
            f"objects, {TO_STRUCT}. Received: {', '.join(names)}"
        )


def _convolutions(layers: list[Any], names: list[str]) -> list[int]:
    """Returns the places of the convolutions of VGG16, or raises if a layer has another padding, stride or window."""
    settings = {"conv": {"pad": 1, "stride": 1}, "pool": {"pad": 0, "stride": 2, "pool": 2}}
    other = [
        names[place]
        for place, (kind, _) in enumerate(VGG16_LAYERS)
        for option, value in settings.get(kind, {}).items()
        if np.any(np.ravel(getattr(layers[place], option, value)) != value)
    ]
    if other:
        raise ValueError(
            "The convolutions of VGG16 must have padding 1 and stride 1, its poolings windows and strides of 2 without "
            f"padding; other networks are not converted. Received: other numbers in {listed(other)}"
        )
    return [place for place, (kind, _) in enumerate(VGG16_LAYERS) if kind == "conv"]


def _weights(layer: Any, name: str) -> tuple[Any, Any]:
    """Returns kernel and bias of a convolution."""
    weights = list(np.ravel(getattr(layer, "weights", [])))
    if len(weights) != 2:
        raise ValueError(f"The layer {name} must have a kernel and a bias. Received: {len(weights)} weights")
    return as_numbers(f"{name} kernel", weights[0]), as_numbers(f"{name} bias", weights[1]).reshape(-1)


def _mean(net: Any) -> list[float]:
    """Returns the mean color of `net.meta.normalization.averageImage`, of which the original uses the first pixel."""
    try:
        normalization = np.ravel(np.ravel(net.meta)[0].normalization)[0]
        mean = as_numbers("averageImage", normalization.averageImage)
        return [float(value) for value in mean.reshape(-1, 3)[0]]
    except (AttributeError, IndexError, ValueError, TypeError) as error:
        raise ValueError(
            "The network must have its mean color in `net.meta.normalization.averageImage`, of 3 channels; save the "
            "complete network. Received: a network without it"
        ) from error
