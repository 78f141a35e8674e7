import contextlib

import keras
import numpy as np
import pytest
import reference
from layer_contract import BACKEND, double_precision, randomize_weights
from selection import slow_except

from keras_netvlad.data import load_japanese_vowels
from keras_netvlad.layers import NetVLAD
from keras_netvlad.models import VideoClassifier, load_model

pytestmark = pytest.mark.backends


def small_model(**options):
    return VideoClassifier({"frames": 4}, **{"num_classes": 3, "num_clusters": 2, "hidden_units": 5, **options})


def small_batch(batch=4, frames=6, size=4, seed=0):
    generator = np.random.default_rng(seed)
    return {
        "frames": generator.normal(size=(batch, frames, size)).astype("float32"),
        "num_frames": generator.integers(1, frames + 1, batch).astype("int32"),
    }


# Everything between frames and scores that an option adds, one by one and as the winners had it.
OPTIONS = {
    "assignment": {"pooling_options": {"assignment_batch_normalization": True, "num_ghost_clusters": 1}},
    "netrvlad": {"pooling": "netrvlad"},
    "netfv": {"pooling": "netfv"},
    "soft_dbow": {"pooling": "soft_dbow"},
    "nextvlad": {"pooling": "nextvlad", "pooling_options": {"groups": 4}},
    "mean": {"pooling": "mean"},
    "mean_std": {"pooling": "mean_std"},
    "gem": {"pooling": "gem"},
    "salad": {"pooling": "salad", "pooling_options": {"cluster_size": 3, "hidden_units": 5}},
    "max": {"pooling": "max"},
    "attention": {"pooling": "attention", "pooling_options": {"num_heads": 2}},
    "bytes": {"input_dtype": "uint8"},
    "input_batch_normalization": {"input_batch_normalization": True},
    "descriptor_batch_normalization": {"descriptor_batch_normalization": True},
    "hidden_activation": {"hidden_activation": "tanh"},
    "linear_hidden": {"hidden_activation": None},
    "hidden_batch_normalization": {"hidden_batch_normalization": True, "hidden_units": 32},
    "dropout": {"dropout": 0.5},
    "feature_gating": {"gate_features": True, "gating_batch_normalization": False},
    "gating_reduction": {"gate_features": True, "gating_reduction": 2},
    "score_gating": {"gate_scores": True},
    "mixtures": {"num_mixtures": 2},
    "mixtures_without_hidden": {"num_mixtures": 3, "hidden_units": None},
    "all": {
        "pooling_options": {"assignment_batch_normalization": True},
        "input_dtype": "uint8",
        "input_batch_normalization": True,
        "descriptor_batch_normalization": True,
        "dropout": 0.3,
        "hidden_activation": None,
        "hidden_batch_normalization": True,
        "gate_features": True,
        "gate_scores": True,
        "gating_reduction": 2,
        "num_mixtures": 2,
        "classifier_regularizer": "l2",
    },
}


def two_stream_model(**options):
    model = VideoClassifier(
        {"rgb": 6, "audio": 4},
        **{"num_classes": 3, "num_clusters": {"rgb": 3, "audio": 2}, "hidden_units": 5, **options},
    )
    randomize_weights(model)
    return model


def two_stream_batch(model, frames=7, num_frames=(7, 3, 0, 9)):
    generator = np.random.default_rng(1)
    streams = {
        name: generator.integers(0, 256, (len(num_frames), frames, size)).astype("uint8")
        if model.stream_dtype == "uint8"
        else generator.normal(size=(len(num_frames), frames, size)).astype("float32")
        for name, size in model.feature_sizes.items()
    }
    return {**streams, "num_frames": np.array(num_frames, "int32")}


def outputs_of(model, batch):
    return {name: keras.ops.convert_to_numpy(values) for name, values in model(batch).items()}


