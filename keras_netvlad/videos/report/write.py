"""`write_report`: writes the report of a training run as one HTML file."""

import os
from pathlib import Path

from keras_netvlad.base.atomic_files import replaced
from keras_netvlad.base.stages import stage
from keras_netvlad.base.validation import check_path
from keras_netvlad.videos.report.page import page
from keras_netvlad.videos.report.run_files import read_run
from keras_netvlad.videos.report.thumbnails import Thumbnails

REPORT = "report.html"


def write_report(
    run: str | os.PathLike[str],
    path: str | os.PathLike[str] | None = None,
    videos: str | os.PathLike[str] | None = None,
) -> Path:
    """Writes the report of a training run as one HTML file, which any browser shows without a network.

    The report shows the test result with its confidence interval next to mean pooling, learning curves, the results of
    each class, the test clips with the most certain answers and the largest mistakes with their assignments over time,
    the use of the clusters, the nearest training clips of some test clips, the verification of the exported files, and
    the settings. It needs NumPy only, and PyAV for pictures of the clips. It has no pictures if the folder of the
    videos no longer exists; it then says so.

    Args:
        run: Directory of a run of `keras-netvlad train FEATURES`.
        path: File to write, which is replaced if it exists. By default `report.html` in the directory of the run.
        videos: Folder of the videos. By default the one from which the features were extracted.

    Returns:
        Path of the report.

    Example:

    >>> from keras_netvlad.videos import write_report
    >>> write_report("no_run")
    Traceback (most recent call last):
    NotADirectoryError: `run` must be the directory of a run of `keras-netvlad train`. Received: no_run

    Raises:
        TypeError: If an argument is not a path.
        NotADirectoryError: If `run`, `videos` or the directory of `path` is not a directory.
        IsADirectoryError: If `path` is a directory.
        FileNotFoundError: If a file of the run is missing.
        ValueError: If a file of the run is damaged.
        FullDiskError: If the disk has no room for the report.
    """
    run = check_path("run", run)
    path = run / REPORT if path is None else check_path("path", path)
    if videos is not None and not check_path("videos", videos).is_dir():
        raise NotADirectoryError(f"`videos` must be a directory of videos. Received: {videos}")
    with stage(f"reading {run}"):
        content = read_run(run)
    if path.is_dir():
        raise IsADirectoryError(f"`path` must be a file to write, such as report.html. Received: {path}")
    if not path.absolute().parent.is_dir():
        raise NotADirectoryError(f"`path` must lie in an existing directory. Received: {path}")
    folder = videos if videos is not None else content.settings["videos"]
    with stage(f"drawing {path}"):
        html = page(content, Thumbnails(None if folder is None else Path(folder)))
    with replaced(path) as part:
        part.write_bytes(html.encode("utf-8"))
    return path
