"""The segment labels of YouTube-8M 2019: parses batches of segments, and explains a bad record."""

from collections.abc import Mapping

import tensorflow as tf

from keras_netvlad.data.record_schemas import ID_NAMES, FrameLevel, id_fault, ids_of, resized

# The label of a class that nobody rated for a segment.
UNRATED = -1.0
LISTS = {"segment_start_times": tf.int64, "segment_labels": tf.int64, "segment_scores": tf.float32}


class SegmentLevel(FrameLevel):
    """Frame-level records with rated segments. A batch contains every segment of its records.

    The context of a record has three lists with one entry for each rating: `segment_start_times`, in frames of the
    first stream; `segment_labels`, the class; and `segment_scores`, 1 if the class occurs in the segment.

    Args:
        feature_sizes, num_classes, feature_dtype, frame_counts: As for `FrameLevel`.
        segment_frames: Integer, number of frames of a segment.
    """

    def __init__(
        self,
        feature_sizes: Mapping[str, int],
        num_classes: int,
        feature_dtype: str,
        segment_frames: int,
        frame_counts: str = "shared",
    ) -> None:
        super().__init__(feature_sizes, num_classes, feature_dtype, segment_frames, True, frame_counts)

    def _parse(self, records):
        texts = {name: tf.io.FixedLenFeature([], tf.string, default_value="") for name in ID_NAMES}
        lists = {name: tf.io.VarLenFeature(dtype) for name, dtype in LISTS.items()}
        context, frames, lengths, is_good = self._parse_lists(records, {**texts, **lists})
        rows, starts, labels, are_rated = self._segments(context, lengths[self.first])
        is_good &= are_rated
        numbers = starts[:, tf.newaxis] + tf.range(self.max_frames, dtype=tf.int64)  # (S, N)
        places = tf.stack([tf.broadcast_to(rows[:, tf.newaxis], tf.shape(numbers)), numbers], axis=-1)  # (S, N, 2)
        end = tf.cast(tf.maximum(tf.reduce_max(starts) + self.max_frames, 0), tf.int32)
        segments = {name: tf.gather_nd(resized(values, end), places) for name, values in frames.items()}
        remaining = {name: tf.maximum(tf.gather(length, rows) - starts, 0) for name, length in lengths.items()}
        ids = tf.strings.join([tf.gather(ids_of(context), rows), tf.strings.as_string(starts)], ":")
        return is_good, ids, labels, *self._counts_and_streams(segments, remaining, is_good)

    def _segments(self, context, lengths):
        """Returns the record `(S,)`, start `(S,)` and labels `(S, C)` of each segment, and whether all are good."""
        rows, num_records = context["segment_labels"].indices[:, 0], tf.size(lengths, tf.int64)
        counts = [
            tf.math.bincount(tf.cast(context[name].indices[:, 0], tf.int32), minlength=tf.size(lengths))
            for name in LISTS
        ]
        is_good = tf.reduce_all([counts[0] > 0, counts[0] == counts[1], counts[0] == counts[2]])
        # Lists of different lengths are an error; shortened, they do not break the graph before it is reported.
        size = tf.reduce_min([tf.size(context[name].values) for name in LISTS])
        rows, starts, classes, scores = (v[:size] for v in (rows, *(context[name].values for name in LISTS)))
        is_rating = (classes >= 0) & (classes < self.num_classes) & (scores >= 0) & (scores <= 1)
        is_rating &= (starts >= 0) & (starts < tf.gather(lengths, rows))
        is_good &= tf.reduce_all(is_rating)
        rows, starts, classes, scores = (
            tf.boolean_mask(values, is_rating) for values in (rows, starts, classes, scores)
        )
        # A segment is a pair of record and start, in the order of their first ratings.
        pairs, segments = tf.unique(starts * num_records + rows, tf.int64)
        labels = tf.fill([tf.size(pairs), self.num_classes], UNRATED)
        labels = tf.tensor_scatter_nd_max(labels, tf.stack([segments, classes], axis=1), scores)
        return pairs % num_records, pairs // num_records, labels, is_good

    def fault(self, record: bytes) -> str | None:
        """Describes what is wrong with a record, or returns `None` if nothing is."""
        example, fault = self._frames_fault(record)
        return fault or self._segments_fault(example)

    def _segments_fault(self, example):
        features, num_frames = example.context.feature, len(example.feature_lists.feature_list[self.first].feature)
        if fault := id_fault(features):
            return fault
        kinds = {name: "float_list" if dtype == tf.float32 else "int64_list" for name, dtype in LISTS.items()}
        for name, kind in kinds.items():
            if name not in features or features[name].WhichOneof("kind") is None:
                return f"no `{name}`, which level='segment' reads (features: {sorted(features)})"
            if features[name].WhichOneof("kind") != kind:
                return f"`{name}` are not {'floats' if kind == 'float_list' else 'integers'}"
        lists = [getattr(features[name], kind).value for name, kind in kinds.items()]
        lengths = dict(zip(LISTS, map(len, lists), strict=True))
        if len(set(lengths.values())) > 1 or not lists[0]:
            return f"the lists of segments must have one length above 0, and have {lengths}"
        for start, label, score in zip(*lists, strict=True):
            if not 0 <= start < num_frames:
                return f"a segment starts at frame {start} of {num_frames}"
            if not 0 <= label < self.num_classes:
                return f"label {label} is out of range, expected 0 to {self.num_classes - 1}"
            if not 0 <= score <= 1:
                return f"segment score {score:g} is not from 0 to 1"
        return None
