"""The schemas of YouTube-8M's records at frame level and video level: parses batches, and explains a bad record."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from keras_netvlad.data.record_files import read_records

FEATURE_DTYPES = ("uint8", "float16")
# The versions of 2016 and 2017 of the data set name it `video_id`.
ID_NAMES = ("id", "video_id")


class FrameLevel:
    """Frame-level records: a `SequenceExample` with a list of frames for each stream, one bytes feature per frame.

    Args:
        feature_sizes: Dict from the name of each stream to its feature size.
        num_classes: Integer, number of classes.
        feature_dtype: `"uint8"` or `"float16"`, the type of the values in the bytes of a frame.
        max_frames: Integer, largest number of frames taken from a video.
        fixed_frames: Boolean, whether every batch has `max_frames` frames.
    """

    def __init__(
        self,
        feature_sizes: Mapping[str, int],
        num_classes: int,
        feature_dtype: str,
        max_frames: int,
        fixed_frames: bool,
    ) -> None:
        self.sizes, self.num_classes = feature_sizes, num_classes
        self.max_frames, self.fixed_frames = max_frames, fixed_frames
        self.dtype = tf.as_dtype(feature_dtype)
        self.dtypes = [tf.string, tf.float32, tf.int32, *(self.dtype for _ in feature_sizes)]
        time = max_frames if fixed_frames else None
        self.shapes = [(), (num_classes,), (), *((time, size) for size in feature_sizes.values())]
        self.load = _compiled(self._parse)

    def _parse(self, records):
        lists = {name: tf.io.FixedLenSequenceFeature([], tf.string, allow_missing=True) for name in self.sizes}
        context, frames, lengths = tf.io.parse_sequence_example(records, _context_features(), lists)
        ids, labels, is_good = _ids_and_labels(context, tf.size(records), self.num_classes)
        length = next(iter(lengths.values()))
        is_good &= tf.reduce_all(length > 0)
        for name, size in self.sizes.items():
            is_good &= tf.reduce_all(lengths[name] == length)
            # decode_raw silently cuts longer frames and fills shorter ones.
            is_real = tf.sequence_mask(lengths[name], tf.shape(frames[name])[1])
            num_bytes = size * self.dtype.size
            is_good &= tf.reduce_all(tf.strings.length(frames[name]) == tf.where(is_real, num_bytes, 0))
        # decode_raw gives an empty frame, two bytes in the file, the size of a whole one.
        num_taken = tf.where(is_good, self.max_frames, 0)
        streams = []
        for name, size in self.sizes.items():
            num_bytes = size * self.dtype.size
            taken = frames[name][:, :num_taken]
            if self.fixed_frames:
                taken = tf.pad(taken, [[0, 0], [0, self.max_frames - tf.shape(taken)[1]]], constant_values="")
            # decode_raw has no kernel for float16.
            integers = tf.io.decode_raw(taken, {1: tf.uint8, 2: tf.uint16}[self.dtype.size], fixed_length=num_bytes)
            streams.append(tf.bitcast(integers, self.dtype))
        num_frames = tf.cast(tf.minimum(length, self.max_frames), tf.int32)
        return is_good, ids, labels, num_frames, *streams

    def element(self, values: Sequence[tf.Tensor], with_ids: bool) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """Returns the parsed values of a batch as `(inputs, labels)`."""
        ids, labels, num_frames, *streams = values
        inputs = {**dict(zip(self.sizes, streams, strict=True)), "num_frames": num_frames}
        return ({**inputs, "id": ids} if with_ids else inputs), labels

    def fault(self, record: bytes) -> str | None:
        """Describes what is wrong with a record, or returns `None` if nothing is."""
        try:
            example = tf.train.SequenceExample.FromString(record)
        except Exception:  # protobuf's DecodeError, without a dependency on its package
            return "not a SequenceExample"
        lists = example.feature_lists.feature_list
        for name, size in self.sizes.items():
            if name not in lists or not lists[name].feature:
                return f"no frames of `{name}`, which `feature_sizes` names (feature lists: {sorted(lists)})"
            for number, frame in enumerate(lists[name].feature):
                if len(frame.bytes_list.value) != 1:
                    return f"frame {number} of `{name}` is not one value of bytes"
                num_bytes = len(frame.bytes_list.value[0])
                if num_bytes != size * self.dtype.size:
                    return (
                        f"frame {number} of `{name}` has {num_bytes} bytes, expected {size * self.dtype.size}"
                        f"{self._other_dtype(size, num_bytes)}"
                    )
        lengths = {name: len(lists[name].feature) for name in self.sizes}
        if len(set(lengths.values())) > 1:
            return f"streams of different lengths, {lengths}"
        return _label_fault(example.context.feature, self.num_classes)

    def _other_dtype(self, size, num_bytes):
        dtypes = [dtype for dtype in FEATURE_DTYPES if num_bytes == size * tf.as_dtype(dtype).size]
        return f"; as feature_dtype={dtypes[0]!r} that is {size} features" if dtypes else ""


class VideoLevel:
    """Video-level records: an `Example` with the mean of each stream.

    Args:
        feature_sizes: Dict from the name of each stream to its feature size.
        num_classes: Integer, number of classes.
        *_: The other arguments of `FrameLevel`, which do not apply.
    """

    def __init__(self, feature_sizes: Mapping[str, int], num_classes: int, *_: Any) -> None:
        self.sizes = {f"mean_{name}": size for name, size in feature_sizes.items()}
        self.num_classes = num_classes
        self.dtypes = [tf.string, tf.float32, *(tf.float32 for _ in feature_sizes)]
        self.shapes = [(), (num_classes,), *((size,) for size in feature_sizes.values())]
        self.load = _compiled(self._parse)

    def _parse(self, records):
        means = {name: tf.io.FixedLenFeature([size], tf.float32) for name, size in self.sizes.items()}
        parsed = tf.io.parse_example(records, {**_context_features(), **means})
        ids, labels, is_good = _ids_and_labels(parsed, tf.size(records), self.num_classes)
        return is_good, ids, labels, *(parsed[name] for name in self.sizes)

    def element(self, values: Sequence[tf.Tensor], with_ids: bool) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """Returns the parsed values of a batch as `(inputs, labels)`."""
        ids, labels, *means = values
        inputs = dict(zip(self.sizes, means, strict=True))
        return ({**inputs, "id": ids} if with_ids else inputs), labels

    def fault(self, record: bytes) -> str | None:
        """Describes what is wrong with a record, or returns `None` if nothing is."""
        try:
            example = tf.train.Example.FromString(record)
        except Exception:  # protobuf's DecodeError, without a dependency on its package
            return "not an Example"
        features = example.features.feature
        for name, size in self.sizes.items():
            if name not in features:
                return f"no feature `{name}` (features: {sorted(features)})"
            if len(features[name].float_list.value) != size:
                return f"`{name}` has {len(features[name].float_list.value)} floats, expected {size}"
        return _label_fault(features, self.num_classes)


def _compiled(parse: Callable[[tf.Tensor], tuple]) -> Callable[[tf.Tensor, tf.Tensor], tuple]:
    """Compiles reading and parsing into one graph."""
    places = [tf.TensorSpec([None], tf.string), tf.TensorSpec([None], tf.int64)]
    return tf.function(
        lambda paths, offsets: parse(read_records(paths, offsets)), input_signature=places, autograph=False
    )


def _context_features():
    return {
        "labels": tf.io.VarLenFeature(tf.int64),
        **{name: tf.io.FixedLenFeature([], tf.string, default_value="") for name in ID_NAMES},
    }


def _ids_and_labels(context, num_records, num_classes):
    """Returns ids `(B,)`, multi-hot labels `(B, C)`, and whether every label is a class."""
    ids = tf.where(context[ID_NAMES[0]] == "", context[ID_NAMES[1]], context[ID_NAMES[0]])
    values = context["labels"].values
    is_class = (values >= 0) & (values < num_classes)
    places = tf.boolean_mask(tf.stack([context["labels"].indices[:, 0], values], axis=1), is_class)
    shape = tf.cast(tf.stack([num_records, num_classes]), tf.int64)
    counts = tf.scatter_nd(places, tf.ones([tf.shape(places)[0]]), shape)
    return ids, tf.minimum(counts, 1.0), tf.reduce_all(is_class)  # A record may repeat a label.


def _label_fault(features, num_classes):
    for name in ID_NAMES:
        if name in features and len(features[name].bytes_list.value) != 1:
            return f"`{name}` is not one value of bytes"
    if "labels" not in features:
        return None  # The records of the data set's test partition have no labels.
    if features["labels"].WhichOneof("kind") not in (None, "int64_list"):
        return "`labels` are not integers"
    wrong = [label for label in features["labels"].int64_list.value if not 0 <= label < num_classes]
    return f"label {wrong[0]} is out of range, expected 0 to {num_classes - 1}" if wrong else None
