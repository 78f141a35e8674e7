"""`write_youtube8m`: writes features as records in YouTube-8M's schema."""

import os
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from keras_netvlad.base.atomic_files import staged
from keras_netvlad.base.quantization import quantize
from keras_netvlad.base.validation import check_choice, check_path
from keras_netvlad.data.record_schemas import FEATURE_DTYPES
from keras_netvlad.data.sequence_example import serialize_example

SEGMENT_FRAMES = 5  # of YouTube-8M 2019


def write_youtube8m(
    path: str | os.PathLike[str],
    videos: Iterable[Mapping[str, Any]],
    level: Literal["frame", "video"] = "frame",
    feature_dtype: Literal["uint8", "float16", "float32"] = "uint8",
    frame_counts: Literal["shared", "each"] = "shared",
) -> int:
    """Writes one TFRecord file in YouTube-8M's schema, for `youtube8m` and `keras-netvlad train`.

    Floats are clipped to -2 to 2 and quantized to the nearest of the 256 levels of `Dequantize`. Within that range the
    error is at most 2/255. Scale features so that most of them lie in it, as those of YouTube-8M do.

    The file appears only when it is complete.

    Args:
        path: Path of a file that does not exist yet, such as `"train0000.tfrecord"`.
        videos: Iterable of dicts, one per video: `id`, a string; `labels`, a list of integers, which may be empty; and
            the streams by name, all with the same number of frames. `uint8` streams `(T, D)` are written unchanged;
            float streams `(T, D)` are quantized. At video level streams are floats `(D,)`, written as `mean_<stream>`.
            At frame level a video may have `segments`, a list of ratings `(start, label, score)`: first frame of the
            segment, class, and 1 or 0 for a class that occurs in it or not.
        level: `"frame"` or `"video"`.
        feature_dtype: `"uint8"`, or, at frame level, `"float16"` or `"float32"` for floats of any scale, which take two
            or four times the space and are read with the same argument of `youtube8m`.
        frame_counts: `"shared"`, or, at frame level, `"each"` for videos whose streams have different lengths, or of
            which some lack a stream. `youtube8m(..., frame_counts="each")` reads them.

    Returns:
        Integer, the number of videos written.

    Example:

    >>> import tempfile
    >>> import numpy as np
    >>> from keras_netvlad.data import write_youtube8m
    >>> frames = np.random.default_rng(0).normal(size=(20, 64))
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     write_youtube8m(f"{directory}/mine.tfrecord", [{"id": "a", "labels": [0, 2], "frames": frames}])
    1

    Raises:
        FileExistsError: If the path exists.
        FullDiskError: If the disk is full.
        TypeError: If `path` is not a path, or `videos` is not iterable.
        ValueError: If an argument or a video is invalid, or a video has other streams than the first. Nothing is
            written.
    """
    path = check_path("path", path)
    if not isinstance(videos, Iterable):
        raise TypeError(f"`videos` must be an iterable of dicts, one per video. Received: videos={videos!r}")
    check_choice("level", level, ("frame", "video"))
    check_choice("feature_dtype", feature_dtype, FEATURE_DTYPES if level == "frame" else FEATURE_DTYPES[:1])
    choices = ("shared", "each") if level == "frame" else ("shared",)
    check_choice("frame_counts", frame_counts, choices)
    expected: dict[str, int] = {}
    number = -1
    with staged(path) as stage, tf.io.TFRecordWriter(str(stage)) as writer:
        for number, video in enumerate(videos):
            context, streams = _check_video(number, video, level, feature_dtype, frame_counts)
            sizes = {name: values.shape[-1] for name, values in streams.items()}
            # A video without a stream has no other size of it.
            sizes = {**expected, **sizes} if frame_counts == "each" else sizes
            expected = {**sizes, **expected} if frame_counts == "each" else expected or sizes
            if sizes != expected:
                raise ValueError(
                    f"All videos must have the streams of the first, {expected}. Received: video {number} with {sizes}"
                )
            if level == "frame":
                streams = {
                    name: quantize(values) if feature_dtype == "uint8" else values.astype(feature_dtype)
                    for name, values in streams.items()
                }
            record = serialize_example(streams, context) if level == "frame" else _example(context, streams)
            writer.write(record)
        if number < 0:
            raise ValueError("There must be at least one video to write. Received: none")
    return number + 1


