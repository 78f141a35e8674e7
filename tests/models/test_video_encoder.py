"""`VideoEncoder`: descriptors, poolings of the user's own, and the encoder of a classifier."""

import json
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
from keras import ops
from layer_contract import BACKEND, randomize_weights
from selection import slow_except

from keras_netvlad import VideoClassifier, VideoEncoder
from keras_netvlad.layers import FrameEncoder, MeanPooling, NetVLAD
from keras_netvlad.losses import MultiSimilarityLoss
from keras_netvlad.models import ensemble, from_pixels, load_model
from keras_netvlad.models.poolings import POOLINGS
from keras_netvlad.models.scoring_model import ScoringModel

pytestmark = pytest.mark.backends

SIZES = {"rgb": 6, "audio": 4}


@keras.saving.register_keras_serializable("tests")
class PowerPooling(keras.Layer):
    """Generalized mean of the real frames, with a learnable power and a scale of each feature."""

    def __init__(self, power=2.0, **kwargs):
        super().__init__(**kwargs)
        self.power = power
        self.supports_masking = True

    def build(self, input_shape):
        self.exponent = self.add_weight(name="exponent", initializer=keras.initializers.Constant(self.power))
        self.scale = self.add_weight(name="scale", shape=(input_shape[-1],), initializer="ones")

    def call(self, frames, mask=None):
        values = ops.maximum(ops.abs(frames), 1e-3)
        weights = ops.ones_like(values) if mask is None else ops.cast(ops.expand_dims(mask, -1), values.dtype)
        values = ops.where(weights > 0, values, 1.0)
        mean = ops.sum(weights * values**self.exponent, axis=1) / ops.maximum(ops.sum(weights, axis=1), 1.0)
        return self.scale * ops.maximum(mean, 1e-9) ** (1.0 / self.exponent)

    def compute_mask(self, inputs, previous_mask):
        return None

    def get_config(self):
        return {**super().get_config(), "power": self.power}


def batch_of(sizes, videos=4, frames=6, seed=0):
    generator = np.random.default_rng(seed)
    streams = {name: generator.normal(size=(videos, frames, size)).astype("float32") for name, size in sizes.items()}
    return {**streams, "num_frames": np.array([6, 3, 1, 4], "int32")[:videos]}


def outputs_of(model, batch):
    return {name: ops.convert_to_numpy(values) for name, values in model(batch).items()}


def assert_same_outputs(model, other, batch):
    expected, received = outputs_of(model, batch), outputs_of(other, batch)
    assert set(received) == set(expected)
    for name in expected:
        np.testing.assert_array_equal(received[name], expected[name])


@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_descriptor_is_that_of_the_classifier(pooling):
    options = {"num_clusters": 4, "pooling_options": {"groups": 2} if pooling == "nextvlad" else None}
    keras.utils.set_random_seed(3)
    encoder = VideoEncoder(SIZES, pooling, **options)
    keras.utils.set_random_seed(3)
    classifier = VideoClassifier(SIZES, 3, pooling=pooling, hidden_units=5, **options)
    assert list(encoder.output) == ["descriptor"]
    assert [layer.name for layer in encoder.pooling_layers.values()] == [f"{name}_{pooling}" for name in SIZES]
    batch = batch_of(SIZES)
    np.testing.assert_array_equal(outputs_of(encoder, batch)["descriptor"], outputs_of(classifier, batch)["descriptor"])


def test_sizes_and_names():
    encoder = VideoEncoder(SIZES, num_clusters={"rgb": 3, "audio": 2}, input_batch_normalization=True)
    assert encoder.output["descriptor"].shape == (None, 3 * 6 + 2 * 4)
    names = [f"{stream}_{part}" for stream in SIZES for part in ("mask", "batch_normalization", "netvlad")]
    assert set(names) | {"rgb", "audio", "num_frames", "descriptor"} <= {layer.name for layer in encoder.layers}
    descriptor = outputs_of(encoder, {**batch_of(SIZES), "num_frames": np.zeros(4, "int32")})["descriptor"]
    np.testing.assert_array_equal(descriptor, 0)


