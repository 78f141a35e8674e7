"""Whole checkpoints in the published formats give the numbers of the published networks.

The networks of pictures are written out in NumPy, in the order of their own code, with small widths; those of PyTorch
are in test_whole_pytorch.py. The scores of YouTube-8M's models are those that the published code computed.
"""

from types import SimpleNamespace

import keras
import numpy as np
import onnxruntime
import pytest
import scipy.io
import tensorflow as tf
from published_models import PUBLISHED, published_checkpoint, published_inputs, published_output
from published_networks import (
    VGG16,
    matlab_network,
    matlab_place_descriptor,
    patch_netvlad_checkpoint,
    patch_netvlad_descriptor,
    soccernet_checkpoint,
)

from keras_netvlad import VideoClassifier
from keras_netvlad.__main__ import main
from keras_netvlad.base.quantization import dequantize
from keras_netvlad.convert import convert_file, convert_model
from keras_netvlad.convert.networks import matlab_places
from keras_netvlad.export import export_model, export_onnx, export_saved_model
from keras_netvlad.models import load_model

# Float32 models beside float64 formulas, values up to 1.
TOLERANCE = 2e-5


def pictures(height=48, width=40, batch=2):
    return np.random.default_rng(3).integers(0, 256, (batch, height, width, 3)).astype("uint8")


def outputs_of(model, inputs, name="descriptor"):
    outputs = model(inputs)
    return keras.ops.convert_to_numpy(outputs if name is None else outputs[name])


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


@pytest.mark.slow
def test_a_full_size_place_network_gives_the_published_descriptor(tmp_path):
    """VGG16, 64 clusters and 4096 principal components, 149 million weights."""
    network = matlab_network(widths=VGG16, num_clusters=64, outputs=4096)
    images = pictures(64, 80, batch=1)
    expected = matlab_place_descriptor(network, images)
    path = save_matlab(tmp_path / "net.mat", network)
    del network
    model = convert_model(path)
    path.unlink()  # half a gigabyte
    assert model.count_params() == 149_002_048
    np.testing.assert_allclose(outputs_of(model, {"images": images}), expected, atol=TOLERANCE)


@pytest.mark.slow
def test_a_place_model_of_pytorch_is_exported_and_verified(tmp_path):
    tensors, images = patch_netvlad_checkpoint(), pictures()
    model = convert_model(tensors)
    expected = patch_netvlad_descriptor(tensors, images)
    np.testing.assert_allclose(outputs_of(model, {"images": images}), expected, atol=TOLERANCE)
    check_exports(model, tmp_path / "out", {"images": images}, "descriptor")


@pytest.mark.slow
def test_a_spotting_model_is_exported_and_verified(tmp_path):
    frames = np.random.default_rng(0).normal(size=(2, 30, 9)).astype("float32")
    inputs = {"frames": frames, "num_frames": np.array([30, 17], "int32")}
    check_exports(convert_model(soccernet_checkpoint()), tmp_path / "out", inputs, "scores")


