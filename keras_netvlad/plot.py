"""Pictures of what was learnt (needs the extra `plot`)."""

import numpy as np


def check_installed():
    """Raises an ImportError that names the extra if Matplotlib is not installed."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ImportError("Pictures need Matplotlib: pip install 'keras_netvlad[plot]'") from error


def plot_assignments(assignments, title="Soft assignments of frames to clusters"):
    """Draws the soft assignments of one video over time.

    Args:
        assignments: Array `(N, K)`, one video of `NetVLAD.assign`, frame by frame.
        title: String.

    Returns:
        A `matplotlib.figure.Figure`: clusters from top to bottom in the order of their first moment, frames from
        left to right, and above them the number of clusters that share each frame (exponential of the entropy).

    Example:

    >>> from keras_netvlad import NetVLAD
    >>> frames = np.random.default_rng(0).normal(size=(1, 40, 16)).astype("float32")
    >>> figure = plot_assignments(NetVLAD(8).assign(frames)[0])
    >>> [axes.get_ylabel() for axes in figure.axes[:2]]
    ['clusters\\nper frame', 'cluster']

    Raises:
        ValueError: If `assignments` is not of rank 2 or is empty.
        ImportError: If Matplotlib is not installed.
    """
    check_installed()
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    assignments = np.asarray(assignments, "float64")
    if assignments.ndim != 2 or not assignments.size:
        raise ValueError(
            "`assignments` must be those of one video, (frames, clusters), such as layer.assign(frames)[0]. "
            f"Received: shape {assignments.shape}"
        )
    num_frames, num_clusters = assignments.shape
    order = np.argsort(assignments.argmax(axis=0), kind="stable")
    perplexity = np.exp(-np.sum(assignments * np.log(np.maximum(assignments, 1e-12)), axis=1))

    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1, 4))
    above.plot(np.arange(num_frames), perplexity, color="tab:blue", drawstyle="steps-mid")
    above.set(ylabel="clusters\nper frame", ylim=(0, 1.1 * perplexity.max()), title=title)
    image = below.imshow(assignments[:, order].T, aspect="auto", interpolation="nearest", cmap="viridis", vmin=0)
    below.set(xlabel="frame", ylabel="cluster", xlim=(-0.5, num_frames - 0.5))
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    step = max(1, num_clusters // 16)
    below.set_yticks(np.arange(0, num_clusters, step), order[::step])
    figure.colorbar(image, ax=[above, below], label="soft assignment")
    return figure
