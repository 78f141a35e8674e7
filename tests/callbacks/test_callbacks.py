import csv
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_netvlad.callbacks import AssignmentMonitor
from keras_netvlad.layers import FrameMask, MeanPooling, NetVLAD
from keras_netvlad.models import VideoClassifier

NUMBERS = ("usage_entropy", "assignment_entropy", "dead_clusters", "largest_share")


def numbers_of(layer, frames, lengths):
    """The four numbers in loops, from the layer's weights."""
    kernel, bias = np.array(layer.kernel, "float64"), np.array(layer.bias, "float64")
    sums, entropies = np.zeros(layer.num_clusters), []
    for video, length in zip(frames, lengths, strict=True):
        for frame in video[:length].astype("float64"):
            logits = frame @ kernel + bias
            assignment = np.exp(logits - logits.max())
            assignment = (assignment / assignment.sum())[: layer.num_clusters]
            sums += assignment
            assignment = assignment / assignment.sum()
            entropies.append(-sum(p * math.log(p) for p in assignment if p))
    shares = sums / sums.sum()
    return {
        "usage_entropy": -sum(p * math.log(p) for p in shares if p),
        "assignment_entropy": sum(entropies) / len(entropies),
        "dead_clusters": sum(share < 0.01 / layer.num_clusters for share in shares),
        "largest_share": max(shares),
    }


def events(directory):
    """Returns the scalars that TensorBoard would read: tag -> {step: value}."""
    found = {}
    for path in directory.iterdir():
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                assert value.metadata.plugin_data.plugin_name == "scalars"
                found.setdefault(value.tag, {})[event.step] = tf.make_ndarray(value.tensor)
    return found


def two_streams(seed=0, videos=10):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 8, videos).astype("int32")
    x = {
        "rgb": rng.normal(size=(videos, 7, 6)).astype("float32"),
        "audio": rng.normal(size=(videos, 7, 3)).astype("float32"),
        "num_frames": lengths,
    }
    for stream in ("rgb", "audio"):
        x[stream][np.arange(7) >= lengths[:, None]] = np.nan
    return x, rng.integers(0, 2, (videos, 2)).astype("float32")


def two_stream_model():
    keras.utils.set_random_seed(0)
    model = VideoClassifier({"rgb": 6, "audio": 3}, 2, num_clusters={"rgb": 5, "audio": 2}, hidden_units=None)
    model.compile(keras.optimizers.SGD(0.1), "binary_crossentropy", jit_compile=True)
    return model


