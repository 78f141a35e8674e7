"""`draw_netvlad`: the steps of NetVLAD in one drawing, computed by the layer."""

from itertools import pairwise

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch

from keras_netvlad import NetVLAD

# Colors of Okabe and Ito, which color-blind readers can distinguish.
COLORS = np.array([to_rgb(color) for color in ("#0072B2", "#E69F00", "#009E73", "#CC79A7")])
INK, PALE = "#333333", "#9a9a9a"
CENTERS = np.array([[-2.2, 1.5], [2.1, 1.9], [2.3, -1.7], [-1.7, -1.9]])
# The features of a video are not where the clusters are, or the residuals would vanish.
OFFSETS = np.array([[0.95, 0.2], [-0.9, 0.5], [-0.7, -0.75], [0.55, 1.0]])
COUNTS = (10, 7, 5, 6)
LIMIT = 3.7


def draw_netvlad():
    """Returns a figure with a panel for each step: features, soft assignments, residuals, descriptor."""
    rng = np.random.default_rng(3)
    layer = NetVLAD(len(CENTERS))
    layer.adapt((CENTERS + rng.normal(0, 0.9, (1, 200, 4, 2))).reshape(1, -1, 2).astype("float32"), seed=0, verbose=0)
    x = np.concatenate(
        [rng.normal(center, 0.55, (count, 2)) for center, count in zip(CENTERS + OFFSETS, COUNTS, strict=True)]
    ).astype("float32")
    centroids, a, y = (np.asarray(v) for v in (layer.centroids, layer.assign(x[None])[0], layer(x[None])[0]))
    # k-means numbers its clusters at random; here they are numbered clockwise from the upper left.
    order = [int(np.linalg.norm(centroids - center, axis=1).argmin()) for center in CENTERS]
    centroids, a, y = centroids[order], a[:, order], y.reshape(-1, 2)[order]

    figure = Figure(figsize=(12, 4.2))
    layout = {"left": 0.02, "right": 0.98, "top": 0.9, "bottom": 0.28, "wspace": 0.17}
    panels = figure.subplots(1, 4, gridspec_kw=layout)
    titles = ("1  Features", "2  Soft assignments", "3  Residuals", "4  Descriptor")
    words = (
        f"{len(x)} frames of a video,\neach a vector of $D$ values",
        "each frame is shared\namong $K$ clusters",
        "each cluster sums the steps from\nits centroid to its share of frames",
        "$K\\times D$ values of unit norm,\nfor any number of frames",
    )
    equations = (
        "$x_n$",
        "$a_n = \\mathrm{softmax}(x_n W + b)$",
        "$V_k = \\sum_n\\, a_{nk}\\,(x_n - c_k)$",
        "$y = (V_1, …, V_K)$, normalized",
    )
    for axes, title, text, equation in zip(panels, titles, words, equations, strict=True):
        axes.set_title(title, fontsize=15, color=INK, fontweight="bold", pad=10)
        axes.text(0.5, -0.05, text, transform=axes.transAxes, ha="center", va="top", fontsize=12.5, color=INK)
        axes.text(0.5, -0.32, equation, transform=axes.transAxes, ha="center", va="center", fontsize=14.5, color=INK)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color("#d0d0d0")
    for axes in panels[:3]:
        axes.set(xlim=(-LIMIT, LIMIT), ylim=(-LIMIT, LIMIT), aspect="equal")

    panels[0].scatter(*x.T, s=46, color=INK, edgecolor="white", linewidth=0.8)

    # The ground shows the assignment of every point of the plane.
    grid = np.stack(np.meshgrid(*[np.linspace(-LIMIT, LIMIT, 160)] * 2), axis=-1).astype("float32")
    ground = np.asarray(layer.assign(grid.reshape(1, -1, 2)))[0][:, order] @ (0.75 + 0.25 * COLORS)
    panels[1].imshow(
        ground.reshape(160, 160, 3).clip(0, 1), extent=(-LIMIT, LIMIT, -LIMIT, LIMIT), origin="lower", zorder=0
    )
    panels[1].scatter(*x.T, s=46, color=(a @ COLORS).clip(0, 1), edgecolor="white", linewidth=0.8)

    for cluster, (color, centroid) in enumerate(zip(COLORS, centroids, strict=True)):
        for feature, share in zip(x, a[:, cluster], strict=True):
            if share > 0.03:
                step = {"arrowstyle": "-", "color": color, "alpha": float(0.1 + 0.65 * share), "linewidth": 1.6}
                panels[2].annotate("", feature, centroid, arrowprops={**step, "shrinkA": 0, "shrinkB": 2})
        direction = y[cluster] / np.linalg.norm(y[cluster])
        panels[2].annotate(
            "",
            centroid + 1.7 * direction,
            centroid,
            arrowprops={"arrowstyle": "-|>,head_width=0.4,head_length=0.7", "color": color * 0.75, "linewidth": 3.2},
            zorder=4,
        )
    panels[2].scatter(*x.T, s=22, color=(a @ COLORS).clip(0, 1), edgecolor="white", linewidth=0.5)
    for axes in panels[1:3]:
        axes.scatter(*centroids.T, s=110, marker="D", color=COLORS, edgecolor=INK, linewidth=1.3, zorder=5)
        for cluster, centroid in enumerate(centroids):
            offset = 20 * np.sign(centroid) - (0, 5)
            axes.annotate(
                f"$c_{cluster + 1}$", centroid, offset, textcoords="offset points", fontsize=14, color=INK, ha="center"
            )

    places = np.arange(8) + np.repeat(np.arange(4), 2) * 0.7
    panels[3].barh(places, y.ravel(), height=0.86, color=np.repeat(COLORS, 2, axis=0))
    panels[3].axvline(0, color=PALE, linewidth=1)
    panels[3].set(ylim=(places[-1] + 0.9, -0.9), xlim=np.array([-1.55, 1.1]) * np.abs(y).max(), box_aspect=1)
    panels[3].spines[:].set_visible(False)
    for cluster in range(4):
        panels[3].text(
            -1.45 * np.abs(y).max(),
            places[2 * cluster] + 0.5,
            f"$V_{cluster + 1}$",
            fontsize=15,
            va="center",
            color=INK,
        )
    for left, right in pairwise(panels):
        arrow = ConnectionPatch(
            (1.02, 0.5), (-0.02, 0.5), left.transAxes, right.transAxes, arrowstyle="-|>", mutation_scale=20, color=PALE
        )
        figure.add_artist(arrow)
    return figure
