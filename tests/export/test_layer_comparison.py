"""A fault in one weight of a file is named at its layer, and a file without faults has none."""

import keras
import numpy as np
import onnx
import pytest
from onnx.numpy_helper import from_array, to_array
from small_classifier import batch, make_classifier

from keras_netvlad.export import compare_layers, export_onnx
from keras_netvlad.export.onnx.layer_tensors import LayerTensors
from keras_netvlad.layers import FrameEncoder, NetVLAD
from keras_netvlad.models import VideoClassifier, from_pixels


def with_random_weights(model):
    """Gives every weight another value than its initial one, so that no layer is neutral."""
    generator = np.random.default_rng(0)
    for weight in model.weights:
        if weight.dtype == "float32":
            weight.assign(generator.uniform(0.2, 1.0, weight.shape) * generator.choice([-1, 1], weight.shape))
        if weight.path.endswith("moving_variance"):
            weight.assign(np.abs(weight.numpy()))
    return model


def own_model():
    """Layers of Keras before a NetVLAD layer, one of them used twice."""
    frames, twice = keras.Input((None, 6), name="frames"), keras.layers.Dense(6, "tanh", name="twice")
    mean, variance = np.linspace(-1, 1, 6), np.linspace(1, 2, 6)
    x = keras.layers.Normalization(mean=mean, variance=variance, name="normalization")(frames)
    x = keras.layers.Dropout(0.5, name="dropout")(twice(twice(x)))
    x = keras.layers.Conv1D(5, 3, padding="same", activation="relu", name="conv")(x)
    x = NetVLAD(3, name="netvlad")(x)
    return with_random_weights(keras.Model(frames, keras.layers.Dense(4, "softmax", name="scores")(x)))


def pixel_model():
    images = keras.Input((12, 12, 3))
    x = keras.layers.Conv2D(4, 3, strides=2, padding="same", use_bias=False, name="conv")(images)
    x = keras.layers.ReLU(name="relu")(keras.layers.BatchNormalization(name="norm")(x))
    x = keras.layers.Conv2D(6, 3, padding="same", name="last_conv")(keras.layers.MaxPooling2D(name="pool")(x))
    encoder = FrameEncoder(keras.Model(images, x, name="cnn"), name="encoder")
    return with_random_weights(
        from_pixels(encoder, VideoClassifier({"frames": 6}, 3, num_clusters=2, hidden_units=4, name="classifier"))
    )


def exported(model, path, **options):
    export_onnx(model, path, verify=False, **options)
    return path


def plant_fault(path, weight):
    """Changes the first value of a weight in a file."""
    proto = onnx.load(path)
    (tensor,) = [tensor for tensor in proto.graph.initializer if tensor.name == weight]
    values = to_array(tensor).copy()
    values.flat[0] += 0.5
    tensor.CopyFrom(from_array(values, weight))
    onnx.save(proto, path)


def results(report):
    return {layer.layer: layer.result for layer in report.layers}


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    model = own_model()
    return model, exported(model, tmp_path_factory.mktemp("own") / "model.onnx")


def test_every_layer_of_the_users_own_model_is_found(own):
    report = compare_layers(*own)
    assert [(layer.layer, layer.result) for layer in report.layers] == [
        ("normalization", "ok"),
        ("twice", "ok"),
        ("twice", "ok"),
        ("dropout", "not found"),
        ("conv", "ok"),
        ("netvlad", "ok"),
        ("scores", "ok"),
    ]
    assert report.ok
    assert max(layer.relative for layer in report.layers if layer.relative is not None) < 2e-6


@pytest.mark.parametrize("pooling", ["netvlad", pytest.param("attention", marks=pytest.mark.slow)])
def test_every_layer_of_a_classifier_is_found(pooling, tmp_path):
    model = with_random_weights(
        VideoClassifier({"rgb": 6, "audio": 3}, 4, pooling=pooling, num_clusters=2, hidden_units=5, gate_scores=True)
    )
    report = compare_layers(model, exported(model, tmp_path / "model.onnx"))
    assert report.ok
    assert [layer.layer for layer in report.layers if layer.relative is None] == ["descriptor"]  # a linear activation
    assert {"FrameMask", "Concatenate", "ContextGating"} < {layer.class_name for layer in report.layers}


