"""`extract_features`: a folder of videos to records of frame features."""

import concurrent.futures
import json
import multiprocessing
import queue
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_netvlad.data import read_video
from keras_netvlad.export.staging import staged
from keras_netvlad.layers.dequantize import HIGHEST, LEVELS, LOWEST

SUFFIXES = (".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv")
SETTINGS = "extraction.json"


@dataclass(frozen=True)
class Extracted:
    """What became of one video.

    Attributes:
        video: Path of the video.
        num_frames: Frames in its record; 0 where there is an error or it was there before.
        error: The message, or `None`.
        clipped: Share of values outside -2 to 2, which bytes can't hold.
    """

    video: Path
    num_frames: int = 0
    error: str | None = None
    clipped: float = 0.0


def extract_features(
    folder,
    output,
    backbone="MobileNetV2",
    weights="imagenet",
    size=224,
    fps=1,
    dtype="uint8",
    stream="rgb",
    workers=1,
    batch_size=32,
    progress=None,
):
    """Writes the frame features of each video of a folder as a TFRecord file in YouTube-8M's frame-level schema.

    `a/b.mp4` becomes `output/a/b.mp4.tfrecord`, one `SequenceExample`: the context holds `id`, the video's path in the
    folder, and the feature list `stream` one bytes feature a frame. A file appears when it is whole; what is there is
    not made again, so after a crash the same call goes on, at the cost of the videos that were in hand. What the
    features were made with is in `extraction.json`, and a call with other settings is refused. A thread decodes while
    the backbone computes.

    Needs PyAV: `pip install 'keras_netvlad[video]'`.

    Args:
        folder: Directory, searched with all below it for files that are named as videos.
        output: Directory to write to.
        backbone: Name of a model of `keras.applications`, of which the average-pooled features are taken.
        weights: `"imagenet"`, a file of weights of the backbone without top, or `None` for random ones.
        size: Integer, height and width of the pictures, cropped to a square.
        fps: Number, frames a second.
        dtype: `"uint8"` for bytes as `Dequantize` reads them, which hold -2 to 2; or `"float16"`.
        stream: Name of the feature list.
        workers: Integer, processes that share the videos.
        batch_size: Integer, frames that the backbone computes at once.
        progress: Function of an `Extracted` and the number of videos, called after each; or `None`.

    Returns:
        List of `Extracted`, one a video that was worked on. Those that were there already are not among them.

    Example:

    >>> import os, tempfile
    >>> import av, numpy as np
    >>> from keras_netvlad.extraction import extract_features
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
        ValueError: On an argument that is none of the above, a folder without videos, or other settings than those
            that `output` was begun with.
        NotADirectoryError: If `folder` is no directory.
        RuntimeError: If a worker died.
    """
    import keras

    folder, output = Path(folder), Path(output)
    if not callable(getattr(keras.applications, str(backbone), None)):
        raise ValueError(f"`backbone` must be the name of a model of `keras.applications`. Received: {backbone!r}")
    if dtype not in ("uint8", "float16"):
        raise ValueError(f"`dtype` must be 'uint8' or 'float16'. Received: dtype={dtype!r}")
    for name, value in (("size", size), ("workers", workers), ("batch_size", batch_size)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"`{name}` must be an integer of at least 1. Received: {name}={value!r}")
    if not folder.is_dir():
        raise NotADirectoryError(f"`folder` must be a directory of videos. Received: {folder}")
    videos = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not videos:
        raise ValueError(f"`folder` must hold video files, such as .mp4. Received: {folder}")
    settings = {"backbone": backbone, "weights": str(weights), "size": size, "fps": fps, "dtype": dtype}
    _check_settings(output / SETTINGS, {**settings, "stream": stream})
    jobs = [(video, _target(video, folder, output), str(video.relative_to(folder))) for video in videos]
    jobs = [job for job in jobs if not job[1].exists()]
    results = []
    for result in _run(jobs, workers, (backbone, weights, size, fps, dtype, stream, batch_size)):
        results.append(result)
        if progress is not None:
            progress(result, len(jobs))
    return results