def test_history_csv_and_event_file_hold_the_numbers(tmp_path):
    x, y = two_streams()
    model = two_stream_model()
    # A frame far off in one direction leaves clusters of `rgb` dead.
    model.get_layer("rgb_netvlad").bias.assign([9.0, 0.0, 0.0, -9.0, 0.0])
    expected = []

    class Recorder(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            layers = {name: self.model.get_layer(f"{name}_netvlad") for name in ("rgb", "audio")}
            expected.append({k: numbers_of(layer, x[k], x["num_frames"]) for k, layer in layers.items()})

    callbacks = [
        Recorder(),
        AssignmentMonitor(x, tmp_path / "board", batch_size=3),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
    ]
    history = model.fit(x, y, epochs=3, verbose=0, callbacks=callbacks).history
    board = events(tmp_path / "board")
    with open(tmp_path / "log.csv") as file:
        rows = list(csv.DictReader(file))
    assert expected[0]["rgb"]["dead_clusters"] > 0
    for epoch in range(3):
        for stream in ("rgb", "audio"):
            for number in NUMBERS:
                value = expected[epoch][stream][number]
                key = f"{stream}_netvlad_{number}"
                # Measured 1e-7 (float32 softmax).
                np.testing.assert_allclose(history[key][epoch], value, rtol=2e-6, atol=1e-7)
                assert float(rows[epoch][key]) == history[key][epoch]
                logged = board[f"assignments/{stream}_netvlad/{number}"][epoch]
                assert logged == np.float32(history[key][epoch])


@pytest.mark.slow
def test_training_is_as_without_the_monitor():
    x, y = two_streams()
    plain, watched = two_stream_model(), two_stream_model()
    plain.fit(x, y, epochs=2, verbose=0, shuffle=False)
    watched.fit(x, y, epochs=2, verbose=0, shuffle=False, callbacks=[AssignmentMonitor(two_streams(1)[0])])
    for a, b in zip(plain.get_weights(), watched.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert "call" not in vars(watched.get_layer("rgb_netvlad"))


@pytest.mark.slow
def test_saved_models_and_resumed_epochs(tmp_path):
    x, y = two_streams()
    two_stream_model().save(tmp_path / "model.keras")
    model = keras.saving.load_model(tmp_path / "model.keras")
    monitor = AssignmentMonitor(x, tmp_path / "board")
    for epoch in (0, 1):
        model.fit(x, y, initial_epoch=epoch, epochs=epoch + 1, verbose=0, callbacks=[monitor])
    assert sorted(events(tmp_path / "board")["assignments/audio_netvlad/usage_entropy"]) == [0, 1]


@pytest.mark.slow
def test_nested_subclassed_and_ghost_models():
    frames = np.random.default_rng(0).normal(size=(6, 5, 4)).astype("float32")
    lengths = np.array([5, 4, 3, 2, 1, 5])
    layer = NetVLAD(3, num_ghost_clusters=2, name="pool")

    class Nested(keras.Model):
        def __init__(self):
            super().__init__()
            inputs, counts = keras.Input((None, 4)), keras.Input((), dtype="int32")
            self.inner = keras.Model([inputs, counts], layer(inputs, mask=FrameMask()(counts, inputs)))
            self.dense = keras.layers.Dense(1)

        def call(self, inputs):
            return self.dense(self.inner(list(inputs)))

    model = Nested()
    model.compile("sgd", "mse")
    x = (frames, lengths)
    data = tf.data.Dataset.from_tensor_slices((x, np.zeros((6, 1), "float32"))).batch(6)
    history = model.fit(data, verbose=0, callbacks=[AssignmentMonitor(x, batch_size=4)]).history
    for number, value in numbers_of(layer, frames, lengths).items():
        np.testing.assert_allclose(history[f"pool_{number}"][0], value, rtol=2e-6)  # measured 1e-7


@pytest.mark.slow
def test_a_sample_without_frames_gives_nan(tmp_path):
    x, y = two_streams()
    empty = {**x, "num_frames": np.zeros(10, "int32")}
    history = two_stream_model().fit(x, y, verbose=0, callbacks=[AssignmentMonitor(empty)]).history
    assert all(np.isnan(history[f"audio_netvlad_{number}"][0]) for number in NUMBERS)


@pytest.mark.slow
def test_a_failing_sample_leaves_the_model_as_it_was():
    x, y = two_streams()
    model = two_stream_model()
    with pytest.raises(ValueError):
        model.fit(x, y, verbose=0, callbacks=[AssignmentMonitor({**x, "rgb": x["rgb"][..., :2]})])
    assert "call" not in vars(model.get_layer("rgb_netvlad"))


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ({}, TypeError, r"as an array, or a dict.*Received: a dict"),
        ("frames.npz", TypeError, r"Received: a str"),
        (tf.data.Dataset.range(3), TypeError, r"from a dataset first"),
        (np.zeros((0, 3, 2)), ValueError, r"at least one video.*\[\(0, 3, 2\)\]"),
        (np.zeros(()), ValueError, r"at least one video"),
        ((np.zeros((3, 2)), np.zeros(2)), ValueError, r"the same number for each input.*\[\(3, 2\), \(2,\)\]"),
    ],
)
def test_data_that_is_no_sample_is_refused(data, error, message):
    with pytest.raises(error, match=message):
        AssignmentMonitor(data)


def test_models_that_cannot_be_monitored_are_refused(tmp_path):
    frames = np.zeros((2, 3, 4), "float32")
    with pytest.raises(ValueError, match="`batch_size` must be a positive integer"):
        AssignmentMonitor(frames, batch_size=0)
    with pytest.raises(TypeError, match=r"`log_dir` must be a path. Received: log_dir=3"):
        AssignmentMonitor(frames, log_dir=3)

    def fit(*layers, log_dir=None):
        inputs = keras.Input((3, 4))
        model = keras.Model(inputs, [layer(inputs) for layer in layers])
        model.compile("sgd", "mse")
        model.fit(frames, [np.zeros((2, layer(frames).shape[1])) for layer in layers], verbose=0,
                  callbacks=[AssignmentMonitor(frames, log_dir)])  # fmt: skip

    with pytest.raises(ValueError, match=r"a pooling that has clusters.*which has none"):
        fit(MeanPooling())
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="`log_dir` must be a writable directory"):
        fit(NetVLAD(2), log_dir=tmp_path / "file")

    inner = [keras.Sequential([NetVLAD(2, name="pool")]) for _ in range(2)]
    with pytest.raises(ValueError, match=r"a unique name.*\['pool', 'pool'\]"):
        fit(*inner)