@pytest.mark.slow
def test_layers_of_inner_models_are_found_and_faults_named_there(tmp_path):
    model = pixel_model()
    path = exported(model, tmp_path / "model.onnx")
    report = compare_layers(model, path)
    assert report.ok
    inside = ("conv", "norm", "relu", "pool", "last_conv")
    assert [results(report)[f"encoder/cnn/{name}"] for name in inside] == ["ok"] * 5
    assert [results(report)[name] for name in ("encoder/cnn", "encoder", "classifier/frames_netvlad")] == ["ok"] * 3
    (weight,) = [weight.path for weight in model.weights if weight.path.endswith("last_conv/kernel")]
    plant_fault(path, weight)
    faulty = compare_layers(model, path)
    assert faulty.first.layer == "encoder/cnn/last_conv"
    assert results(faulty)["encoder/cnn/pool"] == "ok"
    assert results(faulty)["encoder"] == results(faulty)["classifier/scores"] == "DIFFERS"


@pytest.mark.parametrize(
    ("weight", "layer"),
    [
        ("scores/kernel", "scores"),
        ("netvlad/centroids", "netvlad"),
        ("conv/kernel", "conv"),
        ("twice/bias", "twice"),
    ],
)
def test_a_fault_is_named_at_its_layer_and_layers_before_it_are_ok(own, weight, layer, tmp_path):
    model, original = own
    path = tmp_path / "model.onnx"
    path.write_bytes(original.read_bytes())
    plant_fault(path, weight)
    report = compare_layers(model, path)
    assert not report.ok
    assert (report.first.layer, report.first.result) == (layer, "DIFFERS")
    assert report.first.relative > 1e-3
    names = [entry.layer for entry in report.layers]
    assert all(entry.result != "DIFFERS" for entry in report.layers[: names.index(layer)])


def test_nan_in_the_file_differs_whatever_the_tolerance(own, tmp_path):
    model, original = own
    proto = onnx.load(original)
    (tensor,) = [tensor for tensor in proto.graph.initializer if tensor.name == "conv/bias"]
    tensor.CopyFrom(from_array(np.full(5, np.nan, "float32"), tensor.name))
    onnx.save(proto, tmp_path / "model.onnx")
    report = compare_layers(model, tmp_path / "model.onnx", tolerance=1e6)
    assert report.first.layer == "conv"
    assert np.isnan(report.first.relative)


def test_a_fault_in_one_of_two_outputs_of_a_layer_is_seen(tmp_path):
    frames = keras.Input((None, 4), name="frames")
    halves = keras.layers.Lambda(lambda x: (x + 1.0, x[..., :3] * 2.0), name="halves")
    one, other = halves(frames)
    model = keras.Model(frames, {"one": one, "other": other})
    path = exported(model, tmp_path / "model.onnx")
    assert results(compare_layers(model, path)) == {"halves": "ok"}
    changed = keras.layers.Lambda(lambda x: (x + 1.0, x[..., :3] * 3.0), name="halves")
    one, other = changed(frames)
    report = compare_layers(keras.Model(frames, {"one": one, "other": other}), path)
    assert (report.first.layer, round(report.first.relative, 3)) == ("halves", 0.333)


def test_nan_that_a_later_layer_masks_is_equal_in_both(tmp_path):
    frames = keras.Input((None, 3), name="frames")
    logs = keras.layers.Lambda(lambda x: keras.ops.log(x), name="logs")(frames)
    real = keras.layers.Lambda(lambda x: keras.ops.where(keras.ops.isnan(x), 0.0, x), name="real")(logs)
    model = keras.Model(frames, keras.layers.Dense(2, name="scores")(real))
    report = compare_layers(model, exported(model, tmp_path / "model.onnx"))
    assert results(report) == {"logs": "ok", "real": "ok", "scores": "ok"}


def test_data_of_the_user_is_compared_as_well(tmp_path):
    frames = keras.Input((None, 3), name="frames")
    capped = keras.layers.ReLU(max_value=50.0, name="capped")(frames)
    model = keras.Model(frames, keras.layers.Dense(2, name="scores")(capped))
    path = exported(model, tmp_path / "model.onnx")
    other = keras.Model(frames, model.layers[-1](keras.layers.ReLU(max_value=40.0, name="capped")(frames)))
    assert compare_layers(other, path).ok  # random frames are below 40
    report = compare_layers(other, path, data={"frames": np.full((2, 4, 3), 45.0, "float32")})
    assert report.first.layer == "capped"