@pytest.mark.parametrize(
    "options",
    [
        {"pooling": "nextvlad", "pooling_options": {"groups": 2}},
        {"product_dtype": "bfloat16", "input_dtype": "uint8", "input_batch_normalization": True},
        {"num_clusters": {"rgb": 3, "audio": 2}, "dtype": "mixed_float16"},
        {"pooling": PowerPooling(3.0, name="power")},
        {"pooling": {"audio": PowerPooling(3.0, name="power"), "rgb": "netvlad"}},
    ],
)
def test_a_file_holds_every_option(options, tmp_path):
    encoder = VideoEncoder(SIZES, **{"num_clusters": 4, **options})
    randomize_weights(encoder)
    batch = batch_of(SIZES)
    if encoder.stream_dtype == "uint8":
        batch.update({name: np.abs(batch[name] * 50).astype("uint8") for name in SIZES})
    encoder.save(tmp_path / "encoder.keras")
    loaded = load_model(tmp_path / "encoder.keras")
    assert type(loaded) is VideoEncoder
    assert loaded.get_config() == encoder.get_config()
    assert_same_outputs(encoder, loaded, batch)


@pytest.mark.slow
def test_an_encoder_trains_with_plain_labels():
    encoder = VideoEncoder({"frames": 4}, num_clusters=2)
    batch = batch_of({"frames": 4})
    before = [ops.convert_to_numpy(weight).copy() for weight in encoder.trainable_weights]
    encoder.compile("adam", MultiSimilarityLoss())
    encoder.fit(batch, np.array([0, 0, 1, 1]), batch_size=4, verbose=0)
    for old, weight in zip(before, encoder.trainable_weights, strict=True):
        assert not np.array_equal(ops.convert_to_numpy(weight), old)


def test_bytes_and_floats_are_the_same_encoder():
    encoder = VideoEncoder({"frames": 4}, PowerPooling(name="power"), input_dtype="uint8")
    randomize_weights(encoder)
    floats = encoder.with_input_dtype("float32")
    frames = np.arange(24, dtype="uint8").reshape(1, 6, 4)
    expected = outputs_of(encoder, {"frames": frames, "num_frames": np.array([5])})
    features = (frames * (4 / 255) + 4 / 512 - 2).astype("float32")
    received = outputs_of(floats, {"frames": features, "num_frames": np.array([5])})
    np.testing.assert_allclose(received["descriptor"], expected["descriptor"], rtol=1e-5)


# --- A pooling layer of the user's own


@pytest.mark.parametrize("pooling", [PowerPooling, keras.layers.GlobalAveragePooling1D, lambda: keras.layers.GRU(5)])
def test_a_layer_is_a_pooling(pooling, tmp_path):
    layer = pooling()
    model = VideoClassifier({"frames": 4}, 3, hidden_units=5, pooling=layer)
    assert model.encoder.pooling_layers == {"frames": layer}
    batch = batch_of({"frames": 4})
    padded = {**batch, "frames": batch["frames"].copy()}
    for video, length in zip(padded["frames"], batch["num_frames"], strict=True):
        video[length:] = 7
    for name, expected in outputs_of(model, batch).items():
        np.testing.assert_allclose(outputs_of(model, padded)[name], expected, atol=1e-6)

    before = [ops.convert_to_numpy(weight).copy() for weight in layer.trainable_weights]
    model.compile(keras.optimizers.SGD(0.5), "binary_crossentropy")
    model.fit(batch, np.eye(4, 3), batch_size=4, verbose=0)
    for old, weight in zip(before, layer.trainable_weights, strict=True):
        assert not np.array_equal(ops.convert_to_numpy(weight), old), weight.path
    model.save(tmp_path / "model.keras")
    loaded = load_model(tmp_path / "model.keras")
    assert loaded.get_config() == model.get_config()
    assert_same_outputs(model, loaded, batch)


