"""Records of YouTube-8M's schema, read and written; the oracle takes them apart with protobuf and NumPy."""

import re

import numpy as np
import pytest
import tensorflow as tf

from keras_netvlad import VideoClassifier
from keras_netvlad.data import load_japanese_vowels, write_youtube8m, youtube8m
from keras_netvlad.data.record_files import index_records
from keras_netvlad.data.record_schemas import FrameLevel
from keras_netvlad.layers import Dequantize

SIZES = {"rgb": 8, "audio": 3}
CLASSES = 5


def make_videos(count, seed=0, sizes=SIZES, longest=12):
    rng = np.random.default_rng(seed)
    videos = []
    for number in range(count):
        length = int(rng.integers(1, longest + 1))
        labels = rng.choice(CLASSES, int(rng.integers(0, 4)), replace=False).tolist()
        streams = {name: rng.integers(0, 256, (length, size)).astype("uint8") for name, size in sizes.items()}
        videos.append({"id": f"{seed}-{number}", "labels": labels, **streams})
    return videos


@pytest.fixture
def files(tmp_path):
    """Three files of 7, 5 and 6 videos, and the videos by id."""
    videos = {}
    for part, count in enumerate((7, 5, 6)):
        made = make_videos(count, part)
        assert write_youtube8m(tmp_path / f"train{part}.tfrecord", made) == count
        videos.update((video["id"].encode(), video) for video in made)
    return str(tmp_path / "train*.tfrecord"), videos


def read(files, batch_size=4, **options):
    options = {"num_classes": CLASSES, "feature_sizes": SIZES, "with_ids": True, **options}
    return list(youtube8m(files, batch_size, **options).as_numpy_iterator())


def ids(batches):
    return [inputs["id"].tolist() for inputs, _ in batches]


def good_record(path):
    """The bytes of a file's first record."""
    return next(iter(tf.data.TFRecordDataset(str(path)))).numpy()


def write_records(path, records):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)


