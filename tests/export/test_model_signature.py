"""Models whose inputs and outputs cannot be exported."""

import keras
import pytest

from keras_netvlad.export import export_model, export_onnx, export_saved_model
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


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (unnamed_input, ValueError, r"Every input needs a name.*name='frames'.*an unnamed input of shape"),
        (clashing_names, ValueError, r"need different names.*Received: \['frames', 'frames'\]"),
        (clashing_outputs, ValueError, r"need different names.*'scores', 'scores'"),
        (no_identifier, ValueError, r"letters, digits and underscores. Received: 'my-frames'"),
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
