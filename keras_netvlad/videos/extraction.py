"""`extract_features`: a folder of videos to records of frame features."""

import concurrent.futures
import json
import multiprocessing
import queue
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_netvlad.base.atomic_files import staged
from keras_netvlad.base.names import EXTRACTION_FILE
from keras_netvlad.base.quantization import share_outside
from keras_netvlad.base.validation import check_path
from keras_netvlad.data import read_video, write_youtube8m
from keras_netvlad.data.video import check_fps

SUFFIXES = (".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv")
POOLINGS = ("avg", "max", None)


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
    pooling="avg",
    dtype="uint8",
    stream="rgb",
    workers=1,
    batch_size=32,
    progress=None,
):
    """Writes the frame features of each video of a folder as a TFRecord file in YouTube-8M's frame-level schema.

    `a/b.mp4` becomes `output/a/b.mp4.tfrecord`, one `SequenceExample`: the context holds `id`, the video's path in
    the folder, and the feature list `stream` one bytes feature a frame; `keras_netvlad.data.youtube8m` reads them.
    Of maps each position is a frame of its own: `T * H * W` of them a video, in the order of time, height, width. A
    file appears when it is whole; what is there is not made again, so after a crash the same call goes on, at the
    cost of the videos that were in hand. What the features were made with is in `extraction.json`, and a call with
    other settings is refused. A thread decodes while the backbone computes.

    Needs PyAV: `pip install 'keras_netvlad[video]'`.

    Args:
        folder: Directory, searched with all below it for files that are named as videos.
        output: Directory to write to.
        backbone: Name of a model of `keras.applications`.
        weights: `"imagenet"`, a file of weights of the backbone without top, or `None` for random ones.
        size: Integer, height and width of the pictures, cropped to a square.
        fps: Number, frames a second.
        pooling: `"avg"` or `"max"` for one feature vector a frame; `None` for the backbone's last convolutional maps.
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
    >>> from keras_netvlad.videos.extraction import extract_features
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
        TypeError: If `folder`, `output` or `weights` is no path.
        NotADirectoryError: If `folder` is no directory.
        FileNotFoundError: If there is no such file of weights.
        RuntimeError: If a worker died.
    """
    import keras

    folder, output = check_path("folder", folder), check_path("output", output)
    check_fps(fps)
    if not callable(getattr(keras.applications, str(backbone), None)):
        raise ValueError(f"`backbone` must be the name of a model of `keras.applications`. Received: {backbone!r}")
    if dtype not in ("uint8", "float16"):
        raise ValueError(f"`dtype` must be 'uint8' or 'float16'. Received: dtype={dtype!r}")
    if pooling not in POOLINGS:
        raise ValueError(f"`pooling` must be 'avg', 'max', or None for maps. Received: pooling={pooling!r}")
    if not isinstance(stream, str) or stream in ("", "id", "labels"):
        raise ValueError(f"`stream` must be a name, other than 'id' and 'labels'. Received: stream={stream!r}")
    if weights not in (None, "imagenet") and not check_path("weights", weights).is_file():
        raise FileNotFoundError(
            f"`weights` must be 'imagenet', a file, or None for random weights. Received: {weights}, no file"
        )
    for name, value in (("size", size), ("workers", workers), ("batch_size", batch_size)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"`{name}` must be an integer of at least 1. Received: {name}={value!r}")
    if not folder.is_dir():
        raise NotADirectoryError(f"`folder` must be a directory of videos. Received: {folder}")
    videos = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not videos:
        raise ValueError(f"`folder` must hold video files, such as .mp4. Received: {folder}")
    settings = {"backbone": backbone, "weights": str(weights), "size": size, "pooling": pooling, "dtype": dtype}
    settings["fps"] = None if fps is None else float(fps)
    _check_settings(output / EXTRACTION_FILE, {**settings, "stream": stream})
    jobs = [(video, _target(video, folder, output), str(video.relative_to(folder))) for video in videos]
    jobs = [job for job in jobs if not job[1].exists()]
    results = []
    for result in _run(jobs, workers, (backbone, weights, size, pooling, fps, dtype, stream, batch_size)):
        results.append(result)
        if progress is not None:
            progress(result, len(jobs))
    return results


