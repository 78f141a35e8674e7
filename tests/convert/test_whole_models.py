"""Whole checkpoints in the published formats give the numbers of the published networks.

The networks are written out in NumPy, in the order of their own code, with small widths; those of PyTorch are in
test_whole_pytorch.py.
"""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
import scipy.io
import tensorflow as tf
from published_networks import (
    AUDIO,
    RGB,
    checkpoint_of_willow,
    matlab_network,
    matlab_place_descriptor,
    willow_scores,
)

from keras_netvlad.__main__ import main
from keras_netvlad.convert import convert_file, convert_model
from keras_netvlad.convert.networks import matlab_places
from keras_netvlad.export import export_onnx, export_saved_model
from keras_netvlad.models import load_model

# Float32 models beside float64 formulas, values up to 1.
TOLERANCE = 2e-5


def pictures(height=48, width=40, batch=2):
    return np.random.default_rng(3).integers(0, 256, (batch, height, width, 3)).astype("uint8")


def outputs_of(model, inputs, name="descriptor"):
    return keras.ops.convert_to_numpy(model(inputs)[name])


def save_matlab(path, network):
    scipy.io.savemat(path, {"net": network})
    return path


# Reading a .mat file starts a process.
@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param({"whiten": False}, marks=pytest.mark.slow),
        pytest.param({"normalize": False, "bias": True}, marks=pytest.mark.slow),
    ],
)
def test_matlab_pictures_give_the_published_descriptors(tmp_path, options):
    network = matlab_network(**options)
    model = convert_model(save_matlab(tmp_path / "net.mat", network))
    images = pictures()
    expected = matlab_place_descriptor(network, images)
    np.testing.assert_allclose(outputs_of(model, {"images": images}), expected, atol=TOLERANCE)
    assert np.isnan(outputs_of(model, {"images": images[:, :15, :15]})).all()  # no position is left


def test_matlab_networks_of_other_layers_are_refused(monkeypatch):
    layers = list(matlab_network()["layers"].ravel())

    def message(changed):
        read = [SimpleNamespace(**layer) for layer in changed]
        names = [layer["name"] for layer in changed]
        monkeypatch.setattr(matlab_places, "read_network", lambda source: (None, read, names))
        with pytest.raises(ValueError) as caught:
            convert_model("net.mat")
        return str(caught.value)

    assert "from conv1_1 to conv5_3" in message(layers[:-1])  # no finalL2
    assert "from conv1_1 to conv5_3" in message(layers[2:])
    swapped = [*layers[:29], layers[30], layers[29], *layers[31:]]
    assert "Received: conv0" in message(swapped)
    assert "Received: other numbers in conv2" in message([*layers[:5], {**layers[5], "pad": 0}, *layers[6:]])
    assert "averageImage" in message(layers)


@pytest.mark.slow
def test_the_command_converts_and_the_model_is_exported_and_verified(tmp_path, capsys):
    network = matlab_network()
    path, output = save_matlab(tmp_path / "net.mat", network), tmp_path / "places.keras"
    assert main(["convert", str(path), str(output)]) == 0
    assert "vgg16_netvlad, 2,336 parameters" in capsys.readouterr().out
    model, images = load_model(output), pictures()
    expected = matlab_place_descriptor(network, images)
    np.testing.assert_allclose(outputs_of(model, {"images": images}), expected, atol=TOLERANCE)
    export_saved_model(model, tmp_path / "saved")
    export_onnx(model, tmp_path / "places.onnx")
    assert main(["convert", str(path), str(output)]) == 2
    assert "must not exist" in capsys.readouterr().err


def save_tensorflow_1(prefix, tensors):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for name, value in tensors.items():
            tf.compat.v1.get_variable(name, initializer=tf.constant(value))
        session.run(tf.compat.v1.global_variables_initializer())
        return tf.compat.v1.train.Saver().save(session, str(prefix), global_step=7)


FRAMES = np.random.default_rng(0).normal(size=(2, 9, RGB + AUDIO)).astype("float32")
WILLOW_INPUTS = {"rgb": FRAMES[..., :RGB], "audio": FRAMES[..., RGB:], "num_frames": np.full(2, 9, "int32")}


