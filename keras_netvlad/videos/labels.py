"""`read_labels`: the classes of the videos of a folder, from its sub-folders or from a CSV file."""

import csv
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# It separates the classes of a video in a CSV file.
SEPARATOR = ";"
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class LabeledVideo:
    """A video with its classes, group and split.

    Attributes:
        name: Path of the video within its folder, with `/` between directories. It is the `id` of its record.
        labels: Names of its classes.
        group: Name of its source. Videos of one group go to the same split.
        split: `"train"`, `"validation"` or `"test"`, or `None` if it is still to be chosen.
    """

    name: str
    labels: tuple[str, ...]
    group: str
    split: str | None = None


def read_labels(labels: str | os.PathLike[str], names: Sequence[str]) -> list[LabeledVideo]:
    """Finds the classes of videos.

    Args:
        labels: `"folders"`: the class of a video is the top folder of its path. Or the path of a CSV file with a header
            and the columns `path`, `label` (several classes are separated by `;`; no class leaves the video out), and,
            optionally, `split` (`train`, `validation` or `test`) and `group`.
        names: Paths of the videos within their folder.

    Returns:
        List of `LabeledVideo` in the order of `names`, without videos that the file leaves out.

    Example:

    >>> from keras_netvlad.videos.labels import read_labels
    >>> [video.labels for video in read_labels("folders", ["cat/1.mp4", "cat/2.mp4", "dog/1.mp4"])]
    [('cat',), ('cat',), ('dog',)]

    Raises:
        ValueError: If a video has no label or a label no video, if the file is not such a CSV file, if there are fewer
            than two classes, or if two classes differ in upper and lower case only.
        FileNotFoundError: If the file does not exist.
    """
    videos = _of_folders(names) if labels == "folders" else _of_file(Path(labels), names)
    classes = class_names(videos)
    if len(classes) < 2:
        raise ValueError(f"There must be at least two classes to tell apart. Received: {classes}, from {labels}")
    by_spelling: dict[str, str] = {}
    for name in classes:
        other = by_spelling.setdefault(name.casefold(), name)
        if other != name:
            raise ValueError(
                "Classes must differ in more than upper and lower case; rename one of them. "
                f"Received: {other!r} and {name!r}, from {labels}"
            )
    return videos


def class_names(videos: Sequence[LabeledVideo], earlier: Sequence[str] = ()) -> list[str]:
    """Returns the names of the classes: those of an earlier extraction in their order, then the others, sorted."""
    found = {label for video in videos for label in video.labels}
    return [*earlier, *sorted(found - set(earlier))]


def read_csv(path: Path) -> Sequence[Mapping[str, str]]:
    """Reads the rows of a CSV file with the columns of `read_labels`.

    Raises:
        ValueError: If the file is not in UTF-8, or has no header with `path` and `label`.
        FileNotFoundError: If the file does not exist.
    """
    if not path.is_file():
        raise FileNotFoundError(
            "`labels` must be 'folders' or a CSV file with the columns path and label. "
            f"Received: {path}, which does not exist"
        )
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            columns = reader.fieldnames or []
            rows = [row for row in reader if any(row.values())]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"`labels` must be a CSV file in UTF-8. Received: {path} ({error})") from error
    if not {"path", "label"} <= set(columns):
        raise ValueError(
            "The first line of `labels` must name the columns path and label, and optionally split and group. "
            f"Received: {path}, whose first line is {','.join(columns)!r}"
        )
    return rows


def _of_folders(names: Sequence[str]) -> list[LabeledVideo]:
    alone = [name for name in names if "/" not in name]
    if alone:
        raise ValueError(
            "With labels 'folders', every video must lie in the folder of its class. "
            f"Received: {len(alone)} videos outside, such as {alone[0]}"
        )
    return [LabeledVideo(name, (name.split("/")[0],), group=name) for name in names]


def _of_file(path: Path, names: Sequence[str]) -> list[LabeledVideo]:
    rows = {}
    for row in read_csv(path):
        name = Path((row["path"] or "").strip()).as_posix()
        if name in rows:
            raise ValueError(f"A video must have one row; separate several labels by ';'. Received: {path}, {name}")
        rows[name] = row
    missing = [name for name in rows if name not in set(names)]
    if missing:
        raise ValueError(
            "Every row must name a video in the folder, with its path within the folder. "
            f"Received: {path}, {len(missing)} rows without a video, such as {missing[0]}"
        )
    unlabeled = [name for name in names if name not in rows]
    if unlabeled:
        raise ValueError(
            "Every video of the folder must have a row; an empty label leaves the video out. "
            f"Received: {path}, {len(unlabeled)} videos without a row, such as {unlabeled[0]}"
        )
    videos = [_of_row(path, name, rows[name]) for name in names]
    videos = [video for video in videos if video.labels]
    splits = Counter(video.split is None for video in videos)
    if len(splits) > 1:
        raise ValueError(f"All rows must have a split, or none. Received: {path}, {splits[True]} rows without one")
    return videos


def _of_row(path: Path, name: str, row: Mapping[str, str]) -> LabeledVideo:
    labels = [label.strip() for label in (row["label"] or "").split(SEPARATOR)]
    labels = list(dict.fromkeys(label for label in labels if label))
    broken = [label for label in labels if not label.isprintable()]
    if broken:
        raise ValueError(f"A label must be one line of text. Received: {path}, {broken[0]!r} of {name}")
    split = (row.get("split") or "").strip() or None
    if split not in (*SPLITS, None):
        raise ValueError(f"A split must be one of {list(SPLITS)}. Received: {path}, {split!r} of {name}")
    return LabeledVideo(name, tuple(labels), (row.get("group") or "").strip() or name, split)
