"""Models whose inputs and outputs cannot be exported."""

import keras
import pytest

from keras_netvlad.export import export_model, export_onnx, export_saved_model
from keras_netvlad.export.model_signature import read_signature
from keras_netvlad.layers import NetVLAD


def unnamed_input():
    frames = keras.Input((None, 3))
    return keras.Model(frames, NetVLAD(2)(frames))


def clashing_names():
    frames = keras.Input((None, 3), name="frames")
    return keras.Model({"frames": frames}, {"frames": NetVLAD(2)(frames)})


def clashing_outputs():
    frames = keras.Input((None, 3), name="frames")
    shared = keras.layers.Dense(2, name="scores")
    return keras.Model([frames], [shared(NetVLAD(2)(frames)), shared(NetVLAD(2)(frames))])


def no_identifier():
    frames = keras.Input((None, 3), name="frames")
    return keras.Model({"my-frames": frames}, {"scores": NetVLAD(2)(frames)})


def nested_outputs():
    frames = keras.Input((None, 3), name="frames")
    pooled = NetVLAD(2)(frames)
    return keras.Model([frames], {"scores": [pooled, pooled]})


def letters_of_another_alphabet():
    frames = keras.Input((None, 3), name="кадры")
    return keras.Model(frames, NetVLAD(2)(frames))


def model_name_with_a_space():
    frames = keras.Input((None, 3), name="frames")
    return keras.Model(frames, NetVLAD(2)(frames), name="my model")


def layer_name_with_a_space():
    frames = keras.Input((None, 3), name="frames")
    return keras.Model(frames, NetVLAD(2)(keras.layers.Dense(3, name="ma couche é")(frames)))


def ragged_input():
    frames = keras.Input((None, 3), name="frames", ragged=True)
    return keras.Model(frames, frames * 2)


def model_of_keras_2():
    sequential = type("Sequential", (), {"__module__": "tf_keras.src.engine.sequential"})
    return sequential()


class UntraceableLayer(keras.layers.Layer):
    def call(self, frames):
        return frames / int(frames.shape[1])  # `None` while the model is traced

    def compute_output_shape(self, shape):
        return shape

    def compute_output_spec(self, frames):
        return keras.KerasTensor(frames.shape, frames.dtype)