def test_a_layer_keeps_its_weights_and_its_name():
    layer = NetVLAD(3, name="from_elsewhere")
    layer.build((None, None, 4))
    randomize_weights(layer)
    encoder = VideoEncoder({"frames": 4}, layer)
    assert encoder.get_layer("from_elsewhere") is layer
    batch = batch_of({"frames": 4})
    mask = np.arange(6) < batch["num_frames"][:, None]
    expected = ops.convert_to_numpy(layer(batch["frames"], mask=mask))
    np.testing.assert_array_equal(outputs_of(encoder, batch)["descriptor"], expected)


def test_one_layer_for_several_streams_is_copied_for_each():
    layer = PowerPooling(3.0, name="power")
    encoder = VideoEncoder(SIZES, layer)
    copies = encoder.pooling_layers
    assert {stream: copy.name for stream, copy in copies.items()} == {"rgb": "rgb_power", "audio": "audio_power"}
    assert all(copy is not layer and copy.power == 3.0 for copy in copies.values())
    assert encoder.output["descriptor"].shape == (None, 10)


def test_a_dict_gives_each_stream_its_pooling():
    mine = PowerPooling(name="mine")
    encoder = VideoEncoder(
        SIZES,
        {"audio": mine, "rgb": "netvlad"},
        num_clusters=3,
        pooling_options={"rgb": {"use_bias": False}, "audio": {}},
    )
    assert encoder.pooling == {"rgb": "netvlad", "audio": mine}
    assert not encoder.get_layer("rgb_netvlad").use_bias
    assert encoder.output["descriptor"].shape == (None, 3 * 6 + 4)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="exports run on TensorFlow: `make test`")
@pytest.mark.slow
@pytest.mark.parametrize("make", ["encoder", "classifier"])
def test_a_pooling_of_the_users_own_is_exported_and_verified(make, tmp_path):
    from keras_netvlad.export import export_onnx, export_saved_model

    pooling = {"rgb": PowerPooling(name="power"), "audio": "netvlad"}
    if make == "encoder":
        model = VideoEncoder(SIZES, pooling, num_clusters=3)
    else:
        model = VideoClassifier(SIZES, 3, pooling=pooling, num_clusters=3, hidden_units=4)
    randomize_weights(model)
    for report in (export_saved_model(model, tmp_path / "saved"), export_onnx(model, tmp_path / "model.onnx")):
        assert report.ok
        assert report.judge == "float64"


class NoMask(keras.Layer):
    def call(self, frames):
        return ops.mean(frames, axis=1)


class Frames(keras.Layer):
    def call(self, frames, mask=None):
        return frames


class PassesMask(MeanPooling):
    def compute_mask(self, inputs, previous_mask):
        return previous_mask


def built(layer, size):
    layer.build((None, None, size))
    return layer


