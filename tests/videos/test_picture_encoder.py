"""Backbones of every kind include their preprocessing and are exported."""

import importlib.util

import h5py
import keras
import numpy as np
import pytest
from token_backbones import make_token_backbone

from keras_netvlad.export import export_onnx
from keras_netvlad.videos.encoder_file import EncoderFile, write_encoder
from keras_netvlad.videos.picture_encoder import BackboneError, make_picture_encoder


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), "uint8")


def features(model, pictures):
    return model.predict_on_batch({"images": pictures})["features"]


def save(path, *layers):
    model = keras.Sequential([keras.Input((32, 32, 3)), *layers])
    model.save(path)
    return model


@pytest.mark.slow
def test_a_model_of_keras_applications_gets_its_own_preprocessing(pictures):
    keras.utils.set_random_seed(0)
    maps = make_picture_encoder("MobileNetV2", None, 32, pooling=None)
    (backbone,) = [layer for layer in maps.layers if isinstance(layer, keras.Model)]
    expected = backbone.predict_on_batch(pictures / 127.5 - 1)
    received = features(maps, pictures)
    assert expected.shape == (3, 1, 1, 1280)
    np.testing.assert_allclose(received, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("pooling", ["avg", "max", None])
def test_maps_are_pooled(tmp_path, pictures, pooling):
    layer = keras.layers.Conv2D(5, 8, strides=8, bias_initializer="ones")
    model = save(tmp_path / "backbone.keras", keras.layers.Rescaling(1 / 255), layer)
    expected = model.predict_on_batch(pictures)
    reduce = {"avg": np.mean, "max": np.max}.get(pooling)
    expected = expected if reduce is None else reduce(expected, axis=(1, 2))
    received = features(make_picture_encoder(tmp_path / "backbone.keras", size=32, pooling=pooling), pictures)
    np.testing.assert_allclose(received, expected, atol=1e-6)


def test_the_exported_encoder_computes_the_same_in_any_batch(tmp_path, pictures):
    """`Normalization` holds tensors that are no weights, and the exact GELU is an operation that ONNX lacks."""
    normalization = keras.layers.Normalization(mean=[120.0, 130.0, 110.0], variance=[3000.0, 4000.0, 5000.0])
    model = save(tmp_path / "backbone.keras", normalization, keras.layers.Conv2D(7, 4, strides=4, activation="gelu"))
    write_encoder(tmp_path / "encoder.onnx", tmp_path / "backbone.keras", None, 32, "avg")
    encoder = EncoderFile(tmp_path / "encoder.onnx")
    assert (encoder.size, encoder.feature_size, encoder.positions) == (32, 7, 1)
    expected = model.predict_on_batch(pictures).mean(axis=(1, 2))
    np.testing.assert_allclose(encoder.encode(pictures), expected, atol=1e-5)
    np.testing.assert_allclose(encoder.encode(pictures[1:2]), expected[1:2], atol=1e-5)


def test_erfc_of_large_arguments(tmp_path):
    x = keras.Input((4,), name="x")
    model = keras.Model({"x": x}, {"y": keras.activations.gelu(x, approximate=False)})
    report = export_onnx(
        model, tmp_path / "gelu.onnx", data={"x": np.linspace(-30, 30, 40, dtype="float32").reshape(10, 4)}
    )
    assert report.ok


def test_what_is_no_encoder_is_one_sentence(tmp_path, pictures):
    with pytest.raises(FileNotFoundError, match=r"must be the encoder that `extract` wrote; .* which does not exist"):
        EncoderFile(tmp_path / "absent.onnx")
    (tmp_path / "damaged.onnx").write_bytes(b"no model")
    with pytest.raises(ValueError, match="which onnxruntime cannot load"):
        EncoderFile(tmp_path / "damaged.onnx")
    x = keras.Input((4,), name="x")
    export_onnx(keras.Model({"x": x}, {"y": keras.layers.Dense(3)(x)}), tmp_path / "other.onnx")
    with pytest.raises(ValueError, match=r"other\.onnx with inputs and outputs \{'x'"):
        EncoderFile(tmp_path / "other.onnx")


def test_backbones_that_make_no_encoder_are_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(BackboneError, match=r"must make a model\. Received: .*MobileNet.*size=4.* Reason: "):
        make_picture_encoder("MobileNet", "no.weights.h5", 4)
    save(tmp_path / "flat.keras", keras.layers.Flatten(), keras.layers.Reshape((2, 2, 2, 2, 192)))
    with pytest.raises(BackboneError, match=r"return features \(batch, D\), maps .* to \(None, 2, 2, 2, 2, 192\)"):
        make_picture_encoder(tmp_path / "flat.keras", size=32)
    save(tmp_path / "small.keras", keras.layers.Flatten(), keras.layers.Dense(2))
    with pytest.raises(BackboneError, match=r"must take pictures \(batch, 48, 48, 3\) .* give the `size`"):
        make_picture_encoder(tmp_path / "small.keras", size=48)
    with pytest.raises(FileNotFoundError, match=r"absent\.keras', which does not exist"):
        make_picture_encoder("absent.keras")
    with pytest.raises(BackboneError, match=r"or `hub:` and a preset of keras-hub, .* Received: 'vit_base'"):
        make_picture_encoder("vit_base")
    with pytest.raises(BackboneError, match=r"`layer` must be .*names like it are \['.*\(backbone .*flat\.keras"):
        make_picture_encoder(tmp_path / "flat.keras", size=32, layer="reshapes")
    with pytest.raises(BackboneError, match=r"are for a backbone that returns tokens .*\(None, 1, 1, 1024\)"):
        make_picture_encoder("MobileNet", None, 32, pooling="token")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"`pip install 'keras_netvlad\[hub\]'` adds\. Received: 'hub:vit_base'"):
        make_picture_encoder("hub:vit_base")


