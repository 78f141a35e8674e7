"""Single test clips: those on which the model is surest, and its largest mistakes."""

import numpy as np
from numpy.typing import NDArray

from keras_netvlad.cluster_statistics import cluster_shares
from keras_netvlad.videos.report.blocks import note, seconds_text, section, shortened
from keras_netvlad.videos.report.heatmap import heat_map
from keras_netvlad.videos.report.markup import Markup, element
from keras_netvlad.videos.report.run_files import Run
from keras_netvlad.videos.report.statistics import extremes, margins
from keras_netvlad.videos.report.thumbnails import Thumbnails

CLIPS_OF_EACH_KIND = 6
PICTURES = 4
MOST_SCORES = 3
MOST_CLUSTERS = 6
# Frames beyond this number are averaged, because a screen has no more columns.
MOST_COLUMNS = 400


def clips(run: Run, thumbnails: Thumbnails) -> Markup:
    """Returns the section with the test clips that have the most certain answers and the largest mistakes."""
    values = margins(run.clips.labels, run.clips.scores)
    surest, mistaken = extremes(values, run.clips.of("test"), CLIPS_OF_EACH_KIND)
    meaning = (
        "Clips are ordered by the score of their class minus the highest other score."
        if run.is_single_label
        else "Clips are ordered by the lowest score of their classes minus the highest other score."
    )
    timeline = (
        "Under the pictures, each row is a cluster, and a cell of full color means that the cluster takes all of a "
        f"frame. The {MOST_CLUSTERS} most used clusters of each clip have a row; the last row is the sum of the others."
    )
    return section(
        "clips",
        "Test clips",
        note(meaning, f" {timeline}" if run.has_clusters else None),
        element("h3", "Surest"),
        _cards(run, surest, thumbnails, "No test clip is classified correctly."),
        element("h3", "Most mistaken"),
        _cards(run, mistaken, thumbnails, "No test clip is classified wrongly."),
    )


def timeline(assignments: NDArray[np.floating], fps: float | None) -> Markup:
    """Draws the assignments of a clip: clusters from top to bottom in the order of their peaks, frames in time.

    Args:
        assignments: `(frames, K)`.
        fps: Frames per second, or `None` for an axis in frames.
    """
    shares = cluster_shares(assignments)
    shown = np.argsort(-shares, kind="stable")[:MOST_CLUSTERS]
    largest = ", ".join(f"cluster {number} {shares[number]:.0%}" for number in shown[:3])
    columns = _averaged(assignments)
    shown = shown[np.argsort(columns[:, shown].argmax(axis=0), kind="stable")]
    rows, names = columns[:, shown].T, [f"{number}" for number in shown]
    if len(shares) > len(shown):
        rest = columns.sum(axis=1) - rows.sum(axis=0)
        rows, names = np.vstack([rows, rest]), [*names, "rest"]
    frames = len(assignments)
    length = seconds_text(frames / fps) if fps else f"{frames} frames"
    description = f"Assignments of {frames} frames to clusters. Largest shares: {largest}."
    return element(
        "div",
        element("div", [element("span", name) for name in names], class_="rows", aria_hidden="true"),
        heat_map(rows, description),
        element("div", element("span", "0"), element("span", length), class_="time"),
        class_="timeline",
        style=f"--rows:{len(names)}",
    )


def _averaged(assignments):
    """Returns the rows, or at most `MOST_COLUMNS` averages of neighboring rows."""
    if len(assignments) <= MOST_COLUMNS:
        return assignments
    return np.stack([part.mean(axis=0) for part in np.array_split(assignments, MOST_COLUMNS)])


def _cards(run, numbers, thumbnails, if_none):
    if not len(numbers):
        return note(if_none)
    return element("ul", [_card(run, int(number), thumbnails) for number in numbers], class_="cards")


def _card(run, number, thumbnails):
    name, assignments = run.clips.ids[number], run.clips.assignments[number]
    times = [(place + 0.5) / PICTURES * len(assignments) / (run.fps or 1) for place in range(PICTURES)]
    pictures = thumbnails.pictures(name, times) if run.fps else []
    return element(
        "li",
        element("p", shortened(name, 60), class_="file"),
        element("div", pictures, class_="strip") if pictures else None,
        note("The clip has no frames.") if not len(assignments) else None,
        timeline(assignments, run.fps) if len(assignments) and run.has_clusters else None,
        _scores(run, number),
    )


def _scores(run, number):
    """Returns the highest scores of a clip, and those of its true classes."""
    truth, scores, mean = (a[number] for a in (run.clips.labels, run.clips.scores, run.clips.mean_scores))
    order = np.argsort(-scores, kind="stable")
    shown = [n for place, n in enumerate(order) if place < MOST_SCORES or truth[n]][: 2 * MOST_SCORES]
    items = [
        element(
            "li",
            element(
                "span",
                element("span", shortened(run.labels[n], 24)),
                element("small", "true") if truth[n] else None,
                class_="name",
            ),
            element("span", element("span", style=f"width:{100 * np.clip(scores[n], 0, 1):.1f}%"), class_="bar"),
            element("b", f"{scores[n]:.2f}"),
            class_="true" if truth[n] else None,
        )
        for n in shown
    ]
    best = int(mean.argmax())
    return [
        element("ul", items, class_="scores"),
        element(
            "p",
            f"Mean pooling: {shortened(run.labels[best], 24)} {mean[best]:.2f}, {'right' if truth[best] else 'wrong'}",
            class_="aside",
        )
        if "mean" in run.names
        else None,
    ]
