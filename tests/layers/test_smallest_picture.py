"""Pictures without a single position: the smallest picture of a backbone, and one answer in every format."""

import keras
import numpy as np
import onnxruntime
import pytest
import tensorflow as tf
from keras import layers

from keras_netvlad import VideoClassifier
from keras_netvlad.export import export_litert, export_onnx, export_saved_model
from keras_netvlad.layers import FrameEncoder
from keras_netvlad.layers.smallest_picture import nan_if_smaller, smallest_picture
from keras_netvlad.models import from_pixels, picture_model

# The layers behind the input, and the least side of a picture.
BACKBONES = {
    "two poolings": (lambda: [layers.Conv2D(4, 3, padding="same"), *(layers.MaxPooling2D() for _ in range(2))], (4, 4)),
    "a kernel": (lambda: [layers.Conv2D(4, (5, 2), strides=4)], (5, 2)),
    # (11 - 3) / 2 + 1 = 5 rows, of which 3 x 3 values leave 3, and the pooling 1.
    "in a row": (lambda: [layers.Conv2D(4, 3, 2), layers.Conv2D(4, 3), layers.MaxPooling2D(3, 2)], (11, 11)),
    "padded": (lambda: [layers.Conv2D(4, 3, 32, padding="same")], (1, 1)),
}


def make_backbone(name, side=32, pooled=False):
    pooling = [layers.GlobalAveragePooling2D()] if pooled else []
    return keras.Sequential([keras.Input((side, side, 3)), *BACKBONES[name][0](), *pooling])


@pytest.mark.parametrize("name", BACKBONES)
def test_the_smallest_picture_has_a_position_and_smaller_ones_have_none(name):
    height, width = BACKBONES[name][1]
    for options in ({}, {"pooled": True}, {"side": None}):
        assert smallest_picture(make_backbone(name, **options)) == (height, width)
    maps = make_backbone(name, None)(np.zeros((1, height, width, 3), "float32"))
    assert tuple(maps.shape) == (1, 1, 1, 4)


def test_a_network_of_another_package_has_one():
    network = keras.applications.VGG16(include_top=False, weights=None, input_shape=(32, 32, 3))
    assert smallest_picture(network) == (32, 32)


def test_only_smaller_pictures_and_only_floats_become_nan():
    outputs = {"map": np.ones((2, 3, 4), "float16"), "class": np.ones(2, "int32")}
    outputs = {name: keras.ops.convert_to_tensor(value) for name, value in outputs.items()}
    for shape, is_nan in (((4, 7), False), ((3, 7), True), ((4, 6), True), ((9, 9), False)):
        received = nan_if_smaller(outputs, keras.ops.zeros((2, *shape, 3)), (4, 7))
        assert np.isnan(received["map"]).all() == np.isnan(received["map"]).any() == is_nan
        assert received["map"].dtype == "float16"
        assert received["class"] is outputs["class"]


def test_a_fixed_size_without_positions_is_refused():
    classifier = VideoClassifier({"frames": 4}, 3, num_clusters=2, hidden_units=None)
    pixels = from_pixels(FrameEncoder(make_backbone("two poolings")), classifier)
    with pytest.raises(ValueError, match=r"accept pictures of this size.*Received: \(3, 3\)"):
        picture_model(pixels, size=(3, 3))
    assert picture_model(pixels, size=(4, 4)).input["images"].shape == (None, 4, 4, 3)


@pytest.mark.parametrize("layout", ["nhwc", pytest.param("nchw", marks=pytest.mark.slow)])
def test_a_picture_without_positions_is_nan_in_every_format(layout, tmp_path):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    classifier = VideoClassifier({"frames": 4}, 3, num_clusters=2, hidden_units=None)
    model = picture_model(from_pixels(FrameEncoder(make_backbone("two poolings")), classifier), layout)
    export_onnx(model, tmp_path / "model.onnx", verify=False)
    export_litert(model, tmp_path / "model.tflite", verify=False)
    export_saved_model(model, tmp_path / "1", verify=False)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    served = tf.saved_model.load(str(tmp_path / "1")).signatures["serving_default"]
    names = [output.name for output in session.get_outputs()]
    runners = {
        "keras": lambda images: model({"images": images}),
        "saved_model": lambda images: served(images=tf.constant(images)),
        "onnx": lambda images: dict(zip(names, session.run(names, {"images": images}), strict=True)),
        "litert": lambda images: interpreter.Interpreter(str(tmp_path / "model.tflite")).get_signature_runner()(
            images=images
        ),
    }
    rng = np.random.default_rng(0)
    for height, width, is_nan in ((1, 1, True), (3, 9, True), (9, 3, True), (4, 4, False), (7, 9, False)):
        images = rng.integers(0, 256, (2, height, width, 3)).astype("uint8")
        images = images if layout == "nhwc" else np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        for name, run in runners.items():
            for output, value in run(images).items():
                assert np.isnan(value).all() == np.isnan(value).any() == is_nan, (name, output, height, width)
