"""Statistics of cluster assignments, which the plots draw and `AssignmentMonitor` logs."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "assignment_entropy",
    "cluster_shares",
    "counted_rows",
    "dead_clusters",
    "dominant_clusters",
    "entropies",
    "usage_entropy",
]

DEAD_SHARE = 0.01  # of an even share


def cluster_shares(assignments: ArrayLike) -> NDArray[np.float64]:
    """Returns the share of each cluster in the sum of all assignments.

    Args:
        assignments: Array `(..., K)` from `NetVLAD.assign`, for example of one video or of a batch. Rows of zeros
            (padding) and rows that hold NaN are ignored.

    Returns:
        Float64 array `(K,)` that sums to 1; zeros if nothing was assigned.

    Example:

    >>> cluster_shares([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]).tolist()
    [0.75, 0.25, 0.0]
    """
    sums = counted_rows(assignments).sum(axis=0)
    return sums / sums.sum() if sums.sum() > 0 else sums


def usage_entropy(assignments: ArrayLike) -> float:
    """Returns the entropy of the shares of the clusters in nats.

    It is 0 if one cluster takes everything and `log(K)` if the shares are even. Its exponential is the effective number
    of clusters in use.

    Args:
        assignments: Array `(..., K)`, as for `cluster_shares`.

    Example:

    >>> float(round(np.exp(usage_entropy([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])), 6))
    2.0
    """
    return float(entropies(cluster_shares(assignments)[None])[0])


def assignment_entropy(assignments: ArrayLike) -> float:
    """Returns the mean over the frames of the entropy of their assignments in nats, 0 for hard assignments.

    Its exponential is the effective number of clusters that share a frame. Each row is scaled to sum to 1, so ghost
    clusters and frame weights have no effect.

    Args:
        assignments: Array `(..., K)`, as for `cluster_shares`.

    Returns:
        The mean entropy, or NaN if no frame was assigned.

    Example:

    >>> float(round(np.exp(assignment_entropy([[0.5, 0.5, 0.0], [0.25, 0.25, 0.0]])), 6))
    2.0
    """
    rows = counted_rows(assignments)
    return float(entropies(rows).mean()) if len(rows) else float("nan")


def dead_clusters(shares: ArrayLike) -> NDArray[np.bool_]:
    """Returns a boolean `(K,)` for each cluster, true if its share is below a hundredth of an even share.

    Args:
        shares: `(K,)`, from `cluster_shares`.

    Example:

    >>> dead_clusters([0.6, 0.4, 0.001]).tolist()
    [False, False, True]
    """
    shares = np.asarray(shares, "float64")
    return shares < DEAD_SHARE / len(shares)


def dominant_clusters(shares: ArrayLike) -> NDArray[np.bool_]:
    """Returns a boolean `(K,)` for each cluster, true if its share is above five even shares.

    For fewer than ten clusters the limit is the mean of an even share and 1.

    Args:
        shares: `(K,)`, from `cluster_shares`.

    Example:

    >>> dominant_clusters([0.9, 0.1]).tolist(), dominant_clusters([0.5, 0.5]).tolist()
    ([True, False], [False, False])
    """
    shares = np.asarray(shares, "float64")
    even = 1 / len(shares)
    return shares > min(5 * even, (1 + even) / 2)


def counted_rows(assignments: ArrayLike) -> NDArray[np.float64]:
    """Returns the rows `(N, K)` that hold an assignment: finite and not all zeros.

    Example:

    >>> counted_rows([[[0.5, 0.5], [0.0, 0.0]]]).tolist()
    [[0.5, 0.5]]
    """
    rows = np.asarray(assignments, "float64")
    rows = rows.reshape(-1, rows.shape[-1])
    return rows[np.isfinite(rows).all(axis=1) & (rows.sum(axis=1) > 0)]


def entropies(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the entropy in nats of each row of `(N, K)`, scaled to sum to 1; 0 for a row of zeros.

    Example:

    >>> np.exp(entropies(np.array([[0.5, 0.5], [2.0, 0.0]]))).tolist()
    [2.0, 1.0]
    """
    totals = rows.sum(axis=1, keepdims=True)
    shares = np.divide(rows, totals, out=np.zeros_like(rows), where=totals > 0)
    return -np.sum(shares * np.log(np.where(shares > 0, shares, 1.0)), axis=1)
