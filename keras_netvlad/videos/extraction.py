"""`extract_features`: frame features of a folder of videos, as records."""

import collections
import concurrent.futures
import functools
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from keras_netvlad.base.atomic_files import replaced
from keras_netvlad.base.file_digest import file_digest
from keras_netvlad.base.full_disk_error import FullDiskError
from keras_netvlad.base.json_files import read_json_object
from keras_netvlad.base.names import EXTRACTION_FILE
from keras_netvlad.base.quantization import share_outside
from keras_netvlad.base.stages import stage
from keras_netvlad.base.validation import check_choice, check_integer, check_path
from keras_netvlad.data import write_youtube8m
from keras_netvlad.data.video import check_fps, check_seconds
from keras_netvlad.videos.encoder_file import EncoderFile, write_encoder
from keras_netvlad.videos.feature_extractor import FeatureExtractor
from keras_netvlad.videos.features_folder import (
    ENCODER_FILE,
    LABELS_FILE,
    SUFFIX,
    VIDEOS_FILE,
    read_labels_file,
    read_videos_file,
    record_path,
    write_labels_file,
    write_videos_file,
)
from keras_netvlad.videos.labels import LabeledVideo, class_names, read_labels
from keras_netvlad.videos.picture_encoder import check_backbone
from keras_netvlad.videos.splits import FRACTIONS, assign_splits, check_fractions

