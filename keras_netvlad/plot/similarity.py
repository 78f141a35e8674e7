"""`plot_similarity`: draws which videos have similar descriptors."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from keras_netvlad.plot.drawing import as_numbers, color_map, new_figure, shortened, wrapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_NAMES = 40
LONGEST_NAME = 28


def plot_similarity(
    descriptors: ArrayLike, labels: Iterable[object] | None = None, title: str = "Similarity of descriptors"
) -> "Figure":
    """Draws the cosine similarity of each pair of descriptors.

    Videos with the same label are grouped, in the order in which the labels first appear, and lines separate the
    groups. Good descriptors give bright squares on the diagonal. Descriptors of zeros (videos without frames) and
    descriptors with NaN have no similarity and are gray.

    Args:
        descriptors: Array `(B, F)`, such as the output `descriptor` of a model or the output of `NetVLAD`.
        labels: Optional sequence of `B` labels: classes or names of videos.
        title: String.

    Returns:
        A `matplotlib.figure.Figure`. pyplot is not used.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad import NetVLAD
    >>> frames = np.random.default_rng(0).normal(size=(4, 40, 16)).astype("float32")
    >>> figure = plot_similarity(NetVLAD(8)(frames), ["cat", "dog", "cat", "dog"])
    >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
    ['cat', 'dog']

    Raises:
        ValueError: If `descriptors` are not of rank 2 or are empty, or if the number of labels differs.
        TypeError: If `descriptors` is not an array of numbers.
        ImportError: If Matplotlib is not installed.
    """
    rows = as_numbers("descriptors", descriptors)
    if rows.ndim != 2 or not rows.size:
        raise ValueError(
            f"`descriptors` must be (videos, features), such as layer(frames). Received: shape {rows.shape}"
        )
    if isinstance(labels, str):
        raise ValueError(f"`labels` must be a sequence with a label for each video. Received: labels={labels!r}")
    titles = None if labels is None else [str(label) for label in labels]
    if titles is not None and len(titles) != len(rows):
        raise ValueError(
            f"`labels` must hold a label for each of the {len(rows)} videos. Received: {len(titles)} labels"
        )
    figure = new_figure(6.4, 5.6)
    from matplotlib.ticker import MaxNLocator

    count = len(rows)
    names, group_of = [], np.arange(count)
    if titles is not None:
        names = list(dict.fromkeys(titles))
        index = {name: place for place, name in enumerate(names)}
        group_of = np.array([index[label] for label in titles])
        order = np.argsort(group_of, kind="stable")
        rows, group_of = rows[order], group_of[order]
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    has_direction = np.isfinite(norms[:, 0]) & (norms[:, 0] > 0)
    units = np.divide(rows, norms, out=np.zeros_like(rows), where=has_direction[:, None])
    similarities = np.where(has_direction[:, None] & has_direction, units @ units.T, np.nan)

    axes = figure.subplots()
    least = np.nanmin(similarities) if has_direction.any() else 0.0
    image = axes.imshow(
        similarities, cmap=color_map(), vmin=min(0.95, least), vmax=1, interpolation="nearest", aspect="equal"
    )
    figure.colorbar(image, ax=axes, label="cosine similarity", shrink=0.85)
    note = "video" if titles is None else ""
    if titles is None:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel("video")
    else:
        starts = np.flatnonzero(np.diff(group_of, prepend=-1))
        ends = np.append(starts[1:], count)
        for start in starts[1:] if len(names) < count and len(names) <= MOST_NAMES else ():
            axes.axhline(start - 0.5, color="white", linewidth=0.8)
            axes.axvline(start - 0.5, color="white", linewidth=0.8)
        stride = -(-len(names) // MOST_NAMES)
        shown = [shortened(name, LONGEST_NAME) for name in names[::stride]]
        centers = ((starts + ends - 1) / 2)[::stride]
        # Long names widen the figure, so that they do not shrink the matrix.
        figure.set_size_inches(6.4 + 0.07 * max(0, max(map(len, shown)) - 8), 5.6)
        small = "medium" if len(shown) <= 12 else "small" if len(shown) <= 24 else "xx-small"
        axes.set_yticks(centers, shown, fontsize=small)
        longest = max(map(len, shown))
        # Columns and rows are the same. Long names under the columns would leave no room for the matrix.
        below = shown if longest <= 14 else [""] * len(shown)
        axes.set_xticks(centers, below, fontsize=small, rotation=0 if longest * len(shown) <= 48 else 90)
        if stride > 1:
            note = f"one in {stride} of {len(names)} labels is named"
    if not has_direction.all():
        left_out = int((~has_direction).sum())
        note = f"{note}      gray: {left_out} of {count} without frames or with NaN".strip()
    axes.set_xlabel(note)
    figure.suptitle(wrapped(title, 6.4), fontsize="large")
    return figure
