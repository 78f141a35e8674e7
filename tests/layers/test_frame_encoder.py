"""Tokens of vision transformers: the map of their patches, their prefix tokens, and intermediate layers."""

import importlib.util

import keras
import numpy as np
import pytest
from token_backbones import make_token_backbone

from keras_netvlad import VideoEncoder
from keras_netvlad.export import export_onnx
from keras_netvlad.layers import FrameEncoder, PicturePreprocessing
from keras_netvlad.models import from_pixels, load_model, picture_model

HUB = [
    pytest.mark.runtimes,
    pytest.mark.skipif(importlib.util.find_spec("keras_hub") is None, reason="needs keras-hub: `make runtimes`"),
]


def make_tokens(num_prefix=1, size=(24, 36), patch=12):
    """A model whose token of a patch is the mean of its pixels, behind prefix tokens of zeros."""
    grid = (size[0] // patch, size[1] // patch)
    picture = keras.Input((*size, 3))
    patches = keras.layers.AveragePooling2D(patch, name="patches")(picture)
    tokens = keras.layers.Reshape((grid[0] * grid[1], 3), name="tokens")(patches)
    return keras.Model(picture, keras.layers.ZeroPadding1D((num_prefix, 0), name="prefixed")(tokens))


def videos(height=24, width=36, batch=2, frames=3):
    return np.random.default_rng(0).integers(0, 256, (batch, frames, height, width, 3), "uint8")


def numbers(tensor):
    return keras.ops.convert_to_numpy(tensor)


@pytest.mark.backends
def test_patches_become_a_map_in_their_place():
    frames = videos()
    expected = frames.reshape(2, 3, 2, 12, 3, 12, 3).mean(axis=(3, 5))
    maps, prefix = FrameEncoder(make_tokens(), num_prefix_tokens=1, return_prefix_tokens=True)(frames)
    np.testing.assert_allclose(numbers(maps), expected, rtol=1e-5)
    np.testing.assert_array_equal(numbers(prefix), np.zeros((2, 3, 1, 3)))
    alone = FrameEncoder(make_tokens(), num_prefix_tokens=1)
    assert alone.compute_output_shape((None, None, 24, 36, 3)) == (None, None, 2, 3, 3)
    np.testing.assert_array_equal(numbers(alone(frames)), numbers(maps))
    assert tuple(alone(frames[:0]).shape) == (0, 3, 2, 3, 3)


@pytest.mark.backends
def test_an_intermediate_layer_is_the_output_and_the_layers_behind_it_are_dropped():
    picture = keras.Input((8, 8, 3))
    first = keras.layers.Conv2D(4, 4, strides=4, name="stem")(picture)
    head = keras.layers.Dense(6, name="overhead")(first)
    backbone = keras.Model(picture, keras.layers.Dense(5, name="own_head")(head))
    encoder = FrameEncoder(backbone, layer="stem")
    assert [layer.name for layer in encoder.backbone.layers][1:] == ["stem"]
    frames = videos(8, 8)
    expected = numbers(backbone.get_layer("stem")(frames.reshape(6, 8, 8, 3).astype("float32")))
    np.testing.assert_allclose(numbers(encoder(frames)), expected.reshape(2, 3, 2, 2, 4), rtol=1e-5)
    assert FrameEncoder(backbone, layer="head").compute_output_shape((1, 1, 8, 8, 3))[-1] == 5


@pytest.mark.backends
def test_scale_and_offset_per_channel():
    scale, offset = [0.5, 0.25, 2.0], [1.0, 0.0, -3.0]
    pictures = videos(4, 4)[0]
    values = PicturePreprocessing({"scale": scale, "offset": offset})(pictures)
    np.testing.assert_allclose(numbers(values), pictures * np.array(scale) + np.array(offset), rtol=1e-6)
    np.testing.assert_allclose(numbers(PicturePreprocessing({"scale": 2})(pictures)), pictures * 2.0)
    for wrong in ({"scale": "2"}, {"mean": 1.0}, {"offset": []}):
        with pytest.raises(ValueError, match="'scale' and 'offset', each a number or a list with one number per"):
            PicturePreprocessing(wrong)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"`num_prefix_tokens`.* must leave one token for each patch; 1 or .* Received: 0 of 7 tokens .*24 x 36"),
        ({"num_prefix_tokens": -1}, "`num_prefix_tokens` must be"),
        ({"layer": "block_9"}, r"`layer` must be .* names like it are \[.*'patches'.*\]\. Received: layer='block_9'"),
        ({"layer": "patches", "num_prefix_tokens": 1}, r"are for a backbone that returns tokens .*\(None, 2, 3, 3\)"),
        ({"layer": "tokens", "return_prefix_tokens": True}, r"needs a backbone with a class token or registers"),
        (
            {"num_prefix_tokens": 1, "preprocessing": {"scale": None}},
            "`preprocessing` as a dict must have 'scale' and 'offset'",
        ),
    ],
)
def test_what_does_not_fit_is_one_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        FrameEncoder(make_tokens(), **options)


