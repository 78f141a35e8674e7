"""Models of single pictures: the same descriptors as for videos of one frame, in both layouts and at any size."""

import keras
import numpy as np
import pytest
from small_pictures import make_backbone, make_places

from keras_netvlad import VideoClassifier, VideoEncoder
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
