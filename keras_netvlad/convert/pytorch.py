"""`from_pytorch`: reads the NetVLAD of PyTorch ports."""

import os
from collections.abc import Mapping
from typing import Any

from keras_netvlad.convert.arrays import as_numbers, from_arrays
from keras_netvlad.convert.tensor_files import find_scope, read_tensors, read_torch
from keras_netvlad.layers.netvlad import NetVLAD

# Names of assignment and centroids: Nanne, Patch-NetVLAD, gmberton and lyakaap; hloc.
CONV_NAMES = ("conv.weight", "centroids")
HLOC_NAMES = ("score_proj.weight", "centers")


def from_pytorch(
    source: str | os.PathLike[str] | Mapping[str, Any],
    *,
    prefix: str | None = None,
    normalize_input: bool = True,
    negated: bool = False,
    layer: NetVLAD | None = None,
    **options: Any,
) -> NetVLAD:
    """Reads the NetVLAD of a PyTorch port's `state_dict`: Nanne, Patch-NetVLAD, gmberton, lyakaap or hloc.

    The weights are used as stored. Some ports compute the bias as `-alpha ||c||` instead of `-alpha ||c||^2` (lyakaap,
    and Nanne with `vladv2`). It is kept, because the network was trained with it.

    The descriptor of these ports is cluster-major like that of this package, so that later layers need no reordering.
    Only that of hloc is feature-major: pass its whitening through `reorder_rows(whiten_weight.T, ...)`.

    Args:
        source: Path of a file that `torch.save` wrote, or of a `.npz` file; or a mapping of names to tensors or
            arrays, such as a `state_dict`. The file may hold nested dicts (`"state_dict"`, `"model_state_dict"`).
            It is read with `weights_only=True`, which refuses code.
        prefix: String, the prefix of the names, such as `"pool."`. Needed only if there are several NetVLADs.
        normalize_input: Boolean, whether the port scales each feature to unit L2 norm first. All of them do by default
            (hloc does it before the layer); a `state_dict` does not contain this option.
        negated: Boolean, whether the file stores `-c`, as forks that compute `x + C` do.
        layer: `NetVLAD` that receives the weights, or `None` to make a new one.
        **options: Other arguments of `NetVLAD` for a new layer, such as `data_format`.

    Returns:
        The built `NetVLAD`, with `use_bias` as in the file. A new layer has a conv assignment for the weights of a
        Conv2d `(K, D, 1, 1)`, and a dense assignment for those of a Conv1d `(K, D, 1)`.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad.convert import from_pytorch
    >>> rng = np.random.default_rng(0)
    >>> layer = from_pytorch({
    ...     "pool.conv.weight": rng.normal(size=(8, 64, 1, 1)),
    ...     "pool.centroids": rng.normal(size=(8, 64)),
    ... })
    >>> layer.assignment, layer.use_bias, layer.normalize_input
    ('conv', False, True)

    Raises:
        ValueError: If the file is damaged, contains anything but tensors and plain values, lacks a tensor, or contains
            several NetVLADs and `prefix` is missing, or as for `from_arrays`.
        FileNotFoundError: If the file does not exist.
        ImportError: If PyTorch is not installed or older than 2.6, whose `weights_only=True` is not safe.
        TypeError: As for `from_arrays`.
    """
    tensors = read_tensors(source, {"": read_torch}, "a file of torch.save(), a .npz file or a state_dict")
    scope, names = find_scope(tensors, [CONV_NAMES, HLOC_NAMES], ".", prefix, "prefix")
    weight, centroids = (as_numbers(scope + name, tensors[scope + name]()) for name in names)
    read_bias = tensors.get(scope + names[0].replace("weight", "bias"))
    if weight.ndim not in (3, 4) or weight.shape[2:] not in ((1,), (1, 1)):
        raise ValueError(
            f"`{scope}{names[0]}` must be of shape (clusters, features, 1, 1) or (clusters, features, 1), a "
            f"convolution over single positions; use `from_arrays` for another layout. Received: shape {weight.shape}"
        )
    kernel = weight.reshape(weight.shape[:2]).T
    return from_arrays(
        kernel[None, None] if weight.ndim == 4 else kernel,
        centroids.T if names == HLOC_NAMES else centroids,
        None if read_bias is None else read_bias(),
        negated=negated,
        normalize_input=normalize_input,
        layer=layer,
        **options,
    )