def test_outputs_are_scores_and_unit_descriptors():
    outputs = outputs_of(small_model(activation="softmax"), small_batch())
    assert outputs["scores"].shape == (4, 3)
    assert outputs["descriptor"].shape == (4, 8)
    # Measured 1e-7 and 6e-8.
    np.testing.assert_allclose(outputs["scores"].sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(outputs["descriptor"], axis=1), 1, atol=1e-6)


def test_parameters_are_those_of_the_formula():
    # 2KD + K, then (KD + 1) H, then (H + 1) C.
    assert small_model().count_params() == (2 * 2 * 4 + 2) + (8 + 1) * 5 + (5 + 1) * 3
    assert small_model(hidden_units=None).count_params() == (2 * 2 * 4 + 2) + (8 + 1) * 3


@pytest.mark.parametrize("filler", [0.0, 7.0, np.nan])
def test_frames_beyond_num_frames_change_nothing(filler):
    model, batch = small_model(), small_batch()
    padded = {**batch, "frames": batch["frames"].copy()}
    for video, length in zip(padded["frames"], batch["num_frames"], strict=True):
        video[length:] = filler
    for name, expected in outputs_of(model, batch).items():
        np.testing.assert_array_equal(outputs_of(model, padded)[name], expected)


@pytest.mark.parametrize(("num_frames", "same_as"), [(-3, 0), (99, 6)])
def test_num_frames_out_of_range_mean_none_or_all(num_frames, same_as):
    model, batch = small_model(), small_batch(batch=1)
    received = outputs_of(model, {**batch, "num_frames": np.array([num_frames], "int32")})
    expected = outputs_of(model, {**batch, "num_frames": np.array([same_as], "int32")})
    np.testing.assert_array_equal(received["descriptor"], expected["descriptor"])


def test_a_video_without_frames_has_a_zero_descriptor():
    outputs = outputs_of(small_model(), {**small_batch(batch=2), "num_frames": np.array([0, 3], "int32")})
    assert not outputs["descriptor"][0].any()
    assert outputs["descriptor"][1].any()
    assert np.isfinite(outputs["scores"]).all()


@pytest.mark.parametrize("options", OPTIONS)
def test_every_option_matches_the_oracle(options):
    model = two_stream_model(**OPTIONS[options])
    batch = two_stream_batch(model)
    expected = reference.video_classifier(model, batch, batch["num_frames"])
    for name, values in outputs_of(model, batch).items():
        # Measured 1e-6 of the largest at worst, headroom 10.
        np.testing.assert_allclose(values, expected[name], rtol=0, atol=1e-5 * np.abs(expected[name]).max())


@pytest.mark.parametrize("options", slow_except(OPTIONS, "all"))
def test_every_option_trains_and_comes_back_from_a_file(options, tmp_path):
    model = two_stream_model(**OPTIONS[options])
    batch = two_stream_batch(model)
    model.compile(keras.optimizers.SGD(0.1), "binary_crossentropy", metrics=["mae"])
    before = [weight.numpy() for weight in model.trainable_variables]
    assert {"loss", "mae"} <= set(model.fit(batch, np.eye(4, 3), batch_size=4, verbose=0).history)
    for old, weight in zip(before, model.trainable_variables, strict=True):
        assert np.isfinite(weight.numpy()).all(), weight.path
        assert (old != weight.numpy()).any(), f"{weight.path} was not trained"
    model.save(tmp_path / "model.keras")
    loaded = load_model(tmp_path / "model.keras")
    assert loaded.get_config() == model.get_config()
    for name, expected in outputs_of(model, batch).items():
        np.testing.assert_array_equal(outputs_of(loaded, batch)[name], expected)


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True])
def test_padding_takes_no_part_in_any_option(training):
    model = two_stream_model(**{**OPTIONS["all"], "input_dtype": "float32", "dropout": 0.0})
    batch = two_stream_batch(model)
    real = np.arange(7) < batch["num_frames"][:, None]
    results = []
    for filler in (0.0, 3.0, np.nan):
        randomize_weights(model)
        padded = {name: np.where(real[..., None], batch[name], np.float32(filler)) for name in ("rgb", "audio")}
        model.compile(keras.optimizers.SGD(0.1), "binary_crossentropy")
        if training:
            model.fit({**padded, "num_frames": batch["num_frames"]}, np.eye(4, 3), shuffle=False, verbose=0)
        outputs = outputs_of(model, {**padded, "num_frames": batch["num_frames"]})
        results.append([*outputs.values(), *(weight.numpy() for weight in model.weights)])
    for other in results[1:]:
        for expected, received in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(received, expected)


