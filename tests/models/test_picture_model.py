"""Models of single pictures: the same descriptors as for videos of one frame, in both layouts and at any size."""

import keras
import numpy as np
import pytest
from published_networks import patch_netvlad_checkpoint
from small_pictures import make_backbone, make_places

from keras_netvlad import VideoClassifier, VideoEncoder
from keras_netvlad.convert import convert_model
from keras_netvlad.layers import FrameEncoder, PicturePreprocessing
from keras_netvlad.models import from_pixels, load_model, picture_model

pytestmark = pytest.mark.backends


def pictures(height=24, width=24, batch=3):
    return np.random.default_rng(0).integers(0, 256, (batch, height, width, 3)).astype("uint8")


def numbers(tensor):
    return keras.ops.convert_to_numpy(tensor)


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_a_picture_is_a_video_of_one_frame(layout, pooled):
    places, images = make_places(pooled), pictures()
    expected = places({"images": images[:, None], "num_frames": np.ones(3, "int32")})["descriptor"]
    given = images if layout == "nhwc" else images.transpose(0, 3, 1, 2)
    received = picture_model(places, layout)({"images": given})["descriptor"]
    np.testing.assert_allclose(numbers(received), numbers(expected), atol=1e-6)


def make_pixel_model(kind, size=(None, None)):
    """A model of pictures: a converted place model, a functional one without preprocessing, or a Sequential."""
    if kind == "converted":
        return convert_model(patch_netvlad_checkpoint())
    layers = [keras.layers.Rescaling(1 / 255), keras.layers.Conv2D(4, 3), keras.layers.GlobalMaxPooling2D(name="last")]
    images = keras.Input((*size, 3), dtype="uint8", name="images")
    if kind == "sequential":
        return keras.Sequential([images, *layers])
    outputs = images
    for layer in layers:
        outputs = layer(outputs)
    return keras.Model([images], outputs)


@pytest.mark.parametrize("kind", ["converted", "functional", "sequential"])
@pytest.mark.parametrize("size", [None, (32, 48)])
def test_a_model_of_pictures_gets_a_layout_and_a_size(kind, size):
    model, images = make_pixel_model(kind), pictures(32, 48)
    changed = {layout: picture_model(model, layout, size) for layout in ("nhwc", "nchw")}
    given = {"nhwc": images, "nchw": images.transpose(0, 3, 1, 2)}
    structured = {"converted": {"images": images}, "functional": [images], "sequential": images}[kind]
    expected = model(structured)["descriptor"] if kind == "converted" else model(structured)
    sides = size or (None, None)
    shapes = {"nhwc": (None, *sides, 3), "nchw": (None, 3, *sides)}
    for layout, pixels in given.items():
        outputs = changed[layout]({"images": pixels})
        received = outputs["descriptor"] if kind == "converted" else outputs
        np.testing.assert_allclose(numbers(received), numbers(expected), atol=1e-6)
        assert changed[layout].input["images"].shape == shapes[layout]
        assert {id(weight) for weight in changed[layout].weights} == {id(weight) for weight in model.weights}
        assert changed[layout].name == model.name


def test_bytes_of_a_converted_model_are_cast_before_they_are_transposed():
    model = picture_model(make_pixel_model("converted"), "nchw")
    (consumer,) = [layer for layer in model.layers if layer.name == "picture_preprocessing"]
    assert (consumer.layout, consumer.preprocessing) == ("nchw", "torchvision")
    assert not [layer for layer in model.operations if "transpose" in layer.name]


def test_a_model_of_pictures_of_one_size_keeps_it():
    model = make_pixel_model("functional", (24, 32))
    for size in (None, (24, 32)):
        assert picture_model(model, "nchw", size).input["images"].shape == (None, 3, 24, 32)
    with pytest.raises(ValueError, match=r"`size` must be the size of the model's pictures, 24x32, or None. Received"):
        picture_model(model, size=(32, 24))
    half = make_pixel_model("functional", (24, None))
    assert picture_model(half, size=(24, 40)).input["images"].shape == (None, 24, 40, 3)


