"""Every kind of YouTube-8M's records, next to a reader that was written from the format."""

import re

import numpy as np
import pytest
import tensorflow as tf
import youtube8m_records as reference
from selection import slow_except

from keras_netvlad.data import write_youtube8m, youtube8m
from keras_netvlad.layers import Dequantize

SIZES = {"rgb": 8, "audio": 3}
CLASSES = 5
MAX_FRAMES = 12
READING = {"num_classes": CLASSES, "feature_sizes": SIZES, "with_ids": True}
# Segments of one record: several classes of one segment, a class rated twice in other segments, any order.
SEGMENTS = [(5, 1, 1), (0, 1, 0), (5, 3, 0), (3, 4, 1), (0, 0, 1)]


def video(number, lengths, **context):
    rng = np.random.default_rng(number)
    streams = {
        name: rng.integers(0, 256, (length, SIZES[name])).astype("uint8") for name, length in lengths.items() if length
    }
    return {"id": f"video {number}", "labels": [number % CLASSES, 0], **context, **streams}


# Lengths of the streams: equal, longer and shorter audio, more frames than are read, one frame.
LENGTHS = [(10, 10), (9, 11), (10, 7), (15, 20), (20, 13), (1, 1)]


@pytest.fixture
def uneven(tmp_path):
    """A file of videos whose streams have the lengths `LENGTHS`, and its records."""
    videos = [video(n, dict(zip(SIZES, lengths, strict=True))) for n, lengths in enumerate(LENGTHS)]
    write_youtube8m(tmp_path / "uneven.tfrecord", videos, frame_counts="each")
    return tmp_path / "uneven.tfrecord", records_of(tmp_path / "uneven.tfrecord")


def records_of(path):
    return [record.numpy() for record in tf.data.TFRecordDataset(str(path))]


def read(path, batch_size=10, **options):
    return list(youtube8m(path, batch_size, **{**READING, **options}).as_numpy_iterator())


@pytest.mark.parametrize("fixed_frames", slow_except([False, True], False))
def test_the_first_stream_sets_the_length_as_in_googles_reader(uneven, fixed_frames):
    path, records = uneven
    ((inputs, labels),) = read(path, frame_counts="first", max_frames=MAX_FRAMES, fixed_frames=fixed_frames)
    assert inputs["rgb"].shape[1] == inputs["audio"].shape[1] == MAX_FRAMES
    for row, record in enumerate(records):
        name, expected, length, streams = reference.read_frames(record, SIZES, CLASSES, MAX_FRAMES)
        assert (inputs["id"][row], inputs["num_frames"][row]) == (name, length)
        np.testing.assert_array_equal(labels[row], expected)
        for stream, values in streams.items():
            features = np.asarray(Dequantize()(inputs[stream][row, :length]))
            # A frame that audio lacks is 0 in Google's reader and 3.1e-5 below it in bytes.
            np.testing.assert_allclose(features, values[:length], rtol=0, atol=3.2e-5)
            assert not inputs[stream][row, length:].any()


def test_each_stream_has_its_own_number_of_frames(uneven):
    path, _ = uneven
    ((inputs, _),) = read(path, frame_counts="each", max_frames=MAX_FRAMES)
    assert "num_frames" not in inputs
    for place, name in enumerate(SIZES):
        lengths = [min(pair[place], MAX_FRAMES) for pair in LENGTHS]
        assert inputs[f"num_frames_{name}"].tolist() == lengths
        for row, (pair, length) in enumerate(zip(LENGTHS, lengths, strict=True)):
            written = video(row, dict(zip(SIZES, pair, strict=True)))[name]
            np.testing.assert_array_equal(inputs[name][row, :length], written[:length])
            assert not inputs[name][row, length:].any()


@pytest.mark.slow
def test_an_absent_stream_has_no_frames(tmp_path):
    write_youtube8m(tmp_path / "a.tfrecord", [video(0, {"rgb": 4}), video(1, {"rgb": 2})], frame_counts="each")
    ((inputs, _),) = read(tmp_path / "a.tfrecord", frame_counts="each")
    assert inputs["num_frames_audio"].tolist() == [0, 0]
    assert inputs["audio"].shape == (2, 1, 3)
    with pytest.raises(tf.errors.InvalidArgumentError, match="no frames of `audio`"):
        read(tmp_path / "a.tfrecord")
    write_youtube8m(tmp_path / "b.tfrecord", [video(0, {"audio": 4})], frame_counts="each")
    with pytest.raises(tf.errors.InvalidArgumentError, match="no frames of `rgb`"):
        read(tmp_path / "b.tfrecord", frame_counts="first")
    with pytest.raises(tf.errors.InvalidArgumentError, match=re.escape("no frames of ['pose'] (feature lists: ['aud")):
        read(tmp_path / "b.tfrecord", frame_counts="each", feature_sizes={"pose": 3})


