"""The schemas of YouTube-8M's records at frame level and video level: parses batches, and explains a bad record."""

from collections.abc import Callable, Mapping, Sequence

import tensorflow as tf

from keras_netvlad.data.record_files import read_records

FEATURE_DTYPES = ("uint8", "float16", "float32")
FRAME_COUNTS = ("shared", "first", "each")
# The versions of 2016 and 2017 of the data set name it `video_id`.
ID_NAMES = ("id", "video_id")
# The byte that `Dequantize` maps next to 0, to -3e-5.
BYTE_OF_ZERO = 127


class FrameLevel:
    """Frame-level records: a `SequenceExample` with a list of frames for each stream.

    A frame is one bytes feature, or one list of floats if `feature_dtype` is `"float32"`.

    Args:
        feature_sizes: Dict from the name of each stream to its feature size.
        num_classes: Integer, number of classes.
        feature_dtype: `"uint8"`, `"float16"` or `"float32"`, the type of the values of a frame.
        max_frames: Integer, largest number of frames taken from a video.
        fixed_frames: Boolean, whether every batch has `max_frames` frames.
        frame_counts: `"shared"`, `"first"` or `"each"`, as for `youtube8m`.
    """

    def __init__(
        self,
        feature_sizes: Mapping[str, int],
        num_classes: int,
        feature_dtype: str,
        max_frames: int,
        fixed_frames: bool,
        frame_counts: str = "shared",
    ) -> None:
        self.sizes, self.num_classes = feature_sizes, num_classes
        self.max_frames, self.fixed_frames = max_frames, fixed_frames
        self.dtype = tf.as_dtype(feature_dtype)
        self.frame_counts = frame_counts
        self.first = next(iter(feature_sizes))
        self.count_names = [f"num_frames_{name}" for name in feature_sizes] if self._has_each else ["num_frames"]
        counts = [tf.int32 for _ in self.count_names]
        self.dtypes = [tf.string, tf.float32, *counts, *(self.dtype for _ in feature_sizes)]
        time = max_frames if fixed_frames else None
        self.shapes = [(), (num_classes,), *(() for _ in counts), *((time, size) for size in feature_sizes.values())]
        self.load = _compiled(self._parse)

    @property
    def _has_each(self):
        return self.frame_counts == "each"

    def _parse(self, records):
        context, frames, lengths, is_good = self._parse_lists(records, _context_features())
        ids, labels, has_classes = _ids_and_labels(context, tf.size(records), self.num_classes)
        is_good &= has_classes
        return is_good, ids, labels, *self._counts_and_streams(frames, lengths, is_good)

    def _parse_lists(self, records, context_features):
        """Parses records; returns context, frames and lengths of each stream, and whether all frames are good."""
        kinds = {
            name: ([size], tf.float32) if self._has_floats else ([], tf.string) for name, size in self.sizes.items()
        }
        lists = {name: tf.io.FixedLenSequenceFeature(*kind, allow_missing=True) for name, kind in kinds.items()}
        context, frames, lengths = tf.io.parse_sequence_example(records, context_features, lists)
        shared = lengths[self.first]
        is_good = tf.reduce_all(tf.add_n(list(lengths.values())) > 0) if self._has_each else tf.reduce_all(shared > 0)
        for name, size in self.sizes.items():
            if self.frame_counts == "shared":
                is_good &= tf.reduce_all(lengths[name] == shared)
            if not self._has_floats:
                # decode_raw silently cuts longer frames and fills shorter ones.
                is_real = tf.sequence_mask(lengths[name], tf.shape(frames[name])[1])
                num_bytes = size * self.dtype.size
                is_good &= tf.reduce_all(tf.strings.length(frames[name]) == tf.where(is_real, num_bytes, 0))
        return context, frames, lengths, is_good

    @property
    def _has_floats(self):
        return self.dtype == tf.float32

    def _counts_and_streams(self, frames, lengths, is_good):
        """Returns the frame counts `(B,)` and the streams `(B, T, D)` of a batch, as `element` takes them."""
        # TensorFlow sorts the streams by name.
        counts = {name: tf.cast(tf.minimum(lengths[name], self.max_frames), tf.int32) for name in self.sizes}
        first = counts[self.first]
        streams = []
        for name, size in self.sizes.items():
            longest = tf.reduce_max(counts[name] if self._has_each else first)
            # A batch without a single frame of a stream keeps one frame of padding, which poolings need.
            time = self.max_frames if self.fixed_frames else tf.maximum(longest, 1)
            # decode_raw gives an empty frame, two bytes in the file, the size of a whole one.
            values = self._decoded(resized(frames[name], tf.where(is_good, time, 0)), size)
            if self.frame_counts == "first":
                numbers = tf.range(tf.shape(values)[1])
                is_real = numbers < first[:, None]
                is_missing = is_real & (numbers >= counts[name][:, None])
                zero = tf.constant(BYTE_OF_ZERO if self.dtype == tf.uint8 else 0, self.dtype)
                values = tf.where(is_missing[..., None], zero, values)
                values = tf.where(is_real[..., None], values, tf.constant(0, self.dtype))
            streams.append(values)
        return *(counts.values() if self._has_each else [first]), *streams

    def _decoded(self, frames, size):
        if self._has_floats:
            return frames
        # decode_raw has no kernel for float16.
        integers = {1: tf.uint8, 2: tf.uint16}[self.dtype.size]
        return tf.bitcast(tf.io.decode_raw(frames, integers, fixed_length=size * self.dtype.size), self.dtype)

    def element(self, values: Sequence[tf.Tensor], with_ids: bool) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """Returns the parsed values of a batch as `(inputs, labels)`."""
        ids, labels, *rest = values
        inputs = dict(zip([*self.count_names, *self.sizes], rest, strict=True))
        return ({**inputs, "id": ids} if with_ids else inputs), labels

    def fault(self, record: bytes) -> str | None:
        """Describes what is wrong with a record, or returns `None` if nothing is."""
        example, fault = self._frames_fault(record)
        return fault or _label_fault(example.context.feature, self.num_classes)

    def _frames_fault(self, record):
        """Returns the parsed record, and what is wrong with its frames."""
        try:
            example = tf.train.SequenceExample.FromString(record)
        except Exception:  # protobuf's DecodeError, without a dependency on its package
            return None, "not a SequenceExample"
        lists = example.feature_lists.feature_list
        lengths = {name: len(lists[name].feature) if name in lists else 0 for name in self.sizes}
        for name, size in self.sizes.items():
            is_needed = self.frame_counts == "shared" or (self.frame_counts == "first" and name == self.first)
            if is_needed and not lengths[name]:
                return example, f"no frames of `{name}`, which `feature_sizes` names (feature lists: {sorted(lists)})"
            for number in range(lengths[name]):
                if fault := self._frame_fault(lists[name].feature[number], size):
                    return example, f"frame {number} of `{name}` {fault}"
        if not any(lengths.values()):
            return example, f"no frames of {list(self.sizes)} (feature lists: {sorted(lists)})"
        if self.frame_counts == "shared" and len(set(lengths.values())) > 1:
            return example, f"streams of different lengths, {lengths}; frame_counts='each' or 'first' reads them"
        return example, None

    def _frame_fault(self, frame, size):
        if self._has_floats:
            if frame.WhichOneof("kind") == "bytes_list":
                return "has bytes, expected floats; read it with feature_dtype='uint8' or 'float16'"
            number = len(frame.float_list.value)
            return None if number == size else f"has {number} floats, expected {size}"
        if len(frame.float_list.value):
            return f"has {len(frame.float_list.value)} floats, expected bytes; read it with feature_dtype='float32'"
        if len(frame.bytes_list.value) != 1:
            return "is not one value of bytes"
        num_bytes = len(frame.bytes_list.value[0])
        expected = size * self.dtype.size
        if num_bytes != expected:
            return f"has {num_bytes} bytes, expected {expected}{self._other_dtype(size, num_bytes)}"
        return None

    def _other_dtype(self, size, num_bytes):
        dtypes = [dtype for dtype in FEATURE_DTYPES[:2] if num_bytes == size * tf.as_dtype(dtype).size]
        return f"; as feature_dtype={dtypes[0]!r} that is {size} features" if dtypes else ""


