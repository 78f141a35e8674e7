"""`youtube8m`: YouTube-8M's records as batches of bytes."""

import atexit
import contextlib
import functools
import gc
import threading
import time
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from keras_netvlad.base.validation import check_boolean, check_integer
from keras_netvlad.data.record_files import find_files, index_records, read_records
from keras_netvlad.data.record_schemas import FEATURE_DTYPES, FrameLevel, VideoLevel

NUM_CLASSES = 3862
FEATURE_SIZES = {"rgb": 1024, "audio": 128}
LEVELS = {"frame": FrameLevel, "video": VideoLevel}


def youtube8m(
    files,
    batch_size,
    *,
    num_classes=NUM_CLASSES,
    feature_sizes=None,
    level="frame",
    feature_dtype="uint8",
    max_frames=300,
    fixed_frames=False,
    shuffle=False,
    seed=0,
    epochs=1,
    start_epoch=0,
    start_step=0,
    drop_remainder=False,
    shard=(0, 1),
    errors="raise",
    skipped=None,
    with_ids=False,
):
    """Reads YouTube-8M's records, or one's own of `write_youtube8m`, as batches for `VideoClassifier`.

    Features stay bytes on their way to the device, a quarter of the traffic; `input_dtype="uint8"` makes `Dequantize`
    the model's first layer. The files are indexed by walking from one record's header to the next, so that the number
    of batches is known from the start, and every epoch is shuffled as a whole: a permutation of all records, drawn
    from `seed` and the number of the epoch. The same arguments give the same batches, always, and `start_epoch` and
    `start_step` go on in the middle. Records are read one by one where they lie, which suits local and solid-state
    disks; with `shuffle=False` they are read in the order of the files.

    Args:
        files: Path, pattern such as `"data/train*.tfrecord"`, or a list of those: TFRecord files, not compressed.
        batch_size: Integer, `B`.
        num_classes: Integer, `C`; YouTube-8M has 3862 classes since 2018.
        feature_sizes: Dict from the name of each stream to its feature size; by default
            `{"rgb": 1024, "audio": 128}`.
        level: `"frame"` for `SequenceExample`s with one list of frames a stream, one bytes feature a frame;
            `"video"` for `Example`s with the mean of each stream, `mean_rgb` and `mean_audio`.
        feature_dtype: What the bytes of a frame are: `"uint8"` as in YouTube-8M, or `"float16"`, which
            `write_youtube8m` and `keras-netvlad extract` write on demand.
        max_frames: Integer, frames to take of a video at most, from its beginning.
        fixed_frames: Boolean, whether every batch has `T = max_frames`, as XLA and several hosts want it, or only as
            many as its longest video.
        shuffle: Boolean, whether to shuffle.
        seed: Integer, of the order.
        epochs: Integer, how often to go through the records; or `None` for no end.
        start_epoch: Integer, epoch to begin with, counted from 0.
        start_step: Integer, batch of that epoch to begin with, counted from 0.
        drop_remainder: Boolean, whether to leave out the last batch of an epoch if it is smaller.
        shard: `(index, count)`: take every `count`-th file from the `index`-th on, as host `index` of `count` does. All
            hosts name the same files and get the same number of batches, that of the smallest shard.
        errors: `"raise"` or `"skip"`: what to do about records that are damaged, cut off, of another schema, or with a
            label of `num_classes` or more. `"skip"` makes their batches smaller; a batch of nothing but such records
            is an error.
        skipped: Dict that receives an entry `(file, record): reason` for each record skipped; `len(skipped)` is their
            number. Records are counted from 0.
        with_ids: Boolean, whether the inputs hold `id`, a string for each video, too.

    Returns:
        A `tf.data.Dataset` of known cardinality of `inputs, labels`. `inputs` is a dict of the streams, `feature_dtype`
        `(B, T, D)`, zeros behind a video's end, and `num_frames`, `int32` `(B,)`; at video level of `mean_<stream>`,
        `float32` `(B, D)`. `labels` is multi-hot, `float32` `(B, C)`.

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
        ValueError: On an argument that is none of the above; with `errors="raise"`, on a file that is cut off or no
            TFRecord file. A bad record raises when its batch is due, as `tf.errors.InvalidArgumentError`, whose
            message names the file and the record.

    Reference:
        - [Abu-El-Haija et al. 2016](https://arxiv.org/abs/1609.08675); the schema stands on the data set's
          [page](https://research.google.com/youtube8m/download.html).
    """
    batch_size = check_integer("batch_size", batch_size, 1)
    num_classes = check_integer("num_classes", num_classes, 1)
    max_frames = check_integer("max_frames", max_frames, 1)
    seed, start_epoch = check_integer("seed", seed, 0), check_integer("start_epoch", start_epoch, 0)
    start_step = check_integer("start_step", start_step, 0)
    epochs = None if epochs is None else check_integer("epochs", epochs, 1)
    for name, value in (
        ("fixed_frames", fixed_frames),
        ("shuffle", shuffle),
        ("drop_remainder", drop_remainder),
        ("with_ids", with_ids),
    ):
        check_boolean(name, value)
    feature_sizes = _check_feature_sizes(feature_sizes)
    if level not in list(LEVELS):
        raise ValueError(f"`level` must be one of {list(LEVELS)}. Received: level={level!r}")
    if feature_dtype not in FEATURE_DTYPES or (level, feature_dtype) == ("video", "float16"):
        raise ValueError(
            f"`feature_dtype` must be one of {list(FEATURE_DTYPES)}, at video level the first. "
            f"Received: feature_dtype={feature_dtype!r}, level={level!r}"
        )
    if errors not in ("raise", "skip"):
        raise ValueError(f"`errors` must be 'raise' or 'skip'. Received: errors={errors!r}")
    if errors == "skip" and drop_remainder:
        raise ValueError(
            "`drop_remainder` promises batches of one size, which `errors='skip'` can't keep; choose one of the two. "
            "Received: drop_remainder=True, errors='skip'"
        )
    if skipped is not None and not isinstance(skipped, dict):
        raise TypeError(f"`skipped` must be a dict to write into. Received: skipped={skipped!r}")
    skipped = {} if skipped is None else skipped

    records, num_steps = _index(find_files(files), batch_size, drop_remainder, _check_shard(shard, drop_remainder))
    for (path, number), reason in records.faults.items():
        if errors == "raise":
            raise ValueError(
                f"{path}, record {number}: {reason}. Remove or replace the file, or leave out the rest of it with "
                "errors='skip'."
            )
        skipped[path, number] = reason
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
    schema = _schema(level, tuple(feature_sizes.items()), num_classes, feature_dtype, max_frames, fixed_frames)

    @functools.lru_cache(maxsize=2)
    def order(epoch):
        numbers = np.arange(len(records.offsets))
        return np.random.default_rng([seed, epoch]).permutation(numbers) if shuffle else numbers

    def load(step):
        with _LOADS.one():
            epoch, step = divmod(int(step), num_steps)
            rows = order(epoch)[step * batch_size : (step + 1) * batch_size]
            return [np.asarray(values) for values in _load_rows(rows, records, schema, errors, skipped)]

    def batch(step):
        values = tf.numpy_function(load, [step], schema.dtypes)
        for value, shape in zip(values, schema.shapes, strict=True):
            value.set_shape([batch_size if drop_remainder else None, *shape])
        return schema.element(values, with_ids)

    first = start_epoch * num_steps + start_step
    steps = tf.data.Dataset.range(first, np.iinfo("int64").max if epochs is None else epochs * num_steps)
    data = steps.map(batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    if epochs is None:
        data = data.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
    return data.prefetch(tf.data.AUTOTUNE)


@functools.lru_cache(maxsize=8)  # readers of one kind share their graph
def _schema(level, feature_sizes, *arguments):
    return LEVELS[level](dict(feature_sizes), *arguments)


class _Loads:
    """Loads that run in TensorFlow's threads: one that is under way when Python ends would keep it from ending."""

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
        gc.collect()  # iterators that nothing but a cycle holds
        for _ in range(100):
            if not self.running:
                break
            time.sleep(0.05)


_LOADS = _Loads()


class _Records:
    """Where the records lie: `paths`, and of each record its file, its number in there, and its offset."""

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
        """Files and offsets of some records, as `read_records` wants them."""
        paths = tf.constant([self.paths[file] for file in self.files[rows]], tf.string)
        return paths, tf.constant(self.offsets[rows], tf.int64)


def _index(paths, batch_size, drop_remainder, shard):
    """The records of this shard, and the number of batches in an epoch, the same for all shards."""
    index, count = shard
    if count > len(paths):
        raise ValueError(f"There must be a file for every shard. Received: {len(paths)} files, shard={shard}")
    shards = [_Records(paths[part::count]) for part in range(count)]
    least = min(len(records.offsets) for records in shards)
    return shards[index], least // batch_size if drop_remainder else -(-least // batch_size)


def _load_rows(rows, records, schema, errors, skipped):
    """Reads and parses a batch at once; only if that fails, each record is looked at by itself."""
    try:
        is_good, *values = schema.load(*records.where(rows))
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError):
        is_good = False
    if not is_good:
        _, *values = schema.load(*records.where(_good_rows(rows, records, schema, errors, skipped)))
    return values


def _good_rows(rows, records, schema, errors, skipped):
    """Those of a batch that can be used; the others are put down, or raise."""
    faults = {}
    for row in rows:
        try:
            record = read_records(*records.where([row]))[0].numpy()
            fault = schema.fault(record)
        except tf.errors.DataLossError:
            fault = "the record is damaged (its sum is wrong)"
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