SHARED = MeanPooling()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"pooling": NoMask()}, ValueError, r"must have an argument `mask` in `call\(frames, mask=None\)`.*NoMask"),
        ({"pooling": {"rgb": Frames(), "audio": "mean"}}, ValueError, r"one descriptor \(B, F\).*\(None, None, 6\)"),
        ({"pooling": PassesMask(name="mine")}, ValueError, r"must return None from `compute_mask`.*'rgb_mine'"),
        ({"dtype": "nope"}, ValueError, r"`dtype` must be a floating dtype.*Received: dtype='nope'"),
        ({"name": "a/b"}, ValueError, r"`name` of a model must not contain '/'. Received: name='a/b'"),
        ({"pooling": NetVLAD}, ValueError, r"`pooling` must be one of .*, a Keras layer, or a dict"),
        ({"pooling": {"rgb": "mean"}}, ValueError, r"entry for each stream of \['audio', 'rgb'\]. Received: \['rgb'\]"),
        ({"pooling": {"rgb": "mean", "audio": "vlad"}}, ValueError, r"`pooling` must be one of .*pooling='vlad'"),
        ({"pooling": {"rgb": SHARED, "audio": SHARED}}, ValueError, r"different layer for each stream.*a layer twice"),
        ({"pooling": built(NetVLAD(2), 6)}, ValueError, r"already has weights can pool one stream only; give a dict"),
        ({"pooling": MeanPooling(), "pooling_options": {"a": 1}}, ValueError, r"are for poolings given by name"),
        ({"pooling": MeanPooling(), "product_dtype": "bfloat16"}, ValueError, r"are for poolings given by name"),
        ({"pooling": "mean", "product_dtype": "bfloat16"}, ValueError, r"must be None for pooling='mean'"),
        ({"num_cluster": 3}, TypeError, r"`VideoEncoder` takes the arguments \['feature_sizes'.*\['num_cluster'\]"),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        VideoEncoder(SIZES, **arguments)


# --- The encoder of a classifier


@pytest.mark.slow
def test_a_trained_classifier_yields_its_encoder(tmp_path):
    model = VideoClassifier(SIZES, 3, num_clusters=2, hidden_units=5, input_batch_normalization=True)
    batch = batch_of(SIZES)
    model.compile("adam", "binary_crossentropy")
    model.fit(batch, np.eye(4, 3), verbose=0)
    encoder = model.encoder
    assert type(encoder) is VideoEncoder
    assert all(encoder.get_layer(layer.name) is layer for layer in encoder.layers if layer in model.layers)
    np.testing.assert_array_equal(outputs_of(encoder, batch)["descriptor"], outputs_of(model, batch)["descriptor"])
    encoder.save(tmp_path / "encoder.keras")
    assert_same_outputs(encoder, load_model(tmp_path / "encoder.keras"), batch)


def test_a_classifier_of_an_encoder_shares_its_weights():
    encoder = VideoEncoder(SIZES, PowerPooling(name="power"), dtype="mixed_bfloat16")
    model = VideoClassifier(encoder, 3, hidden_units=5)
    assert model.encoder is encoder
    assert model.feature_sizes == SIZES
    assert model.get_layer("hidden").compute_dtype == "bfloat16"
    encoder.get_layer("rgb_power").scale.assign(np.full(6, 3.0))
    batch = batch_of(SIZES)
    np.testing.assert_array_equal(outputs_of(model, batch)["descriptor"], outputs_of(encoder, batch)["descriptor"])
    again = VideoClassifier.from_config(model.get_config())
    assert [weight.path for weight in again.weights] == [weight.path for weight in model.weights]
    for options in ({"num_clusters": 3}, {"pooling": "mean"}, {"dtype": "float32"}, {"input_dtype": "uint8"}):
        with pytest.raises(ValueError, match=rf"leave these arguments out. Received: \['{next(iter(options))}'\]"):
            VideoClassifier(encoder, 3, **options)


def test_a_frozen_encoder_stays_frozen_in_a_file(tmp_path):
    model = VideoClassifier({"frames": 4}, 3, num_clusters=2, hidden_units=None)
    model.encoder.trainable = False
    assert [weight.path for weight in model.trainable_weights] == ["scores/kernel", "scores/bias"]
    model.save(tmp_path / "model.keras")
    loaded = load_model(tmp_path / "model.keras")
    assert [weight.path for weight in loaded.trainable_weights] == ["scores/kernel", "scores/bias"]
    loaded.encoder.trainable = True
    assert len(loaded.trainable_weights) == 5


