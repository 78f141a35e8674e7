"""`FeaturesFolder`: the directory that `extract_features` writes, with its settings, labels and splits."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras_netvlad.base.atomic_files import replaced
from keras_netvlad.base.file_digest import file_digest
from keras_netvlad.base.json_files import read_json_object
from keras_netvlad.base.names import EXTRACTION_FILE
from keras_netvlad.base.text_table import text_table
from keras_netvlad.base.validation import check_path
from keras_netvlad.videos.labels import SEPARATOR, SPLITS, LabeledVideo, read_csv

ENCODER_FILE, LABELS_FILE, VIDEOS_FILE = "encoder.onnx", "labels.txt", "videos.csv"
SUFFIX = ".tfrecord"
SETTINGS = {
    "dtype": str,
    "stream": str,
    "size": int,
    "fps": (float, None),
    "max_seconds": (float, None),
    "pooling": (str, None),
    "encoder": str,
    "labels": bool,
    "videos": str,
}


class FeaturesFolder:
    """The records of labeled videos.

    Args:
        path: The directory.

    Attributes:
        settings: The settings of the extraction.
        labels: Names of the classes, in the order of their numbers in the records.
        videos: List of `LabeledVideo`, those with a record.

    Raises:
        TypeError: If `path` is not a path.
        FileNotFoundError: If there is no such directory.
        ValueError: If its files are damaged, it has no labels, or its encoder was replaced.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = check_path("features", path)
        self.settings = self._read_settings()
        if not self.settings["labels"]:
            raise ValueError(
                f"`features` must have labels; extract the videos again with `labels`. Received: {self.path}"
            )
        if file_digest(self.encoder) != self.settings["encoder"]:
            raise ValueError(
                "`encoder.onnx` must be the encoder that made the features; copy it again, or run `extract` again. "
                f"Received: {self.encoder}, which was changed"
            )
        self.labels = read_labels_file(self.path / LABELS_FILE)
        self.videos = [video for video in read_videos_file(self.path / VIDEOS_FILE) if _is_file(self.record(video))]
        unknown = {label for video in self.videos for label in video.labels} - set(self.labels)
        if unknown:
            raise ValueError(
                f"`{LABELS_FILE}` must name all classes of `{VIDEOS_FILE}`; run `extract` again. "
                f"Received: {self.path} without {sorted(unknown)}"
            )

    @property
    def encoder(self) -> Path:
        """Path of the encoder that made the features."""
        return self.path / ENCODER_FILE

    @property
    def is_single_label(self) -> bool:
        """Whether every video has exactly one class."""
        return all(len(video.labels) == 1 for video in self.videos)

    def split(self, name: str) -> list[LabeledVideo]:
        """Returns the videos of a split, sorted by name."""
        return sorted((video for video in self.videos if video.split == name), key=lambda video: video.name)

    def record(self, video: LabeledVideo) -> Path:
        """Returns the path of the record of a video."""
        return record_path(self.path, video.name, video.split)

    def _read_settings(self) -> dict[str, Any]:
        path = self.path / EXTRACTION_FILE
        if not path.is_file() or not (self.path / ENCODER_FILE).is_file():
            missing = path if not path.is_file() else self.path / ENCODER_FILE
            raise FileNotFoundError(
                "`features` must be a directory that `keras-netvlad extract --labels ...` wrote. "
                f"Received: {self.path}, without {missing.name}"
            )
        try:
            return read_json_object(path, SETTINGS)
        except ValueError as error:
            raise ValueError(
                f"The settings of the features must not be changed; run `extract` again. Received: {path} ({error})"
            ) from error


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # no file system has such a name: it is too long, for instance
        return False


def record_path(output: Path, name: str, split: str | None) -> Path:
    """Returns the path of the record of a video."""
    return (output if split is None else output / split) / f"{name}{SUFFIX}"


def read_labels_file(path: Path) -> list[str]:
    """Reads the names of classes, one per line.

    Raises:
        ValueError: If the file is missing, not in UTF-8, or names a class twice.
    """
    try:
        labels = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"The classes must be in a text file in UTF-8. Received: {path} ({error})") from error
    if not labels or len(set(labels)) < len(labels) or "" in labels:
        raise ValueError(f"The classes must be different names, one per line. Received: {path}")
    return labels


def write_labels_file(path: Path, labels: Sequence[str]) -> None:
    """Writes the names of classes, one per line."""
    with replaced(path) as part:
        part.write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")


def read_videos_file(path: Path) -> list[LabeledVideo]:
    """Reads the videos with their labels, splits and groups, as `write_videos_file` wrote them.

    Raises:
        ValueError: If the file is damaged.
        FileNotFoundError: If the file does not exist.
    """
    videos = []
    for row in read_csv(path):
        labels = tuple(label for label in (row["label"] or "").split(SEPARATOR) if label)
        if not row["path"] or row.get("split") not in SPLITS or not row.get("group") or not labels:
            raise ValueError(
                f"Every row must have path, label, split and group; run `extract` again. Received: {path}, {row}"
            )
        videos.append(LabeledVideo(row["path"], labels, row["group"], row["split"]))
    return videos


def write_videos_file(path: Path, videos: Sequence[LabeledVideo]) -> None:
    """Writes the videos with their labels, splits and groups. `labels` of `extract` accepts such a file, too."""
    with replaced(path) as part, open(part, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "label", "split", "group"])
        for video in videos:
            writer.writerow([video.name, SEPARATOR.join(video.labels), video.split, video.group])


def count_table(output: str | os.PathLike[str]) -> str:
    """Returns a table of the classes of a folder of features and their numbers of videos in each split."""
    folder = FeaturesFolder(output)
    rows = [
        [label, *(str(sum(label in video.labels for video in folder.split(split))) for split in SPLITS)]
        for label in folder.labels
    ]
    rows = [["class", *SPLITS], *rows, ["videos", *(str(len(folder.split(split))) for split in SPLITS)]]
    return text_table(rows)
