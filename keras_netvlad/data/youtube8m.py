"""`youtube8m`: reads YouTube-8M's records as batches of bytes."""

import atexit
import contextlib
import functools
import gc
import os
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import tensorflow as tf

from keras_netvlad.base.validation import check_boolean, check_choice, check_integer
from keras_netvlad.data.record_files import find_files, index_records, read_records
from keras_netvlad.data.record_schemas import FEATURE_DTYPES, FRAME_COUNTS, FrameLevel, VideoLevel
from keras_netvlad.data.segment_schema import SegmentLevel

NUM_CLASSES = 3862
FEATURE_SIZES = {"rgb": 1024, "audio": 128}
# A parser that quotes a name that is not UTF-8 gives a `UnicodeDecodeError` instead of its message (TensorFlow 2.21).
PARSER_ERRORS = (tf.errors.InvalidArgumentError, UnicodeDecodeError)
LEVELS = {"frame": FrameLevel, "segment": SegmentLevel, "video": VideoLevel}


def youtube8m(
    files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    batch_size: int,
    *,
    num_classes: int = NUM_CLASSES,
    feature_sizes: Mapping[str, int] | None = None,
    level: Literal["frame", "segment", "video"] = "frame",
    feature_dtype: Literal["uint8", "float16", "float32"] = "uint8",
    frame_counts: Literal["shared", "first", "each"] = "shared",
    max_frames: int = 300,
    fixed_frames: bool = False,
    segment_frames: int = 5,
    as_frames: bool = False,
    shuffle: bool = False,
    seed: int = 0,
    epochs: int | None = 1,
    start_epoch: int = 0,
    start_step: int = 0,
    drop_remainder: bool = False,
    shard: tuple[int, int] = (0, 1),
    errors: Literal["raise", "skip"] = "raise",
    skipped: dict[tuple[str, int], str] | None = None,
    with_ids: bool = False,
) -> tf.data.Dataset:
    """Reads records in YouTube-8M's schema as batches for `VideoClassifier`.

    It reads the files of YouTube-8M and those that `write_youtube8m` and `keras-netvlad extract` write. Features stay
    bytes on their way to the device, which is a quarter of the traffic of float32. With `input_dtype="uint8"` the first
    layer of a `VideoClassifier` is `Dequantize`, which takes these bytes.

    The reader first indexes the files by walking from record header to record header. The number of batches is
    therefore known from the start, and each epoch is a permutation of all records, drawn from `seed` and the number of
    the epoch. The same arguments always give the same batches, and `start_epoch` and `start_step` resume in the middle.
    Records are read one by one, which suits local and solid-state disks. With `shuffle=False` they are read in the
    order of the files.

    Args:
        files: Path, pattern such as `"data/train*.tfrecord"`, or a list of those: uncompressed TFRecord files.
        batch_size: Integer, batch size `B`. At segment level it counts records; the batch contains all their segments.
        num_classes: Integer, number of classes `C`. YouTube-8M has had 3862 classes since 2018.
        feature_sizes: Dict from the name of each stream to its feature size. The default is
            `{"rgb": 1024, "audio": 128}`.
        level: Kind of the records:

            - `"frame"` for `SequenceExample`s with a list of frames for each stream;
            - `"segment"` for those of 2019 whose segments are rated: `segment_start_times`, `segment_labels` and
              `segment_scores`;
            - `"video"` for `Example`s with the mean of each stream, `mean_rgb` and `mean_audio`.
        feature_dtype: Type of the values of a frame: `"uint8"` as in YouTube-8M, `"float16"`, in bytes as well, or
            `"float32"` for a list of floats. The last two are options of `write_youtube8m`. The video level accepts
            `"uint8"` only.
        frame_counts: How to read streams of different lengths:

            - `"shared"`: all streams of a video have one length. Any other video is a bad record.
            - `"first"`: the first stream of `feature_sizes` sets `num_frames`, as in Google's reader. Longer streams
              are cut. Frames that a shorter stream lacks are zeros; in bytes 127, which `Dequantize` maps to -3e-5.
            - `"each"`: every stream has its own number of frames, `num_frames_<stream>` instead of `num_frames`, and
              may be absent. `VideoClassifier(..., num_frames_per_stream=True)` takes these inputs. Not at segment
              level, because the start times of segments count frames of the first stream.
        max_frames: Integer, largest number of frames taken from a video, counted from its beginning. It does not limit
            segments.
        fixed_frames: Boolean. `True` gives every batch `T = max_frames`, as XLA and training on several hosts need.
            `False` gives each batch the length of its longest video. Segments always have `T = segment_frames`.
        segment_frames: Integer, number of frames of a segment, 5 in YouTube-8M.
        as_frames: Boolean. At video level, `True` gives each mean as a clip of one frame, `(B, 1, D)` by the name of
            its stream with `num_frames` of 1. A `VideoClassifier` with `pooling="mean"` takes them.
        shuffle: Boolean, whether to shuffle the records of each epoch.
        seed: Integer, seed of the order.
        epochs: Integer, number of passes over the records, or `None` for an endless dataset.
        start_epoch: Integer, the first epoch, counted from 0.
        start_step: Integer, the first batch of that epoch, counted from 0.
        drop_remainder: Boolean, whether to drop the last batch of an epoch if it is smaller.
        shard: `(index, count)`: read every `count`-th file, starting with file `index`, on host `index` of `count`. All
            hosts name the same files and get the same number of batches, that of the smallest shard.
        errors: `"raise"` or `"skip"`, what to do with records that are damaged, cut off, of another schema or with a
            label of `num_classes` or more. Skipping makes batches smaller; a batch of bad records only is an error.
        skipped: Dict that receives an entry `(file, record): reason` for each skipped record. Records are counted from
            0.
        with_ids: Boolean, whether the inputs contain the string `id` of each video; of a segment `"<id>:<start>"`, as
            in the submissions of the challenge of 2019.

    Returns:
        A `tf.data.Dataset` of known cardinality with elements `(inputs, labels)`. `inputs` is a dict of the streams,
        `feature_dtype` `(B, T, D)` with zeros after the end of a video, and `num_frames`, `int32` `(B,)`. At video
        level it holds `mean_<stream>`, `float32` `(B, D)`. `labels` is multi-hot, `float32` `(B, C)`.

        At segment level every row is a segment, which is rated for a few classes: a label is 1 if the class occurs, 0
        if it does not, and -1 if nobody rated it. `RatedBinaryCrossentropy` and `SegmentMeanAveragePrecision` ignore
        the latter.

    Example:

    >>> import tempfile
    >>> import numpy as np
    >>> from keras_netvlad.data import write_youtube8m, youtube8m
    >>> directory = tempfile.TemporaryDirectory()
    >>> videos = [{"id": f"{n}", "labels": [n % 3], "rgb": np.zeros((n + 1, 4))} for n in range(10)]
    >>> write_youtube8m(f"{directory.name}/train0.tfrecord", videos)
    10
    >>> data = youtube8m(f"{directory.name}/train*.tfrecord", 4, num_classes=3, feature_sizes={"rgb": 4})
    >>> len(data), [inputs["rgb"].shape.as_list() for inputs, labels in data]
    (3, [[4, 4, 4], [4, 8, 4], [2, 10, 4]])

    Raises:
        FileNotFoundError: If a path or pattern matches no file.
        TypeError: If `files` or `skipped` has the wrong type.
        ValueError: If an argument is invalid; with `errors="raise"`, also if a file is cut off or is not a TFRecord
            file. A bad record raises `tf.errors.InvalidArgumentError` when its batch is read; the message names the
            file and the record.

    Reference:
        - [Abu-El-Haija et al. 2016](https://arxiv.org/abs/1609.08675). The data set's
          [page](https://research.google.com/youtube8m/download.html) describes the schema.
    """
    batch_size = check_integer("batch_size", batch_size, 1)
    num_classes = check_integer("num_classes", num_classes, 1)
    max_frames = check_integer("max_frames", max_frames, 1)
    seed, start_epoch = check_integer("seed", seed, 0), check_integer("start_epoch", start_epoch, 0)
    start_step = check_integer("start_step", start_step, 0)
    epochs = None if epochs is None else check_integer("epochs", epochs, 1)
    segment_frames = check_integer("segment_frames", segment_frames, 1)
    for name, value in (
        ("as_frames", as_frames),
        ("fixed_frames", fixed_frames),
        ("shuffle", shuffle),
        ("drop_remainder", drop_remainder),
        ("with_ids", with_ids),
    ):
        check_boolean(name, value)
    sizes = _check_feature_sizes(feature_sizes)
    check_choice("level", level, LEVELS)
    check_choice("feature_dtype", feature_dtype, FEATURE_DTYPES[:1] if level == "video" else FEATURE_DTYPES)
    check_choice("frame_counts", frame_counts, FRAME_COUNTS[: {"frame": 3, "segment": 2, "video": 1}[level]])
    if as_frames and level != "video":
        raise ValueError(f"`as_frames` is for level='video'. Received: as_frames=True, level={level!r}")
    check_choice("errors", errors, ("raise", "skip"))
    if errors == "skip" and drop_remainder:
        raise ValueError(
            "`drop_remainder` gives all batches one size, but `errors='skip'` makes batches smaller; choose one. "
            "Received: drop_remainder=True, errors='skip'"
        )
    if skipped is not None and not isinstance(skipped, dict):
        raise TypeError(f"`skipped` must be a dict to write into. Received: skipped={skipped!r}")
    skipped_records = {} if skipped is None else skipped

    shard = _check_shard(shard, drop_remainder)
    if level == "segment" and shard[1] > 1:
        raise ValueError(
            "Hosts that train together need batches of one size, but records differ in their number of segments; "
            f"train on segments on one host. Received: level='segment', shard={shard}"
        )
    records, num_steps = _index(find_files(files), batch_size, drop_remainder, shard)
    for (path, number), reason in records.faults.items():
        if errors == "raise":
            raise ValueError(
                f"{path}, record {number}: {reason}. Remove or replace the file, or skip the rest of it with "
                "errors='skip'."
            )
        skipped_records[path, number] = reason
    if not num_steps:
        raise ValueError(
            f"The files must hold enough records for a batch. Received: {len(records.offsets)} records, "
            f"batch_size={batch_size}, drop_remainder={drop_remainder}"
        )
    if start_step >= num_steps or (epochs is not None and start_epoch >= epochs):
        raise ValueError(
            f"`start_epoch` must be below epochs={epochs}, and `start_step` below the {num_steps} batches of an epoch. "
            f"Received: start_epoch={start_epoch}, start_step={start_step}"
        )
    arguments = {
        "frame": (feature_dtype, max_frames, fixed_frames, frame_counts),
        "segment": (feature_dtype, segment_frames, frame_counts),
        "video": (as_frames,),
    }
    schema = _schema(level, tuple(sizes.items()), num_classes, *arguments[level])
    has_one_size = drop_remainder and level != "segment"

    @functools.lru_cache(maxsize=2)
    def order(epoch):
        numbers = np.arange(len(records.offsets))
        return np.random.default_rng([seed, epoch]).permutation(numbers) if shuffle else numbers

    def load(step):
        with _LOADS.one():
            epoch, step = divmod(int(step), num_steps)
            rows = order(epoch)[step * batch_size : (step + 1) * batch_size]
            return [np.asarray(values) for values in _load_rows(rows, records, schema, errors, skipped_records)]

    def batch(step):
        values = tf.numpy_function(load, [step], schema.dtypes)
        for value, shape in zip(values, schema.shapes, strict=True):
            value.set_shape([batch_size if has_one_size else None, *shape])
        return schema.element(values, with_ids)

    first = start_epoch * num_steps + start_step
    # To `tf.data`, a range up to the largest integer is infinite.
    steps = tf.data.Dataset.range(first, np.iinfo("int64").max if epochs is None else epochs * num_steps)
    data = steps.map(batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return data.prefetch(tf.data.AUTOTUNE)


@functools.lru_cache(maxsize=8)  # Readers with the same arguments share their graph.
def _schema(level, feature_sizes, *arguments):
    return LEVELS[level](dict(feature_sizes), *arguments)


class _Loads:
    """Counts the loads in TensorFlow's threads, and waits for them when Python ends; otherwise Python would hang."""

    def __init__(self):
        self.running, self.is_ending, self.lock = 0, False, threading.Lock()
        atexit.register(self.end)

    @contextlib.contextmanager
    def one(self):
        if self.is_ending:
            raise RuntimeError("Python is ending")
        with self.lock:
            self.running += 1
        try:
            yield
        finally:
            with self.lock:
                self.running -= 1

    def end(self):
        self.is_ending = True
        gc.collect()  # Ends iterators that only a reference cycle keeps alive.
        for _ in range(100):
            if not self.running:
                break
            time.sleep(0.05)


_LOADS = _Loads()


class _Records:
    """The positions of records: for each record its file, its number in that file, and its offset."""

    def __init__(self, paths):
        indexes = [index_records(path) for path in paths]
        self.paths = paths
        self.offsets = np.concatenate([offsets for offsets, _ in indexes])
        self.files = np.repeat(np.arange(len(paths)), [len(offsets) for offsets, _ in indexes])
        self.numbers = np.concatenate([np.arange(len(offsets)) for offsets, _ in indexes])
        self.faults = {
            (path, len(offsets)): fault for path, (offsets, fault) in zip(paths, indexes, strict=True) if fault
        }

    def place(self, row):
        return self.paths[self.files[row]], int(self.numbers[row])

    def where(self, rows):
        """Returns paths and offsets of records as the tensors that `read_records` takes."""
        paths = tf.constant([self.paths[file] for file in self.files[rows]], tf.string)
        return paths, tf.constant(self.offsets[rows], tf.int64)


def _index(paths, batch_size, drop_remainder, shard):
    """Returns the records of this shard, and the number of batches in an epoch, which all shards share."""
    index, count = shard
    if count > len(paths):
        raise ValueError(f"There must be a file for every shard. Received: {len(paths)} files, shard={shard}")
    shards = [_Records(paths[part::count]) for part in range(count)]
    least = min(len(records.offsets) for records in shards)
    return shards[index], least // batch_size if drop_remainder else -(-least // batch_size)


def _load_rows(rows, records, schema, errors, skipped):
    """Reads and parses a batch in one step. If that fails, it examines each record and parses the good ones."""
    try:
        is_good, *values = schema.load(*records.where(rows))
    except (tf.errors.DataLossError, *PARSER_ERRORS):
        is_good = False
    if not is_good:
        _, *values = schema.load(*records.where(_good_rows(rows, records, schema, errors, skipped)))
    return values


def _good_rows(rows, records, schema, errors, skipped):
    """Returns the rows of a batch whose records are good. Bad records raise, or are noted in `skipped`."""
    faults = {}
    for row in rows:
        try:
            record = read_records(*records.where([row]))[0].numpy()
            # The parser refuses some records that `fault` accepts, such as those with unknown protobuf fields.
            fault = schema.fault(record) or _parser_fault(row, records, schema)
        except tf.errors.DataLossError:
            fault = "the record is damaged (its checksum is wrong)"
        if fault:
            path, number = records.place(row)
            if errors == "raise":
                raise ValueError(f"{path}, record {number}: {fault}")
            skipped[path, number] = faults[row] = fault
    good = [row for row in rows if row not in faults]
    if not good:
        path, number = records.place(rows[0])
        raise ValueError(f"{path}, record {number}: {faults[rows[0]]}; no other record of its batch is good")
    return good


def _parser_fault(row, records, schema):
    """Returns a fault if TensorFlow's parser refuses a record, otherwise `None`."""
    try:
        is_good, *_ = schema.load(*records.where([row]))
    except PARSER_ERRORS:
        is_good = False
    return None if is_good else "TensorFlow's parser refuses the record"


def _check_feature_sizes(feature_sizes):
    if feature_sizes is None:
        return dict(FEATURE_SIZES)
    if not isinstance(feature_sizes, Mapping) or not feature_sizes:
        raise ValueError(
            "`feature_sizes` must be a dict from the name of each stream to its feature size. "
            f"Received: feature_sizes={feature_sizes!r}"
        )
    return {str(name): check_integer(f"feature_sizes[{name!r}]", size, 1) for name, size in feature_sizes.items()}


def _check_shard(shard, drop_remainder):
    if not isinstance(shard, (tuple, list)) or len(shard) != 2:
        raise ValueError(f"`shard` must be (index, count). Received: shard={shard!r}")
    index, count = check_integer("shard[0]", shard[0], 0), check_integer("shard[1]", shard[1], 1)
    if index >= count:
        raise ValueError(f"`shard` must be (index, count) with an index below the count. Received: shard={shard!r}")
    if count > 1 and not drop_remainder:
        raise ValueError(
            "Hosts that train together need batches of one size; set `drop_remainder=True`. "
            f"Received: shard={shard!r}, drop_remainder=False"
        )
    return index, count