def _run(jobs, workers, settings):
    if not jobs:
        return
    if workers == 1:
        _start(*settings)
        yield from map(_extract, jobs)
        return
    # TensorFlow does not survive a fork.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, context, _start, settings) as pool:
        try:
            for future in concurrent.futures.as_completed([pool.submit(_extract, job) for job in jobs]):
                yield future.result()
        except concurrent.futures.process.BrokenProcessPool as error:
            raise RuntimeError(
                "A worker died, for want of memory perhaps; run again, with fewer `workers`: finished videos are kept."
            ) from error


def _start(*settings):
    """Leaves what goes wrong to the first video: a process pool would say of it only that it broke."""
    global _failure
    try:
        start_worker(*settings)
        _failure = None
    except Exception as error:  # of any backbone: ValueError, OSError, and Exception itself where there is no network
        backbone, weights, size, *_ = settings
        _failure = (
            f"`backbone`, `weights` and `size` must make a model. Received: backbone={backbone!r}, "
            f"weights={weights!r}, size={size}, of which Keras says: {error}"
        )


def start_worker(backbone, weights, size, pooling, *settings):
    """Makes the encoder, once a process, of the arguments of `extract_features`."""
    global _encode, _settings
    import keras

    from keras_netvlad.layers import FrameEncoder

    model = getattr(keras.applications, backbone)(
        input_shape=(size, size, 3), include_top=False, weights=weights, pooling=pooling
    )
    images = keras.Input((None, size, size, 3), dtype="uint8")
    _encode = keras.Model(images, FrameEncoder(model, backbone)(images)).predict_on_batch
    _settings = (size, *settings)


def _extract(job):
    video, target, name = job
    if _failure is not None:
        raise ValueError(_failure)
    _, _, dtype, stream, _ = _settings
    try:
        features = encode_video(video)
        outside = share_outside(features) if dtype == "uint8" else 0.0
        rows = features.reshape(-1, features.shape[-1])
        write_youtube8m(target, [{"id": name, "labels": [], stream: rows}], feature_dtype=dtype)
    except FileExistsError:
        return Extracted(video)  # another process was first
    except (ValueError, OSError) as error:
        return Extracted(video, error=str(error))
    return Extracted(video, len(features), clipped=outside)


def encode_video(video):
    """The features of a video, `(T, D)` or maps `(T, H, W, D)`, by the encoder of this process."""
    return np.concatenate([encode_batch(batch) for batch in _ahead(read_batches(video))])


def read_batches(video):
    """Yields the frames of a video, `(T, H, W, 3)` with `T` up to the size of a batch."""
    size, fps, _, _, batch_size = _settings
    yield from _batches(read_video(video, fps, size, crop_to_aspect_ratio=True), batch_size)


def encode_batch(batch):
    """The features of some frames."""
    # A power of two of frames, the last ones black: few shapes to compile, and a short video costs little.
    length = min(_settings[-1], 1 << (len(batch) - 1).bit_length())
    padded = np.zeros((1, length, *batch.shape[1:]), "uint8")
    padded[0, : len(batch)] = batch
    return _encode(padded)[0, : len(batch)]


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


def _target(video, folder, output):
    relative = video.relative_to(folder)
    return output / relative.with_name(relative.name + ".tfrecord")


def _check_settings(path, settings):
    """Writes down what features are made with; raises where there are some that were made with something else."""
    if path.exists():
        before = json.loads(path.read_text())
        if before == settings:
            return
        if any(path.parent.rglob("*.tfrecord")):
            raise ValueError(
                f"The features of one folder are made alike; give another `output`. Received: {settings}, where "
                f"{path} has {before}"
            )
        path.unlink()  # of a run that came to nothing
    with staged(path) as file:
        file.write_text(json.dumps(settings, indent=2) + "\n")
