"""Metrics of a trained model on the videos of a split, with confidence intervals."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
RESAMPLES = 1000
# Of each video, the metric GAP counts this many classes.
TOP = 20


@dataclass(frozen=True)
class Estimate:
    """A metric and its confidence interval.

    Attributes:
        value: The metric on all videos.
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """Returns the numbers by name."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def accuracy(scores: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Returns the share of videos whose highest score belongs to their class.

    Args:
        scores: `(N, C)`.
        labels: `(N, C)`, 1 for the class of a video and 0 for others.
    """
    return float(np.mean(labels[np.arange(len(labels)), scores.argmax(axis=1)]))


def global_average_precision(scores: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Returns the average precision of the best 20 classes of all videos, in one list, as YouTube-8M defines it.

    Args:
        scores: `(N, C)`.
        labels: `(N, C)`, 1 for the classes of a video and 0 for others.
    """
    best = np.argsort(-scores, axis=1, kind="stable")[:, :TOP]
    rows = np.arange(len(scores))[:, None]
    return _average_precision(scores[rows, best].ravel(), labels[rows, best].ravel(), int(labels.sum()))


def recalls(scores: NDArray[np.floating], labels: NDArray[np.integer]) -> list[float | None]:
    """Returns the recall of each class, or `None` for a class without videos.

    The recall is the share of the videos of the class that get their highest score for it."""
    found = labels * (scores.argmax(axis=1)[:, None] == np.arange(scores.shape[1]))
    counts = labels.sum(axis=0)
    return [float(hits / count) if count else None for hits, count in zip(found.sum(axis=0), counts, strict=True)]


def average_precisions(scores: NDArray[np.floating], labels: NDArray[np.integer]) -> list[float | None]:
    """Returns the average precision of each class; `None` for a class without videos."""
    return [
        _average_precision(scores[:, c], labels[:, c], int(labels[:, c].sum())) if labels[:, c].any() else None
        for c in range(scores.shape[1])
    ]


def estimate(
    metric: Callable[[NDArray[np.floating], NDArray[np.integer]], float],
    scores: NDArray[np.floating],
    labels: NDArray[np.integer],
    groups: Sequence[str],
) -> Estimate:
    """Computes a metric and its 95% confidence interval, the percentiles of 1000 bootstrap samples.

    Whole groups are drawn with replacement, because clips of one source are alike: drawn one by one, they would make
    the interval too narrow.

    Args:
        metric: Function of scores and labels.
        scores: `(N, C)`.
        labels: `(N, C)`.
        groups: The group of each video.

    Returns:
        The `Estimate`.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad.videos.evaluation import accuracy, estimate
    >>> labels = np.eye(2, dtype=int)[[0, 1] * 10]
    >>> print(estimate(accuracy, labels.astype(float), labels, [f"{n}" for n in range(20)]))
    1.000 (1.000 to 1.000)

    Reference:
        - Efron & Tibshirani 1993, An introduction to the bootstrap, chapter 13 (percentile intervals).
    """
    rng = np.random.default_rng(0)
    _, members = np.unique(np.asarray(groups), return_inverse=True)
    rows = [np.flatnonzero(members == number) for number in range(members.max() + 1)]
    values = []
    for _ in range(RESAMPLES):
        drawn = np.concatenate([rows[number] for number in rng.integers(0, len(rows), len(rows))])
        values.append(metric(scores[drawn], labels[drawn]))
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(metric(scores, labels), float(low), float(high))


def _average_precision(scores: NDArray[np.floating], hits: NDArray[np.integer], num_positives: int) -> float:
    hits = hits[np.argsort(-scores, kind="stable")]
    precisions = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float((precisions * hits).sum() / num_positives) if num_positives else 0.0
