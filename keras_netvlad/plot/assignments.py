"""`plot_assignments`: draws the soft assignments of one video over time."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from keras_netvlad.base.validation import check_integer, check_number
from keras_netvlad.cluster_statistics import cluster_shares, entropies
from keras_netvlad.plot.drawing import (
    BLUE,
    check_assignments,
    check_image,
    color_map,
    new_figure,
    wrapped,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_THUMBNAILS = 8
# A float32 softmax sums to 1 within rounding. A larger rest was assigned to ghost clusters or removed by a weight.
LEAST_REST = 1e-3


def plot_assignments(
    assignments: ArrayLike,
    title: str = "Soft assignments of frames to clusters",
    *,
    frames: ArrayLike | None = None,
    num_frames: int | None = None,
    seconds_per_frame: float | None = None,
    max_clusters: int = 64,
) -> "Figure":
    """Draws the soft assignments of one video over time.

    Frames run from left to right. Clusters are sorted from top to bottom by the time of their peak. A curve above them
    shows how many clusters share each frame, the exponential of the entropy. Masked frames and frames with NaN are
    gray. If assignments do not sum to 1, a last row `rest` shows the remainder, which was assigned to ghost clusters or
    removed by a frame weight below 1.

    Args:
        assignments: Array `(N, K)`, one video of `NetVLAD.assign`, frame by frame.
        title: String.
        frames: Optional. Images `(N, H, W, 3)` or `(N, H, W)` of the frames, bytes or floats from 0 to 1. Up to eight
            of them are drawn above their time.
        num_frames: Optional integer, the number of real frames. Later frames are not drawn.
        seconds_per_frame: Optional number, for an axis in seconds.
        max_clusters: Integer, the largest number of clusters to show. Those with the largest shares are shown.

    Returns:
        A `matplotlib.figure.Figure`, which `figure.savefig(path)` writes. pyplot is not used.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad import NetVLAD
    >>> frames = np.random.default_rng(0).normal(size=(1, 40, 16)).astype("float32")
    >>> figure = plot_assignments(NetVLAD(8).assign(frames)[0])
    >>> [axes.get_ylabel() for axes in figure.axes[:2]]
    ['clusters\\nper frame', 'cluster']

    Raises:
        ValueError: If `assignments` are not of rank 2, are empty or negative, or if another argument is invalid.
        TypeError: If `assignments` is not an array of numbers.
        ImportError: If Matplotlib is not installed.
    """
    values = check_assignments(assignments, "layer.assign(frames)[0]")
    max_clusters = check_integer("max_clusters", max_clusters, 1)
    if frames is not None and len(np.shape(frames)) not in (3, 4):
        raise ValueError(
            f"`frames` must be images, (frames, height, width, 3). Received: shape {tuple(np.shape(frames))}"
        )
    if frames is not None and np.shape(frames)[0] != len(values):
        raise ValueError(
            f"`frames` must hold an image for each of the {len(values)} rows of `assignments`. "
            f"Received: {np.shape(frames)[0]} images"
        )
    if num_frames is not None:
        num_frames = min(check_integer("num_frames", num_frames, 1), len(values))
        values = values[:num_frames]
    step = _check_seconds(seconds_per_frame)
    figure = new_figure(7.5, 4.5 if frames is None else 5.3)
    from matplotlib.ticker import MaxNLocator

    count, num_clusters = values.shape
    is_counted = np.isfinite(values).all(axis=1) & (values.sum(axis=1) > 0)
    drawn = np.where(is_counted[:, None], values, np.nan)
    chosen = np.arange(num_clusters)
    if num_clusters > max_clusters:
        chosen = np.sort(np.argsort(-cluster_shares(values), kind="stable")[:max_clusters])
    peaks = np.where(is_counted[:, None], values, -1.0)[:, chosen].argmax(axis=0)
    chosen = chosen[np.argsort(peaks, kind="stable")]
    rows, names = drawn[:, chosen].T, [str(cluster) for cluster in chosen]
    rest = 1 - drawn.sum(axis=1)
    if is_counted.any() and np.nanmax(rest) > LEAST_REST:
        rows, names = np.vstack([rows, np.clip(rest, 0, None)]), [*names, "rest"]
    perplexity = np.where(is_counted, np.exp(entropies(np.where(is_counted[:, None], values, 0.0))), np.nan)

    heights = (1, 4) if frames is None else (0.9, 1, 4)
    *top, above, below = figure.subplots(len(heights), 1, height_ratios=heights)
    above.sharex(below)
    above.tick_params(labelbottom=False)
    extent = (-0.5 * step, (count - 0.5) * step, len(rows) - 0.5, -0.5)
    above.stairs(perplexity, (np.arange(count + 1) - 0.5) * step, color=BLUE, baseline=None, linewidth=1.5)
    most = np.nanmax(perplexity) if is_counted.any() else 1.0
    above.set(ylabel="clusters\nper frame", ylim=(0, 1.15 * most))
    above.yaxis.set_major_locator(MaxNLocator(nbins=3, min_n_ticks=2, steps=[1, 2, 5, 10]))
    above.grid(axis="y", color="0.9")
    above.set_axisbelow(True)
    image = below.imshow(
        rows,
        aspect="auto",
        interpolation="nearest",
        cmap=color_map(),
        vmin=0,
        vmax=max(1e-9, np.nanmax(rows) if is_counted.any() else 1.0),
        extent=extent,
    )
    label = "cluster"
    if len(chosen) < num_clusters:
        label = f"cluster ({len(chosen)} of {num_clusters}, largest shares)"
    below.set(xlabel="frame" if seconds_per_frame is None else "time (s)", ylabel=label, xlim=extent[:2])
    if not is_counted.all():
        left_out = int((~is_counted).sum())
        below.set_xlabel(f"{below.get_xlabel()}      gray: {left_out} of {count} without assignment (masked or NaN)")
    below.xaxis.set_major_locator(MaxNLocator(integer=seconds_per_frame is None, min_n_ticks=1))
    stride = -(-len(names) // 20)
    ticks = list(range(0, len(names), stride))
    if names[-1] == "rest":
        ticks = [tick for tick in ticks if tick < len(names) - stride] + [len(names) - 1]
        below.axhline(len(chosen) - 0.5, color="white", linewidth=1.5)
    below.set_yticks(ticks, [names[tick] for tick in ticks])
    below.tick_params(axis="y", labelsize="small")
    figure.colorbar(image, ax=[above, below], label="soft assignment", pad=0.02)
    if frames is not None:
        _draw_thumbnails(top[0], below, frames, count, step)
    figure.suptitle(wrapped(title, 7.5), fontsize="large")
    return figure


def _draw_thumbnails(strip: Any, below: Any, frames: Any, count: int, step: float) -> None:
    """Draws images side by side over the width of the heat map, each connected to its time by a line."""
    from matplotlib.patches import ConnectionPatch

    strip.set_axis_off()
    shown = min(count, MOST_THUMBNAILS)
    for place in range(shown):
        # The middle frame of each of `shown` equal parts.
        frame = int((place + 0.5) * count / shown)
        # Insets are placed in the axes, so that they stay above the heat map in every layout.
        inset = strip.inset_axes((place / shown + 0.004, 0, 1 / shown - 0.008, 1), anchor="S")
        inset.imshow(check_image("frames", frames[frame]), cmap="gray", aspect="equal")
        inset.set(xticks=[], yticks=[])
        inset.set_anchor("S")
        line = ConnectionPatch(
            (0.5, 0), (frame * step, 1), inset.transAxes, below.get_xaxis_transform(), color="0.6", linewidth=0.7
        )
        line.set_in_layout(False)
        below.figure.add_artist(line)


def _check_seconds(seconds_per_frame: Any) -> float:
    if seconds_per_frame is None:
        return 1
    return check_number("seconds_per_frame", seconds_per_frame, minimum=0, exclusive=True)
