"""`from_matlab`: reads the NetVLAD of the original implementation (Arandjelović et al. 2016)."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_netvlad.convert.arrays import as_numbers, from_arrays
from keras_netvlad.convert.tensor_files import check_is_file, missing_library, unreadable
from keras_netvlad.layers.netvlad import NetVLAD

LOAD = "import sys; from scipy.io import loadmat; loadmat(sys.argv[1], struct_as_record=False)"
TO_STRUCT = (
    "in MATLAB, `net.layers = cellfun(@(l) struct(l), net.layers, 'UniformOutput', false)` and "
    "`save('net.mat', 'net', '-v7')`"
)


def from_matlab(
    source: str | os.PathLike[str] | Sequence[ArrayLike],
    *,
    negated: bool = True,
    normalize_input: bool | None = None,
    intra_normalization: bool | None = None,
    layer: NetVLAD | None = None,
    **options: Any,
) -> NetVLAD:
    """Reads the VLAD layer of the original MATLAB implementation, v1 (without bias) or v2 (with bias).

    The original implementation stores the centroids negated and the assignment unchanged. So do the files of
    `net_class2struct`, which hloc and the TensorFlow port of uzh-rpg read.

    The descriptor is feature-major, that of this package cluster-major. Pass the whitening that follows, `(1, 1, D * K,
    H)`, through `reorder_rows(whitening[0, 0], ...)`.

    Args:
        source: Path of a `.mat` file of version 7 or older with a network `net` whose layers are structs, one of them
            named `vlad:core`; or the list of the weights of that layer, `[W, -C]` (v1) or `[W, b, -C]` (v2), with `W`
            and `-C` of shape `(D, K)` or `(1, 1, D, K)` and `b` `(1, K)`.
        negated: Boolean, whether the centroids are stored negated, as in the original.
        normalize_input: Boolean, whether features are scaled to unit L2 norm first. By default `True` for a list, and
            for a file if it has a layer `preL2`.
        intra_normalization: Boolean. By default `True` for a list, and for a file if it has a layer `vlad:intranorm`.
        layer: `NetVLAD` that receives the weights, or `None` to make a new one.
        **options: Other arguments of `NetVLAD` for a new layer, such as `data_format`.

    Returns:
        The built `NetVLAD`, with `use_bias` as in the file. A new layer has a conv assignment.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad.convert import from_matlab
    >>> rng = np.random.default_rng(0)
    >>> centroids = rng.normal(size=(64, 8))
    >>> layer = from_matlab([rng.normal(size=(64, 8)), -centroids])
    >>> bool(np.allclose(layer.centroids, centroids.T, atol=1e-6))
    True

    Raises:
        ValueError: If the file is damaged, of version 7.3, contains class objects, has no or several VLAD layers, or
            as for `from_arrays`.
        FileNotFoundError: If the file does not exist.
        ImportError: If SciPy is not installed.
        TypeError: As for `from_arrays`, or if `source` is neither a path nor a list.

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
    kernel = as_matrix("W", weights[0])
    centroids = as_matrix("-C", weights[-1]).T
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


def _read_network(source: Any) -> tuple[list[Any], bool, bool]:
    """Returns the weights of the VLAD layer, and whether the network normalizes its input and each cluster."""
    _, layers, names = read_network(source)
    cores = [index for index, name in enumerate(names) if name.startswith("vlad") and _has_weights(layers[index])]
    if len(cores) != 1:
        raise ValueError(
            f"The network must have one VLAD layer that is a struct with `weights`; if it is a class object, "
            f"{TO_STRUCT}. Received: {len(cores)} such among the layers {', '.join(names)}"
        )
    (core,) = cores
    weights = list(np.ravel(layers[core].weights))
    return weights, "preL2" in names[:core], "vlad:intranorm" in names[core:]


def read_network(source: Any) -> tuple[Any, list[Any], list[str]]:
    """Reads the network of a `.mat` file.

    Args:
        source: Path of the file.

    Returns:
        The struct `net`, its layers, and their names, which are `(class object)` for layers that are not structs.

    Raises:
        FileNotFoundError: If the file does not exist.
        ImportError: If SciPy is not installed.
        TypeError: If `source` is not a path.
        ValueError: If the file is damaged, of version 7.3, or contains no network.
    """
    try:
        path = Path(source)
    except TypeError as error:
        raise TypeError(
            f"The weights must be a .mat file or a list of arrays. Received: {type(source).__name__}"
        ) from error
    check_is_file(path)
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise missing_library("SciPy", "a .mat file", "'keras_netvlad[convert]'") from error
    # SciPy 1.17 crashes on some damaged files.
    if subprocess.run([sys.executable, "-c", LOAD, path], capture_output=True).returncode < 0:
        raise unreadable(path, "a complete .mat file", ValueError("SciPy crashes on it"))
    try:
        content = loadmat(path, struct_as_record=False)
    except NotImplementedError as error:
        raise ValueError(
            f"The .mat file must be of version 7 or older, with structs for layers; {TO_STRUCT}. "
            f"Received: {path}, of version 7.3"
        ) from error
    except Exception as error:
        raise unreadable(path, "a complete .mat file", error) from error
    try:
        net = np.ravel(content["net"])[0]
        layers = [np.ravel(cell)[0] for cell in np.ravel(net.layers)]
    except (KeyError, AttributeError, IndexError) as error:
        found = ", ".join(name for name in content if not name.startswith("__")) or "nothing"
        raise ValueError(
            f"The .mat file must hold a network `net` with a field `layers`; give the weights as a list otherwise. "
            f"Received: {path}, which holds {found}"
        ) from error
    return net, layers, [text_of(getattr(item, "name", None)) for item in layers]


def _has_weights(item: Any) -> bool:
    return getattr(item, "weights", None) is not None


def text_of(name: Any) -> str:
    """Returns a MATLAB string, which SciPy reads as an array. The name of a class object cannot be read."""
    return "(class object)" if name is None else "".join(str(part) for part in np.ravel(name))


def as_matrix(name: str, array: Any) -> NDArray[np.float64]:
    """Returns `(D, K)` of an array of shape `(1, 1, D, K)`. MATLAB drops trailing dimensions of size 1."""
    array = as_numbers(name, array)
    if array.ndim in (3, 4) and array.shape[:2] == (1, 1):
        array = array.reshape(array.shape[2], -1)
    if array.ndim != 2:
        raise ValueError(
            f"`{name}` must be of shape (features, clusters) or (1, 1, features, clusters); squeeze or transpose it. "
            f"Received: shape {array.shape}"
        )
    return array
