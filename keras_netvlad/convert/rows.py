"""`reorder_rows`: the weights that follow a NetVLAD whose descriptor lies in another order."""

import numpy as np

from keras_netvlad.base.validation import check_integer


def reorder_rows(kernel, num_clusters, feature_size):
    """Reorders the input rows of what follows a NetVLAD, from feature-major to this package's cluster-major.

    TensorFlow Addons, LOUPE, WILLOW, MATLAB and hloc lay the descriptor out feature by feature: cluster `k` of
    feature `d` is value `d * K + k`. Here, and in the PyTorch ports other than hloc, it is `k * D + d`. The rows of
    the next layer's kernel follow, or its scores are noise.

    Args:
        kernel: Array `(D * K, ...)`: the kernel `(D * K, H)` of the Dense layer that takes the descriptor, or
            anything else with one row for each value of it, such as a batch normalization's `gamma` `(D * K,)`.
            A PyTorch `Linear` stores `(H, D * K)`: give its transpose. Where several descriptors are concatenated,
            give the rows of each by themselves.
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
        ValueError: If the kernel has not `D * K` rows, or a size is no positive integer.
    """
    num_clusters = check_integer("num_clusters", num_clusters, 1)
    feature_size = check_integer("feature_size", feature_size, 1)
    kernel = np.asarray(kernel)
    if kernel.ndim == 0 or len(kernel) != feature_size * num_clusters:
        raise ValueError(
            f"`kernel` must have one row for each of the {feature_size} * {num_clusters} = "
            f"{feature_size * num_clusters} values of the descriptor; transpose a PyTorch Linear's weight, and give "
            f"the rows of concatenated descriptors separately. Received: shape {kernel.shape}"
        )
    rows = np.arange(feature_size * num_clusters).reshape(feature_size, num_clusters).T.ravel()
    return kernel[rows]
