"""`average_map`: compares the spots of long videos with the true events."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from keras_netvlad.base.validation import check_integer
from keras_netvlad.videos.spotting import Spot

LOOSE = tuple(range(5, 61, 5))
THRESHOLDS = np.linspace(0, 1, 200)
RECALLS = np.arange(11) / 10


class AverageMAP(NamedTuple):
    """The average mAP of spots, and its parts.

    Attributes:
        value: The average over tolerances of the mean over classes.
        by_class: The average over tolerances for each class, `(C,)`.
        by_tolerance: The mean over classes for each tolerance.

    Example:

    >>> from keras_netvlad.videos import Spot, average_map
    >>> average_map([[Spot(12.0, 0, 0.9)]], [[(10.0, 0)]], num_classes=2, tolerances=[1, 5]).by_tolerance.tolist()
    [0.0, 0.5]
    """

    value: float
    by_class: NDArray[np.float64]
    by_tolerance: NDArray[np.float64]


def average_map(
    spots: Sequence[Sequence[Spot]],
    events: Sequence[Sequence[tuple[float, int]]],
    num_classes: int,
    tolerances: Sequence[float] = LOOSE,
) -> AverageMAP:
    """Returns SoccerNet's average mAP of spotted events.

    Each event, in the order of time, takes the best spot of its class that lies within half a tolerance and that no
    earlier event took. From precision and recall at 200 thresholds from 0 to 1, the average precision is interpolated
    at 11 recalls. Its mean over the classes is averaged over the tolerances by the trapezoidal rule.

    The definition is that of SoccerNet's evaluation code, so a class without events counts as 0. That code also rounds
    times down to half a second; round yours to compare with its figures.

    Args:
        spots: For each video, its spots, as `spot` returns them. Scores are from 0 to 1.
        events: For each video, the time in seconds and the class of each event.
        num_classes: Integer, `C`.
        tolerances: Numbers of seconds, ascending: the width of the window around an event. The default is the loose
            metric of SoccerNet, 5 to 60; the tight one is `range(1, 6)`.

    Returns:
        `AverageMAP(value, by_class, by_tolerance)`.

    Example:

    >>> from keras_netvlad.videos import Spot, average_map
    >>> spots = [[Spot(11.0, 0, 0.9), Spot(30.0, 0, 0.6)]]
    >>> average_map(spots, [[(10.0, 0)]], num_classes=1).value
    1.0

    Raises:
        ValueError: If an argument is out of range, or if the numbers of videos differ.

    Reference:
        - [Giancola et al. 2018](https://arxiv.org/abs/1804.04527) (average-mAP); thresholds, matching and
          averages as in [SoccerNet/SoccerNet](https://github.com/SoccerNet/SoccerNet), `Evaluation/ActionSpotting.py`.
    """
    num_classes = check_integer("num_classes", num_classes, 1)
    if len(spots) != len(events):
        raise ValueError(
            f"There must be a list of spots and one of events for each video. Received: {len(spots)} lists of spots, "
            f"{len(events)} of events"
        )
    widths = np.asarray(tolerances, "float64")
    if widths.ndim != 1 or not len(widths) or not (np.diff(widths, prepend=0.0) > 0).all():
        raise ValueError(f"`tolerances` must be ascending numbers of seconds above 0. Received: {tolerances!r}")
    _check("spots", [found for video in spots for found in video], num_classes)
    _check("events", [event for video in events for event in video], num_classes)
    precisions = np.array(
        [[_average_precision(spots, events, label, width) for label in range(num_classes)] for width in widths]
    )  # (tolerances, C)
    steps = len(widths) - 1
    by_class = (precisions[:-1] + precisions[1:]).sum(axis=0) / (2 * steps) if steps else precisions[0]
    return AverageMAP(float(by_class.mean()), by_class, precisions.mean(axis=1))


def _average_precision(spots, events, label, width):
    """Returns the interpolated average precision of a class, with events that are `width` seconds wide."""
    scores, hits, num_events = [], [], 0
    for found, happened in zip(spots, events, strict=True):
        found = sorted((item.time, item.score) for item in found if item.label == label)
        times = sorted(time for time, other in happened if other == label)
        scores += [score for _, score in found]
        hits += _hits(found, times, width)
        num_events += len(times)
    if not num_events or not scores:
        return 0.0
    counted = np.array(scores) >= THRESHOLDS[:, None]  # (thresholds, spots)
    hit = (counted & np.array(hits)).sum(axis=1)
    recall = hit / num_events
    precision = hit / np.maximum(counted.sum(axis=1), 1)
    return float(np.mean([precision[recall >= point].max(initial=0.0) for point in RECALLS]))


def _hits(found, times, width):
    """Returns for each spot `(time, score)` whether an event takes it."""
    taken = [False] * len(found)
    for event in times:
        free = [index for index, (time, _) in enumerate(found) if not taken[index] and abs(time - event) <= width / 2]
        if free:
            taken[max(free, key=lambda index: found[index][1])] = True  # of equal scores the first
    return taken


def _check(name, items, num_classes):
    labels = [item[1] for item in items]
    wrong = [label for label in labels if not 0 <= label < num_classes]
    if wrong:
        raise ValueError(f"Classes of `{name}` must be from 0 to {num_classes - 1}. Received: {wrong[0]}")
    scores = [item.score for item in items if isinstance(item, Spot)]
    if any(not 0 <= score <= 1 for score in scores):
        received = next(score for score in scores if not 0 <= score <= 1)
        raise ValueError(f"Scores of `{name}` must be from 0 to 1; apply a sigmoid to logits. Received: {received}")
