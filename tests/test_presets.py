"""Presets of `VideoClassifier`: published settings as data."""

import unittest.mock

import keras
import numpy as np
import pytest
import reference
from layer_contract import BACKEND, randomize_weights

from keras_netvlad import VideoClassifier
from keras_netvlad.models.presets import PRESETS

SMALL = {"num_classes": 5, "feature_sizes": {"rgb": 16, "audio": 8}, "num_clusters": {"rgb": 4, "audio": 2}}


def small_model(preset, **overrides):
    model = VideoClassifier.from_preset(preset, **{**SMALL, "hidden_units": 16, **overrides})
    randomize_weights(model)
    return model


def small_batch(model):
    generator = np.random.default_rng(0)
    streams = {name: generator.normal(size=(3, 6, size)) for name, size in model.feature_sizes.items()}
    return {
        **{name: values.astype("float32") for name, values in streams.items()},
        "num_frames": np.array([6, 2, 0], "int32"),
    }


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_matches_the_oracle_and_trains(preset):
    model = small_model(preset)
    batch = small_batch(model)
    expected = reference.video_classifier(model, batch, batch["num_frames"])
    for name, values in model(batch).items():
        received = keras.ops.convert_to_numpy(values)
        # Measured 1e-6 of the largest at worst, headroom 10.
        np.testing.assert_allclose(received, expected[name], rtol=0, atol=1e-5 * np.abs(expected[name]).max())
    model.compile("adam", "binary_crossentropy")
    assert np.isfinite(model.fit(batch, np.eye(3, 5), verbose=0).history["loss"]).all()


@pytest.mark.skipif(BACKEND != "tensorflow", reason="export runs on TensorFlow")
@pytest.mark.parametrize("preset", PRESETS)
def test_both_formats_are_every_preset(preset, tmp_path):
    from keras_netvlad.export import export_model

    reports = export_model(small_model(preset), tmp_path / "out")
    assert all(report.ok and report.judge == "float64" for report in reports)


def netvlad_parameters(size, clusters):
    """Assignment, its normalization, centroids; and the normalization of the features."""
    return 2 * size * clusters + 4 * clusters + 4 * size


def gated_parameters(descriptor, hidden, classes=3862):
    """Projection, gating of features, two experts and a dummy for each class, gating of scores."""
    projection = descriptor * hidden + hidden
    experts = hidden * classes * 3 + (hidden + 1) * classes * 2
    return projection + hidden**2 + 4 * hidden + experts + classes**2 + 4 * classes


@pytest.mark.parametrize(
    ("preset", "clusters", "hidden"),
    [
        ("gated_netvlad", (256, 128), 1024),
        ("skalic_austin_2018_netvlad_1", (256, 128), 1024),
        ("skalic_austin_2018_netvlad_2", (192, 96), 992),
    ],
)
def test_netvlad_presets_have_the_published_sizes(preset, clusters, hidden):
    rgb, audio = clusters
    expected = netvlad_parameters(1024, rgb) + netvlad_parameters(128, audio)
    expected += gated_parameters(1024 * rgb + 128 * audio, hidden)
    assert full_size(preset) == expected


def full_size(preset):
    """Parameters at full size; zeros, which take neither time nor memory."""
    add_weight = keras.Layer.add_weight
    with unittest.mock.patch.object(
        keras.Layer, "add_weight", lambda *args, **options: add_weight(*args, **{**options, "initializer": "zeros"})
    ):
        return VideoClassifier.from_preset(preset).count_params()


def test_streams_of_other_names_take_the_settings_of_rgb():
    model = VideoClassifier.from_preset("gated_netvlad", 3, feature_sizes={"frames": 4, "audio": 2}, hidden_units=4)
    assert model.num_clusters == {"frames": 256, "audio": 128}


def test_overrides_take_the_place_of_settings():
    model = small_model("gated_netvlad", dtype="mixed_bfloat16", name="mine", gate_scores=False, input_dtype="uint8")
    assert model.name == "mine"
    assert model.get_layer("hidden").compute_dtype == "bfloat16"
    assert type(model.get_layer("scores")).__name__ == "MixtureOfExperts"
    assert model.input["rgb"].dtype == "uint8"


def test_an_override_leaves_the_table_as_it_was():
    before = repr(PRESETS)
    small_model("gated_netvlad").pooling_options["use_bias"] = False
    assert repr(PRESETS) == before


@pytest.mark.parametrize(
    ("preset", "overrides", "message"),
    [
        ("netvlad", {}, r"The preset must be one of \['gated_netvlad', .*\]. Received: 'netvlad'"),
        (None, {}, r"The preset must be one of .*Received: None"),
        ("gated_netvlad", {"hidden": 3}, r"Overrides must be arguments of `VideoClassifier`. Received: \['hidden'\]"),
        ("gated_netvlad", {"feature_sizes": 3}, r"`feature_sizes` must be a dict.*Received: feature_sizes=3"),
        ("gated_netvlad", {"num_classes": 0}, r"`num_classes` must be a positive integer. Received: num_classes=0"),
    ],
)
def test_mistakes_are_said(preset, overrides, message):
    with pytest.raises(ValueError, match=message):
        VideoClassifier.from_preset(preset, **overrides)
