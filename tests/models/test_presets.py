"""Presets of `VideoClassifier`: published settings as data."""

import unittest.mock

import keras
import numpy as np
import pytest
import reference
from layer_contract import BACKEND, randomize_weights
from paths import ROOT
from published_models import PUBLISHED, published_checkpoint, published_inputs, published_output

from keras_netvlad import VideoClassifier
from keras_netvlad.convert import convert_model
from keras_netvlad.models.presets import PRESETS

pytestmark = pytest.mark.backends

SMALL = {"num_classes": 5, "feature_sizes": {"rgb": 16, "audio": 8}, "num_clusters": {"rgb": 4, "audio": 2}}
# One of each; the others differ in sizes.
ARCHITECTURES = (
    *("gated_netvlad", "gated_netrvlad", "gated_netfv", "gated_soft_dbow", "soft_dbow", "nextvlad", "youtube8m_moe"),
)


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
def test_every_preset_matches_the_oracle(preset):
    model = small_model(preset)
    batch = small_batch(model)
    expected = reference.video_classifier(model, batch, batch["num_frames"])
    for name, values in model(batch).items():
        received = keras.ops.convert_to_numpy(values)
        # Measured 1e-6 of the largest at worst, headroom 10.
        np.testing.assert_allclose(received, expected[name], rtol=0, atol=1e-5 * np.abs(expected[name]).max())


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["gated_netvlad", "nextvlad"])
@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
def test_a_preset_trains_in_any_precision(preset, dtype):
    model = VideoClassifier.from_preset(preset, **SMALL, hidden_units=16, dtype=dtype)
    model.compile("adam", "binary_crossentropy")
    batch = small_batch(model)
    assert np.isfinite(model.fit(batch, np.eye(3, 5), epochs=2, verbose=0).history["loss"]).all()
    assert all(np.isfinite(weight.numpy()).all() for weight in model.weights)


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "tensorflow", reason="exports run on TensorFlow: `make test`")
@pytest.mark.parametrize("preset", ARCHITECTURES)
def test_both_formats_are_the_preset(preset, tmp_path):
    from keras_netvlad.export import export_model

    reports = export_model(small_model(preset), tmp_path / "out")
    assert all(report.ok and report.judge == "float64" for report in reports)


# Weights of the pooling of `D` features into `K` clusters, and length of its descriptor: batch normalization of the
# assignment has four values a cluster, that of the features four a feature.
POOLINGS = {
    "netvlad": lambda d, k: (2 * d * k + 4 * k + 4 * d, d * k),
    "netrvlad": lambda d, k: (d * k + 4 * k + 4 * d, d * k),
    "netfv": lambda d, k: (3 * d * k + 4 * k + 4 * d, 2 * d * k),
    "soft_dbow": lambda d, k: (d * k + 4 * k + 4 * d, k),
}


def gated_parameters(pooling, rgb, audio, hidden, gates, classes=3862):
    """Poolings, projection, gating of features, two experts and a dummy for each class, gating of scores."""
    of_rgb, of_audio = POOLINGS[pooling](1024, rgb), POOLINGS[pooling](128, audio)
    projection = (of_rgb[1] + of_audio[1]) * hidden + hidden
    experts = hidden * classes * 3 + (hidden + 1) * classes * 2
    gating = hidden**2 + 4 * hidden + classes**2 + 4 * classes if gates else 0
    return of_rgb[0] + of_audio[0] + projection + experts + gating


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "pooling", "rgb", "audio", "hidden", "gates"),
    [
        ("gated_netvlad", "netvlad", 256, 128, 1024, True),
        ("gated_netrvlad", "netrvlad", 256, 128, 1024, True),
        ("gated_netfv", "netfv", 128, 64, 1024, True),
        ("soft_dbow", "soft_dbow", 8000, 1000, 1024, False),
        ("skalic_austin_2018_netvlad_1", "netvlad", 256, 128, 1024, True),
        ("skalic_austin_2018_netvlad_2", "netvlad", 192, 96, 992, True),
        ("skalic_austin_2018_netfv", "netfv", 96, 48, 1540, True),
    ],
)
def test_gated_presets_have_the_published_sizes(preset, pooling, rgb, audio, hidden, gates):
    assert full_size(preset) == gated_parameters(pooling, rgb, audio, hidden, gates)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "overrides", "published"),
    [
        ("gated_soft_dbow", {}, 37_188_652),
        ("gated_soft_dbow", {"gate_scores": True}, 52_119_144),
        ("skalic_austin_2018_soft_dbow_1", {}, 37_188_652),
        ("skalic_austin_2018_soft_dbow_2", {}, 59_315_756),
        ("skalic_austin_2018_soft_dbow_3", {}, 32_998_372),
    ],
)
def test_presets_with_gated_counts_have_as_many_parameters_as_the_published_code(preset, overrides, published):
    assert full_size(preset, **overrides) == published