@pytest.mark.parametrize("fixed_frames", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
def test_every_video_comes_once_as_it_was_written(files, shuffle, fixed_frames):
    pattern, videos = files
    max_frames = 9
    batches = read(pattern, shuffle=shuffle, fixed_frames=fixed_frames, max_frames=max_frames)
    assert [len(labels) for _, labels in batches] == [4, 4, 4, 4, 2]
    seen = [name for batch in ids(batches) for name in batch]
    assert sorted(seen) == sorted(videos)
    assert (seen == list(videos)) is not shuffle
    for inputs, labels in batches:
        lengths = [min(len(videos[name]["rgb"]), max_frames) for name in inputs["id"]]
        assert inputs["num_frames"].dtype == np.int32
        np.testing.assert_array_equal(inputs["num_frames"], lengths)
        for row, (name, length) in enumerate(zip(inputs["id"], lengths, strict=True)):
            np.testing.assert_array_equal(np.flatnonzero(labels[row]), sorted(videos[name]["labels"]))
            assert set(np.unique(labels[row])) <= {0.0, 1.0}
            for stream in SIZES:
                values = inputs[stream][row]
                assert values.dtype == np.uint8
                assert len(values) == (max_frames if fixed_frames else max(lengths))
                np.testing.assert_array_equal(values[:length], videos[name][stream][:length])
                assert not values[length:].any()


def test_cardinality_and_shapes_are_known_beforehand(files):
    pattern, _ = files
    options = {"num_classes": CLASSES, "feature_sizes": SIZES}
    assert len(youtube8m(pattern, 4, **options)) == 5
    assert len(youtube8m(pattern, 4, drop_remainder=True, epochs=3, **options)) == 12
    assert len(youtube8m(pattern, 4, epochs=3, start_epoch=1, start_step=2, **options)) == 8
    endless = youtube8m(pattern, 4, epochs=None, drop_remainder=True, fixed_frames=True, **options)
    assert endless.cardinality() == tf.data.INFINITE_CARDINALITY
    later = youtube8m(pattern, 4, epochs=None, start_epoch=2, start_step=3, **options)
    assert later.cardinality() == tf.data.INFINITE_CARDINALITY
    inputs, labels = endless.element_spec
    assert inputs["rgb"] == tf.TensorSpec((4, 300, 8), tf.uint8)
    assert inputs["num_frames"] == tf.TensorSpec((4,), tf.int32)
    assert labels == tf.TensorSpec((4, CLASSES), tf.float32)


def test_epochs_differ_and_any_point_can_be_gone_on_from(files):
    pattern, videos = files
    whole = ids(read(pattern, shuffle=True, seed=3, epochs=3))
    assert len(whole) == 15
    epochs = [whole[start : start + 5] for start in (0, 5, 10)]
    for epoch in epochs:
        assert sorted(name for batch in epoch for name in batch) == sorted(videos)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert ids(read(pattern, shuffle=True, seed=4, epochs=3)) != whole
    for epoch, step in ((0, 0), (0, 3), (1, 0), (2, 4)):
        rest = ids(read(pattern, shuffle=True, seed=3, epochs=3, start_epoch=epoch, start_step=step))
        assert rest == whole[epoch * 5 + step :]
    endless = youtube8m(
        pattern, 4, num_classes=CLASSES, feature_sizes=SIZES, with_ids=True, shuffle=True, seed=3, epochs=None
    )
    assert ids(endless.take(15).as_numpy_iterator()) == whole


def test_shards_take_different_files_and_the_same_number_of_batches(files):
    pattern, _ = files
    shards = [ids(read(pattern, 3, shard=(index, 3), drop_remainder=True)) for index in range(3)]
    assert [len(shard) for shard in shards] == [1, 1, 1]  # 7, 5 and 6 videos
    assert [{name[:1] for batch in shard for name in batch} for shard in shards] == [{b"0"}, {b"1"}, {b"2"}]


def test_a_shard_takes_every_second_file_of_those_sorted(tmp_path):
    for number in range(4):
        write_youtube8m(tmp_path / f"{number}.tfrecord", make_videos(1, number))
    for index in range(2):
        shard = ids(read(str(tmp_path / "*.tfrecord"), 1, shard=(index, 2), drop_remainder=True))
        assert shard == [[f"{index}-0".encode()], [f"{index + 2}-0".encode()]]


def test_folders_that_match_a_pattern_are_passed_over(tmp_path):
    (tmp_path / "train.d").mkdir()
    write_youtube8m(tmp_path / "train.tfrecord", make_videos(2))
    assert ids(read(str(tmp_path / "train*"))) == [[b"0-0", b"0-1"]]


def test_floats_are_quantized_to_the_nearest_level(tmp_path):
    levels = np.asarray(Dequantize()(np.arange(256, dtype="uint8")))
    values = np.random.default_rng(0).uniform(-2.5, 2.5, (50, 8))
    videos = [{"id": "levels", "labels": [0], "x": levels.reshape(32, 8)}, {"id": "v", "labels": [1], "x": values}]
    write_youtube8m(tmp_path / "a.tfrecord", videos)
    ((inputs, _),) = read(tmp_path / "a.tfrecord", feature_sizes={"x": 8})
    np.testing.assert_array_equal(inputs["x"][0, :32].reshape(-1), np.arange(256))
    nearest = np.abs(np.clip(values, -2, 2)[..., None] - levels).argmin(-1)
    np.testing.assert_array_equal(inputs["x"][1], nearest)


def test_floats_of_any_scale_in_float16(tmp_path):
    rng = np.random.default_rng(0)
    frames = [(rng.normal(size=(length, 4)) * 100).astype("float32") for length in (3, 5)]
    videos = [{"id": str(n), "labels": [n], "rgb": values} for n, values in enumerate(frames)]
    write_youtube8m(tmp_path / "halves.tfrecord", videos, feature_dtype="float16")
    reading = {"num_classes": 2, "feature_sizes": {"rgb": 4}}
    data = youtube8m(
        tmp_path / "halves.tfrecord", 2, feature_dtype="float16", fixed_frames=True, max_frames=6, **reading
    )
    [(inputs, _)] = data
    assert inputs["rgb"].dtype == "float16"
    assert inputs["num_frames"].numpy().tolist() == [3, 5]
    for row, values in zip(inputs["rgb"].numpy(), frames, strict=True):
        np.testing.assert_array_equal(row[: len(values)], values.astype("float16"))
        assert not row[len(values) :].any()
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="has 8 bytes, expected 4; as feature_dtype='float16' that is 4 features"
    ):
        list(youtube8m(tmp_path / "halves.tfrecord", 2, **reading))
    model = VideoClassifier({"rgb": 4}, 2, num_clusters=2, hidden_units=None)
    model.compile("sgd", "binary_crossentropy")
    assert np.isfinite(model.evaluate(data, verbose=0))