def test_weights_in_a_second_file_are_read(tmp_path):
    model = make_classifier()
    exported(model, tmp_path / "model.onnx", external_data_threshold=0)
    assert (tmp_path / "model.onnx.data").is_file()
    assert compare_layers(model, tmp_path / "model.onnx").ok


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_the_tolerance_of_a_reduced_precision_applies_to_layers(precision, tmp_path):
    keras.utils.set_random_seed(0)
    model = VideoClassifier({"frames": 64}, 5, num_clusters=16, hidden_units=1024)
    report = compare_layers(model, exported(model, tmp_path / "model.onnx", precision=precision))
    assert report.ok
    assert results(report)["hidden"] == "ok"
    strict = compare_layers(model, tmp_path / "model.onnx", tolerance=1e-6)
    assert strict.first.layer == "hidden"


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_layers_of_16_bits_are_compared(policy, tmp_path):
    keras.utils.set_random_seed(0)
    frames = keras.Input((None, 6), name="frames")
    x = NetVLAD(3, dtype=policy, name="netvlad")(keras.layers.Dense(8, dtype=policy, name="dense")(frames))
    model = keras.Model(frames, keras.layers.Dense(4, dtype="float32", name="scores")(x))
    report = compare_layers(model, exported(model, tmp_path / "model.onnx"))
    assert results(report) == {"dense": "ok", "netvlad": "ok", "scores": "ok"}


@pytest.mark.slow
def test_layers_of_a_sequential_and_a_recurrent_model_are_found(tmp_path):
    layers = [keras.layers.LSTM(4, return_sequences=True, name="lstm"), NetVLAD(2, name="netvlad")]
    model = keras.Sequential([keras.Input((None, 6), name="frames"), *layers, keras.layers.Dense(3, name="scores")])
    path = exported(with_random_weights(model), tmp_path / "model.onnx")
    assert results(compare_layers(model, path)) == {"lstm": "ok", "netvlad": "ok", "scores": "ok"}
    plant_fault(path, next(weight.path for weight in model.weights if weight.path.endswith("recurrent_kernel")))
    assert compare_layers(model, path).first.layer == "lstm"


def test_wrong_uses_are_one_sentence(tmp_path):
    model = make_classifier()
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").touch()
    with pytest.raises(ValueError, match=r"in an ONNX file, .* Received: /"):
        compare_layers(model, tmp_path / "saved")
    with pytest.raises(FileNotFoundError, match="An artifact is a directory"):
        compare_layers(model, tmp_path / "absent.onnx")
    path = exported(model, tmp_path / "sums.onnx", signature="describe")
    with pytest.raises(ValueError, match=r"in a file of `serving_default`; .*sums\.onnx of `describe`"):
        compare_layers(model, path)
    path = exported(model, tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="`tolerance` must be a finite number"):
        compare_layers(model, path, tolerance=-1)
    with pytest.raises(TypeError, match="functional or Sequential"):
        compare_layers(NetVLAD(2), path)
    with pytest.raises(ValueError, match="frames"):
        compare_layers(VideoClassifier({"frames": 7}, 5, num_clusters=4), path)


def test_a_file_without_names_of_layers_is_refused(tmp_path):
    model = make_classifier()
    path = exported(model, tmp_path / "model.onnx")
    proto = onnx.load(path)
    for node in proto.graph.node:
        node.name = ""
    onnx.save(proto, path)
    with pytest.raises(ValueError, match=r"must be named after the layers of the model; .*'frames_netvlad'"):
        compare_layers(model, path)


def test_a_file_that_fails_on_the_inputs_is_refused(own, monkeypatch):
    def fail(self, inputs):
        raise RuntimeError("no memory")

    monkeypatch.setattr(LayerTensors, "run", fail)
    with pytest.raises(ValueError, match=r"must run on the inputs of the check; .*Received for batch .*no memory"):
        compare_layers(*own)


def test_the_comparison_changes_neither_the_model_nor_the_file(own):
    model, path = own
    before, call = path.read_bytes(), keras.Layer.__call__
    expected = model.predict(batch()["frames"], verbose=0)
    compare_layers(model, path)
    assert path.read_bytes() == before
    assert keras.Layer.__call__ is call
    np.testing.assert_array_equal(model.predict(batch()["frames"], verbose=0), expected)