def _check_video(number, video, level, feature_dtype, frame_counts="shared"):
    """Checks a video; returns its context as features and its streams as arrays."""
    if not isinstance(video, Mapping) or not {"id", "labels"} < set(video):
        received = sorted(video) if isinstance(video, Mapping) else video
        raise ValueError(
            f"A video must be a dict of `id`, `labels` and at least one stream. Received: video {number}, {received!r}"
        )
    labels = np.asarray(video["labels"])
    if labels.ndim != 1 or (labels.size and (labels.dtype.kind not in "iu" or labels.min() < 0)):
        raise ValueError(
            f"`labels` must be a list of integers of 0 or more. Received: video {number}, labels={video['labels']!r}"
        )
    name = video["id"]
    if not isinstance(name, (str, bytes)):
        raise ValueError(f"`id` must be a string. Received: video {number}, id={name!r}")
    name = name.encode() if isinstance(name, str) else name
    context = {
        "id": tf.train.Feature(bytes_list=tf.train.BytesList(value=[name])),
        "labels": tf.train.Feature(int64_list=tf.train.Int64List(value=labels.tolist())),
    }
    streams = {key: np.asarray(values) for key, values in video.items() if key not in (*context, "segments")}
    if "segments" in video:
        context |= _segments(number, video["segments"], level)
    for key, values in streams.items():
        takes_bytes = level == "frame" and feature_dtype == "uint8"
        is_known = values.dtype.kind == "f" or (values.dtype == np.uint8 and takes_bytes)
        if values.ndim != (2 if level == "frame" else 1) or not values.size or not is_known:
            shape = "floats (T, D), at least one frame" if level == "frame" else "floats (D,)"
            shape = f"uint8 or {shape}" if takes_bytes else shape
            raise ValueError(
                f"A stream must be {shape}. Received: video {number}, `{key}` of {values.dtype} {values.shape}"
            )
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ValueError(f"Features must be finite numbers. Received: video {number}, `{key}` with NaN or infinity")
        if feature_dtype == "float16" and np.abs(values).max() > np.finfo("float16").max:
            raise ValueError(
                f"Features must lie in float16's range, -65504 to 65504. Received: video {number}, `{key}` with "
                f"{np.abs(values).max():g}"
            )
    if not streams:
        raise ValueError(f"A video must have at least one stream. Received: video {number}, which has none")
    if level == "frame" and frame_counts == "shared" and len({len(values) for values in streams.values()}) > 1:
        lengths = {key: len(values) for key, values in streams.items()}
        raise ValueError(
            "All streams of a video must have one length, unless frame_counts='each'. "
            f"Received: video {number}, {lengths}"
        )
    return context, streams


def _segments(number, segments, level):
    """Returns the ratings of the segments of a video as features."""
    try:
        ratings = np.array([tuple(rating) for rating in segments], "float64")
    except (TypeError, ValueError):
        ratings = np.zeros(0)
    is_list = level == "frame" and ratings.ndim == 2 and ratings.shape[1] == 3
    is_good = is_list and (ratings >= 0).all() and not (ratings[:, :2] % 1).any() and (ratings[:, 2] <= 1).all()
    if not is_good:
        raise ValueError(
            "`segments` must be, at frame level, a list of (start, label, score): integers of 0 or more, and a score "
            f"from 0 to 1. Received: video {number}, segments={segments!r}"
        )
    starts, labels = ratings[:, :2].astype("int64").T.tolist()
    return {
        "segment_start_times": tf.train.Feature(int64_list=tf.train.Int64List(value=starts)),
        "segment_end_times": tf.train.Feature(
            int64_list=tf.train.Int64List(value=[s + SEGMENT_FRAMES for s in starts])
        ),
        "segment_labels": tf.train.Feature(int64_list=tf.train.Int64List(value=labels)),
        "segment_scores": tf.train.Feature(float_list=tf.train.FloatList(value=ratings[:, 2].tolist())),
    }


def _example(context, streams):
    means = {
        f"mean_{name}": tf.train.Feature(float_list=tf.train.FloatList(value=values))
        for name, values in streams.items()
    }
    return tf.train.Example(features=tf.train.Features(feature={**context, **means})).SerializeToString()
