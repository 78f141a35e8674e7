"""An artifact must have the model's names, dtypes and axes."""

import keras
import pytest

from keras_netvlad.export import export_onnx, verify
from keras_netvlad.export.port import Port
from keras_netvlad.export.signature import Signature
from keras_netvlad.export.verification.signature_check import check_signatures

EXPECTED = {
    "serving_default": Signature(
        "serving_default",
        (Port("frames", (None, None, 6), "float32"), Port("num_frames", (None,), "int32")),
        (Port("scores", (None, 5), "float32"),),
        lambda inputs: {},
    )
}
SAVED_MODEL = {"frames": ((None, None, 6), "float32"), "num_frames": ((None,), "int32")}
ONNX = {"frames": (("batch", "frames", 6), "float32"), "num_frames": (("batch",), "int32")}
SCORES = {"scores": ((None, 5), "float32")}


def test_both_formats_of_the_models_own_signature_pass():
    check_signatures(EXPECTED, {"serving_default": (SAVED_MODEL, SCORES)})
    check_signatures(EXPECTED, {"serving_default": (ONNX, {"scores": (("batch", 5), "float32")})})


@pytest.mark.parametrize(
    ("kind", "name", "shape", "dtype"),
    [
        ("input", "frames", (None, None, 6), "float16"),
        ("input", "frames", (None, None, 6), "uint8"),
        ("input", "frames", (None, None, 7), "float32"),
        ("input", "frames", (None, 5, 6), "float32"),  # fixed where the model's axis is free
        ("input", "frames", (1, None, 6), "float32"),
        ("input", "frames", (None, None, None), "float32"),  # free where the model's axis is fixed
        ("input", "frames", (None, 6), "float32"),
        ("input", "frames", ("batch", "batch", 6), "float32"),  # two axes that must be equal
        ("input", "num_frames", (None,), "int64"),
        ("input", "num_frames", (), "int32"),
        ("output", "scores", (None, 5), "float64"),
        ("output", "scores", (None, 4), "float32"),
        ("output", "scores", (None, 5, 1), "float32"),
    ],
)
def test_another_dtype_or_axis_is_refused(kind, name, shape, dtype):
    inputs, outputs = dict(SAVED_MODEL), dict(SCORES)
    (inputs if kind == "input" else outputs)[name] = (shape, dtype)
    with pytest.raises(
        ValueError, match=rf"The artifact's {kind} `{name}` must be the model's, .*Received: {dtype} \("
    ):
        check_signatures(EXPECTED, {"serving_default": (inputs, outputs)})


@pytest.mark.parametrize("change", ["missing", "added", "renamed"])
def test_other_names_are_refused(change):
    ports = {"missing": {}, "added": {**SCORES, "more": SCORES["scores"]}, "renamed": {"score": SCORES["scores"]}}
    with pytest.raises(ValueError, match=r"outputs of `serving_default` must be the model's, \['scores'\]"):
        check_signatures(EXPECTED, {"serving_default": (SAVED_MODEL, ports[change])})
    with pytest.raises(ValueError, match=r"signatures must be the model's, \['serving_default'\]"):
        check_signatures(EXPECTED, {"serving_default": (SAVED_MODEL, SCORES), "other": (SAVED_MODEL, SCORES)})


def test_an_artefact_of_fixed_lengths_is_refused_before_it_runs(tmp_path):
    def model_of(length):
        frames = keras.Input((length, 4), name="frames")
        return keras.Model({"frames": frames}, {"scores": keras.layers.GlobalAveragePooling1D()(frames)})

    export_onnx(model_of(5), tmp_path / "model.onnx")
    with pytest.raises(ValueError, match=r"The artifact's input `frames` must be the model's, float32 \('batch', 'fra"):
        verify(model_of(None), tmp_path / "model.onnx")