def test_what_float16_can_not_hold_is_refused(tmp_path):
    def write(values, **options):
        write_youtube8m(tmp_path / "x.tfrecord", [{"id": "a", "labels": [], "rgb": values}], **options)

    with pytest.raises(ValueError, match=r"in float16's range, -65504 to 65504\. Received: video 0, `rgb` with 70000"):
        write(np.array([[7e4]]), feature_dtype="float16")
    with pytest.raises(ValueError, match=r"in float16's range, .* Received: video 0, `rgb` with 70000"):
        write(np.array([[1.0, -7e4]]), feature_dtype="float16")
    with pytest.raises(
        ValueError, match=r"must be floats \(T, D\), at least one frame. Received: video 0, `rgb` of uint8"
    ):
        write(np.zeros((2, 3), "uint8"), feature_dtype="float16")
    for options in ({"feature_dtype": "int8"}, {"feature_dtype": "float16", "level": "video"}):
        with pytest.raises(ValueError, match="`feature_dtype` must be one of"):
            write(np.zeros((2, 3)), **options)
        with pytest.raises(ValueError, match="`feature_dtype` must be one of"):
            youtube8m(tmp_path / "x.tfrecord", 1, **options)
    assert not list(tmp_path.iterdir())
    write(np.array([[65504.0, -65504.0]]), feature_dtype="float16")
    ((inputs, _),) = read(tmp_path / "x.tfrecord", feature_sizes={"rgb": 2}, feature_dtype="float16")
    assert inputs["rgb"].tolist() == [[[65504.0, -65504.0]]]


def test_video_level(tmp_path):
    rng = np.random.default_rng(0)
    videos = [{"id": f"v{n}", "labels": [n], "rgb": rng.normal(size=8), "audio": rng.normal(size=3)} for n in range(5)]
    write_youtube8m(tmp_path / "a.tfrecord", videos, level="video")
    batches = read(tmp_path / "a.tfrecord", level="video")
    for name, size in SIZES.items():
        stacked = np.concatenate([inputs[f"mean_{name}"] for inputs, _ in batches])
        assert stacked.shape == (5, size)
        np.testing.assert_array_equal(stacked, np.stack([video[name] for video in videos]).astype("float32"))
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in batches]), np.eye(5))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"a.tfrecord, record 0: no frames of `rgb`"):
        read(tmp_path / "a.tfrecord")


def test_test_partition_without_labels_and_older_ids(tmp_path):
    example = tf.train.SequenceExample.FromString(_record({"id": "old", "labels": [], **_streams()}))
    example.context.feature["video_id"].CopyFrom(example.context.feature["id"])
    del example.context.feature["id"], example.context.feature["labels"]
    write_records(tmp_path / "a.tfrecord", [example.SerializeToString()])
    ((inputs, labels),) = read(tmp_path / "a.tfrecord")
    assert inputs["id"].tolist() == [b"old"]
    assert not labels.any()


def _streams(length=4):
    return {name: np.zeros((length, size), "uint8") for name, size in SIZES.items()}


def _record(video):
    from keras_netvlad.data.sequence_example import serialize_example
    from keras_netvlad.data.youtube8m_writer import _check_video

    context, streams = _check_video(0, video, "frame", "uint8")
    return serialize_example(streams, context)


def _changed(change):
    """A record of two streams in which `change` edits the protobuf."""
    example = tf.train.SequenceExample.FromString(_record({"id": "x", "labels": [], **_streams()}))
    change(example)
    return example.SerializeToString()


def _uneven():
    example = tf.train.SequenceExample.FromString(_record({"id": "x", "labels": [], **_streams()}))
    del example.feature_lists.feature_list["audio"].feature[0]
    return example.SerializeToString()


def _unknown_field():
    example = tf.train.SequenceExample.FromString(_record({"id": "x", "labels": [], **_streams()}))
    # Field 9, which protobuf keeps and TensorFlow's parser refuses.
    example.context.feature["labels"].CopyFrom(tf.train.Feature.FromString(b"J\x03abc"))
    return example.SerializeToString()


