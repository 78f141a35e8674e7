"""Every signature of a SavedModel against the float64 oracle, loaded as a server loads it."""

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf
from layer_contract import randomize_weights

from keras_netvlad.export import Artefact, export_saved_model, serialize_example, verify
from keras_netvlad.export.serving_signatures import serving_signatures
from keras_netvlad.layers import Dequantize, FrameMask, NetVLAD
from keras_netvlad.models import VideoClassifier, load_model

STREAMS = {"rgb": 6, "audio": 4}
# Measured: up to 3.4e-7 relative to the largest value, float32 rounding.
TOLERANCE = 2e-6


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(1)
    model = VideoClassifier(STREAMS, 5, num_clusters={"rgb": 3, "audio": 2}, hidden_units=7, name="classifier")
    for weight in model.weights:
        weight.assign(np.random.default_rng(weight.shape.rank).normal(size=weight.shape))
    return model


@pytest.fixture(scope="module")
def artefact(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("served") / "1"
    export_saved_model(model, path)
    return Artefact(path)


def assert_near(received, expected):
    for name, values in expected.items():
        np.testing.assert_allclose(received[name], values, rtol=0, atol=TOLERANCE * np.abs(values).max())


def draw(batch, frames, seed=0):
    generator = np.random.default_rng(seed)
    return {name: generator.normal(size=(batch, frames, size)).astype("float32") for name, size in STREAMS.items()}


def draw_bytes(batch, frames, seed=0):
    generator = np.random.default_rng(seed)
    return {name: generator.integers(0, 256, (batch, frames, size), "uint8") for name, size in STREAMS.items()}


def dequantized(streams):
    return {name: values.astype("float64") * 4 / 255 + 4 / 512 - 2 for name, values in streams.items()}


def records(streams, lengths):
    return np.array(
        [
            serialize_example({name: values[row, :length] for name, values in streams.items()})
            for row, length in enumerate(lengths)
        ],
        object,
    )


# What they compute


def test_all_signatures_are_there_with_the_batch_in_front(artefact):
    assert set(artefact.signatures) == {
        "serving_default",
        "serve_quantized",
        "serve_examples",
        "accumulate",
        "describe",
    }
    for inputs, outputs in artefact.signatures.values():
        for shape, _ in [*inputs.values(), *outputs.values()]:
            assert len(shape) >= 1
            assert shape[0] is None  # what a server that merges requests needs
    assert artefact.signatures["serve_quantized"][0] == {
        "rgb": ((None, None, 6), "uint8"),
        "audio": ((None, None, 4), "uint8"),
        "num_frames": ((None,), "int32"),
    }
    assert artefact.signatures["accumulate"][1] == {
        "rgb_first_sum": ((None, 3, 6), "float32"),
        "rgb_second_sum": ((None, 3), "float32"),
        "audio_first_sum": ((None, 2, 4), "float32"),
        "audio_second_sum": ((None, 2), "float32"),
    }


@pytest.mark.parametrize(("batch", "frames", "num_frames"), [(1, 1, [1]), (3, 5, [5, 2, 0]), (2, 300, [300, 120])])
def test_serving_default_is_the_oracle(artefact, model, batch, frames, num_frames):
    streams = draw(batch, frames)
    received = artefact.run({**streams, "num_frames": np.array(num_frames, "int32")})
    assert_near(received, reference.video_classifier(model, streams, num_frames))


@pytest.mark.parametrize(("batch", "frames", "num_frames"), [(1, 1, [1]), (3, 5, [5, 2, 0]), (2, 300, [300, 120])])
def test_serve_quantized_is_the_oracle_on_the_bytes_floats(artefact, model, batch, frames, num_frames):
    streams = draw_bytes(batch, frames)
    received = artefact.run({**streams, "num_frames": np.array(num_frames, "int32")}, "serve_quantized")
    assert_near(received, reference.video_classifier(model, dequantized(streams), num_frames))


@pytest.mark.parametrize("lengths", [[1], [5, 2, 3], [300, 120]])
def test_serve_examples_is_the_oracle_on_the_records_frames(artefact, model, lengths):
    streams = draw_bytes(len(lengths), max(lengths))
    received = artefact.run({"examples": records(streams, lengths)}, "serve_examples")
    assert_near(received, reference.video_classifier(model, dequantized(streams), lengths))
    np.testing.assert_array_equal(received["num_frames"], lengths)


@pytest.mark.parametrize("filler", ["first element", "garbage"])
def test_padding_changes_nothing_in_any_signature_of_frames(artefact, model, filler):
    num_frames = np.array([4, 1, 7], "int32")
    is_padding = np.arange(9) >= num_frames[:, None]
    sums = {
        name: np.ones((3, *shape[1:]), "float32") for name, (shape, _) in artefact.signatures["accumulate"][1].items()
    }
    for signature, streams in (
        ("serving_default", draw(3, 9)),
        ("serve_quantized", draw_bytes(3, 9)),
        ("accumulate", {**draw(3, 9), **sums}),
    ):
        zeros, padded = dict(streams), dict(streams)
        for name in STREAMS:
            values = streams[name]
            noise = {"float32": np.nan, "uint8": 255}[values.dtype.name]
            value = values.flat[0] if filler == "first element" else noise
            padded[name] = np.where(is_padding[:, :, None], value, values).astype(values.dtype)
            zeros[name] = np.where(is_padding[:, :, None], 0, values).astype(values.dtype)
        expected = artefact.run({**zeros, "num_frames": num_frames}, signature)
        received = artefact.run({**padded, "num_frames": num_frames}, signature)
        for name, values in expected.items():
            assert np.isfinite(values).all()
            np.testing.assert_array_equal(received[name], values)


def test_a_live_stream_is_the_whole_video(artefact, model):
    streams = draw(2, 40)
    sums = {
        name: np.zeros((2, *shape[1:]), "float32") for name, (shape, _) in artefact.signatures["accumulate"][1].items()
    }
    # The second video ends in the middle of the third chunk.
    for start, num_frames in ((0, [13, 13]), (13, [13, 13]), (26, [13, 4]), (39, [1, 0])):
        chunk = {name: values[:, start : start + 13] for name, values in streams.items()}
        sums = artefact.run({**chunk, "num_frames": np.array(num_frames, "int32"), **sums}, "accumulate")
    assert_near(artefact.run(sums, "describe"), reference.video_classifier(model, streams, [40, 30]))


@pytest.mark.slow
@pytest.mark.parametrize("input_dtype", ["float32", "uint8"])
def test_a_live_stream_passes_what_treats_each_frame_by_itself(input_dtype, tmp_path):
    model = VideoClassifier.from_preset(
        "gated_netvlad",
        4,
        feature_sizes={"rgb": 6, "audio": 3},
        num_clusters=2,
        hidden_units=4,
        input_dtype=input_dtype,
    )
    randomize_weights(model)
    report = export_saved_model(model, tmp_path / "out")
    assert report.ok
    assert {"accumulate", "describe"} <= {comparison.signature for comparison in report.comparisons}
    signatures = serving_signatures(model)
    generator = np.random.default_rng(0)
    streams = {name: generator.integers(0, 256, (2, 20, size)) for name, size in model.feature_sizes.items()}
    if input_dtype == "float32":
        streams = {name: values / 64 - 2 for name, values in streams.items()}
    streams = {name: values.astype(input_dtype) for name, values in streams.items()}
    sums = {port.name: np.zeros((2, *port.shape[1:]), "float32") for port in signatures["describe"].inputs}
    for start, num_frames in ((0, [8, 8]), (8, [8, 3]), (16, [4, 0])):
        chunk = {name: values[:, start : start + 8] for name, values in streams.items()}
        sums = signatures["accumulate"].compute({**chunk, "num_frames": np.array(num_frames, "int32"), **sums})
    received = {name: np.asarray(values) for name, values in signatures["describe"].compute(sums).items()}
    assert_near(received, reference.video_classifier(model, streams, [20, 11]))


@pytest.mark.slow
def test_a_day_of_seconds_keeps_its_digits():
    # One frame a second for a day, in chunks of a minute: the sums are float32 and travel 1440 times.
    keras.utils.set_random_seed(0)
    model = VideoClassifier({"frames": 8}, 3, num_clusters=4, hidden_units=None)
    signatures = serving_signatures(model)
    generator = np.random.default_rng(0)
    chunk = tf.function(lambda values: signatures["accumulate"].compute(values))
    sums = {port.name: np.zeros((1, *port.shape[1:]), "float32") for port in signatures["describe"].inputs}
    first, second = np.zeros((1, 4, 8)), np.zeros((1, 4))
    layer = model.get_layer("frames_netvlad")
    for _ in range(1440):
        frames = generator.normal(size=(1, 60, 8)).astype("float32")
        sums = chunk({"frames": frames, "num_frames": np.array([60], "int32"), **sums})
        more = layer.aggregate(frames)
        first, second = first + np.asarray(more[0], "float64"), second + np.asarray(more[1], "float64")
    expected = reference.describe(first, second, np.asarray(layer.centroids, "float64"))
    received = signatures["describe"].compute(sums)["descriptor"]
    # Measured: 6.2e-7 of the largest value.
    np.testing.assert_allclose(received, expected, rtol=0, atol=6e-6 * np.abs(expected).max())


# One bad row, and the others


def test_an_unusable_example_fails_alone(artefact, model):
    streams = draw_bytes(6, 5)
    examples = records(streams, [5, 0, 5, 5, 5, 3])
    rows = {name: values[2] for name, values in streams.items()}
    examples[2] = serialize_example({**rows, "audio": rows["audio"][:4]})  # streams of different lengths
    examples[3] = serialize_example({**rows, "rgb": np.zeros((5, 7), "uint8")})  # frames of another size
    examples[4] = serialize_example({"RGB": rows["rgb"], "audio": rows["audio"]})  # another name
    received = artefact.run({"examples": examples}, "serve_examples")
    assert received["num_frames"].tolist() == [5, 0, -1, -1, -1, 3]
    expected = reference.video_classifier(model, dequantized(streams), [5, 0, 0, 0, 0, 3])
    for name in ("scores", "descriptor"):
        assert np.isnan(received[name][1:5]).all()
        assert_near({name: received[name][[0, 5]]}, {name: expected[name][[0, 5]]})


def test_features_of_another_kind_and_no_protos_are_refused_by_name(artefact):
    floats = tf.train.FeatureList(feature=[tf.train.Feature(float_list=tf.train.FloatList(value=[0.0] * 6))])
    lists = tf.train.FeatureLists(feature_list={"rgb": floats, "audio": floats})
    for example, message in (
        (tf.train.SequenceExample(feature_lists=lists).SerializeToString(), r"rgb|audio"),
        (b"\x0anot a proto", r"[Cc]ould not parse|Invalid"),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            artefact.run({"examples": np.array([example], object)}, "serve_examples")


def test_labels_and_ids_of_a_record_are_passed_over(artefact):
    streams = draw_bytes(1, 4)
    plain = serialize_example({name: values[0] for name, values in streams.items()})
    full = tf.train.SequenceExample.FromString(plain)
    full.context.feature["id"].bytes_list.value.append(b"abcd")
    full.context.feature["labels"].int64_list.value.extend([3, 7])
    received = artefact.run({"examples": np.array([plain, full.SerializeToString()], object)}, "serve_examples")
    np.testing.assert_allclose(received["scores"][0], received["scores"][1], rtol=1e-6)


def test_nan_in_one_video_stays_there(artefact):
    num_frames = np.array([5, 5, 5], "int32")
    clean, spoilt = draw(3, 5), draw(3, 5)
    spoilt["rgb"][1, 2, 0] = np.nan
    expected = artefact.run({**clean, "num_frames": num_frames})
    received = artefact.run({**spoilt, "num_frames": num_frames})
    for name in expected:
        np.testing.assert_array_equal(received[name][[0, 2]], expected[name][[0, 2]])
    # TensorFlow's ReLU turns NaN into 0 on the way to the scores.
    assert np.isnan(received["descriptor"][1]).any()


def test_ten_thousand_frames_are_answered(artefact, model):
    streams = draw(1, 10_000)
    received = artefact.run({**streams, "num_frames": np.array([10_000], "int32")})
    expected = reference.video_classifier(model, streams, [10_000])
    # Measured: 5.0e-7 of the largest value.
    np.testing.assert_allclose(received["descriptor"], expected["descriptor"], rtol=0, atol=5e-6)


# Which models have them


def names_of(model):
    return list(serving_signatures(model))


def test_models_without_frame_counts_have_one_signature():
    frames = keras.Input((None, 3), name="frames")
    assert names_of(keras.Model(frames, NetVLAD(2)(frames))) == ["serving_default"]
    maps = keras.Input((None, 2, 2, 3), name="maps")
    num_frames = keras.Input((), dtype="int32", name="num_frames")
    pooled = NetVLAD(2)(maps, mask=FrameMask()(num_frames, maps))
    assert names_of(keras.Model([maps, num_frames], pooled)) == ["serving_default"]


def with_frames(make):
    frames = keras.Input((None, 3), name="frames")
    num_frames = keras.Input((), dtype="int32", name="num_frames")
    return keras.Model([frames, num_frames], make(frames, FrameMask()(num_frames, frames)))


def test_live_streams_need_an_answer_that_hangs_on_sums_alone(tmp_path):
    of_bytes = ["serving_default", "serve_quantized", "serve_examples"]
    # A convolution over time sees the frames of the next chunk.
    assert names_of(with_frames(lambda x, mask: NetVLAD(2)(keras.layers.Conv1D(3, 3)(x), mask=mask[:, 2:]))) == of_bytes
    # No mask: the padding of a chunk would count.
    assert names_of(with_frames(lambda x, mask: NetVLAD(2)(x))) == of_bytes
    # A second way past the sums.
    beside = with_frames(
        lambda x, mask: keras.layers.Concatenate()(
            [NetVLAD(2)(x, mask=mask), keras.layers.GlobalAveragePooling1D()(x, mask=mask)]
        )
    )
    assert names_of(beside) == of_bytes


@pytest.mark.slow
def test_two_poolings_of_one_stream_go_by_their_own_names(tmp_path):
    model = with_frames(
        lambda x, mask: keras.layers.Concatenate(name="both")(
            [NetVLAD(2, name="coarse")(x, mask=mask), NetVLAD(3, name="fine")(x, mask=mask)]
        )
    )
    sums = [port.name for port in serving_signatures(model)["accumulate"].outputs]
    assert sums == ["coarse_first_sum", "coarse_second_sum", "fine_first_sum", "fine_second_sum"]
    assert export_saved_model(model, tmp_path / "1").ok


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("a-b", "past.fine"), ("a_b", "past_fine")),
        (("_coarse", "2"), ("coarse", "pooling_2")),
        (("a.b", "a-b"), ("a_b", "a_b_other1")),
    ],
)
def test_sums_get_names_that_an_input_can_have(names, expected):
    model = with_frames(
        lambda x, mask: keras.layers.Concatenate(name="both")([NetVLAD(2, name=name)(x, mask=mask) for name in names])
    )
    sums = [f"{name}_{which}_sum" for name in expected for which in ("first", "second")]
    assert [port.name for port in serving_signatures(model)["accumulate"].outputs] == sums