class VideoLevel:
    """Video-level records: an `Example` with the mean of each stream.

    Args:
        feature_sizes: Dict from the name of each stream to its feature size.
        num_classes: Integer, number of classes.
        as_frames: Boolean, whether `element` gives the means as clips of one frame.
    """

    def __init__(self, feature_sizes: Mapping[str, int], num_classes: int, as_frames: bool = False) -> None:
        self.sizes = {f"mean_{name}": size for name, size in feature_sizes.items()}
        self.streams, self.num_classes, self.as_frames = list(feature_sizes), num_classes, as_frames
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
        if self.as_frames:
            inputs = {name: mean[:, tf.newaxis] for name, mean in zip(self.streams, means, strict=True)}
            inputs["num_frames"] = tf.ones_like(ids, tf.int32)
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


def resized(frames: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
    """Cuts the frames `(B, T, ...)` of a batch to a length, or fills them up with zeros or empty strings."""
    missing = tf.maximum(length - tf.shape(frames)[1], 0)
    paddings = [[0, 0], [0, missing], *([0, 0] for _ in frames.shape[2:])]
    return tf.pad(frames[:, :length], paddings, constant_values="" if frames.dtype == tf.string else 0)


def _context_features():
    return {
        "labels": tf.io.VarLenFeature(tf.int64),
        **{name: tf.io.FixedLenFeature([], tf.string, default_value="") for name in ID_NAMES},
    }


def ids_of(context: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Returns the ids `(B,)` of records, by either name."""
    return tf.where(context[ID_NAMES[0]] == "", context[ID_NAMES[1]], context[ID_NAMES[0]])


def _ids_and_labels(context, num_records, num_classes):
    """Returns ids `(B,)`, multi-hot labels `(B, C)`, and whether every label is a class."""
    values = context["labels"].values
    is_class = (values >= 0) & (values < num_classes)
    places = tf.boolean_mask(tf.stack([context["labels"].indices[:, 0], values], axis=1), is_class)
    shape = tf.cast(tf.stack([num_records, num_classes]), tf.int64)
    counts = tf.scatter_nd(places, tf.ones([tf.shape(places)[0]]), shape)
    return ids_of(context), tf.minimum(counts, 1.0), tf.reduce_all(is_class)  # A record may repeat a label.


def id_fault(features: Mapping[str, tf.train.Feature]) -> str | None:
    """Describes what is wrong with the id of a record, or returns `None`."""
    for name in ID_NAMES:
        if name in features and len(features[name].bytes_list.value) != 1:
            return f"`{name}` is not one value of bytes"
    return None


def _label_fault(features, num_classes):
    if fault := id_fault(features):
        return fault
    if "labels" not in features:
        return None  # The records of the data set's test partition have no labels.
    if features["labels"].WhichOneof("kind") not in (None, "int64_list"):
        return "`labels` are not integers"
    wrong = [label for label in features["labels"].int64_list.value if not 0 <= label < num_classes]
    return f"label {wrong[0]} is out of range, expected 0 to {num_classes - 1}" if wrong else None