def test_dropout_drops_from_the_descriptor_in_training_only():
    model = two_stream_model(dropout=0.5)
    batch = two_stream_batch(model)
    tensors = [model.get_layer("dropout").output, model.get_layer("descriptor").output]
    dropped, descriptor = keras.Model(model.input, tensors)(batch, training=True)
    dropped, descriptor = map(keras.ops.convert_to_numpy, (dropped, descriptor))
    assert 0.2 < np.mean(dropped[descriptor != 0] == 0) < 0.8  # of 78 values
    np.testing.assert_allclose(dropped[dropped != 0], 2 * descriptor[dropped != 0], rtol=1e-6)
    np.testing.assert_array_equal(descriptor, outputs_of(model, batch)["descriptor"])


def test_statistics_of_features_are_those_of_real_frames():
    model = two_stream_model(input_batch_normalization=True)
    batch = two_stream_batch(model)
    layer = model.get_layer("rgb_batch_normalization")
    before = layer.moving_mean.numpy(), layer.moving_variance.numpy()
    model.compile("sgd", "binary_crossentropy")
    model.fit(batch, np.eye(4, 3), batch_size=4, verbose=0)
    real = batch["rgb"][np.arange(7) < batch["num_frames"][:, None]].astype("float64")
    for old, new, expected in zip(
        before, (layer.moving_mean, layer.moving_variance), (real.mean(axis=0), real.var(axis=0)), strict=True
    ):
        np.testing.assert_allclose(new.numpy(), 0.99 * old + 0.01 * expected, rtol=0, atol=1e-6)  # measured 1e-7


def test_bytes_and_floats_are_the_same_model():
    model = two_stream_model(**OPTIONS["all"])
    floats = model.with_input_dtype("float32")
    assert floats.get_config() == {**model.get_config(), "input_dtype": "float32"}
    batch = two_stream_batch(model)
    features = {name: (batch[name] * (4 / 255) + 4 / 512 - 2).astype("float32") for name in ("rgb", "audio")}
    expected = outputs_of(model, batch)
    for name, values in outputs_of(floats, {**features, "num_frames": batch["num_frames"]}).items():
        # Measured 4e-7 of the largest: the features are rounded once more.
        np.testing.assert_allclose(values, expected[name], rtol=0, atol=1e-5 * np.abs(expected[name]).max())
    again = floats.with_input_dtype("uint8")
    for name, values in outputs_of(again, batch).items():
        np.testing.assert_array_equal(values, expected[name])
    # Weights of its own: training the copy leaves the original as it was.
    for weight in again.weights:
        weight.assign(weight + 1)
    np.testing.assert_array_equal(outputs_of(model, batch)["scores"], expected["scores"])


def test_parameters_of_the_options_are_those_of_the_formulas():
    plain = two_stream_model().count_params()
    descriptor = 3 * 6 + 2 * 4

    def added(**options):
        return two_stream_model(**options).count_params() - plain

    assert added(input_batch_normalization=True) == 4 * (6 + 4)
    assert added(pooling_options={"assignment_batch_normalization": True}) == 3 * (3 + 2)
    assert added(descriptor_batch_normalization=True) == 4 * descriptor
    assert added(hidden_batch_normalization=True) == 4 * 5 - 5
    assert added(gate_features=True) == 5 * 5 + 4 * 5
    assert added(gate_features=True, gating_batch_normalization=False) == 5 * 5 + 5
    assert added(gate_features=True, gating_reduction=2) == 2 * 5 * 2 + 4 * 2
    assert added(gate_scores=True) == 3 * 3 + 4 * 3
    assert added(num_mixtures=2) == 5 * 3 * 3 + 6 * 3 * 2 - 6 * 3
    assert added(hidden_units=None, num_mixtures=2) == descriptor * 3 * 5 + 6 - (descriptor + 1) * 5 - 6 * 3