def check_exports(model, directory, inputs, name):
    """Exports a model in both formats, verified, and compares the outputs of the ONNX file."""
    reports = export_model(model, directory)
    assert [(report.ok, report.judge) for report in reports] == [(True, "float64")] * 2
    session = onnxruntime.InferenceSession(directory / "model.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run([name], inputs)[0], outputs_of(model, inputs, name), atol=1e-5)


def save_tensorflow_1(prefix, tensors):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for name, value in tensors.items():
            tf.compat.v1.get_variable(name, initializer=tf.constant(value))
        session.run(tf.compat.v1.global_variables_initializer())
        return tf.compat.v1.train.Saver().save(session, str(prefix), global_step=7)


def test_a_file_that_is_no_checkpoint_is_one_sentence(tmp_path):
    (tmp_path / "notes.md").write_text("weights follow")
    with pytest.raises(ValueError, match=r"a \.mat, \.pth, \.h5 or .*Received: .*notes\.md, a file of another"):
        convert_model(tmp_path / "notes.md")


def features():
    """The inputs of the published code, as features."""
    bytes_of = published_inputs()
    return {name: values if name == "num_frames" else dequantize(values) for name, values in bytes_of.items()}


def preset_of(preset):
    if preset == "youtube8m_moe":
        return VideoClassifier.from_preset(preset, 5)
    clusters = {"rgb": 16, "audio": 2} if "dbow" in preset else {"rgb": 8, "audio": 4}
    return VideoClassifier.from_preset(preset, 5, num_clusters=clusters, hidden_units=8)


@pytest.mark.parametrize("preset", PUBLISHED)
def test_checkpoints_of_youtube_8m_give_the_published_scores(tmp_path, preset):
    tensors = published_checkpoint(preset)
    others = {f"{name}/Adam": value + 1 for name, value in tensors.items()}
    prefix = save_tensorflow_1(tmp_path / "model.ckpt", {**tensors, **others, "global_step": np.int64(7)})
    model = convert_model(prefix, form=PUBLISHED[preset])
    # Measured 6e-8.
    np.testing.assert_allclose(outputs_of(model, features(), "scores"), published_output(preset, "scores"), atol=3e-6)
    assert {**model.get_config(), "name": preset} == comparable(preset_of(preset).get_config())


def comparable(config):
    """A configuration with the options of the pooling by stream, as the converter gives them."""
    options = config["pooling_options"]
    is_by_stream = options is None or set(options) == {"rgb", "audio"}
    return {**config, "pooling_options": options if is_by_stream else {"rgb": options, "audio": options}}


def test_the_moving_averages_of_skalic_replace_the_weights(tmp_path):
    averages = published_checkpoint("gated_netfv")
    stored = {name: value + 1 for name, value in averages.items()}
    stored |= {f"{name}/ExponentialMovingAverage": value for name, value in averages.items()}
    model = convert_model(save_tensorflow_1(tmp_path / "inference_model", stored))
    expected = published_output("gated_netfv", "scores")
    np.testing.assert_allclose(outputs_of(model, features(), "scores"), expected, atol=3e-6)


def test_a_biased_assignment_gives_the_scores_of_its_batch_normalization():
    tensors = published_checkpoint("soft_dbow")
    for scope in ("tower/video_DBOF", "tower/audio_DBOF"):
        parts = ("gamma", "beta", "moving_mean", "moving_variance")
        gamma, beta, mean, variance = (tensors.pop(f"{scope}/cluster_bn/{part}").astype("float64") for part in parts)
        scale = gamma / np.sqrt(variance + 1e-3)
        tensors[f"{scope}/cluster_weights"] = tensors[f"{scope}/cluster_weights"] * scale
        tensors[f"{scope}/cluster_biases"] = beta - mean * scale
    expected = published_output("soft_dbow", "scores")
    np.testing.assert_allclose(outputs_of(convert_model(tensors), features(), "scores"), expected, atol=3e-6)


def test_a_relu6_is_behind_the_batch_normalization_of_the_projection():
    tensors = published_checkpoint("soft_dbow")
    linear = keras.Model(*_to_layer(convert_model(tensors), "hidden"))
    biases = tensors.pop("tower/hidden1_biases")
    with pytest.raises(ValueError, match="without hidden1_biases"):
        convert_model(tensors)
    statistics = {"gamma": np.full(8, 2.0), "beta": biases, "moving_mean": np.zeros(8), "moving_variance": np.ones(8)}
    tensors |= {f"tower/hidden1_bn/{part}": value for part, value in statistics.items()}
    converted = convert_model(tensors)
    received = outputs_of(keras.Model(*_to_layer(converted, "hidden_activation")), features(), None)
    projected = outputs_of(linear, features(), None) - biases
    expected = np.clip(2 * projected / np.sqrt(1.001) + biases, 0, 6)
    assert 0 < np.mean(expected == 0) < 1
    np.testing.assert_allclose(received, expected, atol=1e-5)


def _to_layer(model, name):
    return model.input, model.get_layer(name).output


def test_a_nextvlad_of_other_sizes():
    tensors = published_checkpoint("nextvlad")
    for scope, size in (("tower/video_VLAD", 1024), ("tower/audio_VLAD", 128)):
        # Half the groups, each twice as long, of half the expanded features: descriptors keep their length.
        tensors[f"{scope}/fully_connected/weights"] = tensors[f"{scope}/fully_connected/weights"][:, :size]
        tensors[f"{scope}/fully_connected/biases"] = tensors[f"{scope}/fully_connected/biases"][:size]
        groups = tensors[f"{scope}/fully_connected_1/biases"].size // 2
        tensors[f"{scope}/fully_connected_1/weights"] = tensors[f"{scope}/fully_connected_1/weights"][:size, :groups]
        tensors[f"{scope}/fully_connected_1/biases"] = tensors[f"{scope}/fully_connected_1/biases"][:groups]
        logits = tensors[f"{scope}/cluster_weights"].shape[1] // 2
        tensors[f"{scope}/cluster_weights"] = tensors[f"{scope}/cluster_weights"][:size, :logits]
        for part in ("gamma", "beta", "moving_mean", "moving_variance"):
            tensors[f"{scope}/cluster_bn/{part}"] = tensors[f"{scope}/cluster_bn/{part}"][:logits]
    model = convert_model(tensors)
    layers = model.encoder.pooling_layers
    assert [(layer.groups, layer.expansion) for layer in layers.values()] == [(4, 1), (2, 1)]
    assert outputs_of(model, features(), "scores").shape == (3, 5)


def test_a_nextvlad_with_a_mixture_of_experts():
    tensors = published_checkpoint("nextvlad")
    for name in ("weights", "biases"):
        del tensors[f"tower/fully_connected/{name}"]
    tensors |= {"gates/weights": np.ones((8, 12)), "experts/weights": np.ones((8, 8)), "experts/biases": np.ones(8)}
    model = convert_model(tensors)
    assert (model.num_classes, model.num_mixtures) == (4, 2)
    assert np.all(model.get_layer("scores").expert_bias == 1)


def test_a_mixture_of_experts_of_one_stream_and_of_other_features():
    def of(rows):
        shapes = {"gates/weights": (rows, 9), "experts/weights": (rows, 6), "experts/biases": (6,)}
        return convert_model({f"tower/{name}": np.ones(shape) for name, shape in shapes.items()})

    assert of(1024).feature_sizes == {"rgb": 1024}
    assert of(128).feature_sizes == {"audio": 128}
    with pytest.raises(ValueError, match=r"must have 1152 rows, .* or 1024 or 128 rows, for one of them\. Received: 4"):
        of(4)


def test_covar_weights_of_netfv_without_an_equal_are_named():
    tensors = published_checkpoint("gated_netfv")
    name = "tower/video_FV/covar_weights"
    tensors[name][0, :2] = -0.0317, 0.0317
    convert_model(tensors)
    tensors[name][3, 5], tensors[name][7, 1] = 0.0316, -0.01
    with pytest.raises(
        ValueError,
        match=r"`video_FV/covar_weights` must have absolute values of at least 0\.0317.* Received: 2 smaller values, "
        r"such as 0\.0316 of feature 3 and cluster 5, -0\.01 of feature 7 and cluster 1$",
    ):
        convert_model(tensors)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["gated_netvlad", "nextvlad"])
