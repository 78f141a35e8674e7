"""The metrics of YouTube-8M by enumeration: every order of equal scores, rank by rank, in float64."""

import itertools

import numpy as np


def gap(labels, scores, top_k):
    """Returns the mean, the smallest and the largest GAP over all choices and orders of equal scores.

    Args:
        labels: `(B, C)`, 0 or 1.
        scores: `(B, C)`.
        top_k: The number of scores of each video that are ranked.
    """
    choices = [best_places(row, top_k) for row in scores]
    values = []
    for places in itertools.product(*choices):
        taken = [(b, c) for b, row in enumerate(places) for c in row]
        found, ranked = (np.array([array[place] for place in taken]) for array in (labels, scores))
        values.append(average_precisions(found, ranked, labels.sum()))
    # The choices are equally likely, and so are the orders of each.
    return np.mean([np.mean(orders) for orders in values]), min(map(min, values)), max(map(max, values))


def mean_average_precision(labels, scores):
    """Returns the mean, the smallest and the largest mAP over all orders of equal scores. All scores are ranked."""
    orders = [
        average_precisions(found, ranked, found.sum())
        for found, ranked in zip(labels.T, scores.T, strict=True)
        if found.any()
    ]
    if not orders:
        return 0.0, 0.0, 0.0
    return tuple(np.mean([summary(values) for values in orders]) for summary in (np.mean, min, max))


def perr(labels, scores):
    """Returns the mean over videos of the precision of their `n` highest scores, over all choices of equal scores."""
    precisions = []
    for row, its_scores in zip(labels, scores, strict=True):
        num_labels = int(row.sum())
        choices = best_places(its_scores, num_labels) if num_labels else [()]
        precisions.append(np.mean([np.sum(row[list(places)]) / max(num_labels, 1) for places in choices]))
    return np.mean(precisions)


def hit_at_one(labels, scores):
    """Returns how often the first of the highest scores belongs to a label."""
    return np.mean([row[its_scores.argmax()] for row, its_scores in zip(labels, scores, strict=True)])


def best_places(scores, count):
    """Returns every set of places that hold the `count` highest scores of a row."""
    lowest = np.sort(scores)[::-1][min(count, len(scores)) - 1]
    above, equal = np.flatnonzero(scores > lowest), np.flatnonzero(scores == lowest)
    slots = min(count, len(scores)) - len(above)
    return [(*above, *chosen) for chosen in itertools.combinations(equal, slots)]


def average_precisions(found, scores, num_positives):
    """Returns the average precision of every order of equal scores, all of which are equally likely."""
    arrangements = []
    for value in np.unique(scores)[::-1]:
        equal = found[scores == value]
        # Only the places of the labels matter, so each set of places stands for the same number of orders.
        places = itertools.combinations(range(len(equal)), int(equal.sum()))
        arrangements.append([np.isin(np.arange(len(equal)), chosen) for chosen in places])
    return [
        average_precision(np.concatenate(order), num_positives) if num_positives else 0.0
        for order in itertools.product(*arrangements)
    ]


def average_precision(ranked, num_positives):
    """Returns the sum of the precisions at the ranks of the labels, over the number of labels."""
    return sum(ranked[: rank + 1].mean() for rank in np.flatnonzero(ranked)) / num_positives