def test_a_file_that_declares_more_weights_than_it_holds_is_refused_before_memory_is_taken(tmp_path):
    path = tmp_path / "declares.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("conv1/kernel", (10**9,), "float32", chunks=True)  # no values are stored
    with pytest.raises(BackboneError, match=r"weights=.*declares\.h5.* declares weights of 4,000,000,000 bytes"):
        make_picture_encoder("MobileNet", path, 32)


@pytest.mark.runtimes
@pytest.mark.skipif(importlib.util.find_spec("keras_hub") is None, reason="needs keras-hub: `make runtimes`")
@pytest.mark.parametrize(("name", "num_prefix"), [("vit", 1), ("dinov2", 3)])
def test_a_preset_of_keras_hub_gets_the_values_of_its_converter(tmp_path, pictures, name, num_prefix):
    import keras_hub

    keras.utils.set_random_seed(0)
    backbone = make_token_backbone(name)
    backbone.save_to_preset(tmp_path / "preset")
    converter = keras_hub.layers.ImageConverter(scale=[1 / 127.5, 1 / 100, 1 / 50], offset=[-1, -2, 0.5])
    converter.save_to_preset(tmp_path / "preset")
    pictures = pictures[:, :28, :28]
    values = pictures * np.array([1 / 127.5, 1 / 100, 1 / 50], "float32") + np.array([-1, -2, 0.5], "float32")
    tokens = backbone.predict_on_batch(values)
    preset = f"hub:{tmp_path / 'preset'}"
    patches = tokens[:, num_prefix:].reshape(3, 4, 4, 16)
    expected = {"avg": patches.mean(axis=(1, 2)), "token": tokens[:, 0], None: patches}
    for pooling, each in expected.items():
        model = make_picture_encoder(preset, size=28, pooling=pooling)
        np.testing.assert_allclose(features(model, pictures), each, atol=1e-5)
    write_encoder(tmp_path / "encoder.onnx", preset, None, 28, None)
    assert EncoderFile(tmp_path / "encoder.onnx").positions == 16
    if name == "dinov2":  # interpolates its positions
        assert make_picture_encoder(preset, size=35, pooling=None).output["features"].shape == (None, 5, 5, 16)
    else:
        with pytest.raises(BackboneError, match=r"and accept pictures of 35 pixels\. .* Reason: "):
            make_picture_encoder(preset, size=35)
    with pytest.raises(BackboneError, match="Reason: "):
        make_picture_encoder(f"hub:{tmp_path}", size=28)
