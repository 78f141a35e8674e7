"""Whole models of Keras 2 give the numbers of the published networks, which tests/support writes out in NumPy."""

import copy
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from keras2_files import (
    L2_NORMALIZE,
    NUM_CLUSTERS,
    UNITS,
    cartwheel,
    cartwheel_descriptor,
    crlz182,
    crlz182_descriptor,
    dense,
    functional,
    input_layer,
    l2_normalization,
    layer,
    nhgjem,
    nhgjem_descriptor,
    tensorflow_addons,
    tensorflow_addons_scores,
    write_keras2,
)
from speaker_network import speaker_descriptor, speaker_weights

from keras_netvlad import NetVLAD
from keras_netvlad.__main__ import main
from keras_netvlad.convert import convert_model
from keras_netvlad.convert.networks.keras2_layers import LAYERS, keras2_layer
from keras_netvlad.export import export_model
from keras_netvlad.models import load_model

# Float32 models beside float64 formulas, values up to 1.
TOLERANCE = 2e-6


def drawn(*shape):
    return np.random.default_rng(5).normal(size=shape).astype("float32")


def descriptors(model, x, name="images"):
    return keras.ops.convert_to_numpy(model({name: x})["descriptor"])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [NetVLAD, keras.layers.Dense, keras.layers.UnitNormalization]),
        ({"head": None}, [NetVLAD, keras.layers.Reshape, keras.layers.Permute, keras.layers.Flatten]),
        ({"skip_postnorm": True}, [NetVLAD, keras.layers.Reshape, keras.layers.Dense]),
    ],
)
def test_a_sequential_with_a_backbone_gives_the_descriptors_of_nhgjem(tmp_path, options, expected):
    config, weights = nhgjem(**options)
    model = convert_model(write_keras2(tmp_path / "model.h5", weights, config))
    x = drawn(2, 16, 20, 3)
    skips = options.get("skip_postnorm", False)
    expected_values = nhgjem_descriptor(weights, x, skips)
    np.testing.assert_allclose(descriptors(model, x), expected_values, TOLERANCE, TOLERANCE)
    assert [type(part) for part in model.layers[2:-1]] == expected


@pytest.mark.parametrize("num_ghosts", [0, 2])
def test_a_mobilenet_gives_the_descriptors_of_cartwheel(tmp_path, num_ghosts):
    config, weights = cartwheel(num_ghosts)
    # Its older files have this suffix.
    model = convert_model(write_keras2(tmp_path / "core_model.600.keras", weights, config))
    x = drawn(2, 12, 16, 3)
    np.testing.assert_allclose(descriptors(model, x), cartwheel_descriptor(weights, x), atol=TOLERANCE)
    assert model.get_layer("conv1").kernel.regularizer.l2 == pytest.approx(0.001)


def test_frames_give_the_scores_of_a_model_of_tensorflow_addons(tmp_path):
    config, weights = tensorflow_addons()
    model = convert_model(write_keras2(tmp_path / "model.h5", weights, config))
    x = drawn(2, 7, 6)
    received = descriptors(model, x, "dense_1_input")
    np.testing.assert_allclose(received, tensorflow_addons_scores(weights, x), atol=TOLERANCE)


@pytest.mark.parametrize("is_whole", [True, False])
def test_pictures_give_the_descriptors_of_crlz182(tmp_path, is_whole):
    weights = crlz182()
    # The configuration of a whole model has Lambda layers; it isn't needed.
    config = {"class_name": "Sequential", "config": [layer("Lambda", "lambda_1")]} if is_whole else None
    model = convert_model(write_keras2(tmp_path / "netvlad_weights.h5", weights, config))
    images = np.random.default_rng(3).integers(0, 256, (2, 48, 40, 3)).astype("uint8")
    np.testing.assert_allclose(descriptors(model, images), crlz182_descriptor(weights, images), atol=1e-5)


