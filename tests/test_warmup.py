import contextlib

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keras_netvlad.export.warmup import PREDICTION_LOG, read_warmup, write_warmup

REQUESTS = [
    ("serving_default", {"frames": np.zeros((2, 3, 4), "float32"), "num_frames": np.array([3, 1], "int32")}),
    (
        "serve_quantized",
        {"frames": np.arange(24, dtype="uint8").reshape(2, 3, 4), "num_frames": np.array([3], "int64")},
    ),
    ("serve_examples", {"examples": np.array([b"", b"\x00\xff"], object)}),
    ("half", {"frames": np.full((1, 2), 0.5, "float16"), "empty": np.zeros((0, 4), "float32")}),
]


@pytest.fixture
def path(tmp_path):
    write_warmup(tmp_path / "requests", REQUESTS)
    return tmp_path / "requests"


def assert_equal(received, expected):
    assert [name for name, _ in received] == [name for name, _ in expected]
    for (_, got), (_, wanted) in zip(received, expected, strict=True):
        assert got.keys() == wanted.keys()
        for name, values in wanted.items():
            assert got[name].dtype == values.dtype
            assert got[name].shape == values.shape
            np.testing.assert_array_equal(got[name], values)


def test_what_is_written_is_read(path):
    assert_equal(read_warmup(path), REQUESTS)


def test_the_servers_own_messages_read_it(path):
    prediction_log_pb2 = pytest.importorskip(
        "tensorflow_serving.apis.prediction_log_pb2", reason="tensorflow-serving-api is absent: make runtimes"
    )
    received = []
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record)
        assert log.WhichOneof("log_type") == "predict_log"
        request = log.predict_log.request
        received.append(
            (request.model_spec.signature_name, {key: tf.make_ndarray(value) for key, value in request.inputs.items()})
        )
    assert_equal(received, REQUESTS)


def test_it_reads_what_the_servers_own_messages_write(tmp_path):
    prediction_log_pb2 = pytest.importorskip(
        "tensorflow_serving.apis.prediction_log_pb2", reason="tensorflow-serving-api is absent: make runtimes"
    )
    with tf.io.TFRecordWriter(str(tmp_path / "requests")) as writer:
        for name, inputs in REQUESTS:
            log = prediction_log_pb2.PredictionLog()
            log.predict_log.request.model_spec.name = "netvlad"
            log.predict_log.request.model_spec.signature_name = name
            for key, values in inputs.items():
                log.predict_log.request.inputs[key].CopyFrom(tf.make_tensor_proto(values))
            writer.write(log.SerializeToString())
    assert_equal(read_warmup(tmp_path / "requests"), REQUESTS)


def test_equal_values_take_the_room_of_one(tmp_path):
    frames = np.zeros((32, 300, 1152), "float32")  # 44 MB
    write_warmup(tmp_path / "requests", [("serving_default", {"frames": frames})])
    assert (tmp_path / "requests").stat().st_size < 200
    ((_, inputs),) = read_warmup(tmp_path / "requests")
    np.testing.assert_array_equal(inputs["frames"], frames)


def test_a_shape_that_asks_for_all_memory_is_refused(tmp_path):
    log = PREDICTION_LOG()
    proto = tf.make_tensor_proto(np.zeros((1, 1), "float32"))
    for dim in proto.tensor_shape.dim:
        dim.size = 2**20
    log.predict_log.request.inputs.add(key="frames", value=proto.SerializeToString())
    with tf.io.TFRecordWriter(str(tmp_path / "requests")) as writer:
        writer.write(log.SerializeToString())
    with pytest.raises(ValueError, match=r"a tensor of more than 1073741824 values"):
        read_warmup(tmp_path / "requests")


def test_more_requests_than_a_server_takes_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"at most 1000 warm-up requests; leave some out. Received: 1001"):
        write_warmup(tmp_path / "requests", REQUESTS[:1] * 1001)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("spoil", "record"),
    [
        (lambda content: content[:-3], 3),  # cut off
        (lambda content: content[:40] + b"\xff" + content[41:], 0),  # a checksum fails
        (lambda content: b"no TFRecord at all", 0),
    ],
)
def test_damaged_files_are_named(path, spoil, record):
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(
        ValueError, match=rf"must hold PredictionLog records.*publish again. Received: .*, record {record}"
    ):
        read_warmup(path)


@pytest.mark.parametrize(
    "record", [b"", b"\xff\xff\xff", b"\x32\x02\x0a\x00", tf.train.SequenceExample().SerializeToString()]
)
def test_records_of_another_kind_are_refused(tmp_path, record):
    with tf.io.TFRecordWriter(str(tmp_path / "requests")) as writer:
        writer.write(record)
    with pytest.raises(ValueError, match=r"must hold PredictionLog records"):
        read_warmup(tmp_path / "requests")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.floats(0, 1), value=st.integers(0, 255), record=st.integers(0, len(REQUESTS) - 1))
def test_damaged_records_give_requests_or_one_sentence(path, tmp_path, position, value, record):
    # Behind the checksum: the record itself is damaged, then sealed.
    records = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
    content = bytearray(records[record])
    content[int(position * (len(content) - 1))] = value
    with tf.io.TFRecordWriter(str(tmp_path / "damaged")) as writer:
        writer.write(bytes(content))
    with contextlib.suppress(ValueError):  # the one sentence; anything else fails
        read_warmup(tmp_path / "damaged")
