"""`extract_features`: frame features of a folder of videos, as records."""

import concurrent.futures
import functools
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

import keras

from keras_netvlad.base.atomic_files import staged
from keras_netvlad.base.full_disk_error import FullDiskError
from keras_netvlad.base.json_files import read_json_object
from keras_netvlad.base.names import EXTRACTION_FILE
from keras_netvlad.base.quantization import share_outside
from keras_netvlad.base.validation import check_choice, check_integer, check_path
from keras_netvlad.data import write_youtube8m
from keras_netvlad.data.video import UnreadableVideoError, check_fps
from keras_netvlad.videos.feature_extractor import FeatureExtractor

SUFFIXES = (".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv")


@dataclass(frozen=True)
class Extracted:
    """The result of `extract_features` for one video.

    Attributes:
        video: Path of the video.
        num_frames: Number of frames extracted; 0 if there is an error or another process wrote the record.
        error: Message of the error, or `None`.
        clipped: Share of the values outside -2 to 2, which bytes cannot hold.

    Example:

    >>> from pathlib import Path
    >>> from keras_netvlad.videos import Extracted
    >>> Extracted(Path("trip.mp4"), error="a damaged packet").num_frames
    0
    """

    video: Path
    num_frames: int = 0
    error: str | None = None
    clipped: float = 0.0


@dataclass(frozen=True)
class _Job:
    """One video to extract.

    Attributes:
        video: Path of the video.
        target: Path of its record file.
        name: Path of the video within the folder, its `id` in the record.
        stream: Name of the feature list.
        dtype: `"uint8"` or `"float16"`.
    """

    video: Path
    target: Path
    name: str
    stream: str
    dtype: Literal["uint8", "float16"]


def extract_features(
    folder: str | os.PathLike[str],
    output: str | os.PathLike[str],
    backbone: str = "MobileNetV2",
    weights: str | os.PathLike[str] | None = "imagenet",
    size: int = 224,
    fps: float | None = 1,
    pooling: Literal["avg", "max"] | None = "avg",
    dtype: Literal["uint8", "float16"] = "uint8",
    stream: str = "rgb",
    workers: int = 1,
    batch_size: int = 32,
    progress: Callable[[Extracted, int], object] | None = None,
) -> list[Extracted]:
    """Writes the frame features of every video in a folder as TFRecord files in YouTube-8M's frame-level schema.

    `keras_netvlad.data.youtube8m` reads the records, and `VideoClassifier` trains on them. The video `a/b.mp4` becomes
    the file `output/a/b.mp4.tfrecord` with one `SequenceExample`: its context holds `id`, the path of the video within
    the folder, and its feature list `stream` holds one bytes feature per frame. With `pooling=None` every position of
    the feature maps becomes a row, `T * H * W` of them per video, ordered by time, height and width.

    Each file appears only when it is complete, and existing files are kept. After a crash, calling the function again
    extracts the remaining videos. `output/extraction.json` records the settings; a call with other settings is refused.
    Calls in several threads are independent of each other.

    Needs PyAV: `pip install 'keras_netvlad[video]'`.

    Args:
        folder: Directory that is searched, with all its subdirectories, for files with the suffix of a video.
        output: Directory to write to.
        backbone: Name of a model of `keras.applications`.
        weights: `"imagenet"`, the path of a weights file of the backbone without its top, or `None` for random weights.
        size: Integer, height and width of the images, cropped to a square.
        fps: Number of frames per second, or `None` for every frame of a file.
        pooling: `"avg"` or `"max"` for one feature vector per frame; `None` for the backbone's last feature maps.
        dtype: `"uint8"` for bytes as `Dequantize` reads them, which hold -2 to 2, or `"float16"`.
        stream: Name of the feature list.
        workers: Integer, number of processes that share the videos. 1 works in the calling process. They end with the
            calling process, also if it is killed.
        batch_size: Integer, number of frames that the backbone computes at once.
        progress: Function of an `Extracted` and the number of videos, called after each video; or `None`.

    Returns:
        List of `Extracted`, one for each video without a record before the call.

    Example:

    >>> import os, tempfile
    >>> import av, numpy as np
    >>> from keras_netvlad.videos import extract_features
    >>> folder = tempfile.mkdtemp()
    >>> with av.open(os.path.join(folder, "one_second.mp4"), "w") as file:
    ...     stream = file.add_stream("mpeg4", rate=10)
    ...     stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
    ...     for _ in range(10):
    ...         picture = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), "uint8"), format="rgb24")
    ...         file.mux(stream.encode(picture))
    ...     file.mux(stream.encode())
    >>> [video] = extract_features(folder, os.path.join(folder, "features"), "MobileNet", weights=None, size=32)
    >>> video.num_frames, sorted(os.listdir(os.path.join(folder, "features")))
    (1, ['extraction.json', 'one_second.mp4.tfrecord'])

    Raises:
        ValueError: If an argument is invalid, the folder holds no videos, Keras cannot make the backbone, or `output`
            holds features of other settings.
        TypeError: If `folder`, `output` or `weights` is not a path.
        NotADirectoryError: If `folder` is not a directory.
        FileNotFoundError: If the weights file does not exist.
        FullDiskError: If the disk of `output` is full. Finished videos are kept.
        RuntimeError: If a worker process was killed.
    """
    folder, output = check_path("folder", folder), check_path("output", output)
    if not callable(getattr(keras.applications, str(backbone), None)):
        raise ValueError(f"`backbone` must be the name of a model of `keras.applications`. Received: {backbone!r}")
    if weights is not None and weights != "imagenet" and not check_path("weights", weights).is_file():
        raise FileNotFoundError(
            "`weights` must be 'imagenet', an existing file, or None for random weights. "
            f"Received: weights={str(weights)!r}"
        )
    size = check_integer("size", size, 1)
    check_fps(fps)
    fps = None if fps is None else float(fps)
    pooling = check_choice("pooling", pooling, ("avg", "max", None))
    dtype = check_choice("dtype", dtype, ("uint8", "float16"))
    if not isinstance(stream, str) or stream in ("", "id", "labels"):
        raise ValueError(f"`stream` must be a name other than 'id' and 'labels'. Received: stream={stream!r}")
    workers, batch_size = check_integer("workers", workers, 1), check_integer("batch_size", batch_size, 1)
    if not folder.is_dir():
        raise NotADirectoryError(f"`folder` must be a directory of videos. Received: {folder}")
    videos = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not videos:
        raise ValueError(f"`folder` must hold video files, such as .mp4. Received: {folder}")
    settings = {"backbone": backbone, "weights": str(weights), "size": size, "pooling": pooling, "dtype": dtype}
    _record_settings(output / EXTRACTION_FILE, {**settings, "fps": fps, "stream": stream})
    names = [video.relative_to(folder) for video in videos]
    jobs = [
        _Job(video, output / name.with_name(f"{name.name}.tfrecord"), str(name), stream, dtype)
        for video, name in zip(videos, names, strict=True)
    ]
    # `os.path.exists` returns `False` for a name that is too long, where `Path.exists` raises.
    jobs = [job for job in jobs if not os.path.exists(job.target)]
    results = []
    for result in _results(jobs, workers, (backbone, weights, size, pooling, fps, batch_size)):
        results.append(result)
        if progress is not None:
            progress(result, len(jobs))
    return results


