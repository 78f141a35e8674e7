import os

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keras_netvlad.data.record_files import _masked_crc
from keras_netvlad.export.serving.warmup import PREDICTION_LOG, read_warmup, write_warmup

REQUESTS = [
    ("serving_default", {"frames": np.zeros((2, 3, 4), "float32"), "num_frames": np.array([3, 1], "int32")}),
    (
        "serve_quantized",
        {"frames": np.arange(24, dtype="uint8").reshape(2, 3, 4), "num_frames": np.array([3], "int64")},
    ),
    ("serve_examples", {"examples": np.array([b"", b"\x00\xff"], object)}),
    ("half", {"frames": np.full((1, 2), 0.5, "float16"), "empty": np.zeros((0, 4), "float32")}),
    ("bfloat16", {"frames": np.ones((2, 3), tf.bfloat16.as_numpy_dtype)}),
    ("equal", {"examples": np.array([b"a\x00"] * 3, object), "is_real": np.ones((2, 2), bool)}),
]


@pytest.fixture
def path(tmp_path):
    write_warmup(tmp_path / "requests", REQUESTS)
    return tmp_path / "requests"


def read_records(path):
    return list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())


def write_records(path, records):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)


def log_of(proto):
    """A record whose one input is a `TensorProto`."""
    log = PREDICTION_LOG()
    log.predict_log.request.inputs.add(key="frames", value=proto.SerializeToString())
    return log.SerializeToString()


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


@pytest.mark.runtimes
def test_the_servers_own_messages_read_it(path):
    prediction_log_pb2 = pytest.importorskip(
        "tensorflow_serving.apis.prediction_log_pb2", reason="`make runtimes` installs tensorflow-serving-api"
    )
    received = []
    for record in read_records(path):
        log = prediction_log_pb2.PredictionLog.FromString(record)
        assert log.WhichOneof("log_type") == "predict_log"
        request = log.predict_log.request
        received.append(
            (request.model_spec.signature_name, {key: tf.make_ndarray(value) for key, value in request.inputs.items()})
        )
    assert_equal(received, REQUESTS)


def test_tensorflows_own_kernel_reads_every_tensor(path):
    # The server decodes by the same C++; `tf.make_ndarray`, which `read_warmup` calls, is Python of its own.
    for record, (_, expected) in zip(read_records(path), REQUESTS, strict=True):
        for item in PREDICTION_LOG.FromString(record).predict_log.request.inputs:
            values = expected[item.key]
            decoded = tf.io.parse_tensor(item.value, tf.as_dtype(values.dtype)).numpy()
            assert decoded.shape == values.shape
            np.testing.assert_array_equal(decoded, values)


@pytest.mark.runtimes
def test_it_reads_what_the_servers_own_messages_write(tmp_path):
    prediction_log_pb2 = pytest.importorskip(
        "tensorflow_serving.apis.prediction_log_pb2", reason="`make runtimes` installs tensorflow-serving-api"
    )
    records = []
    for name, inputs in REQUESTS:
        log = prediction_log_pb2.PredictionLog()
        log.predict_log.request.model_spec.name = "netvlad"
        log.predict_log.request.model_spec.signature_name = name
        for key, values in inputs.items():
            log.predict_log.request.inputs[key].CopyFrom(tf.make_tensor_proto(values))
        records.append(log.SerializeToString())
    write_records(tmp_path / "requests", records)
    assert_equal(read_warmup(tmp_path / "requests"), REQUESTS)


def test_equal_values_take_the_room_of_one(tmp_path):
    request = {
        "frames": np.zeros((32, 300, 1152), "float32"),  # 44 MB
        "examples": np.array([bytes(256_000)] * 32, object),  # 8 MB
    }
    write_warmup(tmp_path / "requests", [("all", request)])
    assert (tmp_path / "requests").stat().st_size < 257_000  # one example
    assert_equal(read_warmup(tmp_path / "requests"), [("all", request)])


# What can't be written


def test_more_requests_than_a_server_takes_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"at most 1000 warm-up requests; leave some out. Received: 1001"):
        write_warmup(tmp_path / "requests", REQUESTS[:1] * 1001)
    assert list(tmp_path.iterdir()) == []
    write_warmup(tmp_path / "requests", REQUESTS[:1] * 1000)
    assert len(read_warmup(tmp_path / "requests")) == 1000