def test_every_position_of_a_larger_picture_counts():
    """The model of videos has 36 positions in its graph. Here are 8 x 12 of them."""
    places, images = make_places(), pictures(32, 48)
    encoder = next(layer for layer in places.layers if isinstance(layer, FrameEncoder))
    pooling = next(layer for layer in places.layers if isinstance(layer, VideoEncoder))
    backbone = make_backbone((32, 48))
    backbone.set_weights(encoder.backbone.get_weights())
    features = numbers(backbone(images / np.float32(127.5) - 1, training=False)).reshape(3, 96, -1)
    descriptors = pooling({"frames": features, "num_frames": np.full(3, 96, "int32")})["descriptor"]
    expected = numbers(places.get_layer("whitening")(descriptors))
    for size in (None, (32, 48)):
        received = picture_model(places, size=size)({"images": images})["descriptor"]
        np.testing.assert_allclose(numbers(received), expected, atol=1e-5)


def test_a_picture_model_is_saved_and_loaded(tmp_path):
    model = picture_model(make_places(), "nchw", (20, 28), name="saved")
    model.save(tmp_path / "saved.keras")
    loaded = load_model(tmp_path / "saved.keras")
    images = pictures(20, 28).transpose(0, 3, 1, 2)
    expected, received = (numbers(one({"images": images})["descriptor"]) for one in (model, loaded))
    np.testing.assert_array_equal(received, expected)
    assert (loaded.name, loaded.input["images"].shape) == ("saved", (None, 3, 20, 28))


def test_the_weights_are_shared():
    places = make_places()
    model = picture_model(places)
    assert {id(weight) for weight in model.weights} == {id(weight) for weight in places.weights}


def test_scores_are_kept():
    classifier = VideoClassifier({"frames": 6}, num_classes=3, num_clusters=2)
    model = picture_model(from_pixels(FrameEncoder(make_backbone()), classifier))
    assert {name: tuple(value.shape) for name, value in model.output.items()} == {
        "scores": (None, 3),
        "descriptor": (None, 12),
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "hwc"}, r"`layout` must be .* Received: layout='hwc'"),
        ({"size": (480,)}, r"`size` must be height and width in pixels, or None for any size. Received: size=\(480,\)"),
        ({"size": "480x640"}, r"`size` must be height and width"),
        ({"size": (0, 640)}, r"`size` must be a positive integer. Received: size=0"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        picture_model(make_places(), **options)


def test_other_models_are_refused():
    with pytest.raises(TypeError, match=r"`model` must be a model that `from_pixels` returned.*0 frame encoders and"):
        picture_model(VideoEncoder({"frames": 6}, num_clusters=2))
    twice = {name: FrameEncoder(make_backbone(), name=f"encode_{name}") for name in ("rgb", "flow")}
    two = from_pixels(twice, VideoEncoder({"rgb": 6, "flow": 6}, num_clusters=2))
    with pytest.raises(TypeError, match=r"one stream of pictures.*2 frame encoders and the inputs \['rgb', 'flow'\]"):
        picture_model(two)
    floats = keras.Input((None, None, 3), name="images")
    with pytest.raises(TypeError, match=r"or a model with one input of pictures, uint8 \(B, H, W, 3\)\. Received: "):
        picture_model(keras.Model(floats, keras.layers.GlobalMaxPooling2D()(floats)))


def test_a_backbone_of_one_size_is_explained():
    backbone = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(6, name="fixed")], name="backbone"
    )
    pixels = from_pixels(FrameEncoder(backbone), VideoEncoder({"frames": 6}, num_clusters=2))
    with pytest.raises(ValueError, match=r"the size of the backbone, \(8, 8\). Received: \(16, 16\) \("):
        picture_model(pixels, size=(16, 16))
    assert picture_model(pixels, size=(8, 8)).input["images"].shape == (None, 8, 8, 3)


def test_the_preprocessing_takes_pictures_only():
    with pytest.raises(ValueError, match=r"`inputs` must be pictures of rank 4.*Received: shape \(1, 2, 8, 8, 3\)"):
        PicturePreprocessing()(np.zeros((1, 2, 8, 8, 3), "uint8"))
    with pytest.raises(ValueError, match=r"`layout` must be"):
        PicturePreprocessing(layout="chw")
    with pytest.raises(ValueError, match=r"`preprocessing` must be the name of a model"):
        PicturePreprocessing("NoSuchModel")