BAD_RECORDS = {
    "TensorFlow's parser refuses the record": _unknown_field(),
    "not a SequenceExample": b"\xff\xff\xff",
    r"no frames of `rgb`, which `feature_sizes` names \(feature lists: \[\]\)": b"",
    r"no frames of `audio`, which `feature_sizes` names \(feature lists: \['rgb'\]\)": _record(
        {"id": "x", "labels": [], "rgb": np.zeros((2, 8), "uint8")}
    ),
    r"frame 0 of `rgb` has 7 bytes, expected 8": _record(
        {"id": "x", "labels": [], **_streams(), "rgb": np.zeros((4, 7), "uint8")}
    ),
    r"streams of different lengths, \{'rgb': 4, 'audio': 3\}": _uneven(),
    "label 5 is out of range, expected 0 to 4": _record({"id": "x", "labels": [1, 5], **_streams()}),
    "label -1 is out of range, expected 0 to 4": _changed(
        lambda example: example.context.feature["labels"].int64_list.value.append(-1)
    ),
    "frame 2 of `rgb` is not one value of bytes": _changed(
        lambda example: example.feature_lists.feature_list["rgb"].feature[2].bytes_list.value.append(bytes(8))
    ),
    "frame 3 of `audio` is not one value of bytes": _changed(
        lambda example: example.feature_lists.feature_list["audio"].feature[3].bytes_list.Clear()
    ),
    r"frame 1 of `rgb` has 9 bytes, expected 8": _changed(
        lambda example: example.feature_lists.feature_list["rgb"].feature[1].bytes_list.value.__setitem__(0, bytes(9))
    ),
    "`id` is not one value of bytes": _changed(
        lambda example: example.context.feature["id"].bytes_list.value.append(b"y")
    ),
    "`labels` are not integers": _changed(
        lambda example: example.context.feature["labels"].float_list.value.append(1.0)
    ),
}


@pytest.mark.parametrize("reason", BAD_RECORDS)
def test_a_bad_record_is_named_or_skipped(tmp_path, reason):
    path = tmp_path / "a.tfrecord"
    good = [_record(video) for video in make_videos(5)]
    write_records(path, [*good[:3], BAD_RECORDS[reason], *good[3:]])
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"a.tfrecord, record 3: {reason}"):
        read(path)
    skipped = {}
    batches = read(path, errors="skip", skipped=skipped)
    assert ids(batches) == [[b"0-0", b"0-1", b"0-2"], [b"0-3", b"0-4"]]
    assert list(skipped) == [(str(path), 3)]
    assert re.fullmatch(reason + "(; .*)?", skipped[str(path), 3])
    with pytest.raises(tf.errors.InvalidArgumentError, match="no other record of its batch is good"):
        read(path, 1, errors="skip")


def test_a_bad_record_among_several_files_is_named_by_its_own(tmp_path):
    for name in "ab":
        records = [_record(video) for video in make_videos(3, ord(name))]
        write_records(tmp_path / f"{name}.tfrecord", [*records[:2], b"\xff", records[2]])
    skipped = {}
    read(str(tmp_path / "*.tfrecord"), 8, errors="skip", skipped=skipped)
    assert set(skipped) == {(str(tmp_path / f"{name}.tfrecord"), 2) for name in "ab"}
    # Also in an order that is not that of the files.
    again = {}
    read(str(tmp_path / "*.tfrecord"), 8, errors="skip", skipped=again, shuffle=True)
    assert again == skipped


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda feature: feature["mean_rgb"].float_list.value.pop(), "`mean_rgb` has 7 floats, expected 8"),
        (lambda feature: feature["mean_audio"].float_list.value.append(0.0), "`mean_audio` has 4 floats, expected 3"),
        (lambda feature: feature.pop("mean_audio"), r"no feature `mean_audio` \(features: \[.*'mean_rgb'\]\)"),
        (lambda feature: feature["labels"].int64_list.value.append(-1), "label -1 is out of range, expected 0 to 4"),
    ],
)
def test_a_bad_record_at_video_level_is_named_or_skipped(tmp_path, change, reason):
    path = tmp_path / "a.tfrecord"
    videos = [{"id": f"v{n}", "labels": [n], "rgb": np.zeros(8), "audio": np.zeros(3)} for n in range(3)]
    write_youtube8m(tmp_path / "good.tfrecord", videos, level="video")
    good = [record.numpy() for record in tf.data.TFRecordDataset(str(tmp_path / "good.tfrecord"))]
    example = tf.train.Example.FromString(good[0])
    change(example.features.feature)
    write_records(path, [good[0], example.SerializeToString(), good[2]])
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"a.tfrecord, record 1: {reason}"):
        read(path, level="video")
    skipped = {}
    assert ids(read(path, level="video", errors="skip", skipped=skipped)) == [[b"v0", b"v2"]]
    assert list(skipped) == [(str(path), 1)]


