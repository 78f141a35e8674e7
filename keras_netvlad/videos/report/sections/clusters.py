"""Cluster usage: the share of each cluster in all assignments, in each class, and the frames that it takes most."""

import math

import numpy as np

from keras_netvlad.cluster_statistics import counted_rows, dead_clusters, dominant_clusters, entropies
from keras_netvlad.videos.report.blocks import note, section, shortened
from keras_netvlad.videos.report.charts import MOST_NAMES, bar_chart
from keras_netvlad.videos.report.heatmap import heat_map
from keras_netvlad.videos.report.markup import Markup, element
from keras_netvlad.videos.report.run_files import Run
from keras_netvlad.videos.report.thumbnails import Thumbnails

MOST_CLASSES = 40
CLUSTERS_WITH_PICTURES = 6
PICTURES = 4


def clusters(run: Run, thumbnails: Thumbnails) -> Markup:
    """Returns the section about the clusters."""
    if not run.has_clusters:
        return section("clusters", "Clusters", note("The pooling of this run has no clusters."))
    # Clip by clip, because all assignments in float64 may not fit in memory.
    sums = np.stack([counted_rows(rows).sum(axis=0) for rows in run.clips.assignments])
    shares = _shares(sums.sum(axis=0, keepdims=True))[0]
    order = np.argsort(-shares, kind="stable")
    even = 1 / len(shares)
    chart = bar_chart(
        shares[order].tolist(),
        [f"{number}" for number in order],
        f"Share of each of {len(shares)} clusters in all assignments, from {shares.max():.1%} to {shares.min():.1%}.",
        "cluster",
        even,
    )
    return section(
        "clusters",
        "Clusters",
        note(_facts(run, shares)),
        element("figure", element("figcaption", "Share of all assignments; dashed: an even share"), chart),
        _classes(run, sums, order),
        _pictures(run, order, shares, thumbnails),
    )


def _shares(sums):
    """Returns each row divided by its sum; zeros for a row of zeros."""
    totals = sums.sum(axis=1, keepdims=True)
    return np.divide(sums, totals, out=np.zeros_like(sums), where=totals > 0)


def _facts(run, shares):
    """Returns how many clusters are in use, how many share a frame, and which are dead or dominant."""
    of_frames = np.concatenate([entropies(counted_rows(rows)) for rows in run.clips.assignments])
    used, shared = math.exp(entropies(shares[None])[0]), math.exp(of_frames.mean()) if len(of_frames) else 0.0
    sentence = f"{used:.1f} of {len(shares)} clusters are in effective use, and {shared:.1f} share a frame on average."
    for kind, is_kind, meaning in (
        ("dead", dead_clusters(shares), "less than a hundredth of an even share"),
        ("dominant", dominant_clusters(shares), "far more than an even share"),
    ):
        numbers = np.flatnonzero(is_kind)
        if len(numbers):
            listed = ", ".join(map(str, numbers[:10])) + (", …" if len(numbers) > 10 else "")
            sentence += f" {len(numbers)} {'is' if len(numbers) == 1 else 'are'} {kind} ({meaning}): {listed}."
        else:
            sentence += f" None is {kind}."
    return sentence


def _classes(run, sums, order):
    """Returns a map of the share of each cluster in the clips of each class."""
    if len(run.labels) > MOST_CLASSES:
        return None
    shares = _shares(run.clips.labels.T.astype("float64") @ sums)[:, order]
    largest = order[shares.argmax(axis=1)]
    description = "Most used cluster of each class: " + ", ".join(
        f"{shortened(label, 24)} {number}" for label, number in zip(run.labels, largest, strict=True)
    )
    peaks = shares.max(axis=1, keepdims=True)
    return element(
        "figure",
        element("figcaption", "Share of each cluster in each class, clusters ordered as above"),
        element(
            "div",
            element("div", [element("span", shortened(label, 24)) for label in run.labels], class_="rows"),
            heat_map(np.divide(shares, peaks, out=np.zeros_like(shares), where=peaks > 0), f"{description}."),
            element("div", [element("span", int(number)) for number in order], class_="names minor")
            if len(order) <= MOST_NAMES
            else None,
            class_="timeline classes-map",
            style=f"--rows:{len(run.labels)};--columns:{len(order)}",
        ),
    )


def _pictures(run, order, shares, thumbnails):
    """Returns, for the most used clusters, the frames of different clips of which they take most."""
    if not run.fps:
        return None
    items = []
    for cluster in order[:CLUSTERS_WITH_PICTURES]:
        peaks = np.array([rows[:, cluster].max(initial=0) for rows in run.clips.assignments])
        images: list[Markup] = []
        for number in np.argsort(-peaks, kind="stable"):
            if len(images) == PICTURES or not peaks[number]:
                break
            frame = run.clips.assignments[number][:, cluster].argmax()
            images += thumbnails.pictures(run.clips.ids[number], [float(frame / run.fps)])
            if not images:
                break  # The videos do not exist. Trying to read all of them would take long.
        if images:
            name = element("p", f"Cluster {cluster}", element("small", f"{shares[cluster]:.1%}"), class_="file")
            items.append(element("li", name, element("div", images, class_="strip")))
    if not items:
        return None
    return [
        element("h3", "Frames of the most used clusters"),
        note("The frames of different clips that each cluster takes most of, in any split."),
        element("ul", items, class_="cards small"),
    ]
