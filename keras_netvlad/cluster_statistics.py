"""Figures of how clusters are used: what the pictures draw and what training logs."""

import numpy as np

DEAD_SHARE = 0.01  # of an even share


def cluster_shares(assignments):
    """Returns each cluster's share of all that was assigned.

    Args:
        assignments: Array `(..., K)` of `NetVLAD.assign`: of one video, of a batch, or of any number of frames. Rows
            of zeros, which a mask leaves out, and rows that hold NaN do not count.

    Returns:
        Float64 array `(K,)` that sums to 1; zeros if nothing was assigned.

    Example:

    >>> cluster_shares([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]).tolist()
    [0.75, 0.25, 0.0]
    """
    sums = counted_rows(assignments).sum(axis=0)
    return sums / sums.sum() if sums.sum() > 0 else sums


def usage_entropy(assignments):
    """Returns the entropy of the clusters' shares, in nats: 0 if one cluster takes all, `log(K)` if all take alike.

    Its exponential is the number of clusters in use.

    Example:

    >>> float(round(np.exp(usage_entropy([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])), 6))
    2.0
    """
    return float(entropies(cluster_shares(assignments)[None])[0])


def assignment_entropy(assignments):
    """Returns the mean over frames of the entropy of their assignment, in nats: 0 if each goes to a single cluster.

    What ghost clusters take, and weights, are left aside: each row is scaled to sum to 1. Its exponential is the number
    of clusters that share a frame. NaN if no frame was assigned.

    Example:

    >>> float(round(np.exp(assignment_entropy([[0.5, 0.5, 0.0], [0.25, 0.25, 0.0]])), 6))
    2.0
    """
    rows = counted_rows(assignments)
    return float(entropies(rows).mean()) if len(rows) else float("nan")


def dead_clusters(shares):
    """Returns which clusters `(K,)` have less than a hundredth of an even share, as booleans.

    Example:

    >>> dead_clusters([0.6, 0.4, 0.001]).tolist()
    [False, False, True]
    """
    shares = np.asarray(shares)
    return shares < DEAD_SHARE / len(shares)


def dominant_clusters(shares):
    """Returns which clusters `(K,)` have more than five even shares, or of few clusters far more than half.

    Example:

    >>> dominant_clusters([0.9, 0.1]).tolist(), dominant_clusters([0.5, 0.5]).tolist()
    ([True, False], [False, False])
    """
    shares = np.asarray(shares)
    even = 1 / len(shares)
    return shares > min(5 * even, (1 + even) / 2)


def counted_rows(assignments):
    """The rows `(N, K)` that hold an assignment: finite, and not all zeros."""
    rows = np.asarray(assignments, "float64")
    rows = rows.reshape(-1, rows.shape[-1])
    return rows[np.isfinite(rows).all(axis=1) & (rows.sum(axis=1) > 0)]


def entropies(rows):
    """Entropy in nats of each row `(N, K)`, scaled to sum to 1; 0 for a row of zeros."""
    totals = rows.sum(axis=1, keepdims=True)
    shares = np.divide(rows, totals, out=np.zeros_like(rows), where=totals > 0)
    return -np.sum(shares * np.log(np.where(shares > 0, shares, 1.0)), axis=1)