def test_a_label_that_comes_twice_counts_once(tmp_path):
    record = _changed(lambda example: example.context.feature["labels"].int64_list.value.extend([1, 1, 3]))
    write_records(tmp_path / "a.tfrecord", [record])
    ((_, labels),) = read(tmp_path / "a.tfrecord")
    assert labels.tolist() == [[0.0, 1.0, 0.0, 1.0, 0.0]]


def test_a_video_level_record_that_is_not_text_is_skipped(tmp_path):
    # TensorFlow quotes such a record in its message, and Python raises `UnicodeDecodeError` instead.
    path = tmp_path / "a.tfrecord"
    videos = [{"id": f"{n}", "labels": [], "rgb": np.zeros(8), "audio": np.zeros(3)} for n in range(3)]
    write_youtube8m(path, videos, level="video")
    good = [record.numpy() for record in tf.data.TFRecordDataset(str(path))]
    write_records(path, [good[0], b"\xab" + good[1][1:], good[2]])
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"a.tfrecord, record 1: not an Example"):
        read(path, level="video")
    assert ids(read(path, level="video", errors="skip")) == [[b"0", b"2"]]


def test_damaged_and_cut_off_files(tmp_path):
    path = tmp_path / "a.tfrecord"
    write_records(path, [_record(video) for video in make_videos(6)])
    offsets, fault = index_records(path)
    assert (len(offsets), fault) == (6, None)
    whole = bytearray(path.read_bytes())

    def damage(position):
        changed = whole.copy()
        changed[position] ^= 1
        path.write_bytes(changed)

    damage(offsets[1] + 40)  # in the record itself
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"a.tfrecord, record 1: the record is damaged"):
        read(path)
    skipped = {}
    assert ids(read(path, errors="skip", skipped=skipped)) == [[b"0-0", b"0-2", b"0-3"], [b"0-4", b"0-5"]]
    assert list(skipped) == [(str(path), 1)]

    damage(offsets[4])  # in the length: what follows can't be found
    with pytest.raises(ValueError, match=r"a.tfrecord, record 4: the header is damaged"):
        read(path)
    skipped = {}
    assert ids(read(path, errors="skip", skipped=skipped)) == [[b"0-0", b"0-1", b"0-2", b"0-3"]]
    assert list(skipped) == [(str(path), 4)]

    for size, fault in ((offsets[5] + 5, "within a record's header"), (len(whole) - 1, "within the record")):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=f"a.tfrecord, record 5: the file ends {fault}"):
            read(path)
        assert sum(len(batch) for batch in ids(read(path, errors="skip"))) == 5

    path.write_text("id,labels\n" * 20)
    with pytest.raises(ValueError, match=r"a.tfrecord, record 0: the file is not a TFRecord file"):
        read(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be a positive integer. Received: batch_size=0"),
        ({"level": "shot"}, "`level` must be one of"),
        ({"errors": "ignore"}, r"`errors` must be one of \['raise', 'skip'\]"),
        ({"errors": "skip", "drop_remainder": True}, "`drop_remainder` gives all batches one size"),
        ({"shard": (2, 2), "drop_remainder": True}, "an index below the count"),
        ({"shard": (0, 2)}, "set `drop_remainder=True`"),
        ({"shard": (0, 4), "drop_remainder": True}, "There must be a file for every shard. Received: 3 files"),
        ({"start_epoch": 1}, "`start_epoch` must be below epochs=1"),
        ({"start_step": 5}, "below the 5 batches of an epoch"),
        ({"batch_size": 19, "drop_remainder": True}, "enough records for a batch. Received: 18 records"),
        ({"feature_sizes": {}}, "`feature_sizes` must be a dict"),
        ({"shuffle": 1}, "`shuffle` must be True or False"),
    ],
)
def test_wrong_arguments(files, options, message):
    with pytest.raises(ValueError, match=message):
        read(files[0], **options)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Received: '.*none.*', which matches none"):
        read(tmp_path / "none*.tfrecord")
    with pytest.raises(FileNotFoundError, match=r"Received: files=\[\]"):
        read([])
    with pytest.raises(TypeError, match="`files` must be a path"):
        read(3)
    write_youtube8m(tmp_path / "a.tfrecord", make_videos(1))
    with pytest.raises(TypeError, match="`skipped` must be a dict"):
        read(tmp_path / "a.tfrecord", skipped=[])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [-1]}, "`labels` must be a list of integers of 0 or more. Received: video 1"),
        ({"labels": [0.5]}, "`labels` must be a list of integers"),
        ({"id": 7}, "`id` must be a string. Received: video 1, id=7"),
        ({"rgb": np.zeros((4, 8), "int32")}, r"A stream must be .* Received: video 1, `rgb` of int32 \(4, 8\)"),
        ({"rgb": np.zeros((0, 8))}, "at least one frame"),
        ({"rgb": np.full((4, 8), np.nan)}, "must be finite numbers. Received: video 1, `rgb`"),
        ({"rgb": np.full((4, 8), np.inf)}, "must be finite numbers. Received: video 1, `rgb`"),
        ({"rgb": np.full((4, 8), -np.inf)}, "must be finite numbers. Received: video 1, `rgb`"),
        ({"rgb": np.zeros((3, 8))}, "one length, unless .* Received: video 1, {'rgb': 3, 'audio': 4}"),
        ({"rgb": np.zeros((4, 9))}, "the streams of the first, {'rgb': 8, 'audio': 3}"),
    ],
)
def test_the_writer_writes_all_or_nothing(tmp_path, change, message):
    good = {"id": "a", "labels": [1], **_streams()}
    with pytest.raises(ValueError, match=message):
        write_youtube8m(tmp_path / "a.tfrecord", [good, {**good, **change}])
    assert list(tmp_path.iterdir()) == []