@pytest.mark.parametrize(
    ("network", "num_ghosts", "is_whole"),
    [
        ("resnet34s", 2, False),
        pytest.param("resnet34l", 1, True, marks=pytest.mark.slow),
        pytest.param("resnet34s", 0, False, marks=pytest.mark.slow),
    ],
)
def test_spectrograms_give_the_descriptors_of_the_speaker_recognition(tmp_path, network, num_ghosts, is_whole):
    weights = speaker_weights(network, num_ghosts, classifier=is_whole)
    config = functional("vggvox", [layer("Lambda", "lambda_1")], ["lambda_1"]) if is_whole else None
    model = convert_model(write_keras2(tmp_path / "weights.h5", weights, config))
    x = drawn(2, 257, 70, 1)
    expected = speaker_descriptor(weights, x, network)
    assert np.ptp(expected) > 0.5
    np.testing.assert_allclose(descriptors(model, x, "spectrograms"), expected, atol=1e-5)
    assert np.isnan(descriptors(model, x[:, :, :1], "spectrograms")).all()  # no position is left


@pytest.mark.parametrize(
    ("code", "axis"),
    [
        (L2_NORMALIZE, -1),
        # `lambda a: K.l2_normalize(a, 1)`, with a method call.
        (b"t\x00\xa0\x01|\x00d\x01\xa1\x02S\x00)\x02Ni\x01\x00\x00\x00)\x02\xda\x01K\xda\x0cl2_normalize", 1),
        # Python 2.7: `lambda a: l2_normalize(a, axis=-1)`.
        (b"t\x00\x00|\x00\x00d\x01\x00d\x02\x00\x83\x01\x01S(\x03N(\x04axisi\xff\xff\xff\xfft\x0cl2_normalize", -1),
        # Python 3.11.
        (
            b"\x97\x00t\x01" + bytes(10) + b"|\x00d\x01\xac\x02\xa6\x02\x00\x00\xab\x02" + bytes(8) + b"S\x00"
            b")\x03N\xe9\xff\xff\xff\xff)\x01\xda\x04axis)\x01\xda\x0cl2_normalize",
            -1,
        ),
    ],
)
def test_a_lambda_that_normalizes_becomes_a_layer(code, axis):
    made = keras2_layer("Lambda", l2_normalization(code=code)["config"])
    assert isinstance(made, keras.layers.UnitNormalization)
    assert made.axis == axis


@pytest.mark.parametrize(
    "code",
    [
        L2_NORMALIZE.replace(b"l2_normalize", b"hard_sigmoid"),
        L2_NORMALIZE.replace(b"\x8d\x02S\x00", b"\x8d\x02d\x03\x14\x00S\x00"),  # multiplied by a constant
        L2_NORMALIZE.replace(b"\xff\xff\xff\xff", b"\x02\x00\x00\x00"),
        L2_NORMALIZE.replace(b"axis", b"epsilon"),
        b"not base64 of code",
    ],
)
def test_the_code_of_other_lambdas_is_refused_and_never_run(code):
    with pytest.raises(ValueError, match=r"must be `l2_normalize` along the last axis.*Received: lambda_1"):
        keras2_layer("Lambda", l2_normalization(code=code)["config"])
    with pytest.raises(ValueError, match="another Lambda"):
        keras2_layer("Lambda", {"name": "lambda_1", "function": "os.system", "function_type": "function"})


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (layer("TFOpLambda", "tf.math.abs"), r"listed in docs/migration.md.*Received: tf\.math\.abs, a TFOpLambda"),
        (layer("Dense", "dense", units=2, activation="hard_sigmoid"), "activation of `dense` must be one of linear"),
        (layer("Dense", "dense", units=2, activation={"class_name": "f"}), "Received: {'class_name': 'f'}"),
        (dense("dense", 2, sparsity=0.5), "`dense`, a Dense, must have options of Keras 3. Received: sparsity"),
        (dense("dense", -2), "`dense`, a Dense, must have options of Keras 3. Received: .*units"),
        (
            dense("dense", 2, kernel_regularizer={"class_name": "Mine", "config": {}}),
            "`kernel_regularizer` of `dense` must be one of L1, .*Received: 'Mine'",
        ),
    ],
)
def test_layers_without_an_equivalent_are_refused(part, message):
    with pytest.raises(ValueError, match=message):
        keras2_layer(part["class_name"], part["config"])


