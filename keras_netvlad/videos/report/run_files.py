"""`read_run`: reads the files of a training run that the report shows, and checks that they fit together."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_netvlad.base.json_files import read_json_object
from keras_netvlad.base.npz_files import read_npz

SPLITS = ("train", "validation", "test")
# Display names of poolings.
NAMES = {
    "netvlad": "NetVLAD",
    "netrvlad": "NetRVLAD",
    "netfv": "NetFV",
    "soft_dbow": "Soft-DBoW",
    "nextvlad": "NeXtVLAD",
    "salad": "SALAD",
    "mean": "Mean pooling",
    "mean_std": "Mean and deviation",
    "gem": "Generalized mean",
    "max": "Max pooling",
    "attention": "Attention pooling",
}
NUMBER = (float, None)
INTERVAL = ({"value": float, "low": NUMBER, "high": NUMBER}, None)
RESULTS = {
    "task": str,
    "pooling": str,
    "metric": str,
    "confidence": float,
    "test": ({"model": INTERVAL, "mean": INTERVAL}, None),
    "num_videos": dict.fromkeys(SPLITS, int),
    "classes": [{"name": str, **dict.fromkeys(SPLITS, int), "model": NUMBER, "mean": NUMBER}],
}
HISTORY = {"model": [{"epoch": int}], "mean": [{"epoch": int}]}
PREDICTOR = {"fps": NUMBER, "stream": (str, None)}
# As `keras_netvlad.export` writes it. Importing that package would load TensorFlow.
PARITY = {
    "precision": (str, None),
    "parity": (
        {
            "ok": bool,
            "tolerance": float,
            "num_bytes": (int, None),
            "outputs": [
                {
                    "signature": str,
                    "output": str,
                    "max_relative_difference": NUMBER,
                    "max_relative_difference_to_float64": NUMBER,
                    "ok": (bool, None),
                }
            ],
            "top_1_agreement": ({"output": str, "same": int, "rows": int}, None),
        },
        None,
    ),
}
ARRAYS = {"ids": "U", "split": "U", "labels": "bui", "scores": "f", "mean_scores": "f", "descriptors": "f"}
FLOATS = ("scores", "mean_scores", "descriptors")
FRAME_ARRAYS = {"frames_per_clip": "ui", "assignments": "f"}


@dataclass(frozen=True)
class Clips:
    """The clips of a run, in the order of the file.

    Attributes:
        ids: `N` paths relative to the folder of the videos.
        splits: Array `(N,)` of `"train"`, `"validation"` and `"test"`.
        labels: Boolean array `(N, C)`.
        scores: Array `(N, C)` of the run's own model.
        mean_scores: Array `(N, C)` of the classifier with mean pooling.
        descriptors: Array `(N, F)`.
        assignments: `N` arrays `(frames, K)`.
    """

    ids: list[str]
    splits: NDArray[np.str_]
    labels: NDArray[np.bool_]
    scores: NDArray[np.float32]
    mean_scores: NDArray[np.float32]
    descriptors: NDArray[np.float32]
    assignments: list[NDArray[np.float32]]

    def of(self, split: str) -> NDArray[np.intp]:
        """Returns the numbers of the clips of a split."""
        return np.flatnonzero(self.splits == split)


@dataclass(frozen=True)
class Run:
    """The files of a run.

    Attributes:
        path: The directory.
        settings: Content of `settings.json`.
        labels: Names of the classes.
        history: Content of `history.json`.
        results: Content of `results.json`.
        clips: Content of `clips.npz`.
        fps: Frames per second, or `None` if every frame was used.
        exports: `(name of the file, content of its parity file)` of each ONNX file of the predictor.
    """

    path: Path
    settings: dict[str, Any]
    labels: list[str]
    history: dict[str, Any]
    results: dict[str, Any]
    clips: Clips
    fps: float | None
    exports: list[tuple[str, dict[str, Any]]]

    @property
    def names(self) -> dict[str, str]:
        """Display names of the run's own model and of the one with mean pooling, by their keys in the files.

        A run of mean pooling has its own model only.
        """
        pooling = self.results["pooling"]
        names = {"model": NAMES.get(pooling, pooling)}
        return names if pooling == "mean" else {**names, "mean": NAMES["mean"]}

    @property
    def has_clusters(self) -> bool:
        """Whether the pooling assigns frames to clusters. The files of other poolings have one cluster for all."""
        return self.clips.assignments[0].shape[1] > 1

    @property
    def is_single_label(self) -> bool:
        """Whether each clip has exactly one class."""
        return self.results["task"] == "single_label"


def read_run(path: Path) -> Run:
    """Reads a run.

    Args:
        path: Directory of the run.

    Returns:
        A `Run`.

    Raises:
        NotADirectoryError: If the directory does not exist.
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged or does not fit the others.
    """
    if not path.is_dir():
        raise NotADirectoryError(f"`run` must be the directory of a run of `keras-netvlad train`. Received: {path}")
    labels = _read(path / "labels.txt", lambda file: file.read_text(encoding="utf-8").splitlines())
    results = _read(path / "results.json", lambda file: _results(file, labels))
    predictor = path / "predictor" / "predictor.json"
    settings = _read(
        path / "settings.json", lambda file: read_json_object(file, {"fps": NUMBER, "videos": (str, None)})
    )
    fps = settings["fps"]
    if predictor.exists():
        fps = _read(predictor, lambda file: read_json_object(file, PREDICTOR))["fps"] or fps
    return Run(
        path,
        settings,
        labels,
        _read(path / "history.json", lambda file: read_json_object(file, HISTORY)),
        results,
        _read(path / "clips.npz", lambda file: _clips(file, results)),
        fps if fps and fps > 0 else None,
        [
            (file.name.removesuffix(".parity.json"), _read(file, lambda file: read_json_object(file, PARITY)))
            for file in sorted((path / "predictor").glob("*.onnx.parity.json"))
        ],
    )


def _read(path, read):
    """Calls a function that reads a file. Its `ValueError` is the reason only."""
    expected = "A run must have the complete files that `keras-netvlad train` writes; train again or give another run."
    if not path.is_file():
        raise FileNotFoundError(f"{expected} Received: {path}, which does not exist")
    try:
        return read(path)
    except ValueError as error:
        raise ValueError(f"{expected} Received: {path} ({error})") from error


def _results(path, labels):
    results = read_json_object(path, RESULTS)
    if results["task"] not in ("single_label", "multi_label"):
        raise ValueError(f"the value `task` is {results['task']!r}, neither 'single_label' nor 'multi_label'")
    names = [row["name"] for row in results["classes"]]
    if names != labels or not labels:
        raise ValueError(f"it lists {len(names)} classes that are not the {len(labels)} of labels.txt")
    return results


def _clips(path, results):
    arrays = read_npz(path, [*ARRAYS, *FRAME_ARRAYS])
    for name, kinds in {**ARRAYS, **FRAME_ARRAYS}.items():
        if arrays[name].dtype.kind not in kinds:
            raise ValueError(f"`{name}` is an array of {arrays[name].dtype}")
    count, classes = len(np.atleast_1d(arrays["ids"])), len(results["classes"])
    shapes = {
        **{"ids": (count,), "split": (count,), "labels": (count, classes), "scores": (count, classes)},
        **{"mean_scores": (count, classes), "descriptors": (count, None), "frames_per_clip": (count,)},
    }
    lengths = arrays["frames_per_clip"].astype("int64")
    shapes["assignments"] = (int(lengths.sum()), None)
    for name, shape in shapes.items():
        received = arrays[name].shape
        if len(received) != len(shape) or any(n not in (m, None) for n, m in zip(shape, received, strict=True)):
            raise ValueError(f"`{name}` has the shape {received}, which does not fit the other arrays")
        if arrays[name].dtype.kind == "f" and not np.isfinite(arrays[name]).all():
            raise ValueError(f"`{name}` holds NaN or infinite values")
    if not count or lengths.min() < 0 or 0 in arrays["assignments"].shape or arrays["assignments"].min() < 0:
        raise ValueError("there are no clips, no frames, or negative values")
    if not set(arrays["split"].tolist()) <= set(SPLITS):
        raise ValueError(f"`split` holds values other than {SPLITS}")
    ids, labels = arrays["ids"].tolist(), arrays["labels"] > 0
    if len(set(ids)) < count:
        raise ValueError("two clips have the same id")
    if results["task"] == "single_label" and (labels.sum(axis=1) != 1).any():
        raise ValueError("a clip does not have exactly one label")
    rows = np.split(arrays["assignments"], np.cumsum(lengths)[:-1])
    scores, mean_scores, descriptors = (arrays[name].astype("float32") for name in FLOATS)
    return Clips(ids, arrays["split"], labels, scores, mean_scores, descriptors, rows)