def test_a_file_that_is_no_checkpoint_is_one_sentence(tmp_path):
    (tmp_path / "notes.md").write_text("weights follow")
    with pytest.raises(ValueError, match=r"must be a \.mat, \.pth or .* Received: .*notes\.md, a file of another"):
        convert_model(tmp_path / "notes.md")


@pytest.mark.parametrize("centroids", [True, False])
def test_willow_checkpoints_give_the_published_scores(tmp_path, centroids):
    tensors = checkpoint_of_willow(centroids=centroids)
    others = {f"{name}/Adam": value + 1 for name, value in tensors.items()}
    prefix = save_tensorflow_1(tmp_path / "model.ckpt", {**tensors, **others, "global_step": np.int64(7)})
    expected = willow_scores(tensors, FRAMES)
    np.testing.assert_allclose(outputs_of(convert_model(prefix), WILLOW_INPUTS, "scores"), expected, atol=TOLERANCE)


def test_the_moving_averages_of_skalic_replace_the_weights(tmp_path):
    averages, tensors = checkpoint_of_willow(seed=1), checkpoint_of_willow()
    stored = {f"tower/{name}": value for name, value in tensors.items()}
    stored |= {f"tower/{name}/ExponentialMovingAverage": value for name, value in averages.items()}
    model = convert_model(save_tensorflow_1(tmp_path / "inference_model", stored))
    expected = willow_scores(averages, FRAMES)
    np.testing.assert_allclose(outputs_of(model, WILLOW_INPUTS, "scores"), expected, atol=TOLERANCE)


@pytest.mark.slow
def test_a_willow_model_is_exported_and_verified(tmp_path):
    model = convert_model(checkpoint_of_willow())
    export_onnx(model, tmp_path / "scores.onnx")


def test_missing_and_unknown_tensors_are_listed():
    tensors = checkpoint_of_willow()
    complete = dict(tensors)
    del tensors["gating_bn/beta"], tensors["experts/biases"]
    with pytest.raises(ValueError, match="without experts/biases, gating_bn/beta and with the unknown lstm/kernel"):
        convert_model({**tensors, "lstm/kernel": np.ones(3)})
    with pytest.raises(ValueError, match="Received: a file with the unknown lstm/kernel"):
        convert_model({**complete, "lstm/kernel": np.ones(3)})
    for name, shape, message in (
        ("gating_weights_2", (4, 5), "`gating_weights_2` must fit its network"),
        ("hidden1_weights", (31, 5), r"24 \+ 8 rows"),
        ("gates/weights", (5, 14), "one column more for each class"),
    ):
        with pytest.raises(ValueError, match=message):
            convert_model({**complete, name: np.ones(shape)})


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["pool.centroids"], "one of the forms matlab, pytorch, soccernet, willow"),
        (["encoder.34.weight", "pool.centroids"], "The backbone must be torchvision's VGG16, AlexNet"),
        (["encoder.28.weight", "pool.centroids"], "without encoder.0.bias"),
        (["backbone.4.0.conv1.weight", "backbone.7.2.conv2.weight"], "The backbone must be torchvision's VGG16"),
        (["pool_layer.clusters"], "without fc.bias, fc.weight"),
    ],
)
def test_other_networks_are_refused(names, message):
    with pytest.raises(ValueError, match=message):
        convert_model(dict.fromkeys(names, np.ones((2, 2))))


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="`form` must be one of"):
        convert_model({}, form="caffe")


@pytest.mark.parametrize(
    ("output", "error", "message"),
    [
        ("model.h5", ValueError, "ends in .keras"),
        ("absent/model.keras", FileNotFoundError, "existing directory"),
        ("there.keras", FileExistsError, "must not exist"),
    ],
)
def test_outputs_that_cannot_be_written(tmp_path, output, error, message):
    (tmp_path / "there.keras").write_text("mine")
    with pytest.raises(error, match=message):
        convert_file(tmp_path / "net.mat", tmp_path / output)
