"""`plot_cluster_usage`: draws the share of the data that each cluster receives."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from keras_netvlad.cluster_statistics import (
    assignment_entropy,
    cluster_shares,
    counted_rows,
    dead_clusters,
    dominant_clusters,
    usage_entropy,
)
from keras_netvlad.plot.drawing import BLUE, ORANGE, VERMILION, as_numbers, check_range, new_figure, wrapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_NAMES = 40


def plot_cluster_usage(assignments: ArrayLike, title: str = "Use of the clusters") -> "Figure":
    """Draws the share of all assignments of each cluster, from the largest to the smallest.

    A cluster is dead if it has less than a hundredth of an even share. It is dominant if it has more than five even
    shares or, with fewer than ten clusters, more than the mean of an even share and 1. Many dead clusters or
    one dominant cluster mean that the assignment has collapsed: start from `adapt`, or train with a smaller learning
    rate.

    Args:
        assignments: Array `(..., K)` of `NetVLAD.assign`, of one video or of a batch `(B, N, K)`. Masked frames and
            frames with NaN are ignored.
        title: String.

    Returns:
        A `matplotlib.figure.Figure`. pyplot is not used.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad import NetVLAD
    >>> frames = np.random.default_rng(0).normal(size=(3, 40, 16)).astype("float32")
    >>> figure = plot_cluster_usage(NetVLAD(8).assign(frames, mask=np.arange(40) < [[40], [25], [3]]))
    >>> figure.axes[0].get_title().split(":")[0]
    '68 frames'

    Raises:
        ValueError: If `assignments` are of rank below 2, are empty or negative, or if all frames are masked or NaN.
        TypeError: If `assignments` is not an array of numbers.
        ImportError: If Matplotlib is not installed.
    """
    values = as_numbers("assignments", assignments)
    if values.ndim < 2 or not values.size:
        raise ValueError(
            "`assignments` must be (..., frames, clusters), such as layer.assign(frames). "
            f"Received: shape {values.shape}"
        )
    check_range(values)
    num_counted = len(counted_rows(values))
    if not num_counted:
        raise ValueError(
            "`assignments` must have a frame that is neither masked nor NaN. Received: zeros or NaN in every row"
        )
    figure = new_figure(7.5, 3.8)
    from matplotlib.lines import Line2D

    shares = cluster_shares(values)
    num_clusters = len(shares)
    order = np.argsort(-shares, kind="stable")
    percents = 100 * shares[order]
    is_dead, is_dominant = dead_clusters(shares)[order], dominant_clusters(shares)[order]
    places = np.arange(num_clusters)

    axes = figure.subplots()
    usual = ~is_dead & ~is_dominant
    for kind, chosen, color in (("dominant", is_dominant, ORANGE), ("", usual, BLUE)):
        if chosen.any():
            label = f"{chosen.sum()} {kind}".strip() if kind else f"{chosen.sum()} neither dominant nor dead"
            axes.bar(places[chosen], percents[chosen], width=0.85, color=color, label=label)
    if is_dead.any():
        # Bars without height are invisible.
        dead = places[is_dead], percents[is_dead]
        axes.plot(*dead, "x", color=VERMILION, label=f"{is_dead.sum()} dead", clip_on=False)
    even = 100 / num_clusters
    axes.axhline(even, color="0.3", linestyle="--", linewidth=1, label=f"even share, {even:.3g} %")
    if num_clusters <= MOST_NAMES:
        axes.set_xticks(places, order, fontsize="small" if num_clusters <= 24 else "x-small")
        axes.set_xlabel("cluster")
    else:
        axes.set_xlabel(f"rank of the cluster (the first is cluster {order[0]})")
    axes.set(ylabel="share of all assignments (%)", xlim=(-0.7, num_clusters - 0.3), ylim=(0, 1.1 * percents[0]))
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    handles, names = axes.get_legend_handles_labels()
    bars_first = sorted(range(len(names)), key=lambda place: isinstance(handles[place], Line2D))
    axes.legend([handles[place] for place in bars_first], [names[place] for place in bars_first], loc="best")
    unit = "frame" if num_counted == 1 else "frames"
    axes.set_title(
        f"{num_counted} {unit}: {np.exp(usage_entropy(values)):.1f} of {num_clusters} clusters in use, "
        f"{np.exp(assignment_entropy(values)):.1f} share a frame",
        fontsize="medium",
    )
    figure.suptitle(wrapped(title, 7.5), fontsize="large")
    return figure