def test_a_file_stores_the_encoder_once(tmp_path):
    import h5py

    VideoClassifier({"frames": 4}, 3, num_clusters=2, hidden_units=None).save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        config = json.loads(archive.read("config.json"))["config"]
        archive.extract("model.weights.h5", tmp_path)
    datasets = []
    with h5py.File(tmp_path / "model.weights.h5") as file:
        file.visititems(lambda name, item: datasets.append(name) if isinstance(item, h5py.Dataset) else None)
    assert len(datasets) == 5
    assert all(name.startswith("layers/") for name in datasets)
    assert config["pooling"] == "netvlad"


def test_lora_weights_reach_the_model_of_another_dtype():
    model = VideoClassifier({"frames": 4}, 3, num_clusters=2, hidden_units=8, input_dtype="uint8")
    hidden = model.get_layer("hidden")
    hidden.enable_lora(2)
    hidden.lora_kernel_b.assign(np.ones((2, 8)))
    expected = ops.convert_to_numpy(hidden.kernel)
    received = ops.convert_to_numpy(model.with_input_dtype("float32").get_layer("hidden").kernel)
    np.testing.assert_allclose(received, expected, atol=1e-6)


# --- Cloning, .h5 files, presets


def models():
    """One of each kind of model, with a batch for it."""
    backbone = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, strides=4)])
    pictures = {"images": np.ones((4, 3, 8, 8, 3), "uint8"), "num_frames": np.array([3, 1, 2, 3], "int32")}
    classifier = VideoClassifier({"frames": 4}, 3, num_clusters=2, hidden_units=None)
    own = VideoClassifier({"frames": 4}, 3, pooling=PowerPooling(name="power"), num_mixtures=2, gate_scores=True)
    return {
        "classifier": (classifier, batch_of({"frames": 4})),
        "own_pooling": (own, batch_of({"frames": 4})),
        "encoder": (VideoEncoder(SIZES, num_clusters=2), batch_of(SIZES)),
        "pixels": (from_pixels(FrameEncoder(backbone), classifier), pictures),
        "pixels_to_descriptor": (from_pixels(FrameEncoder(backbone), classifier.encoder), pictures),
        "ensemble": (ensemble([classifier, own]), batch_of({"frames": 4})),
        "preset": (
            VideoClassifier.from_preset(
                "nextvlad", 3, feature_sizes={"frames": 8}, num_clusters=4, hidden_units=8, dtype="float32"
            ),
            batch_of({"frames": 8}),
        ),
    }


MODELS = list(models())


@pytest.mark.slow
@pytest.mark.parametrize("name", slow_except(MODELS, "encoder"))
def test_a_clone_by_keras_computes_the_same_and_takes_plain_labels(name, tmp_path):
    model, batch = models()[name]
    randomize_weights(model)
    clone = keras.models.clone_model(model)
    assert not {id(weight) for weight in model.weights} & {id(weight) for weight in clone.weights}
    clone.set_weights(model.get_weights())
    assert_same_outputs(model, clone, batch)
    if "scores" in model.output:
        assert type(clone) is ScoringModel
        clone.compile("adam", "binary_crossentropy")
    else:
        clone.compile("adam", MultiSimilarityLoss())
    labels = np.eye(4, 3) if "scores" in model.output else np.array([0, 0, 1, 1])
    clone.fit(batch, labels, verbose=0)
    clone.save(tmp_path / "clone.keras")
    assert_same_outputs(clone, load_model(tmp_path / "clone.keras"), batch)
    if hasattr(model, "feature_sizes"):
        assert type(type(model).from_config(model.get_config())) is type(model)


def test_a_model_of_other_positional_arguments_is_refused():
    with pytest.raises(TypeError, match=r"takes the arguments .*Received: \['3'\]"):
        VideoClassifier({"frames": 4}, 3, 2, None, "softmax", None, None, 3)


@pytest.mark.parametrize("name", ["classifier", "own_pooling", "encoder", "preset"])
def test_an_h5_file_loads(name, tmp_path):
    model, batch = models()[name]
    randomize_weights(model)
    model.save(tmp_path / "model.h5")
    loaded = keras.models.load_model(tmp_path / "model.h5")
    assert type(loaded) is type(model)
    assert_same_outputs(model, loaded, batch)


