"""Statistics of scores and labels that the report shows."""

import numpy as np
from numpy.typing import NDArray


def confusion_matrix(labels: NDArray[np.bool_], scores: NDArray[np.floating]) -> NDArray[np.int64]:
    """Counts the clips of each true class (rows) that are given each class (columns).

    Args:
        labels: `(N, C)`, one true value in each row.
        scores: `(N, C)`.

    Returns:
        `(C, C)`.

    Example:

    >>> confusion_matrix(np.eye(2, dtype=bool), np.array([[0.9, 0.1], [0.8, 0.2]])).tolist()
    [[1, 0], [1, 0]]
    """
    size = labels.shape[1]
    pairs = labels.argmax(axis=1) * size + scores.argmax(axis=1)
    return np.bincount(pairs, minlength=size * size).reshape(size, size)


def margins(labels: NDArray[np.bool_], scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """Returns how far the scores separate the classes of each clip from the others.

    The margin is the lowest score of a class that the clip has, minus the highest score of a class that it does not
    have. It is positive if all classes of the clip are ranked first.

    Args:
        labels: `(N, C)`.
        scores: `(N, C)`.

    Returns:
        `(N,)`; NaN for a clip that has no class, or every class.

    Example:

    >>> margins(np.array([[True, False], [False, True]]), np.array([[0.75, 0.25], [0.75, 0.25]])).tolist()
    [0.5, -0.5]
    """
    lowest = np.where(labels, scores, np.inf).min(axis=1, initial=np.inf)
    highest = np.where(labels, -np.inf, scores).max(axis=1, initial=-np.inf)
    return np.where(np.isfinite(lowest) & np.isfinite(highest), lowest.astype("float64") - highest, np.nan)


def extremes(
    values: NDArray[np.floating], numbers: NDArray[np.intp], count: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Returns the clips with the largest positive margins, and those with the most negative ones.

    Args:
        values: Margins of all clips.
        numbers: Numbers of the clips to choose from.
        count: Largest number of clips of each kind.

    Returns:
        `(surest, most_mistaken)`, each with the most extreme first.

    Example:

    >>> values = np.array([0.5, -0.1, np.nan, 0.9, -0.7])
    >>> [list(map(int, found)) for found in extremes(values, np.arange(5), 2)]
    [[3, 0], [4, 1]]
    """
    right, wrong = numbers[values[numbers] > 0], numbers[values[numbers] <= 0]
    surest = right[np.argsort(-values[right], kind="stable")][:count]
    return surest, wrong[np.argsort(values[wrong], kind="stable")][:count]
