"""`reorder_rows`: reorders the weights of the layer after a NetVLAD."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_netvlad.base.validation import check_integer


def reorder_rows(kernel: ArrayLike, num_clusters: int, feature_size: int) -> NDArray[Any]:
    """Reorders the rows of the layer after a NetVLAD from feature-major to cluster-major, the order of this package.

    TensorFlow Addons, LOUPE, WILLOW, MATLAB and hloc order the descriptor by feature: cluster `k` of feature `d` is
    value `d * K + k`. In this package, and in the PyTorch ports other than hloc, it is value `k * D + d`. The kernel of
    the next layer must have the same order; otherwise its scores are noise.

    Args:
        kernel: Array `(D * K, ...)`: the kernel `(D * K, H)` of the Dense layer that takes the descriptor, or another
            weight with one row for each value, such as the `gamma` `(D * K,)` of a batch normalization. A PyTorch
            `Linear` stores `(H, D * K)`: give the transpose. If several descriptors are concatenated, reorder the rows
            of each separately.
        num_clusters: Integer, `K`, without ghosts.
        feature_size: Integer, `D`.

    Returns:
        A new NumPy array of the same shape and dtype.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad.convert import reorder_rows
    >>> reorder_rows(np.array(["d0k0", "d0k1", "d1k0", "d1k1", "d2k0", "d2k1"]), num_clusters=2, feature_size=3)
    array(['d0k0', 'd1k0', 'd2k0', 'd0k1', 'd1k1', 'd2k1'], dtype='<U4')

    Raises:
        ValueError: If the kernel does not have `D * K` rows, or a size is not a positive integer.
    """
    num_clusters = check_integer("num_clusters", num_clusters, 1)
    feature_size = check_integer("feature_size", feature_size, 1)
    weights = np.asarray(kernel)
    if weights.ndim == 0 or len(weights) != feature_size * num_clusters:
        raise ValueError(
            f"`kernel` must have one row for each of the {feature_size} * {num_clusters} = "
            f"{feature_size * num_clusters} values of the descriptor; transpose a PyTorch Linear's weight, and give "
            f"the rows of concatenated descriptors separately. Received: shape {weights.shape}"
        )
    rows = np.arange(feature_size * num_clusters).reshape(feature_size, num_clusters).T.ravel()
    return weights[rows]
