"""`from_loupe`: reads the NetVLAD of LOUPE and WILLOW (Miech et al. 2017)."""

import os
from collections.abc import Mapping
from typing import Any

from keras_netvlad.convert.arrays import BATCH_NORMALIZATION_NAMES, as_numbers, from_arrays
from keras_netvlad.convert.tensor_files import find_scope, listed, read_checkpoint, read_tensors
from keras_netvlad.layers.netvlad import NetVLAD


def from_loupe(
    source: str | os.PathLike[str] | Mapping[str, Any],
    *,
    scope: str | None = None,
    negated: bool = False,
    normalize_input: bool = False,
    layer: NetVLAD | None = None,
    **options: Any,
) -> NetVLAD:
    """Reads the NetVLAD of a LOUPE or WILLOW checkpoint (TensorFlow 1).

    A batch-normalized assignment, the default of both, remains batch-normalized; it is not folded into kernel and bias.
    The layer therefore computes the scores of the checkpoint in inference and continues its training.

    The descriptor of LOUPE and WILLOW is feature-major, that of this package cluster-major. Pass `hidden1_weights`
    `(D * K, H)` through `reorder_rows`. In a WILLOW model, where `hidden1_weights` follow a video and an audio
    descriptor, reorder the rows of each separately. WILLOW also normalizes the frames before the layer (`input_bn`);
    this function does not read that.

    Args:
        source: Prefix of a TensorFlow checkpoint, such as `model.ckpt-1000`, or the directory with the latest; or path
            of a `.npz` file, or mapping, with the same names.
        scope: String, the variable scope of the NetVLAD, such as `"video_VLAD"`. Needed only if there are several.
        negated: Boolean, whether the checkpoint stores `-c`, as forks that compute `x + C` do.
        normalize_input: Boolean, whether the model scales each feature to unit L2 norm before the layer.
        layer: `NetVLAD` that receives the weights, or `None` to make a new one.
        **options: Other arguments of `NetVLAD` for a new layer.

    Returns:
        The built `NetVLAD`, with `assignment_batch_normalization` or `use_bias` as in the checkpoint. A new layer has a
        dense assignment.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad.convert import from_loupe
    >>> rng = np.random.default_rng(0)
    >>> layer = from_loupe({
    ...     "video_VLAD/cluster_weights": rng.normal(size=(64, 8)),
    ...     "video_VLAD/cluster_biases": rng.normal(size=8),
    ...     "video_VLAD/cluster_weights2": rng.normal(size=(1, 64, 8)),
    ... })
    >>> layer.num_clusters, layer.use_bias
    (8, True)

    Raises:
        ValueError: If the checkpoint is damaged, lacks a tensor, is a Fisher vector (NetFV), or contains
            several NetVLADs and `scope` is missing, or as for `from_arrays`.
        FileNotFoundError: If the file does not exist.
        TypeError: As for `from_arrays`.

    Reference:
        - [Miech et al. 2017](https://arxiv.org/abs/1706.06905), section 3.
    """
    tensors = read_tensors(source, {"": read_checkpoint}, "a TensorFlow checkpoint, a .npz file or a mapping")
    scope, _ = find_scope(tensors, [("cluster_weights", "cluster_weights2")], "/", scope, "scope")
    inside = [name.removeprefix(scope) for name in tensors if name.startswith(scope)]
    if "covar_weights" in inside:
        raise ValueError(
            "The checkpoint must be of a NetVLAD; a NetFV has second-order statistics that NetVLAD does not compute. "
            f"Convert a complete NetFV checkpoint with `convert_model`. Received: {scope}covar_weights"
        )
    normalization = [name for name in BATCH_NORMALIZATION_NAMES if f"cluster_bn/{name}" in inside]
    if ("cluster_biases" in inside) == bool(normalization):
        raise ValueError(
            f"The assignment must have either {scope}cluster_biases or {scope}cluster_bn/moving_mean and "
            f"moving_variance; check that the checkpoint is complete. Received: {listed(tensors)}"
        )
    tensor = {name: as_numbers(scope + name, tensors[scope + name]()) for name in inside if _is_used(name)}
    centers = tensor["cluster_weights2"]
    if centers.ndim != 3 or centers.shape[0] != 1:
        raise ValueError(
            f"`{scope}cluster_weights2` must be of shape (1, features, clusters); use `from_arrays` for another "
            f"layout. Received: shape {centers.shape}"
        )
    return from_arrays(
        tensor["cluster_weights"],
        centers[0].T,
        tensor.get("cluster_biases"),
        {name: tensor[f"cluster_bn/{name}"] for name in normalization} or None,
        negated=negated,
        normalize_input=normalize_input,
        layer=layer,
        **options,
    )


def _is_used(name: str) -> bool:
    """Returns whether this is a weight of the NetVLAD, not of the optimizer or of later layers."""
    weights = {"cluster_weights", "cluster_weights2", "cluster_biases"}
    return name in weights | {f"cluster_bn/{part}" for part in BATCH_NORMALIZATION_NAMES}