def layer_that_cannot_be_traced():
    frames = keras.Input((None, 3), name="frames")
    return keras.Model(frames, NetVLAD(2)(UntraceableLayer()(frames)))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (unnamed_input, ValueError, r"Every input needs a name.*name='frames'.*an unnamed input of shape"),
        (clashing_names, ValueError, r"need different names.*Received: \['frames', 'frames'\]"),
        (clashing_outputs, ValueError, r"need different names.*'scores', 'scores'"),
        (no_identifier, ValueError, r"letters A to Z, digits and underscores. Received: 'my-frames'"),
        (letters_of_another_alphabet, ValueError, r"letters A to Z, digits and underscores. Received: 'кадры'"),
        (model_name_with_a_space, ValueError, r"set another `name`.*Received: the model named 'my model'"),
        (layer_name_with_a_space, ValueError, r"set another `name`.*Received: Dense named 'ma couche é'"),
        (ragged_input, ValueError, r"pad the frames and add an input `num_frames`.*the ragged input 'frames'"),
        (model_of_keras_2, TypeError, r"of Keras 3, not of tf_keras \(Keras 2\).*Received: Sequential of tf_keras"),
        (layer_that_cannot_be_traced, ValueError, r"able to trace the model.*Received: UntraceableLayer: .*NoneType"),
        (nested_outputs, ValueError, r"outputs must be a tensor, a list or a dict"),
        (lambda: NetVLAD(2), TypeError, r"takes a built functional or Sequential keras.Model.*Received: NetVLAD"),
        (lambda: keras.Sequential([NetVLAD(2)]), TypeError, r"takes a built functional or Sequential"),
    ],
)
def test_models_that_cannot_be_exported_say_why(make, error, message, tmp_path):
    for export in (export_onnx, export_saved_model, export_model):
        with pytest.raises(error, match=message):
            export(make(), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def axis_names(model):
    signature = read_signature(model)
    return {port.name: port.axis_names for port in (*signature.inputs, *signature.outputs)}


def test_axes_of_frames_and_pictures_have_different_names():
    frames, image = keras.Input((None, 6), name="frames"), keras.Input((None, None, 6), name="image")
    weights, video = keras.Input((None,), name="weights"), keras.Input((None, None, None, 6), name="video")
    meta = keras.Input((4,), name="meta")
    pooled = [NetVLAD(2)(frames, mask=weights), NetVLAD(2)(image), NetVLAD(2)(video), meta]
    model = keras.Model([frames, image, weights, video, meta], keras.layers.Concatenate(name="out")(pooled))
    assert axis_names(model) == {
        "frames": ("batch", "frames", None),
        "image": ("batch", "image_height", "image_width", None),
        "weights": ("batch", "frames"),
        "video": ("batch", "frames", "video_height", "video_width", None),
        "meta": ("batch", None),
        "out": ("batch", None),
    }


def test_axes_of_channels_first_pictures():
    image = keras.Input((6, None, None), name="image")
    model = keras.Model(image, NetVLAD(2, assignment="conv", data_format="channels_first", name="out")(image))
    assert axis_names(model)["image"] == ("batch", None, "image_height", "image_width")


def test_only_outputs_with_a_row_for_every_frame_have_an_axis_of_frames():
    frames = keras.Input((None, 6), name="frames")
    outputs = {
        "same": keras.layers.Dense(2)(frames),
        "shorter": keras.layers.Conv1D(2, 3)(frames),
        "map": keras.layers.Reshape((-1, 2, 3))(frames),
    }
    names = axis_names(keras.Model({"frames": frames}, outputs))
    assert names["same"] == ("batch", "frames", None)
    assert names["shorter"] == ("batch", "shorter_axis1", None)
    assert names["map"] == ("batch", "frames", None, None)


def test_an_input_of_rank_4_has_frames_only_if_num_frames_counts_them():
    tokens, num_frames = keras.Input((None, 5, 6), name="tokens"), keras.Input((), dtype="int32", name="num_frames")
    pooled = NetVLAD(2)(keras.layers.TimeDistributed(keras.layers.GlobalMaxPooling1D())(tokens))
    masked = keras.layers.Dense(2)(pooled)
    assert axis_names(keras.Model({"tokens": tokens}, {"out": masked}))["tokens"] == (
        "batch",
        "tokens_height",
        None,
        None,
    )
    counted = keras.Model({"tokens": tokens, "num_frames": num_frames}, {"out": masked})
    assert axis_names(counted)["tokens"] == ("batch", "frames", None, None)


@pytest.mark.parametrize(
    ("frames", "other", "has_frames"),
    [
        ((6, 4), (2, 3, 5), False),  # a picture
        ((6, 4), (6, 3, 5), True),  # may be the tokens of each frame
        ((6, 4), (6, 2, 3, 5), True),
        ((6, 4), (5,), False),
        ((6, 3, 4), (6, 2, 4), True),  # no input has another number of frames
    ],
)
def test_inputs_of_fixed_sizes_that_num_frames_counts(frames, other, has_frames):
    inputs = {"frames": keras.Input(frames), "other": keras.Input(other), "num_frames": keras.Input((), dtype="int32")}
    outputs = keras.layers.Concatenate()([keras.layers.Flatten()(inputs[name]) for name in ("frames", "other")])
    ports = {port.name: port for port in read_signature(keras.Model(inputs, {"out": outputs})).inputs}
    assert {name: port.has_frames for name, port in ports.items()} == {
        "frames": True,
        "other": has_frames,
        "num_frames": False,
    }


@pytest.mark.parametrize("name", ["self", "_flow", "class"])
def test_reserved_names_of_inputs_are_refused(name):
    frames = keras.Input((None, 4), name=name)
    with pytest.raises(ValueError, match=rf"must start with a letter.*Received: '{name}'"):
        read_signature(keras.Model({name: frames}, {"out": frames * 2}))