def test_a_model_of_youtube_8m_is_exported_and_verified(tmp_path, preset):
    check_exports(convert_model(published_checkpoint(preset)), tmp_path / "out", features(), "scores")


def test_missing_and_unknown_tensors_are_listed():
    tensors = published_checkpoint("gated_netvlad")
    complete = dict(tensors)
    del tensors["tower/gating_bn/beta"], tensors["tower/experts/biases"]
    with pytest.raises(ValueError, match="without experts/biases, gating_bn/beta and with the unknown lstm/kernel"):
        convert_model({**tensors, "lstm/kernel": np.ones(3)})
    with pytest.raises(ValueError, match="Received: a file with the unknown lstm/kernel"):
        convert_model({**complete, "lstm/kernel": np.ones(3)})
    for name, shape, message in (
        ("gating_weights_2", (4, 5), "`gating_weights_2` must fit its network"),
        ("hidden1_weights", (31, 8), r"8192 \+ 512 rows"),
        ("gates/weights", (8, 10), "one column more for each class"),
    ):
        with pytest.raises(ValueError, match=message):
            convert_model({**complete, f"tower/{name}": np.ones(shape)})


@pytest.mark.parametrize(
    ("preset", "lost", "message"),
    [
        ("gated_netvlad", "audio_VLAD/cluster_weights2", "without audio_VLAD/cluster_weights2"),
        ("gated_netfv", "audio_FV/covar_weights", "without audio_FV/covar_weights"),
        ("gated_netfv", "video_FV/cluster_weights2", "without video_FV/cluster_weights2"),
        ("gated_soft_dbow", "video_DBOF/dim_red", "without video_DBOF/dim_red"),
        ("nextvlad", "audio_VLAD/vlad_bn/beta", "without audio_VLAD/vlad_bn/beta"),
    ],
)
def test_a_part_of_a_pooling_is_missed(preset, lost, message):
    tensors = published_checkpoint(preset)
    del tensors[f"tower/{lost}"]
    with pytest.raises(ValueError, match=f"Received: a file {message}$"):
        convert_model(tensors)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["pool.centroids"], "of the forms keras2, matlab, nextvlad, pytorch, soccernet, speaker, willow, youtube8m"),
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
