"""`from_loupe`: NetVLAD of LOUPE and WILLOW (Miech et al. 2017)."""

from keras_netvlad.convert.arrays import BATCH_NORMALIZATION_NAMES, as_numbers, from_arrays
from keras_netvlad.convert.tensor_files import find_scope, listed, read_checkpoint, read_tensors


def from_loupe(source, *, scope=None, negated=False, normalize_input=False, layer=None, **options):
    """Reads the NetVLAD of a LOUPE or WILLOW checkpoint (TensorFlow 1).

    A batch-normalized assignment (the peers' default) becomes one here, and is not folded into kernel and bias: the
    layer gives the checkpoint's scores in inference, and goes on training as the checkpoint would.

    The descriptor of the peers is feature-major, this package's cluster-major: pass `hidden1_weights`
    `(D * K, H)` through `reorder_rows`; in a WILLOW model, whose `hidden1_weights` follow a video and an audio
    descriptor, each one's rows by themselves. WILLOW also normalizes the frames before the layer (`input_bn`),
    which this does not read.

    Args:
        source: Prefix of a TensorFlow checkpoint, such as `model.ckpt-1000`, or the directory of the latest; path
            of a `.npz` file or a mapping of the same names.
        scope: String, the variable scope of the NetVLAD, such as `"video_VLAD"`, needed only if there are several.
        negated: Boolean, whether the checkpoint stores `-c`, as forks with `x + C` do.
        normalize_input: Boolean, whether the model scales each descriptor to unit L2 norm before the layer.
        layer: `NetVLAD` that gets the weights, or `None` to make one.
        **options: For a new layer, other arguments of `NetVLAD`.

    Returns:
        The `NetVLAD`, built, with `assignment_batch_normalization` or `use_bias` as in the checkpoint and, if new,
        a dense assignment.

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
        ValueError: If the checkpoint is damaged, lacks a tensor, holds several NetVLADs and no `scope` says which,
            is of a Fisher vector (NetFV), or as `from_arrays`.
        FileNotFoundError: If there is no such file.
        TypeError: As `from_arrays`.

    Reference:
        - [Miech et al. 2017](https://arxiv.org/abs/1706.06905), section 3.
    """
    tensors = read_tensors(source, {"": read_checkpoint}, "a TensorFlow checkpoint, a .npz file or a mapping")
    scope, _ = find_scope(tensors, [("cluster_weights", "cluster_weights2")], "/", scope, "scope")
    inside = [name.removeprefix(scope) for name in tensors if name.startswith(scope)]
    if "covar_weights" in inside:
        raise ValueError(
            "The checkpoint must be of a NetVLAD; a NetFV has second-order statistics that NetVLAD does not compute. "
            f"Received: {scope}covar_weights"
        )
    normalization = [name for name in BATCH_NORMALIZATION_NAMES if f"cluster_bn/{name}" in inside]
    if ("cluster_biases" in inside) == bool(normalization):
        raise ValueError(
            f"The assignment must have either {scope}cluster_biases or {scope}cluster_bn/moving_mean and "
            f"moving_variance; check that the checkpoint is whole. Received: {listed(tensors)}"
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


def _is_used(name):
    """Whether this is a weight of the NetVLAD itself, and none of the optimizer's or of the layers after it."""
    weights = {"cluster_weights", "cluster_weights2", "cluster_biases"}
    return name in weights | {f"cluster_bn/{part}" for part in BATCH_NORMALIZATION_NAMES}
