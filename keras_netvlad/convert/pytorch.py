"""`from_pytorch`: NetVLAD of the PyTorch ports."""

from keras_netvlad.convert.arrays import as_numbers, from_arrays
from keras_netvlad.convert.tensor_files import find_scope, read_tensors, read_torch

# Names of assignment and centroids: Nanne, Patch-NetVLAD, gmberton and lyakaap; hloc.
CONV_NAMES = ("conv.weight", "centroids")
HLOC_NAMES = ("score_proj.weight", "centers")


def from_pytorch(source, *, prefix=None, normalize_input=True, negated=False, layer=None, **options):
    """Reads the NetVLAD of a PyTorch port's `state_dict`: Nanne, Patch-NetVLAD, gmberton, lyakaap or hloc.

    The weights are taken as stored. Where a port computes its bias as `-alpha ||c||` instead of `-alpha ||c||^2`
    (lyakaap, and Nanne with `vladv2`), the network was trained with it, and so it stays.

    The descriptor of these ports is cluster-major like this package's, so what follows needs no reordering; hloc's
    is feature-major: pass its whitening through `reorder_rows(whiten_weight.T, ...)`.

    Args:
        source: Path of a file that `torch.save` wrote, or of a `.npz` file; or a mapping of names to tensors or
            arrays, such as a `state_dict`. The file may hold nested dicts (`"state_dict"`, `"model_state_dict"`).
            It is read with `weights_only=True`: code in it is refused, not run.
        prefix: String, what precedes the names, such as `"pool."`, needed only if there are several NetVLADs.
        normalize_input: Boolean, whether the port scales each descriptor to unit L2 norm first: the default of all
            of them, which a `state_dict` does not tell (hloc does it just before the layer).
        negated: Boolean, whether the file stores `-c`, as forks with `x + C` do.
        layer: `NetVLAD` that gets the weights, or `None` to make one.
        **options: For a new layer, other arguments of `NetVLAD`, such as `data_format`.

    Returns:
        The `NetVLAD`, built. A new one has a conv assignment for weights of a Conv2d `(K, D, 1, 1)` and a dense one
        for those of a Conv1d `(K, D, 1)`; `use_bias` is as in the file.

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
        ValueError: If the file is damaged or holds anything but tensors and plain values, lacks a tensor, holds
            several NetVLADs and no `prefix` says which, or as `from_arrays`.
        FileNotFoundError: If there is no such file.
        ImportError: If PyTorch is not installed, or older than 2.6, whose `weights_only=True` was not safe.
        TypeError: As `from_arrays`.
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