def test_models_of_tokens_need_a_size_and_their_map():
    encoder = FrameEncoder(make_tokens(), num_prefix_tokens=1)
    pixels = from_pixels(encoder, VideoEncoder({"rgb": 3}, num_clusters=2))
    with pytest.raises(ValueError, match="must have a fixed picture size"):
        picture_model(pixels)
    frames = videos()
    one = picture_model(pixels, size=(24, 36))({"images": frames[:, 0]})["descriptor"]
    expected = pixels({"images": frames[:, :1], "num_frames": np.ones(2, "int32")})["descriptor"]
    np.testing.assert_allclose(numbers(one), numbers(expected), atol=1e-6)
    apart = FrameEncoder(make_tokens(), num_prefix_tokens=1, return_prefix_tokens=True)
    with pytest.raises(ValueError, match="leave `return_prefix_tokens` out"):
        from_pixels(apart, VideoEncoder({"rgb": 3}, num_clusters=2))


CASES = [
    ("vit", None, 1),
    ("vit", "transformer_block_1", 1),
    ("dinov2", None, 3),
    ("dinov2", "stage1", 3),
    ("dinov3", "stage2", 5),
    ("clip", "encoder_block_0", 1),
    ("siglip", "post_layer_norm", 0),
]


@pytest.mark.parametrize(("name", "layer", "num_prefix"), [pytest.param(*case, marks=HUB) for case in CASES])
def test_backbones_of_keras_hub(tmp_path, name, layer, num_prefix):
    keras.utils.set_random_seed(0)
    backbone = make_token_backbone(name)
    encoder = FrameEncoder(backbone, {"scale": 1 / 127.5, "offset": -1}, layer, return_prefix_tokens=num_prefix > 0)
    frames = videos(28, 28)
    outputs = [numbers(output) for output in keras.tree.flatten(encoder(frames))]
    assert encoder.num_prefix_tokens == num_prefix
    assert outputs[0].shape == (2, 3, 4, 4, 16)
    pictures = frames.reshape(6, 28, 28, 3) / np.float32(127.5) - 1
    expected = expected_tokens(backbone, name, layer, pictures)
    received = np.concatenate([output.reshape(6, -1, 16) for output in reversed(outputs)], axis=1)
    np.testing.assert_allclose(received, expected, atol=1e-5 * np.abs(expected).max())
    # The saved layer needs neither the layers behind it nor the arguments from which it was made.
    alone = FrameEncoder(backbone, {"scale": 1 / 127.5, "offset": -1}, layer)
    pixels = from_pixels(alone, VideoEncoder({"rgb": 16}, num_clusters=2))
    pixels.save(tmp_path / "pixels.keras")
    inputs = {"images": frames, "num_frames": np.array([3, 2], "int32")}
    loaded = load_model(tmp_path / "pixels.keras")
    np.testing.assert_allclose(numbers(loaded(inputs)["descriptor"]), numbers(pixels(inputs)["descriptor"]), atol=1e-6)
    assert export_onnx(loaded, tmp_path / "place.onnx", layout="nhwc", size=(28, 28)).ok


def expected_tokens(backbone, name, layer, pictures):
    """The tokens as the layers of the backbone compute them one by one."""
    if name == "vit":
        encoder = backbone.get_layer("vit_encoder")
        tokens = backbone.get_layer("vit_patching_and_embedding")(pictures)
        tokens = encoder(tokens) if layer is None else encoder.encoder_layers[0](tokens)
    elif name in ("dinov2", "dinov3"):
        output = backbone.output if layer is None else backbone.pyramid_outputs[layer]
        tokens = keras.Model(backbone.inputs, output)([pictures])
    else:
        vision = backbone.vision_encoder
        (whole,) = [one.name for one in vision.layers if one.name.endswith(layer)]
        tokens = keras.Model(vision.inputs, vision.get_layer(whole).output)([pictures])
    return numbers(tokens)