def test_the_documentation_lists_the_layers():
    page = Path(__file__).parents[2] / "docs" / "migration.md"
    listed = page.read_text().split("The other layers must be: ")[1].split(", or a ")[0]
    assert tuple(listed.replace("`", "").replace(",", "").split()) == LAYERS


def parts_of(config):
    return config["config"]["layers"]


def refused(tmp_path, change, make=cartwheel):
    """The message about a file that was changed."""
    config, weights = copy.deepcopy(make())
    changed = change(config, weights)
    with pytest.raises(ValueError) as caught:
        convert_model(write_keras2(tmp_path / "model.h5", weights, config if changed is None else changed))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_and_unknown_weights_are_listed(tmp_path):
    def without_mean(config, weights):
        del weights["conv1_bn"]["conv1_bn/moving_mean"]

    message = refused(tmp_path, without_mean)
    assert "must have the 4 weights of its layer conv1_bn" in message
    assert "Received: conv1_bn/beta, conv1_bn/gamma, conv1_bn/moving_variance" in message

    def without_bias(config, weights):
        del weights["net_vlad_layer_1"]["net_vlad_layer_1/kernel"]

    message = refused(tmp_path, without_bias)
    assert "NetVLADLayer net_vlad_layer_1 must have a kernel, centroids and at most one bias" in message
    assert f"shapes (1, 1, {NUM_CLUSTERS}), (1, 1, 1, 4, {NUM_CLUSTERS})" in message

    def with_another(config, weights):
        weights["lstm"] = {"lstm/kernel": np.ones(3)}

    assert "one layer for the weights of each name. Received: weights of lstm" in refused(tmp_path, with_another)

    def of_another_shape(config, weights):
        weights["conv1"]["conv1/kernel"] = np.ones((3, 3, 3, 5))

    assert "`conv1/kernel` must fit its network" in refused(tmp_path, of_another_shape)


def test_models_of_another_kind_are_refused(tmp_path):
    def of_a_subclass(config, weights):
        config["class_name"] = "MyModel"

    assert "a Sequential or a functional model of Keras 2. Received: a MyModel" in refused(tmp_path, of_a_subclass)

    def with_two_outputs(config, weights):
        config["config"]["output_layers"].append(["conv1", 0, 0])

    assert "one input and one output; save" in refused(tmp_path, with_two_outputs)

    def with_a_map(config, weights):
        parts_of(config)[-1]["inbound_nodes"] = [[["add_1", 0, 1, {}]]]

    assert "must have one output, and no inputs but tensors" in refused(tmp_path, with_a_map)

    def with_a_gap(config, weights):
        parts_of(config)[-1]["inbound_nodes"] = [[["add_2", 0, 0, {}]]]

    assert "Each layer of the model must follow its inputs" in refused(tmp_path, with_a_gap)

    def without_a_shape(config, weights):
        del parts_of(config)[0]["config"]["batch_input_shape"]

    assert "must be as Keras 2 wrote it; save the model again. Received: KeyError" in refused(tmp_path, without_a_shape)

    def larger_than_the_file(config, weights):
        parts_of(config)[2]["config"]["filters"] = 10**6

    message = refused(tmp_path, larger_than_the_file)
    assert (
        "The layer conv1 must fit its input; save the model again. Received: a weight of shape (3, 3, 3, 1000000)"
        in message
    )

    def of_another_rank(config, weights):
        parts_of(config)[2]["class_name"] = "Conv1D"

    assert "`conv1`, a Conv1D, must have options of Keras 3" in refused(tmp_path, of_another_rank)

    def inside(config, weights):
        inner = functional("inner", [input_layer("x", 4, 4, 5), layer("NetVLAD", "pool", "x")], ["pool"])
        parts_of(config).insert(2, inner)
        weights["inner"] = {}

    assert "NetVLAD must be a layer of the whole model" in refused(tmp_path, inside, nhgjem)