@pytest.mark.parametrize("frame_counts", slow_except(["shared", "first", "each"], "shared"))
def test_float32_is_read_as_it_was_written(tmp_path, frame_counts):
    rng = np.random.default_rng(0)
    videos = [
        {"id": str(n), "labels": [n], "rgb": rng.normal(size=(n + 2, 8)) * 1e6, "audio": rng.normal(size=(n + 2, 3))}
        for n in range(3)
    ]
    write_youtube8m(tmp_path / "a.tfrecord", videos, feature_dtype="float32")
    ((inputs, _),) = read(tmp_path / "a.tfrecord", feature_dtype="float32", frame_counts=frame_counts, max_frames=3)
    for row, written in enumerate(videos):
        for name in SIZES:
            length = min(row + 2, 3)
            assert inputs[name].dtype == np.float32
            np.testing.assert_array_equal(inputs[name][row, :length], written[name][:length].astype("float32"))
            assert not inputs[name][row, length:].any()


@pytest.mark.slow
def test_other_kinds_of_frames_are_named(tmp_path):
    path = tmp_path / "a.tfrecord"
    write_youtube8m(path, [video(0, {"rgb": 2, "audio": 2})])
    with pytest.raises(tf.errors.InvalidArgumentError, match="frame 0 of `rgb` has bytes, expected floats; read it"):
        read(path, feature_dtype="float32")
    frames = {name: np.ones((2, size)) for name, size in SIZES.items()}
    write_youtube8m(tmp_path / "b.tfrecord", [{"id": "b", "labels": [], **frames}], feature_dtype="float32")
    with pytest.raises(tf.errors.InvalidArgumentError, match="`rgb` has 8 floats, expected bytes; read it with"):
        read(tmp_path / "b.tfrecord")
    with pytest.raises(tf.errors.InvalidArgumentError, match="`rgb` has 8 floats, expected 9"):
        read(tmp_path / "b.tfrecord", feature_dtype="float32", feature_sizes={"rgb": 9})


def test_segments_are_those_of_googles_reader(tmp_path):
    path = tmp_path / "a.tfrecord"
    videos = [
        video(0, {"rgb": 10, "audio": 10}, segments=SEGMENTS),
        video(1, {"rgb": 9, "audio": 9}, segments=[(2, 2, 1)]),
        video(2, {"rgb": 10, "audio": 8}, segments=[(5, 2, 0), (0, 2, 1)]),
    ]
    write_youtube8m(path, videos, frame_counts="each")
    batches = read(path, 2, level="segment", frame_counts="first")
    assert [len(labels) for _, labels in batches] == [4, 2]
    rows = [
        ({name: values[row] for name, values in inputs.items()}, labels[row])
        for inputs, labels in batches
        for row in range(len(labels))
    ]
    expected = [
        (f"video {number}:{segment[0]}".encode(), *segment[1:])
        for number, record in enumerate(records_of(path))
        for segment in reference.read_segments(record, SIZES, CLASSES, MAX_FRAMES, 5)
    ]
    for (inputs, labels), (name, scores, rated, streams) in zip(rows, expected, strict=True):
        assert (inputs["id"], inputs["num_frames"]) == (name, 5)
        np.testing.assert_array_equal(labels, np.where(rated, scores, -1))
        for stream, values in streams.items():
            features = np.asarray(Dequantize()(inputs[stream]))
            np.testing.assert_allclose(features, values, rtol=0, atol=3.2e-5)


def test_a_segment_ends_with_its_video(tmp_path):
    write_youtube8m(tmp_path / "a.tfrecord", [video(0, {"rgb": 7, "audio": 7}, segments=[(5, 1, 1), (0, 1, 0)])])
    ((inputs, _),) = read(tmp_path / "a.tfrecord", level="segment")
    assert inputs["num_frames"].tolist() == [2, 5]
    assert not inputs["rgb"][0, 2:].any()
    ((inputs, _),) = read(tmp_path / "a.tfrecord", level="segment", segment_frames=3, max_frames=1)
    assert inputs["num_frames"].tolist() == [2, 3]