def _record_settings(path, settings):
    """Writes the settings of the features, or raises if the directory holds features of other settings."""
    if path.exists():
        try:
            before = read_json_object(path)
        except ValueError as error:
            raise ValueError(
                f"The settings in `output` are damaged; choose another `output`. Received: {path} ({error})"
            ) from error
        if before == settings:
            return
        if any(path.parent.rglob("*.tfrecord")):
            raise ValueError(
                "All features in `output` must be made with the same settings; choose another `output`. "
                f"Received: {settings}, but {path} says {before}"
            )
        path.unlink()  # The earlier call wrote no features.
    with staged(path) as file:
        file.write_text(json.dumps(settings, indent=2) + "\n")


def _results(jobs, workers, extractor_arguments):
    """Yields the results of the jobs as they are done, from this process or from several."""
    if not jobs:
        return
    if workers == 1:
        extractor = FeatureExtractor(*extractor_arguments)
        for job in jobs:
            yield _extract(job, extractor)
        return
    # TensorFlow does not survive a fork.
    context = multiprocessing.get_context("spawn")
    # The system closes this end when the process ends or is killed, and then the workers end as well.
    workers_end, this_end = context.Pipe(duplex=False)
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, _start_worker, (workers_end,))
    try:
        futures = [pool.submit(_extract_in_worker, job, extractor_arguments) for job in jobs]
        for future in concurrent.futures.as_completed(futures):
            yield future.result()
    except BrokenProcessPool as error:
        raise RuntimeError(
            "A worker process was killed, perhaps because memory ran out. Run again with fewer `workers`; finished "
            "videos are kept."
        ) from error
    finally:
        this_end.close()  # After an error or Ctrl-C, nobody waits for the videos that the workers have begun.
        workers_end.close()
        pool.shutdown(cancel_futures=True)


def _start_worker(connection: Connection) -> None:
    """Makes a worker process end when the process that started it closes its end of the pipe or is killed."""
    # Ctrl-C reaches all processes of a terminal. The process that started the workers ends them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def wait():
        connection.poll(None)
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def _extract_in_worker(job, extractor_arguments):
    return _extract(job, _extractor_of_worker(*extractor_arguments))


@functools.lru_cache(maxsize=1)
def _extractor_of_worker(*arguments):
    """Makes the backbone once per worker process, with its first video."""
    return FeatureExtractor(*arguments)


def _extract(job, extractor):
    try:
        features = extractor.extract(job.video)
    except (UnreadableVideoError, OSError) as error:
        return Extracted(job.video, error=str(error))
    rows = features.reshape(-1, features.shape[-1])
    try:
        write_youtube8m(job.target, [{"id": job.name, "labels": [], job.stream: rows}], feature_dtype=job.dtype)
    except FileExistsError:  # Another process wrote the record in the meantime.
        return Extracted(job.video)
    except FullDiskError:  # The other videos would fail as well.
        raise
    except (ValueError, OSError) as error:  # such as features beyond the range of float16, or a long name
        return Extracted(job.video, error=str(error))
    clipped = share_outside(features) if job.dtype == "uint8" else 0.0
    return Extracted(job.video, len(features), clipped=clipped)