def test_files_without_a_port_are_refused(tmp_path):
    config, weights = cartwheel()
    path = write_keras2(tmp_path / "weights.h5", weights)
    with pytest.raises(ValueError, match="one of the forms keras2, matlab"):
        convert_model(path)
    with pytest.raises(ValueError, match=r"class NetVLAD, NetVLADLayer, .*Received: weights alone"):
        convert_model(path, form="keras2")
    parts_of(config)[-1]["class_name"] = "VladPooling"
    path = write_keras2(tmp_path / "model.h5", weights, config)
    with pytest.raises(ValueError, match="Received: a model of Activation, Add, "):
        convert_model(path, form="keras2")
    weights = crlz182()
    del weights["conv2d_3"]
    with pytest.raises(ValueError, match=r"A model of crlz182 must have 31 weights in this order.*average_rgb"):
        convert_model(write_keras2(tmp_path / "other.h5", weights))


def test_files_of_another_layout_are_one_sentence(tmp_path):
    path = tmp_path / "notes.h5"
    with h5py.File(path, "w") as file:
        file["values"] = np.ones(3)
    with pytest.raises(ValueError, match=r"write it with `model.save\('model.h5'\)`.*without weights in that form"):
        convert_model(path)
    _, weights = cartwheel()
    write_keras2(path, weights)
    with h5py.File(path, "a") as file:
        # Read from another file, a weight would be one that this file does not have.
        del file["conv1/conv1/kernel:0"]
        file["conv1/conv1/kernel:0"] = h5py.ExternalLink("other.h5", "kernel")
    with pytest.raises(ValueError, match=r"a whole \.h5 file that Keras 2 wrote.*conv1/conv1/kernel:0"):
        convert_model(path)
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(20))
    with pytest.raises(ValueError, match="a whole HDF5 file"):
        convert_model(path)


def test_names_longer_than_an_attribute_are_read_in_parts(tmp_path):
    config, weights = nhgjem()
    path = write_keras2(tmp_path / "model.h5", weights, config)
    with h5py.File(path, "a") as file:
        attributes = file["model_weights/vgg16"].attrs
        names = attributes["weight_names"]
        del attributes["weight_names"]
        attributes["weight_names0"], attributes["weight_names1"] = names[:1], names[1:]
    x = drawn(1, 16, 20, 3)
    np.testing.assert_allclose(descriptors(convert_model(path), x), nhgjem_descriptor(weights, x), atol=TOLERANCE)


def test_other_speaker_networks_are_refused(tmp_path):
    weights = speaker_weights()
    named = {name: value for part in weights.values() for name, value in part.items()}
    del named["conv3_b_3x3/bn/gamma"]
    with pytest.raises(
        ValueError, match=r"The speaker recognition of VGG .*without conv3_b_3x3/bn/gamma and with .*lstm"
    ):
        convert_model({**named, "lstm/kernel:0": np.ones(2)})
    del weights["gvlad_pool"], weights["gvlad_center_assignment"]
    with pytest.raises(ValueError, match="one of the forms"):
        convert_model(write_keras2(tmp_path / "weights.h5", weights))
    named = {name: value for part in speaker_weights().values() for name, value in part.items()}
    with pytest.raises(ValueError, match="`gvlad_pool/centers` must have a row for each score"):
        convert_model({**named, "gvlad_pool/centers": np.ones((4, 6))})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "formats"),
    [("nhgjem", ["saved_model", "onnx"]), ("speaker", ["saved_model"]), ("speaker", ["onnx"])],
)
def test_the_command_converts_and_the_model_is_exported_and_verified(tmp_path, capsys, kind, formats):
    output = tmp_path / "model.keras"
    if kind == "nhgjem":
        config, weights = nhgjem()
        name, x, compute = "images", drawn(2, 16, 20, 3), nhgjem_descriptor
    else:
        config, weights = None, speaker_weights()
        name, x, compute = "spectrograms", drawn(2, 257, 40, 1), speaker_descriptor
    assert main(["convert", str(write_keras2(tmp_path / "model.h5", weights, config)), str(output)]) == 0
    assert f"input   {name}  float32" in capsys.readouterr().out
    model = load_model(output)
    np.testing.assert_allclose(descriptors(model, x, name), compute(weights, x), atol=1e-5)
    export_model(model, tmp_path / "exported", formats=formats)
    assert model.output["descriptor"].shape[1] == (UNITS if kind == "nhgjem" else 6)