@pytest.mark.parametrize("name", ["pixels", "ensemble"])
def test_an_h5_file_that_would_not_load_is_not_written(name, tmp_path):
    with pytest.raises(ValueError, match=r"must be saved as .keras, because Keras cannot load it from an .h5 file"):
        models()[name][0].save(tmp_path / "model.h5")
    assert not (tmp_path / "model.h5").exists()


def test_presets_have_no_trained_weights():
    with pytest.raises(ValueError, match=r"`load_weights` must be False, because no trained weights are published"):
        VideoClassifier.from_preset("nextvlad", load_weights=True)
    with pytest.raises(ValueError, match=r"`load_weights` must be True or False. Received: load_weights=None"):
        VideoClassifier.from_preset("nextvlad", load_weights=None)
    small = {"feature_sizes": {"frames": 8}, "num_clusters": 4, "hidden_units": 8}
    assert VideoClassifier.from_preset("nextvlad", 3, load_weights=False, **small).name == "nextvlad"


def test_pictures_to_descriptors():
    backbone = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, strides=4)])
    frame_encoder, encoder = FrameEncoder(backbone), VideoEncoder({"frames": 4}, num_clusters=2)
    model = from_pixels(frame_encoder, encoder)
    assert list(model.output) == ["descriptor"]
    pictures = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8, 3)).astype("uint8")
    features = ops.convert_to_numpy(frame_encoder(pictures)).reshape(2, 12, 4)
    expected = outputs_of(encoder, {"frames": features, "num_frames": np.array([12, 4])})
    received = outputs_of(model, {"images": pictures, "num_frames": np.array([3, 1])})
    np.testing.assert_allclose(received["descriptor"], expected["descriptor"], atol=1e-6)


def test_searching_needs_neither_keras_nor_tensorflow():
    code = (
        "import sys; from keras_netvlad.retrieval import DescriptorIndex, index_records; "
        "print([name for name in ('keras', 'tensorflow', 'onnx', 'onnxruntime') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_each_stream_may_have_its_own_number_of_frames():
    sizes = {"rgb": 6, "audio": 4}
    encoder = VideoEncoder(sizes, num_clusters=3, num_frames_per_stream=True, input_batch_normalization=True)
    rng = np.random.default_rng(0)
    frames = {
        name: rng.normal(size=(3, length, sizes[name])).astype("float32") for name, length in (("rgb", 5), ("audio", 9))
    }
    counts = {"rgb": np.array([5, 2, 0], "int32"), "audio": np.array([9, 0, 4], "int32")}
    inputs = {**frames, **{f"num_frames_{name}": values for name, values in counts.items()}}
    descriptor = keras.ops.convert_to_numpy(encoder(inputs)["descriptor"])
    parts = dict(zip(sizes, np.split(descriptor, [18], axis=1), strict=True))
    for name, size in sizes.items():
        alone = VideoEncoder({name: size}, num_clusters=3, input_batch_normalization=True)
        for layer in filter(lambda layer: layer.weights, alone.layers):
            layer.set_weights(encoder.get_layer(layer.name).get_weights())
        expected = alone({name: frames[name], "num_frames": counts[name]})["descriptor"]
        np.testing.assert_allclose(parts[name], keras.ops.convert_to_numpy(expected), atol=1e-6)
        assert not parts[name][counts[name] == 0].any()
    copy = VideoEncoder.from_config(encoder.get_config())
    assert set(copy.input) == {"rgb", "audio", "num_frames_rgb", "num_frames_audio"}
    with pytest.raises(ValueError, match=r"must not have the name of another input. Received: \['num_frames_rgb'\]"):
        VideoEncoder({"rgb": 2, "num_frames_rgb": 3}, num_frames_per_stream=True)