def test_options_of_the_pooling_are_for_all_streams_or_for_each():
    model = two_stream_model(pooling_options={"rgb": {"normalize_input": True}, "audio": {}})
    assert model.get_layer("rgb_netvlad").normalize_input
    assert not model.get_layer("audio_netvlad").normalize_input
    model = two_stream_model(
        pooling_options={"normalize_input": True, "kernel_regularizer": keras.regularizers.L2(1.0)}
    )
    again = VideoClassifier.from_config(model.get_config())
    assert again.get_layer("audio_netvlad").normalize_input
    assert again.get_layer("audio_netvlad").kernel.regularizer.l2 == 1.0


def test_the_regularizer_is_that_of_the_classifier():
    for num_mixtures in (None, 2):
        model = two_stream_model(num_mixtures=num_mixtures, classifier_regularizer=keras.regularizers.L2(0.5))
        kernels = [weight for weight in model.get_layer("scores").weights if "kernel" in weight.name]
        expected = sum(0.5 * np.sum(kernel.numpy().astype("float64") ** 2) for kernel in kernels)
        np.testing.assert_allclose(float(sum(model.losses)), expected, rtol=1e-5)  # measured 1e-7


def test_files_of_models_without_options_keep_their_names_and_weights():
    config = {
        "name": "old",
        "trainable": True,
        "dtype": {
            "module": "keras",
            "class_name": "DTypePolicy",
            "config": {"name": "float32"},
            "registered_name": None,
        },
        "feature_sizes": {"frames": 4},
        "num_classes": 3,
        "num_clusters": 2,
        "hidden_units": 5,
        "activation": "softmax",
        "product_dtype": None,
        "quantized_layers": {},
    }
    weights = [weight.path for weight in VideoClassifier.from_config(config).weights]
    netvlad = [f"frames_netvlad/{name}" for name in ("kernel", "bias", "centroids")]
    assert weights == [*netvlad, "hidden/kernel", "hidden/bias", "scores/kernel", "scores/bias"]


@pytest.mark.slow
def test_fit_takes_plain_labels_and_dicts():
    model, batch, labels = small_model(activation="softmax"), small_batch(), np.array([0, 1, 2, 0])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    plain = model.fit(batch, labels, verbose=0, validation_data=(batch, labels)).history
    assert set(plain) == {"loss", "accuracy", "val_loss", "val_accuracy"}

    loss = {"scores": "sparse_categorical_crossentropy", "descriptor": "mse"}
    model = small_model(activation="softmax")
    model.compile("adam", loss)
    both = model.fit(batch, {"scores": labels, "descriptor": np.zeros((4, 8))}, verbose=0).history
    assert set(both) == {"loss", "scores_loss", "descriptor_loss"}


def test_fit_learns():
    train, test = load_japanese_vowels()
    keras.utils.set_random_seed(0)
    model = VideoClassifier({"frames": 12}, 9, num_clusters=16, hidden_units=None, activation="softmax")
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(*train, epochs=10, verbose=0)
    # Measured 0.957 to 0.965 over three seeds after 10 epochs; chance is 0.11.
    assert model.evaluate(*test, verbose=0, return_dict=True)["accuracy"] > 0.93


