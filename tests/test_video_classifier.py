import keras
import numpy as np
import pytest

from keras_netvlad.data import load_japanese_vowels
from keras_netvlad.layers import NetVLAD
from keras_netvlad.models import VideoClassifier, load_model


def small_model(**options):
    return VideoClassifier({"frames": 4}, **{"num_classes": 3, "num_clusters": 2, "hidden_units": 5, **options})


def small_batch(batch=4, frames=6, size=4, seed=0):
    generator = np.random.default_rng(seed)
    return {
        "frames": generator.normal(size=(batch, frames, size)).astype("float32"),
        "num_frames": generator.integers(1, frames + 1, batch).astype("int32"),
    }


def outputs_of(model, batch):
    return {name: np.asarray(values) for name, values in model(batch).items()}


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
    np.testing.assert_array_equal(descriptor[:, :12], np.asarray(expected))
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(outputs_of(load_model(tmp_path / "model.keras"), batch)["descriptor"], descriptor)


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_every_precision_answers_in_float32_or_better(dtype):
    model = small_model(dtype=dtype)
    outputs = outputs_of(model, small_batch())
    expected = "float64" if dtype == "float64" else "float32"
    assert {values.dtype.name for values in outputs.values()} == {expected}
    assert VideoClassifier.from_config(model.get_config()).get_layer("hidden").compute_dtype == dtype.split("_")[-1]


def test_quantizing_leaves_the_pooling_in_float_and_survives_saving(tmp_path):
    keras.utils.set_random_seed(0)
    model, batch = small_model(hidden_units=64), small_batch()
    expected = outputs_of(model, batch)
    with pytest.warns(UserWarning, match="Layer NetVLAD does not have a `quantize` method"):
        model.quantize("int8")
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
        ({"activation": "relu"}, r"`activation` must be 'sigmoid' or 'softmax'. Received: activation='relu'"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        VideoClassifier(**{"feature_sizes": {"frames": 4}, "num_classes": 3, **arguments})


def test_loading_says_what_is_wrong_with_a_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"must be a .keras file.*no file"):
        load_model(tmp_path / "absent.keras")
    broken = tmp_path / "broken.keras"
    broken.write_bytes(b"not a zip")
    with pytest.raises(ValueError, match=r"must be a whole .keras file.*broken.keras"):
        load_model(broken)
    small_model().save(tmp_path / "whole.keras")
    broken.write_bytes((tmp_path / "whole.keras").read_bytes()[:-2000])
    with pytest.raises(ValueError, match=r"must be a whole .keras file"):
        load_model(broken)
