"""`from_tfa`: reads the NetVLAD of TensorFlow Addons."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from numpy.typing import ArrayLike

from keras_netvlad.convert.arrays import as_numbers, from_arrays
from keras_netvlad.convert.tensor_files import find_scope, listed, read_checkpoint, read_h5, read_tensors
from keras_netvlad.layers.netvlad import NetVLAD

# The L2 regularizer of the assignment kernel in `tensorflow_addons.layers.NetVLAD`.
KERNEL_L2 = 1e-5
# Under Keras 3 the inner Dense is never built. A SavedModel numbers its weights.
SAVE_WITH_KERAS_2 = "save the weights as .h5 with TensorFlow 2.15 or older, whose Keras is 2"


def from_tfa(
    source: str | os.PathLike[str] | Mapping[str, Any] | Sequence[ArrayLike],
    *,
    layer_name: str | None = None,
    negated: bool = False,
    normalize_input: bool = False,
    layer: NetVLAD | None = None,
    **options: Any,
) -> NetVLAD:
    """Reads a `tensorflow_addons.layers.NetVLAD`, which Keras 3 can neither save nor load.

    The descriptor of TensorFlow Addons is feature-major, that of this package cluster-major. Pass the kernel of the
    next layer through `reorder_rows`.

    Args:
        source: Path of a `.h5` file of Keras 2, weights or complete model (from a `.keras` file, unzip
            `model.weights.h5`); prefix of the TensorFlow checkpoint that `save_weights` writes without `.h5`; path of a
            `.npz` file, or mapping, with names that end in `cluster_centers`, `kernel` and `bias`; or the list that
            `layer.get_weights()` returns.
        layer_name: String, the name of the layer in the file. Needed only if there are several.
        negated: Boolean, whether the file stores `-c`, as forks that compute `x + C` do.
        normalize_input: Boolean, whether the model scales each feature to unit L2 norm before the layer.
        layer: `NetVLAD` that receives the weights, or `None` to make a new one.
        **options: Other arguments of `NetVLAD` for a new layer. By default its kernel has the L2 regularizer
            of TensorFlow Addons, 1e-5.

    Returns:
        The built `NetVLAD`, with `use_bias=True`. A new layer has a dense assignment.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad.convert import from_tfa
    >>> rng = np.random.default_rng(0)
    >>> centers, kernel, bias = rng.normal(size=(1, 64, 8)), rng.normal(size=(64, 8)), np.zeros(8)
    >>> from_tfa({"cluster_centers": centers, "dense/kernel": kernel, "dense/bias": bias}).num_clusters
    8

    Raises:
        ValueError: If the file is damaged, lacks a tensor (files of Keras 3 lack the assignment), or contains several
            NetVLADs and `layer_name` is missing, or as for `from_arrays`.
        FileNotFoundError: If the file does not exist.
        ImportError: If h5py is not installed.
        TypeError: As for `from_arrays`.
    """
    if layer is None:
        options.setdefault("kernel_regularizer", {"class_name": "L2", "config": {"l2": KERNEL_L2}})
    if isinstance(source, (list, tuple)):
        source = _named(source)
    tensors = read_tensors(
        source,
        {".h5": read_h5, ".hdf5": read_h5, ".keras": None, "": read_checkpoint},
        "a Keras 2 .h5 file (unzip model.weights.h5 from a .keras file), a TensorFlow checkpoint, a .npz file, a "
        "mapping or get_weights()",
    )
    # Optimizers of Keras 2 store moments under the names of the weights.
    tensors = {_weight_name(name, tensors): read for name, read in tensors.items() if not name.startswith("optimizer")}
    scope, _ = find_scope(tensors, [("cluster_centers",)], "/", layer_name, "layer_name", remedy=SAVE_WITH_KERAS_2)
    centers = as_numbers("cluster_centers", tensors[scope + "cluster_centers"]())
    kernel = as_numbers("kernel", _only(tensors, scope, "kernel")())
    bias = as_numbers("bias", _only(tensors, scope, "bias")())
    if centers.ndim != 3 or centers.shape[0] != 1:
        raise ValueError(
            "`cluster_centers` of TensorFlow Addons must be of shape (1, features, clusters); use `from_arrays` for "
            f"another layout. Received: shape {centers.shape}"
        )
    return from_arrays(
        kernel, centers[0].T, bias, negated=negated, normalize_input=normalize_input, layer=layer, **options
    )


def _weight_name(name: str, names: Iterable[str]) -> str:
    """Returns the name of a weight as `.h5` files of Keras 2 have it."""
    scope, _, number = name.rpartition("vars/")
    if number == "0" and f"{scope}fc/vars/0" in names:  # a .weights.h5 of Keras 2.12 to 2.15 numbers the weights
        return scope + "cluster_centers"
    if scope.endswith("fc/") and number in ("0", "1"):
        return scope + ("kernel", "bias")[int(number)]
    return name.removesuffix(":0")


def _only(tensors: Mapping[str, Callable[[], Any]], scope: str, name: str) -> Callable[[], Any]:
    """Returns the reader of a weight of the assignment, whose sub-layer may be named `dense`, `dense_1` or `fc`."""
    found = [n for n in tensors if n.startswith(scope) and n.removeprefix(scope).split("/")[-1] == name]
    if len(found) != 1:
        raise ValueError(
            f"The NetVLAD of TensorFlow Addons must have one {name} of its assignment; {SAVE_WITH_KERAS_2}. "
            f"Received: {listed(found or tensors)}"
        )
    return tensors[found[0]]


def _named(weights: Sequence[Any]) -> dict[str, Any]:
    """Returns the weights of `get_weights()` by name. Their ranks differ."""
    ranks = {3: "cluster_centers", 2: "dense/kernel", 1: "dense/bias"}
    shapes = [getattr(weight, "shape", None) for weight in weights]
    named = {
        ranks.get(len(shape), "") if shape is not None else "": weight
        for shape, weight in zip(shapes, weights, strict=True)
    }
    if len(weights) != 3 or set(named) != set(ranks.values()):
        raise ValueError(
            "`get_weights()` of TensorFlow Addons' NetVLAD must be cluster_centers (1, D, K), kernel (D, K) and bias "
            f"(K,); call the layer once first. Received: shapes {shapes}"
        )
    return named