def test_the_writer_overwrites_nothing(tmp_path):
    write_youtube8m(tmp_path / "a.tfrecord", make_videos(2))
    before = (tmp_path / "a.tfrecord").read_bytes()
    with pytest.raises(FileExistsError, match="must not exist yet"):
        write_youtube8m(tmp_path / "a.tfrecord", make_videos(3))
    assert (tmp_path / "a.tfrecord").read_bytes() == before
    with pytest.raises(ValueError, match="at least one video"):
        write_youtube8m(tmp_path / "b.tfrecord", [])
    with pytest.raises(ValueError, match="`id`, `labels` and at least one stream"):
        write_youtube8m(tmp_path / "b.tfrecord", [{"id": "a", "labels": []}])
    with pytest.raises(ValueError, match="`level` must be"):
        write_youtube8m(tmp_path / "b.tfrecord", make_videos(1), level="shot")


def test_real_speech_frames_survive_the_way_through_bytes(tmp_path):
    (train, speakers), _ = load_japanese_vowels()
    videos = (
        {"id": f"{n}", "labels": [speakers[n]], "frames": train["frames"][n, : train["num_frames"][n]]}
        for n in range(270)
    )
    assert write_youtube8m(tmp_path / "vowels.tfrecord", videos) == 270
    ((inputs, labels),) = read(
        tmp_path / "vowels.tfrecord", 270, num_classes=9, feature_sizes={"frames": 12}, max_frames=29, fixed_frames=True
    )
    np.testing.assert_array_equal(labels.argmax(1), speakers)
    is_real = np.arange(29) < train["num_frames"][:, None]
    # Half a level of 4 / 255, and float32's rounding.
    difference = np.abs(np.asarray(Dequantize()(inputs["frames"])) - train["frames"].clip(-2, 2))[is_real]
    assert difference.max() < 2 / 255 + 1e-6


def test_a_record_of_empty_frames_takes_no_memory(tmp_path):
    frames = tf.train.FeatureList(feature=[tf.train.Feature(bytes_list=tf.train.BytesList(value=[b""]))] * 100_000)
    record = tf.train.SequenceExample(feature_lists=tf.train.FeatureLists(feature_list={"rgb": frames}))
    path = str(tmp_path / "empty.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        writer.write(record.SerializeToString())
    schema = FrameLevel({"rgb": 1152}, CLASSES, "uint8", 2**31 - 1, False)
    is_good, *_, rgb = schema.load(tf.constant([path]), tf.constant([0], tf.int64))
    assert not is_good
    assert rgb.shape == (1, 0, 1152)  # 115 MB for a file of 400 kB, if the frames were decoded
    data = youtube8m(path, 1, num_classes=CLASSES, feature_sizes={"rgb": 1152}, max_frames=2**31 - 1)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"record 0: frame 0 of `rgb` has 0 bytes, expected 1152"):
        next(iter(data))