def _run(jobs, workers, settings):
    if not jobs:
        return
    if workers == 1:
        _start_worker(*settings)
        yield from map(_extract, jobs)
        return
    # TensorFlow does not survive a fork.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, context, _start_worker, settings) as pool:
        try:
            for future in concurrent.futures.as_completed([pool.submit(_extract, job) for job in jobs]):
                yield future.result()
        except concurrent.futures.process.BrokenProcessPool as error:
            raise RuntimeError(
                "A worker died, for want of memory perhaps; run again, with fewer `workers`: finished videos are kept."
            ) from error


def _start_worker(backbone, weights, size, *settings):
    """Makes the encoder, once a process."""
    global _encode, _settings
    import keras

    from keras_netvlad.layers import FrameEncoder

    model = getattr(keras.applications, backbone)(
        input_shape=(size, size, 3), include_top=False, weights=weights, pooling="avg"
    )
    images = keras.Input((None, size, size, 3), dtype="uint8")
    _encode = keras.Model(images, FrameEncoder(model, backbone)(images)).predict_on_batch
    _settings = (size, *settings)


def _extract(job):
    video, target, name = job
    size, fps, dtype, stream, batch_size = _settings
    try:
        features = []
        for batch in _ahead(_batches(read_video(video, fps, size, crop_to_aspect_ratio=True), batch_size)):
            # Always full, for one compiled shape.
            padded = np.zeros((1, batch_size, *batch.shape[1:]), "uint8")
            padded[0, : len(batch)] = batch
            features.append(_encode(padded)[0, : len(batch)])
        features = np.concatenate(features)
        outside = float(np.mean((features < LOWEST) | (features > HIGHEST))) if dtype == "uint8" else 0.0
        values = _quantize(features) if dtype == "uint8" else features.astype("float16")
        _write(target, _record(name, stream, values))
    except FileExistsError:
        return Extracted(video)  # another process was first
    except (ValueError, OSError) as error:
        return Extracted(video, error=str(error))
    return Extracted(video, len(features), clipped=outside)


def _batches(frames, batch_size):
    batch = []
    for frame in frames:
        batch.append(frame)
        if len(batch) == batch_size:
            yield np.stack(batch)
            batch = []
    if batch:
        yield np.stack(batch)


def _ahead(batches):
    """Runs a generator in a thread, at most two items ahead; its errors are raised here."""
    ready, done, stop = queue.Queue(2), object(), threading.Event()

    def put(item):
        while not stop.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                pass

    def produce():
        try:
            for batch in batches:
                put((batch, None))
                if stop.is_set():
                    return
            put((done, None))
        except Exception as error:  # raised again by whoever waits
            put((done, error))

    thread = threading.Thread(target=produce, daemon=True)
    thread.start()
    try:
        while True:
            batch, error = ready.get()
            if error is not None:
                raise error
            if batch is done:
                return
            yield batch
    finally:
        stop.set()
        thread.join()


def _quantize(features):
    """The byte whose value, as `Dequantize` reads it, is nearest."""
    scale = (HIGHEST - LOWEST) / (LEVELS - 1)
    offset = (HIGHEST - LOWEST) / (2 * LEVELS) + LOWEST
    return np.clip(np.rint((features - offset) / scale), 0, LEVELS - 1).astype("uint8")


def _record(name, stream, frames):
    import tensorflow as tf

    def feature(value):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    return tf.train.SequenceExample(
        context=tf.train.Features(feature={"id": feature(name.encode())}),
        feature_lists=tf.train.FeatureLists(
            feature_list={stream: tf.train.FeatureList(feature=[feature(frame.tobytes()) for frame in frames])}
        ),
    ).SerializeToString()


def _write(target, record):
    import tensorflow as tf

    with staged(target) as path, tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(record)


def _target(video, folder, output):
    relative = video.relative_to(folder)
    return output / relative.with_name(relative.name + ".tfrecord")


def _check_settings(path, settings):
    if path.exists():
        before = json.loads(path.read_text())
        if before != settings:
            raise ValueError(
                f"The features of one folder are made alike; give another `output`. Received: {settings}, where "
                f"{path} has {before}"
            )
        return
    with staged(path) as file:
        file.write_text(json.dumps(settings, indent=2) + "\n")