@pytest.mark.parametrize(
    ("overrides", "clusters", "reduction", "published"),
    [
        ({}, 128, 8, 89),  # Lin et al. 2018, table 1: 8 groups, K = 128, H = 2048, "89M"
        ({"num_clusters": {"rgb": 112, "audio": 56}, "gating_reduction": 16}, 112, 16, 79),  # table 2: "79M"
    ],
)
def test_nextvlad_has_the_published_size(overrides, clusters, reduction, published):
    expected, length, hidden = 0, 0, 2048
    for size, groups, k in ((1024, 8, clusters), (128, 4, clusters // 2)):
        wide = 2 * size  # lambda D
        # The paper's lambda D (D + G + K (G + 1 / G)), and biases and batch normalization, which it leaves aside.
        expected += wide * (size + groups + k * groups) + wide * k // groups + wide + groups + 4 * groups * k
        length += wide * k // groups
    expected += 4 * length + length * hidden + 4 * hidden
    expected += 2 * hidden**2 // reduction + 4 * hidden // reduction + (hidden + 1) * 3862
    assert full_size("nextvlad", **overrides) == expected
    assert round(expected / 1e6) == published


def test_the_mixture_of_experts_has_the_size_of_googles_and_takes_means():
    size, classes = 1024 + 128, 3862
    assert full_size("youtube8m_moe") == classes * (3 * size + 2 * (size + 1))
    model = VideoClassifier.from_preset("youtube8m_moe", 3, feature_sizes={"rgb": 4, "audio": 2})
    frames = {name: np.random.default_rng(0).normal(size=(2, 7, d)) for name, d in model.feature_sizes.items()}
    means = {name: values.mean(axis=1, keepdims=True) for name, values in frames.items()}
    of_frames = model({**frames, "num_frames": np.array([7, 7])})["scores"]
    of_means = model({**means, "num_frames": np.array([1, 1])})["scores"]
    # The classifier sees a mean of unit norm, so that its scale has no influence.
    doubled = model({**{n: 2 * v for n, v in means.items()}, "num_frames": np.array([1, 1])})["scores"]
    for scores in (of_means, doubled):
        np.testing.assert_allclose(*map(keras.ops.convert_to_numpy, (of_frames, scores)), rtol=1e-5)


def full_size(preset, **overrides):
    """Parameters at full size; zeros, which take neither time nor memory."""
    add_weight = keras.Layer.add_weight
    with unittest.mock.patch.object(
        keras.Layer, "add_weight", lambda *args, **options: add_weight(*args, **{**options, "initializer": "zeros"})
    ):
        return VideoClassifier.from_preset(preset, **overrides).count_params()


@pytest.mark.parametrize("preset", PRESETS)
def test_settings_that_no_size_shows(preset):
    model = small_model(preset)
    assert model.get_layer("hidden").activation is keras.activations.linear
    classifier = model.get_layer("ungated_scores" if model.gate_scores else "scores")
    if preset == "nextvlad":
        assert model.get_layer("dropout").rate == 0.5
        assert classifier.kernel_regularizer.l2 == classifier.bias_regularizer.l2 == pytest.approx(1e-5 / 2)
        assert model.get_layer("hidden").kernel_initializer.scale == 2.0
    elif preset == "youtube8m_moe":
        assert model.pooling == "mean"
        assert classifier.num_mixtures == 2
        assert classifier.gate_kernel.regularizer.l2 == classifier.expert_kernel.regularizer.l2
        assert classifier.gate_kernel.regularizer.l2 == pytest.approx(1e-8 / 2)
    else:
        assert model.get_layer(f"rgb_{model.pooling}").assignment_batch_normalization
        assert classifier.num_mixtures == 2
        assert classifier.gate_kernel.regularizer.l2 == classifier.expert_kernel.regularizer.l2
        assert classifier.gate_kernel.regularizer.l2 == pytest.approx((1e-8 if preset == "soft_dbow" else 1e-6) / 2)
        assert model.get_layer("hidden").kernel_initializer.stddev == PRESETS[preset]["num_clusters"]["rgb"] ** -0.5
    momenta = [layer.momentum for layer in model._flatten_layers() if hasattr(layer, "moving_mean")]
    assert set(momenta) == (set() if preset == "youtube8m_moe" else {0.999})


@pytest.mark.parametrize("preset", PUBLISHED)
def test_a_preset_computes_what_the_published_code_computed(preset):
    options = {"num_clusters": {"rgb": 16, "audio": 2} if "dbow" in preset else {"rgb": 8, "audio": 4}}
    options |= {"dropout": 0.0} if preset == "nextvlad" else {}
    options |= {} if preset == "youtube8m_moe" else {"hidden_units": 8}
    model = VideoClassifier.from_preset(preset, 5, input_dtype="uint8", **options)
    model.set_weights(convert_model(published_checkpoint(preset)).get_weights())
    assert float(sum(model.losses)) == pytest.approx(float(published_output(preset, "penalty")), rel=1e-5)
    for training, name in ((False, "scores"), (True, "training_scores")):
        scores = keras.ops.convert_to_numpy(model(published_inputs(), training=training)["scores"])
        # Measured 6e-8 in inference and 3e-7 in training on TensorFlow.
        np.testing.assert_allclose(scores, published_output(preset, name), rtol=0, atol=3e-6)


def documented():
    """The rows of the tables in docs/presets.md by preset: the first is that of the overview."""
    rows = {}
    for line in (ROOT / "docs" / "presets.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("| `"):
            name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            rows.setdefault(name.strip("`"), []).append(cells)
    return rows


def test_the_documentation_lists_every_preset_and_its_command():
    rows = documented()
    assert set(rows) == set(PRESETS)
    for preset, (overview, command) in rows.items():
        settings, flags = PRESETS[preset], command[-1]
        clusters = settings.get("num_clusters")
        assert overview[0] == (f"{clusters['rgb']}, {clusters['audio']}" if clusters else "-"), preset
        assert overview[1] == str(settings["hidden_units"] or "-"), preset
        if clusters:
            assert f"cluster_size={clusters['rgb']} " in flags, preset
            assert f"hidden_size={settings['hidden_units']} " in flags, preset
            gates = [settings.get(f"gate_{what}", False) for what in ("features", "scores")]
            expected = ["--gating=True" in flags or "--gating_reduction" in flags, "--moe_prob_gating=True" in flags]
            assert gates == expected, preset


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_the_documentation_counts_the_parameters(preset):
    assert documented()[preset][0][2] == f"{full_size(preset):,}"


def test_streams_of_other_names_take_the_settings_of_rgb():
    model = VideoClassifier.from_preset("gated_netvlad", 3, feature_sizes={"frames": 4, "audio": 2}, hidden_units=4)
    assert model.num_clusters == {"frames": 256, "audio": 128}


def test_streams_of_nextvlad_are_grouped_each_in_their_way():
    model = small_model("nextvlad")
    assert [model.get_layer(f"{name}_nextvlad").groups for name in ("rgb", "audio")] == [8, 4]
    assert not model.get_layer("rgb_nextvlad").output_normalization


def test_overrides_take_the_place_of_settings():
    model = small_model("gated_netvlad", dtype="mixed_bfloat16", name="mine", gate_scores=False, input_dtype="uint8")
    assert model.name == "mine"
    assert model.get_layer("hidden").compute_dtype == "bfloat16"
    assert type(model.get_layer("scores")).__name__ == "MixtureOfExperts"
    assert model.input["rgb"].dtype == "uint8"


def test_another_pooling_has_its_own_options():
    model = small_model("gated_netvlad", pooling="mean")
    assert model.get_layer("rgb_mean").output.shape == (None, 16)
    assert model.pooling_options is None
    assert small_model("gated_netvlad", pooling="netvlad").pooling_options == {"assignment_batch_normalization": True}


def test_a_preset_is_named_after_itself():
    assert small_model("nextvlad").name == "nextvlad"
    assert small_model("nextvlad", name="mine").name == "mine"


def test_an_override_leaves_the_table_as_it_was():
    before = repr(PRESETS)
    small_model("gated_netvlad").pooling_options["use_bias"] = False
    assert repr(PRESETS) == before


@pytest.mark.parametrize(
    ("preset", "overrides", "message"),
    [
        ("netvlad", {}, r"`preset` must be one of \['gated_netvlad', .*\]. Received: preset='netvlad'"),
        (["nextvlad"], {}, r"`preset` must be one of .*Received: preset=\['nextvlad'\]"),
        (None, {}, r"`preset` must be one of .*Received: preset=None"),
        ("gated_netvlad", {"hidden": 3}, r"Overrides must be arguments of `VideoClassifier`. Received: \['hidden'\]"),
        ("gated_netvlad", {"feature_sizes": 3}, r"`feature_sizes` must be a dict.*Received: feature_sizes=3"),
        ("gated_netvlad", {"num_classes": 0}, r"`num_classes` must be a positive integer. Received: num_classes=0"),
    ],
)
def test_mistakes_are_said(preset, overrides, message):
    with pytest.raises(ValueError, match=message):
        VideoClassifier.from_preset(preset, **overrides)
