"""`Results`: the results of a trained classifier of the user's own classes on the test videos."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_netvlad.base.text_table import text_table
from keras_netvlad.videos.evaluation import (
    CONFIDENCE,
    Estimate,
    accuracy,
    average_precisions,
    estimate,
    global_average_precision,
    recalls,
)
from keras_netvlad.videos.features_folder import FeaturesFolder
from keras_netvlad.videos.labels import SPLITS

RESULTS_FILE = "results.json"
# The pooling that a run is compared with, and the name of the run's own model in its files.
BASELINE, OWN = "mean", "model"


@dataclass(frozen=True)
class Results:
    """The results of `train`. They print as a table.

    Attributes:
        pooling: Name of the pooling.
        is_single_label: Whether each video has one class.
        test: Dict from the name of a pooling, that of the run and `"mean"`, to the metric on the test videos: accuracy
            if each video has one class, otherwise GAP. Empty without test videos.
        num_videos: Dict from the name of a split to its number of videos.
        classes: List with a dict for each class: `name`, its number of videos in each split, and for each pooling its
            recall or average precision on the test videos, or `None`.

    Example:

    >>> from keras_netvlad.videos import Results
    >>> from keras_netvlad.videos.evaluation import Estimate
    >>> counts = {"train": 8, "validation": 2, "test": 2}
    >>> rows = [{"name": name, **counts, "netvlad": recall} for name, recall in (("cat", 1.0), ("dog", 0.5))]
    >>> print(Results("netvlad", True, {"netvlad": Estimate(0.75, 0.5, 1.0)}, counts, rows))
    test accuracy of netvlad    0.750 (0.500 to 1.000), 95% confidence
    class  train  validation  test  recall, netvlad
    cat        8           2     2            1.000
    dog        8           2     2            0.500
    """

    pooling: str
    is_single_label: bool
    test: Mapping[str, Estimate]
    num_videos: Mapping[str, int]
    classes: list[dict[str, Any]]

    @property
    def metric(self) -> str:
        """`"accuracy"` or `"gap"`."""
        return "accuracy" if self.is_single_label else "gap"

    def as_dict(self) -> dict[str, Any]:
        """Returns the results as JSON values. The run's own model is called `model`."""
        names = {OWN: self.pooling, BASELINE: BASELINE}  # The same model under both names if the pooling is the mean.
        return {
            "task": "single_label" if self.is_single_label else "multi_label",
            "pooling": self.pooling,
            "metric": self.metric,
            "confidence": CONFIDENCE,
            "test": {key: self.test[name].as_dict() for key, name in names.items() if name in self.test} or None,
            "num_videos": dict(self.num_videos),
            "classes": [
                {
                    **{key: row[key] for key in ("name", *SPLITS)},
                    **{key: row[name] for key, name in names.items() if name in row},
                }
                for row in self.classes
            ],
        }

    def __str__(self) -> str:
        names = list(self.test)
        unit = "recall" if self.is_single_label else "average precision"
        metric = "accuracy" if self.is_single_label else "GAP"
        lines = [
            f"test {metric} of {name:<10} {value}, {CONFIDENCE:.0%} confidence" for name, value in self.test.items()
        ] or ["no test videos"]
        header = ["class", *SPLITS, *(f"{unit}, {name}" for name in names)]
        rows = [
            [row["name"], *(str(row[split]) for split in SPLITS), *(_number(row[name]) for name in names)]
            for row in self.classes
        ]
        return "\n".join([*lines, text_table([header, *rows])])


def evaluate(folder: FeaturesFolder, pooling: str, clips: Mapping[str, np.ndarray]) -> Results:
    """Computes the results from the answers of the models.

    Args:
        folder: The features.
        pooling: Name of the pooling of the run.
        clips: Arrays `ids`, `split`, `labels`, `scores` and `mean_scores`, with a row for each video.

    Returns:
        The `Results`.
    """
    is_single_label = folder.is_single_label
    is_test = clips["split"] == "test"
    labels = clips["labels"][is_test].astype(int)
    scores = {pooling: clips["scores"][is_test], BASELINE: clips["mean_scores"][is_test]}
    groups = {video.name: video.group for video in folder.videos}
    metric = accuracy if is_single_label else global_average_precision
    per_class = recalls if is_single_label else average_precisions
    test: dict[str, Estimate] = {}
    found: dict[str, list[float | None]] = {name: [None] * len(folder.labels) for name in scores}
    if is_test.any():
        names = [groups[name] for name in clips["ids"][is_test].tolist()]
        test = {name: estimate(metric, values, labels, names) for name, values in scores.items()}
        found = {name: per_class(values, labels) for name, values in scores.items()}
    counts = {split: Counter(label for video in folder.split(split) for label in video.labels) for split in SPLITS}
    classes = [
        {
            "name": label,
            **{split: counts[split][label] for split in SPLITS},
            **{name: values[number] for name, values in found.items()},
        }
        for number, label in enumerate(folder.labels)
    ]
    return Results(pooling, is_single_label, test, {split: len(folder.split(split)) for split in SPLITS}, classes)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
