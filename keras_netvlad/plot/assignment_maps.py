"""`plot_assignment_maps`: draws where in an image each cluster occurs."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_netvlad.base.validation import check_integer
from keras_netvlad.cluster_statistics import cluster_shares
from keras_netvlad.plot.drawing import (
    as_numbers,
    check_image,
    check_range,
    color_map,
    new_figure,
    wrapped,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_assignment_maps(
    assignments: ArrayLike,
    image: ArrayLike | None = None,
    title: str = "Where the clusters are",
    *,
    map_shape: tuple[int, int] | None = None,
    max_clusters: int = 7,
    num_columns: int = 4,
) -> "Figure":
    """Draws an image and, for each cluster, a map of the soft assignments over it.

    The clusters are sorted by their shares, which are the titles of the maps. Masked positions and positions with NaN
    are gray. All maps have the same color scale.

    Args:
        assignments: Array `(H, W, K)` or `(H * W, K)`, one image of `NetVLAD.assign` in row-major order. For a video,
            give the rows of one frame.
        image: Optional. Image under the maps: `(height, width, 3)` or `(height, width)` of any size, bytes or floats
            from 0 to 1.
        title: String.
        map_shape: `(H, W)` of the feature map. Required for `(H * W, K)` if the map is not square.
        max_clusters: Integer, the largest number of clusters to show. Those with the largest shares are shown.
        num_columns: Integer, number of panels in a row.

    Returns:
        A `matplotlib.figure.Figure`. pyplot is not used.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad import NetVLAD
    >>> maps = np.random.default_rng(0).normal(size=(1, 6, 8, 16)).astype("float32")
    >>> figure = plot_assignment_maps(NetVLAD(4).assign(maps)[0], map_shape=(6, 8))
    >>> sum(bool(axes.images) for axes in figure.axes)
    4

    Raises:
        ValueError: If `assignments` are not a map, are empty or negative, or if another argument is invalid.
        TypeError: If `assignments` or `image` is not an array of numbers.
        ImportError: If Matplotlib is not installed.
    """
    assignments = _check_maps(assignments, map_shape)
    max_clusters = check_integer("max_clusters", max_clusters, 1)
    num_columns = check_integer("num_columns", num_columns, 1)
    picture = None if image is None else check_image("image", image)
    rows, columns, num_clusters = assignments.shape
    shares = cluster_shares(assignments)
    chosen = np.argsort(-shares, kind="stable")[:max_clusters]
    is_counted = np.isfinite(assignments).all(axis=2) & (assignments.sum(axis=2) > 0)
    drawn = np.where(is_counted[:, :, None], assignments, np.nan)

    height, width = (rows, columns) if picture is None else picture.shape[:2]
    panels = len(chosen) + (picture is not None)
    num_columns = min(num_columns, panels)
    num_rows = -(-panels // num_columns)
    panel_width = 8.0 / max(num_columns, 3)
    panel_height = panel_width * min(2.0, max(0.3, height / width))
    # Leaves room for the title of a narrow figure.
    figure = new_figure(num_columns * panel_width + 0.9, num_rows * (panel_height + 0.3) + 0.6)
    grid = figure.subplots(num_rows, num_columns, squeeze=False)
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    scale = {"vmin": 0, "vmax": max(1e-9, float(np.nanmax(drawn)) if is_counted.any() else 1.0)}
    axes = iter(grid.flat)
    if picture is not None:
        first = next(axes)
        first.imshow(picture, cmap="gray")
        first.set_title(f"{width} by {height} pixels", fontsize="medium")
    for cluster, panel in zip(chosen, axes, strict=False):
        if picture is not None:
            panel.imshow(_gray(picture), cmap="gray", vmin=0, vmax=1)
        heat = panel.imshow(
            drawn[:, :, cluster],
            cmap=color_map(),
            interpolation="nearest",
            extent=extent,
            # The image remains visible where little is assigned.
            alpha=None if picture is None else np.nan_to_num(0.3 + 0.5 * drawn[:, :, cluster] / scale["vmax"], nan=0.8),
            **scale,
        )
        panel.set_title(f"cluster {cluster}: {_percent(shares[cluster])}", fontsize="medium")
    for index, panel in enumerate(grid.flat):
        panel.set(xticks=[], yticks=[])
        if index >= panels:
            panel.set_axis_off()
    note = f"{columns} by {rows} descriptors"
    if len(chosen) < num_clusters:
        note += f", {len(chosen)} of {num_clusters} clusters"
    if not is_counted.all():
        note += f", {int((~is_counted).sum())} descriptors without assignment (gray)"
    bar = figure.colorbar(heat, ax=list(grid.flat), label="soft assignment", shrink=min(1.0, 0.6 + 0.2 * num_rows))
    if bar.solids is not None:
        bar.solids.set_alpha(1)
    inches = figure.get_figwidth()
    figure.suptitle(f"{wrapped(title, inches)}\n{wrapped(note, inches)}", fontsize="large")
    return figure


def _check_maps(assignments: Any, map_shape: Any) -> NDArray[np.float64]:
    assignments = as_numbers("assignments", assignments)
    if assignments.ndim not in (2, 3) or not assignments.size:
        raise ValueError(
            "`assignments` must be those of one image, (height, width, clusters) or (height * width, clusters), "
            f"such as layer.assign(maps)[0]. Received: shape {assignments.shape}"
        )
    if map_shape is not None:
        try:
            map_rows, map_columns = map_shape
        except (TypeError, ValueError):
            raise ValueError(f"`map_shape` must be (height, width). Received: map_shape={map_shape!r}") from None
        map_shape = check_integer("map_shape[0]", map_rows, 1), check_integer("map_shape[1]", map_columns, 1)
    if assignments.ndim == 2:
        side = round(len(assignments) ** 0.5)
        if map_shape is None and side * side != len(assignments):
            raise ValueError(
                "`map_shape` must be given, because the number of rows of `assignments` is not a square. "
                f"Received: {len(assignments)} rows"
            )
        map_shape = map_shape or (side, side)
        if map_shape[0] * map_shape[1] != len(assignments):
            raise ValueError(
                f"`map_shape` must have as many positions as `assignments` has rows, {len(assignments)}; for a video, "
                f"give the rows of one frame. Received: map_shape={map_shape}"
            )
        assignments = assignments.reshape(*map_shape, -1)
    elif map_shape is not None and map_shape != assignments.shape[:2]:
        raise ValueError(
            f"`map_shape` must be that of `assignments`, {assignments.shape[:2]}. Received: map_shape={map_shape}"
        )
    return check_range(assignments)


def _gray(image: NDArray[Any]) -> NDArray[Any]:
    image = image / 255.0 if image.dtype == np.uint8 else image
    return image if image.ndim == 2 else image @ np.array([0.299, 0.587, 0.114])


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share == 0 or share >= 0.001 else "< 0.1 %"