SUFFIXES = (".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv")
# Videos whose features are waiting to be written.
WAITING = 8


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
        labels: Numbers of its classes.
        stream: Name of the feature list.
        dtype: `"uint8"` or `"float16"`.
    """

    video: Path
    target: Path
    name: str
    labels: tuple[int, ...]
    stream: str
    dtype: Literal["uint8", "float16"]


@dataclass(frozen=True)
class _Reading:
    """How frames are read and encoded, the same for all videos.

    Attributes:
        encoder: Path of the exported encoder.
        fps: Frames per second, or `None` for every frame.
        max_seconds: Seconds of each video, or `None`.
        batch_size: Number of frames to encode at once.
        num_threads: Processor threads of the encoder; 0 for one per core.
    """

    encoder: Path
    fps: float | None
    max_seconds: float | None
    batch_size: int
    num_threads: int = 0

    def extractor(self) -> FeatureExtractor:
        encoder = EncoderFile(self.encoder, self.num_threads)
        return FeatureExtractor(encoder.encode, encoder.size, self.fps, self.max_seconds, self.batch_size)


def extract_features(
    folder: str | os.PathLike[str],
    output: str | os.PathLike[str],
    backbone: str | os.PathLike[str] = "MobileNetV2",
    weights: str | os.PathLike[str] | None = "imagenet",
    size: int = 224,
    fps: float | None = 1,
    pooling: Literal["avg", "max", "token"] | None = "avg",
    dtype: Literal["uint8", "float16"] = "uint8",
    stream: str = "rgb",
    workers: int = 1,
    batch_size: int = 32,
    progress: Callable[[Extracted, int], object] | None = None,
    *,
    labels: str | os.PathLike[str] | None = None,
    split: Sequence[float] = FRACTIONS,
    seed: int = 0,
    max_seconds: float | None = None,
    layer: str | None = None,
) -> list[Extracted]:
    """Writes the frame features of every video in a folder as TFRecord files in YouTube-8M's frame-level schema.

    `keras_netvlad.data.youtube8m` reads the records, `keras_netvlad.videos.train` and `VideoClassifier` train on them.
    The video `a/b.mp4` becomes the file `a/b.mp4.tfrecord` with one `SequenceExample`: its context holds `id`, the path
    of the video within the folder, and `labels`; its feature list `stream` holds one bytes feature per frame. With
    `pooling=None` every position of the feature maps becomes a row, `T * H * W` of them per video, ordered by time,
    height and width.

    `output` receives

    - `encoder.onnx`: the backbone with its preprocessing, verified. onnxruntime computes the features with it;
    - `extraction.json`: the settings, and the SHA-256 of the encoder;
    - the records: without `labels` in the folders of the videos; with `labels` in `train/`, `validation/` and `test/`;
    - with `labels`: `labels.txt`, the names of the classes, and `videos.csv`, the labels, split and group of each
      video.

    Each file appears only when it is complete, and existing records are kept. After a crash, calling the function again
    extracts the remaining videos. So does a call after videos were added; the others keep their split. A call with
    other settings is refused. Calls in several threads are independent of each other.

    Needs PyAV: `pip install 'keras_netvlad[video]'`.

    Args:
        folder: Directory that is searched, with all its subdirectories, for files with the suffix of a video.
        output: Directory to write to.
        backbone: Name of a model of `keras.applications`, a `.keras` file, or `"hub:"` and a preset of keras-hub (extra
            `hub`). See `keras_netvlad.videos.picture_encoder.make_frame_encoder`.
        weights: For a model of `keras.applications`: `"imagenet"`, the path of a weights file of the backbone without
            its top, or `None` for random weights.
        size: Integer, height and width of the images, cropped to a square.
        fps: Number of frames per second, or `None` for every frame of a file.
        pooling: `"avg"` or `"max"` over the map, or over the patches of a vision transformer, for one feature vector
            per frame; `"token"` for the class token of a transformer; `None` for the map.
        dtype: `"uint8"` for bytes as `Dequantize` reads them, which hold -2 to 2, or `"float16"`.
        stream: Name of the feature list.
        workers: Integer, number of processes that share the videos. 1 works in the calling process, with one thread
            per core for the encoder. They end with the calling process, also if it is killed.
        batch_size: Integer, number of frames that the encoder computes at once.
        progress: Function of an `Extracted` and the number of videos, called after each video; or `None`.
        labels: `"folders"`, the path of a CSV file, or `None` for records without labels. See
            `keras_netvlad.videos.labels.read_labels`.
        split: Shares of training, validation and test, for labels without a column `split`. Every class is divided by
            these shares, and a group is not divided.
        seed: Integer of 0 or more, for the split.
        max_seconds: Seconds to read from the beginning of each video, or `None` for whole videos.
        layer: Name of the layer of the backbone whose output is used, see `keras_netvlad.layers.FrameEncoder`; or
            `None` for the last one.

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
    (1, ['encoder.onnx', 'encoder.onnx.parity.json', 'extraction.json', 'one_second.mp4.tfrecord'])

    Raises:
        ValueError: If an argument is invalid, the folder holds no videos, the backbone cannot be made, labels and
            videos do not belong together, or `output` holds features of other settings or labels. Nothing is computed.
        TypeError: If `folder`, `output` or `weights` is not a path.
        NotADirectoryError: If `folder` is not a directory.
        FileNotFoundError: If a weights file, `.keras` file or CSV file does not exist.
        FullDiskError: If the disk of `output` is full. Finished videos are kept.
        RuntimeError: If a worker process was killed.
    """
    folder, output = check_path("folder", folder), check_path("output", output)
    backbone = os.fspath(check_path("backbone", backbone))
    check_backbone(backbone)
    if weights is not None and weights != "imagenet" and not check_path("weights", weights).is_file():
        raise FileNotFoundError(
            "`weights` must be 'imagenet', an existing file, or None for random weights. "
            f"Received: weights={str(weights)!r}"
        )
    size = check_integer("size", size, 1)
    check_fps(fps)
    fps = None if fps is None else float(fps)
    pooling = check_choice("pooling", pooling, ("avg", "max", "token", None))
    dtype = check_choice("dtype", dtype, ("uint8", "float16"))
    if not isinstance(stream, str) or stream in ("", "id", "labels"):
        raise ValueError(f"`stream` must be a name other than 'id' and 'labels'. Received: stream={stream!r}")
    workers, batch_size = check_integer("workers", workers, 1), check_integer("batch_size", batch_size, 1)
    fractions, seed = check_fractions(split), check_integer("seed", seed, 0)
    max_seconds = check_seconds(max_seconds)
    names = _find_videos(folder, output)
    labeled = None if labels is None else _label(labels, names, output, fractions, seed)
    is_file = os.path.isfile(backbone)
    settings = {
        # A file is known by its content, so that it may be moved.
        "backbone": os.path.basename(backbone) if is_file else backbone,
        "backbone_digest": file_digest(backbone) if is_file else None,
        "weights": str(weights),
        "size": size,
        "layer": layer,
        "pooling": pooling,
        "dtype": dtype,
        "fps": fps,
        "max_seconds": max_seconds,
        "stream": stream,
        "labels": labels is not None,
    }
    with stage("exporting the encoder"):
        _prepare(folder, output, settings, lambda path: write_encoder(path, backbone, weights, size, pooling, layer))
    if labeled is None:
        jobs = [_Job(folder / name, record_path(output, name, None), name, (), stream, dtype) for name in names]
    else:
        videos, classes = labeled
        _write_labels(output, videos, classes)
        jobs = [
            _Job(
                folder / video.name,
                record_path(output, video.name, video.split),
                video.name,
                tuple(classes.index(label) for label in video.labels),
                stream,
                dtype,
            )
            for video in videos
        ]
    # `os.path.exists` returns `False` for a name that is too long, where `Path.exists` raises.
    jobs = [job for job in jobs if not os.path.exists(job.target)]
    results = []
    for result in _results(jobs, workers, _Reading(output / ENCODER_FILE, fps, max_seconds, batch_size)):
        results.append(result)
        if progress is not None:
            progress(result, len(jobs))
    return results


def _find_videos(folder: Path, output: Path) -> list[str]:
    """Returns the paths of the videos within their folder, sorted. Files in `output` are not videos of the user."""
    if not folder.is_dir():
        raise NotADirectoryError(f"`folder` must be a directory of videos. Received: {folder}")
    paths = [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()]
    names = sorted(path.relative_to(folder).as_posix() for path in paths if output not in path.parents)
    if not names:
        raise ValueError(f"`folder` must hold video files, such as .mp4. Received: {folder}")
    return names


def _label(
    labels: str | os.PathLike[str], names: Sequence[str], output: Path, fractions: Sequence[float], seed: int
) -> tuple[list[LabeledVideo], list[str]]:
    """Returns the labeled videos with their splits, and the classes; raises if earlier records have other labels."""
    earlier, classes = {}, []
    if (output / VIDEOS_FILE).exists():
        earlier = {video.name: video for video in read_videos_file(output / VIDEOS_FILE)}
        classes = read_labels_file(output / LABELS_FILE)
    splits = {name: video.split for name, video in earlier.items() if video.split is not None}
    videos = assign_splits(read_labels(labels, names), fractions, seed, splits)
    for video in videos:
        before = earlier.get(video.name, video)
        if (before.labels, before.split) != (video.labels, video.split):
            record = record_path(output, before.name, before.split)
            if record.exists():
                raise ValueError(
                    "Labels and split of a video that was extracted must stay; remove its record to extract it again. "
                    f"Received: {video.name} with {list(video.labels)} in {video.split}, where {record} has "
                    f"{list(before.labels)} in {before.split}"
                )
    kept = [
        video
        for name, video in earlier.items()
        if name not in names and record_path(output, name, video.split).exists()
    ]
    return [*videos, *kept], class_names(videos, classes)


def _write_labels(output: Path, videos: Sequence[LabeledVideo], classes: Sequence[str]) -> None:
    """Writes `labels.txt` and `videos.csv` before the first record, so that a killed run resumes with its splits."""
    write_labels_file(output / LABELS_FILE, classes)
    write_videos_file(output / VIDEOS_FILE, videos)


def _prepare(folder: Path, output: Path, settings: dict[str, Any], write: Callable[[Path], None]) -> None:
    """Writes the encoder and the settings, or raises if the directory holds features of other settings."""
    path, encoder = output / EXTRACTION_FILE, output / ENCODER_FILE
    if path.exists():
        try:
            before = read_json_object(path)
        except ValueError as error:
            raise ValueError(
                f"The settings in `output` are damaged; choose another `output`. Received: {path} ({error})"
            ) from error
        changed = {name: before.get(name) for name in settings if before.get(name) != settings[name]}
        if not changed and encoder.is_file() and file_digest(encoder) == before.get("encoder"):
            return
        if any(output.rglob(f"*{SUFFIX}")):
            if not changed:
                raise ValueError(
                    "All features in `output` must be made with the encoder next to them; choose another `output`. "
                    f"Received: {encoder}, which is missing or was changed"
                )
            raise ValueError(
                "All features in `output` must be made with the same settings; choose another `output`. Received: "
                f"{ {name: settings[name] for name in changed} }, but {path} says {changed}"
            )
        path.unlink()  # The earlier call wrote no features.
    parity = output / f"{ENCODER_FILE}.parity.json"
    if parity.exists():  # An earlier call ended before it wrote the settings. Other files of this name are the user's.
        encoder.unlink(missing_ok=True)
        parity.unlink()
    write(encoder)
    recorded = {**settings, "encoder": file_digest(encoder), "videos": os.path.abspath(folder)}
    with replaced(path) as file:
        file.write_text(json.dumps(recorded, indent=2) + "\n", encoding="utf-8")


def _results(jobs: Sequence[_Job], workers: int, reading: _Reading) -> Iterator[Extracted]:
    """Yields the results of the jobs as they are done, from this process or from several."""
    if not jobs:
        return
    if workers == 1:
        yield from _results_here(jobs, reading)
        return
    # TensorFlow does not survive a fork.
    context = multiprocessing.get_context("spawn")
    # The system closes this end when the process ends or is killed, and then the workers end as well.
    workers_end, this_end = context.Pipe(duplex=False)
    num_threads = max(1, (os.cpu_count() or 1) // workers)
    reading = _Reading(reading.encoder, reading.fps, reading.max_seconds, reading.batch_size, num_threads)
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, _start_worker, (workers_end,))
    try:
        futures = [pool.submit(_extract_in_worker, job, reading) for job in jobs]
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


def _results_here(jobs: Sequence[_Job], reading: _Reading) -> Iterator[Extracted]:
    """Yields the results of the jobs in order. One thread decodes, this one encodes, and one writes."""
    extractor = reading.extractor()
    waiting: collections.deque[concurrent.futures.Future[Extracted]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(1) as writer:
        for number, features in extractor.extract(job.video for job in jobs):
            waiting.append(writer.submit(_write, jobs[number], features))
            while waiting[0].done() or len(waiting) > WAITING:
                yield waiting.popleft().result()
                if not waiting:
                    break
        while waiting:
            yield waiting.popleft().result()


def _start_worker(connection: Connection) -> None:
    """Makes a worker process end when the process that started it closes its end of the pipe or is killed."""
    # Ctrl-C reaches all processes of a terminal. The process that started the workers ends them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def wait():
        connection.poll(None)
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def _extract_in_worker(job: _Job, reading: _Reading) -> Extracted:
    [(_, features)] = _extractor_of_worker(reading).extract([job.video])
    return _write(job, features)


@functools.lru_cache(maxsize=1)
def _extractor_of_worker(reading: _Reading) -> FeatureExtractor:
    """Loads the encoder once per worker process, with its first video."""
    return reading.extractor()


def _write(job: _Job, features: NDArray[np.floating] | Exception) -> Extracted:
    if isinstance(features, Exception):
        return Extracted(job.video, error=str(features))
    rows = features.reshape(-1, features.shape[-1])
    video = {"id": job.name, "labels": list(job.labels), job.stream: rows}
    try:
        write_youtube8m(job.target, [video], feature_dtype=job.dtype)
    except FileExistsError:  # Another process wrote the record in the meantime.
        return Extracted(job.video)
    except FullDiskError:  # The other videos would fail as well.
        raise
    except (ValueError, OSError) as error:  # such as features beyond the range of float16, or a long name
        return Extracted(job.video, error=str(error))
    clipped = share_outside(features) if job.dtype == "uint8" else 0.0
    return Extracted(job.video, len(features), clipped=clipped)