def edited(change):
    def apply(record):
        example = tf.train.SequenceExample.FromString(record)
        change(example.context.feature)
        return example.SerializeToString()

    return apply


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda f: f.pop("segment_scores"), r"no `segment_scores`, which level='segment' reads \(features: "),
        (lambda f: f["segment_labels"].int64_list.value.pop(), "the lists of segments must have one length above 0"),
        (lambda f: [f[name].Clear() for name in list(f) if name != "id"], "no `segment_start_times`, which level="),
        (lambda f: f["segment_labels"].int64_list.value.__setitem__(0, 5), "label 5 is out of range, expected 0 to 4"),
        (lambda f: f["segment_labels"].int64_list.value.__setitem__(0, -1), "label -1 is out of range"),
        (lambda f: f["segment_start_times"].int64_list.value.__setitem__(0, 10), "a segment starts at frame 10 of 10"),
        (lambda f: f["segment_start_times"].int64_list.value.__setitem__(0, -1), "a segment starts at frame -1 of 10"),
        (lambda f: f["segment_scores"].float_list.value.__setitem__(0, 2), "segment score 2 is not from 0 to 1"),
        (lambda f: f["segment_scores"].int64_list.value.append(1), "`segment_scores` are not floats"),
    ],
)
def test_a_bad_record_of_segments_is_named_or_skipped(tmp_path, change, reason):
    write_youtube8m(tmp_path / "good.tfrecord", [video(n, {"rgb": 10, "audio": 10}, segments=SEGMENTS) for n in (0, 1)])
    good = records_of(tmp_path / "good.tfrecord")
    path = tmp_path / "bad.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in (good[0], edited(change)(good[1])):
            writer.write(record)
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"bad.tfrecord, record 1: {reason}"):
        read(path, level="segment")
    ((inputs, _),) = read(path, level="segment", errors="skip")
    assert inputs["id"].tolist() == [b"video 0:5", b"video 0:0", b"video 0:3"]


@pytest.mark.slow
def test_means_are_those_of_googles_reader_also_as_frames(tmp_path):
    rng = np.random.default_rng(0)
    videos = [
        {"id": f"v{n}", "labels": [n], **{name: rng.normal(size=size) for name, size in SIZES.items()}}
        for n in range(3)
    ]
    path = tmp_path / "a.tfrecord"
    write_youtube8m(path, videos, level="video")
    ((inputs, labels),), ((frames, _),) = (read(path, level="video", as_frames=value) for value in (False, True))
    assert frames["num_frames"].tolist() == [1, 1, 1]
    assert set(frames) == {*SIZES, "num_frames", "id"}
    for row, record in enumerate(records_of(path)):
        name, expected, means = reference.read_means(record, SIZES, CLASSES)
        assert inputs["id"][row] == name
        np.testing.assert_array_equal(labels[row], expected)
        for stream, values in means.items():
            np.testing.assert_array_equal(inputs[f"mean_{stream}"][row], values)
            np.testing.assert_array_equal(frames[stream][row], values[None])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": "segment", "frame_counts": "each"}, r"`frame_counts` must be one of \['shared', 'first'\]"),
        ({"level": "segment", "shard": (0, 2), "drop_remainder": True}, "train on segments on one host"),
        ({"level": "video", "frame_counts": "first"}, r"`frame_counts` must be one of \['shared'\]"),
        ({"as_frames": True}, "`as_frames` is for level='video'"),
        ({"segment_frames": 0}, "`segment_frames` must be a positive integer"),
    ],
)
def test_wrong_arguments(uneven, options, message):
    with pytest.raises(ValueError, match=message):
        read(uneven[0], **options)


@pytest.mark.parametrize(
    "segments", [[(0, 1)], [(0.5, 1, 1)], [(-1, 1, 1)], [(0, 1, 2)], [(0, 1, float("nan"))], [], "abc", 3]
)
def test_wrong_segments_are_not_written(tmp_path, segments):
    with pytest.raises(ValueError, match=r"`segments` must be, at frame level, a list of \(start, label, score\)"):
        write_youtube8m(tmp_path / "a.tfrecord", [video(0, {"rgb": 5}, segments=segments)])
    assert not list(tmp_path.iterdir())