def test_a_request_without_a_signature_is_one_of_serving_default(tmp_path):
    write_warmup(tmp_path / "requests", [("", {"frames": np.zeros(2, "float32")})])
    assert [name for name, _ in read_warmup(tmp_path / "requests")] == ["serving_default"]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, r"must have inputs; leave it out. Received: `serve` with {}"),
        ({"examples": [b"a\x00"]}, r"'examples' must be an array of .* objects if they are bytes. Received: \|S2"),
        ({"frames": np.ones(2, "complex64")}, r"'frames' must be an array of real numbers, .* Received: complex64"),
    ],
)
def test_requests_that_no_server_could_run_are_refused(tmp_path, inputs, message):
    with pytest.raises(ValueError, match=message):
        write_warmup(tmp_path / "requests", [REQUESTS[0], ("serve", inputs)])
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_nowhere_or_finds_no_room_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_warmup(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError):
        write_warmup(tmp_path / "nothing" / "requests", REQUESTS)
    if os.path.exists("/dev/full"):
        with pytest.raises(OSError, match=r"disk must have room for the output; .* Received: /dev/full"):
            write_warmup("/dev/full", REQUESTS)


# What can't be read


@pytest.mark.parametrize("values", [[], [0.5]])
def test_a_shape_that_asks_for_all_memory_takes_none(tmp_path, values):
    proto = tf.make_tensor_proto(np.array(values, "float32"))
    proto.tensor_shape.dim[0].size = 2**40  # 4 TB
    write_records(tmp_path / "requests", [log_of(proto)])
    ((_, inputs),) = read_warmup(tmp_path / "requests")
    assert inputs["frames"].shape == (2**40,)
    assert inputs["frames"][-1] == sum(values)


@pytest.mark.parametrize("length", [8, 2**40, 2**64 - 1])
def test_a_record_longer_than_the_file_is_refused(tmp_path, length):
    header = length.to_bytes(8, "little")
    (tmp_path / "requests").write_bytes(header + _masked_crc(header).to_bytes(4, "little") + b"x" * 7)
    with pytest.raises(ValueError, match=r"requests, record 0 \(the file ends within the record\)"):
        read_warmup(tmp_path / "requests")


@pytest.mark.parametrize("sizes", [[2**20, 2**20], [-1], [2, -2], [2**62, 4]])
def test_shapes_that_the_values_do_not_fill_are_refused(tmp_path, sizes):
    proto = tf.make_tensor_proto(np.array([1.0, 2.0], "float32"))
    del proto.tensor_shape.dim[:]
    for size in sizes:
        proto.tensor_shape.dim.add(size=size)
    write_records(tmp_path / "requests", [log_of(proto)])
    with pytest.raises(ValueError, match=r"must hold PredictionLog .* record 0 \(a tensor of .*shape \["):
        read_warmup(tmp_path / "requests")


def test_a_file_of_more_requests_than_a_server_takes_is_refused(path):
    write_records(path, read_records(path)[:1] * 1000)
    assert len(read_warmup(path)) == 1000
    write_records(path, read_records(path)[:1] * 1001)
    with pytest.raises(ValueError, match=r"record 1000 \(more than the 1000 that a server takes\)"):
        read_warmup(path)


@pytest.mark.parametrize(
    ("spoil", "record"),
    [
        (lambda content: content[:-3], len(REQUESTS) - 1),  # cut off
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
    write_records(tmp_path / "requests", [record])
    with pytest.raises(ValueError, match=r"must hold PredictionLog records"):
        read_warmup(tmp_path / "requests")


def spoil(content, edits):
    """Bytes with some exchanged, left out and put in; a place is a fraction of the length."""
    content = bytearray(content)
    for place, removed, inserted in edits:
        start = int(place * len(content))
        content[start : start + removed] = inserted
    return bytes(content)


EDITS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 8), st.binary(max_size=8)), min_size=1, max_size=4)


@pytest.fixture(scope="module")
def file_and_records(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "requests"
    write_warmup(path, REQUESTS)
    return path.read_bytes(), read_records(path)


@pytest.mark.slow
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=EDITS, which=st.integers(-1, len(REQUESTS) - 1))
def test_a_damaged_file_gives_requests_or_one_sentence(file_and_records, tmp_path, edits, which):
    content, records = file_and_records
    if which < 0:
        (tmp_path / "damaged").write_bytes(spoil(content, edits))
    else:  # behind the checksums: a record is damaged, then sealed
        write_records(tmp_path / "damaged", [spoil(records[which], edits)])
    requests, message = [], None
    try:
        requests = read_warmup(tmp_path / "damaged")
    except ValueError as error:  # anything else fails
        message = str(error)
    for name, inputs in requests:
        assert isinstance(name, str)
        assert inputs
        assert all(isinstance(values, np.ndarray) for values in inputs.values())
    if message is not None:
        assert message.startswith("The warm-up file must hold PredictionLog records of predict requests; publish")
        assert "\n" not in message