def test_sums_do_not_take_the_name_of_a_stream():
    model = VideoClassifier({"a": 3, "a_first_sum": 3}, 2, num_clusters=2, hidden_units=None)
    names = [port.name for port in serving_signatures(model)["accumulate"].inputs]
    assert len(set(names)) == len(names) == 7


@pytest.mark.slow
def test_a_saved_model_has_sums_of_layers_of_any_name(tmp_path):
    model = with_frames(
        lambda x, mask: keras.layers.Concatenate(name="both")(
            [NetVLAD(2, name=name)(x, mask=mask) for name in ("pool-1", "past.b")]
        )
    )
    assert export_saved_model(model, tmp_path / "1").ok


def test_a_model_of_bytes_takes_its_records_as_they_are(tmp_path):
    frames = keras.Input((None, 3), name="frames", dtype="uint8")
    num_frames = keras.Input((), dtype="int32", name="num_frames")
    pooled = NetVLAD(2)(Dequantize()(frames), mask=FrameMask()(num_frames, frames))
    model = keras.Model([frames, num_frames], {"descriptor": pooled})
    assert export_saved_model(model, tmp_path / "1").ok
    # The frames are bytes already, so there is no second signature for bytes.
    assert set(Artefact(tmp_path / "1").signatures) == {"serving_default", "serve_examples", "accumulate", "describe"}


def test_the_model_is_as_before(model, tmp_path):
    before = model.to_json()
    serving_signatures(model)
    assert model.to_json() == before
    model.save(tmp_path / "model.keras")
    inputs = {**draw(2, 3), "num_frames": np.array([3, 1], "int32")}
    np.testing.assert_array_equal(load_model(tmp_path / "model.keras")(inputs)["scores"], model(inputs)["scores"])


def test_a_missing_signature_fails_the_verification(model, tmp_path):
    module = tf.Module()
    module.state = [weight.value for weight in model.weights]
    default = serving_signatures(model)["serving_default"]
    specs = {port.name: tf.TensorSpec(port.shape, port.dtype, port.name) for port in default.inputs}
    serve = tf.function(lambda **inputs: default.compute(inputs)).get_concrete_function(**specs)
    module.model = model
    tf.saved_model.save(module, str(tmp_path / "1"), signatures={"serving_default": serve})
    with pytest.raises(ValueError, match=r"signatures must be the model's, \['accumulate', .*\['serving_default'\]"):
        verify(model, tmp_path / "1")