@pytest.mark.parametrize("fitted", [False, True])
def test_a_saved_model_comes_back_equal(tmp_path, fitted):
    model, batch = small_model(activation="softmax"), small_batch()
    if fitted:
        model.compile("adam", "sparse_categorical_crossentropy")
        model.fit(batch, np.array([0, 1, 2, 0]), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = load_model(tmp_path / "model.keras")
    assert type(loaded) is VideoClassifier
    assert loaded.get_config() == model.get_config()
    for name, expected in outputs_of(model, batch).items():
        np.testing.assert_array_equal(outputs_of(loaded, batch)[name], expected)


def test_streams_are_pooled_each_and_joined(tmp_path):
    model = VideoClassifier({"rgb": 4, "audio": 2}, 3, num_clusters={"rgb": 3, "audio": 2}, hidden_units=None)
    batch = small_batch()
    batch["rgb"] = batch.pop("frames")
    batch["audio"] = small_batch(size=2)["frames"]
    descriptor = outputs_of(model, batch)["descriptor"]
    assert descriptor.shape == (4, 3 * 4 + 2 * 2)
    expected = model.get_layer("rgb_netvlad")(batch["rgb"], mask=np.arange(6) < batch["num_frames"][:, None])
    np.testing.assert_array_equal(descriptor[:, :12], keras.ops.convert_to_numpy(expected))
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(outputs_of(load_model(tmp_path / "model.keras"), batch)["descriptor"], descriptor)


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_every_precision_answers_in_float32_or_better(dtype):
    with double_precision() if dtype == "float64" else contextlib.nullcontext():
        model = small_model(dtype=dtype)
        outputs = outputs_of(model, small_batch())
        expected = "float64" if dtype == "float64" else "float32"
        assert {values.dtype.name for values in outputs.values()} == {expected}
        assert VideoClassifier.from_config(model.get_config()).get_layer("hidden").compute_dtype == dtype.split("_")[-1]


def test_quantizing_leaves_the_pooling_in_float_and_survives_saving(tmp_path):
    keras.utils.set_random_seed(0)
    model, batch = small_model(hidden_units=64), small_batch()
    expected = outputs_of(model, batch)
    model.quantize("int8")  # Keras warns that the pooling stays in float, in words that differ between its releases.
    received = outputs_of(model, batch)
    np.testing.assert_array_equal(received["descriptor"], expected["descriptor"])
    # Measured 8e-4: int8 weights and activations.
    np.testing.assert_allclose(received["scores"], expected["scores"], atol=5e-3)
    assert (received["scores"] != expected["scores"]).any()
    model.save(tmp_path / "model.keras")
    loaded = outputs_of(load_model(tmp_path / "model.keras"), batch)
    np.testing.assert_array_equal(loaded["scores"], received["scores"])


def test_the_layer_alone_refuses_to_be_quantized():
    layer = NetVLAD(2)
    layer.build((None, None, 4))
    with pytest.raises(NotImplementedError, match="NetVLAD does not have a `quantize` method"):
        layer.quantize("int8")


def test_summary_and_picture_of_the_model(tmp_path):
    lines = []
    small_model().summary(print_fn=lines.append)
    assert "frames_netvlad" in "\n".join(lines)
    assert keras.utils.model_to_dot(small_model()).to_string()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"feature_sizes": 1152}, r"`feature_sizes` must be a dict.*Received: feature_sizes=1152"),
        ({"feature_sizes": {}}, r"`feature_sizes` must be a dict.*Received: feature_sizes=\{\}"),
        ({"feature_sizes": {"frames": 0}}, r"must be a positive integer. Received: feature_sizes\['frames'\]=0"),
        ({"feature_sizes": {"my frames": 4}}, r"letters, digits and underscores.*'my frames'"),
        ({"feature_sizes": {"scores": 4}}, r"name of another input or output. Received: 'scores'"),
        ({"num_classes": 0}, r"`num_classes` must be a positive integer. Received: num_classes=0"),
        ({"num_clusters": 2.5}, r"`num_clusters` must be a positive integer. Received: num_clusters=2.5"),
        ({"num_clusters": {"rgb": 2}}, r"an entry for each stream of \['frames'\]. Received: \['rgb'\]"),
        ({"hidden_units": -1}, r"`hidden_units` must be a positive integer. Received: hidden_units=-1"),
        (
            {"hidden_activation": "nope"},
            r"`hidden_activation` must be an activation of Keras, its name, or None. Received: .*='nope'",
        ),
        ({"classifier_regularizer": 3}, r"`classifier_regularizer` must be a regularizer of Keras.* Received: .*=3"),
        ({"pooling": ["netvlad"]}, r"`pooling` must be one of .* Received: pooling=\['netvlad'\]"),
        ({"activation": "relu"}, r"`activation` must be one of \['sigmoid', 'softmax'\]. Received: activation='relu'"),
        ({"pooling": "vlad"}, r"`pooling` must be one of \['netvlad'.*\], a Keras layer.*Received: pooling='vlad'"),
        ({"pooling_options": 3}, r"`pooling_options` must be a dict of arguments.*Received: pooling_options=3"),
        ({"pooling_options": {"clusters": 3}}, r"`pooling_options` of 'netvlad' must be some of.*\{'clusters': 3\}"),
        (
            {"pooling_options": {"frames": {"dtype": 1}}},
            r"must be some of \['assignment'.*\{'frames': \{'dtype': 1\}\}",
        ),
        ({"input_dtype": "int8"}, r"`input_dtype` must be one of \['float32', 'uint8'\]. Received: input_dtype='int8'"),
        ({"dropout": 1.0}, r"`dropout` must be a number from 0 to below 1. Received: dropout=1.0"),
        ({"gate_features": 1}, r"`gate_features` must be True or False. Received: gate_features=1"),
        ({"gate_features": True, "hidden_units": None}, r"hidden projection; give `hidden_units`.*hidden_units=None"),
        ({"num_mixtures": 0}, r"`num_mixtures` must be a positive integer. Received: num_mixtures=0"),
        ({"num_mixtures": 2, "activation": "softmax"}, r"leave `activation` 'sigmoid'. Received: activation='softmax'"),
        (
            {"gate_scores": True, "activation": "softmax"},
            r"leave `activation` 'sigmoid'. Received: activation='softmax'",
        ),
        ({"gating_reduction": 0}, r"`gating_reduction` must be a positive integer. Received: gating_reduction=0"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        VideoClassifier(**{"feature_sizes": {"frames": 4}, "num_classes": 3, **arguments})


def test_a_misspelt_argument_is_not_passed_over():
    with pytest.raises(TypeError, match=r"takes the arguments \['feature_sizes', .* Received: \['hidden_unit'\]"):
        VideoClassifier({"frames": 4}, 3, hidden_unit=16)


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "tensorflow", reason="exports run on TensorFlow: `make test`")
@pytest.mark.parametrize("input_dtype", ["float32", "uint8"])
def test_both_formats_are_the_model_with_all_options(input_dtype, tmp_path):
    from keras_netvlad.export import export_model

    model = two_stream_model(**{**OPTIONS["all"], "input_dtype": input_dtype})
    reports = export_model(model, tmp_path / "out")
    assert all(report.ok and report.judge == "float64" for report in reports)


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "tensorflow", reason="exports run on TensorFlow: `make test`")
@pytest.mark.parametrize("pooling", ["mean", "mean_std", "max", "attention"])
def test_both_formats_are_the_model_of_simple_poolings(pooling, tmp_path):
    from keras_netvlad.export import export_model

    reports = export_model(two_stream_model(pooling=pooling), tmp_path / "out")
    assert all(report.ok and report.judge == "float64" for report in reports)


def test_loading_says_what_is_wrong_with_a_file(tmp_path):
    with pytest.raises(TypeError, match=r"`path` must be a path. Received: path=None"):
        load_model(None)
    with pytest.raises(FileNotFoundError, match=r"must be a .keras file.*which is not a file"):
        load_model(tmp_path / "absent.keras")
    broken = tmp_path / "broken.keras"
    broken.write_bytes(b"not a zip")
    with pytest.raises(ValueError, match=r"must be a whole .keras file.*broken.keras"):
        load_model(broken)
    small_model().save(tmp_path / "whole.keras")
    broken.write_bytes((tmp_path / "whole.keras").read_bytes()[:-2000])
    with pytest.raises(ValueError, match=r"must be a whole .keras file"):
        load_model(broken)
