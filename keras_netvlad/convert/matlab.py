"""`from_matlab`: NetVLAD of the original implementation (Arandjelović et al. 2016)."""

from pathlib import Path

import numpy as np

from keras_netvlad.convert.arrays import as_numbers, from_arrays
from keras_netvlad.convert.tensor_files import check_is_file, missing_library, unreadable

TO_STRUCT = (
    "in MATLAB, `net.layers = cellfun(@(l) struct(l), net.layers, 'UniformOutput', false)` and "
    "`save('net.mat', 'net', '-v7')`"
)


def from_matlab(source, *, negated=True, normalize_input=None, intra_normalization=None, layer=None, **options):
    """Reads the VLAD layer of the original MATLAB implementation, v1 (without bias) or v2 (with bias).

    The centroids are stored negated there, the assignment as it is; so does `net_class2struct` leave them, whose
    files hloc and the TensorFlow port of uzh-rpg read.

    The descriptor is feature-major, this package's cluster-major: pass the whitening that follows, `(1, 1, D * K,
    H)`, through `reorder_rows(whitening[0, 0], ...)`.

    Args:
        source: Path of a `.mat` file of version 7 or older with a network `net` whose layers are structs, one of
            them named `vlad:core`; or the list of that layer's weights, `[W, -C]` (v1) or `[W, b, -C]` (v2), with
            `W` and `-C` of shape `(D, K)` or `(1, 1, D, K)` and `b` `(1, K)`.
        negated: Boolean, whether the centroids are stored negated, as the original does.
        normalize_input: Boolean, whether descriptors are scaled to unit L2 norm first. By default as in the file,
            which has a layer `preL2` then, and true for a list.
        intra_normalization: Boolean. By default as in the file, which has a layer `vlad:intranorm` then, and true
            for a list.
        layer: `NetVLAD` that gets the weights, or `None` to make one.
        **options: For a new layer, other arguments of `NetVLAD`, such as `data_format`.

    Returns:
        The `NetVLAD`, built, with `use_bias` as in the file and, if new, a conv assignment.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad.convert import from_matlab
    >>> rng = np.random.default_rng(0)
    >>> centroids = rng.normal(size=(64, 8))
    >>> layer = from_matlab([rng.normal(size=(64, 8)), -centroids])
    >>> bool(np.allclose(layer.centroids, centroids.T, atol=1e-6))
    True

    Raises:
        ValueError: If the file is damaged, of version 7.3, holds class objects, has no or several VLAD layers, or as
            `from_arrays`.
        FileNotFoundError: If there is no such file.
        ImportError: If SciPy is not installed.
        TypeError: As `from_arrays`, or if `source` is neither path nor list.

    Reference:
        - [Arandjelović et al. 2016](https://arxiv.org/abs/1511.07247), section 3.1 and appendix A.
    """
    if isinstance(source, (list, tuple)):
        weights, has_pre_l2, has_intra = list(source), True, True
    else:
        weights, has_pre_l2, has_intra = _read_network(source)
    if len(weights) not in (2, 3):
        raise ValueError(
            "The VLAD layer must have the weights [W, -C] (v1) or [W, b, -C] (v2); give these as a list. "
            f"Received: {len(weights)} weights"
        )
    kernel = _as_matrix("W", weights[0])
    centroids = _as_matrix("-C", weights[-1]).T
    bias = as_numbers("b", weights[1]).reshape(-1) if len(weights) == 3 else None
    return from_arrays(
        kernel[None, None],
        centroids,
        bias,
        negated=negated,
        normalize_input=has_pre_l2 if normalize_input is None else normalize_input,
        intra_normalization=has_intra if intra_normalization is None else intra_normalization,
        layer=layer,
        **options,
    )


def _read_network(path):
    """Returns the weights of the only VLAD layer, and whether input and intra-normalization go with it."""
    try:
        path = Path(path)
    except TypeError as error:
        raise TypeError(
            f"The weights must be a .mat file or a list of arrays. Received: {type(path).__name__}"
        ) from error
    check_is_file(path)
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise missing_library("SciPy", "a .mat file", "'keras_netvlad[convert]'") from error
    try:
        content = loadmat(path, struct_as_record=False)
    except NotImplementedError as error:
        raise ValueError(
            f"The .mat file must be of version 7 or older, with structs for layers; {TO_STRUCT}. "
            f"Received: {path}, of version 7.3"
        ) from error
    except Exception as error:
        raise unreadable(path, "a whole .mat file", error) from error
    try:
        layers = [np.ravel(cell)[0] for cell in np.ravel(np.ravel(content["net"])[0].layers)]
    except (KeyError, AttributeError, IndexError) as error:
        found = ", ".join(name for name in content if not name.startswith("__")) or "nothing"
        raise ValueError(
            f"The .mat file must hold a network `net` with a field `layers`; give the weights as a list otherwise. "
            f"Received: {path}, which holds {found}"
        ) from error
    names = [_text(getattr(item, "name", None)) for item in layers]
    cores = [index for index, name in enumerate(names) if name.startswith("vlad") and _has_weights(layers[index])]
    if len(cores) != 1:
        raise ValueError(
            f"The network must have one VLAD layer that is a struct with `weights`; if it is a class object, "
            f"{TO_STRUCT}. Received: {len(cores)} such among the layers {', '.join(names)}"
        )
    (core,) = cores
    weights = list(np.ravel(layers[core].weights))
    return weights, "preL2" in names[:core], "vlad:intranorm" in names[core:]


def _has_weights(item):
    return getattr(item, "weights", None) is not None


def _text(name):
    """A MATLAB string arrives as an array of one; a class object has no name that can be read."""
    return "(class object)" if name is None else "".join(str(part) for part in np.ravel(name))


def _as_matrix(name, array):
    """`(D, K)` of an array that MATLAB may have shaped `(1, 1, D, K)`, less its trailing ones."""
    array = as_numbers(name, array)
    if array.ndim in (3, 4) and array.shape[:2] == (1, 1):
        array = array.reshape(array.shape[2], -1)
    if array.ndim != 2:
        raise ValueError(
            f"`{name}` must be of shape (features, clusters) or (1, 1, features, clusters); squeeze or transpose it. "
            f"Received: shape {array.shape}"
        )
    return array
