"""LiteRT files: signatures, precision, and what cannot be written."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from selection import slow_cases, slow_except
from small_classifier import FEATURE_SIZE, batch

from keras_netvlad.export import Artefact, ParityError, export_litert, export_model, inspect_artefact, verify
from keras_netvlad.export.litert import conversion, litert_export
from keras_netvlad.export.litert.float32_model import float32_model
from keras_netvlad.layers import FrameEncoder, FrameMask, NetVLAD
from keras_netvlad.models import VideoClassifier, from_pixels

SIGNATURES = {"serving_default", "serve_quantized", "accumulate", "describe"}


@pytest.fixture(scope="module")
def written(model, tmp_path_factory):
    """The path of a verified file and its report. Tests do not change it."""
    path = tmp_path_factory.mktemp("litert") / "model.tflite"
    return path, export_litert(model, path, metadata={"trained_on": "noise"})


def test_one_file_holds_every_signature_and_equals_the_model(written, model):
    path, report = written
    assert report.ok
    assert {comparison.signature for comparison in report.comparisons} == SIGNATURES
    # Measured up to 6e-7 over the models of these tests.
    assert max(comparison.relative for comparison in report.comparisons) < 6e-6
    cases = [c.case for c in report.comparisons if c.signature == "serving_default"]
    assert any(case.endswith("padding NaN") for case in cases)
    assert any(case.startswith("merged with") for case in cases)
    assert {c.case for c in report.comparisons if c.signature == "describe"} >= {
        "videos of [11, 5, 0] frames in uneven chunks",
        "videos of [11, 5, 0] frames with empty chunks",
    }
    assert sorted(file.name for file in path.parent.iterdir()) == ["model.tflite", "model.tflite.parity.json"]
    # Four graphs take about 6 kB each; the weights are there once.
    assert path.stat().st_size < 4 * model.count_params() + 35_000


def test_a_file_is_described(written, model):
    description = inspect_artefact(written[0])
    assert description.kind == "litert"
    assert list(description.signatures) == ["serving_default", "accumulate", "describe", "serve_quantized"]
    assert description.signatures["serving_default"] == (
        {"frames": ((None, None, FEATURE_SIZE), "float32"), "num_frames": ((None,), "int32")},
        {"descriptor": ((None, 24), "float32"), "scores": ((None, 5), "float32")},
    )
    assert model.count_params() - 13 <= description.stored["float32"] < model.count_params() + 10  # biases of zero
    text = str(description)
    assert "or TensorFlow Lite 2." in text
    assert "  trained_on  noise\n" in text
    assert "  parity      ok, " in text


@pytest.mark.slow
def test_the_model_of_another_file_is_told(written, model):
    other = keras.models.clone_model(model)
    assert verify(model, written[0]).ok
    assert not verify(other, written[0]).ok


def test_inputs_of_different_numbers_of_rows_fail(written):
    artifact, inputs = Artefact(written[0]), batch()
    assert artifact.run(inputs)["scores"].shape == (2, 5)
    with pytest.raises(RuntimeError, match="num_input_elements"):
        artifact.run({**inputs, "num_frames": inputs["num_frames"][:1]})
    sums = {
        "frames_first_sum": np.ones((2, 4, FEATURE_SIZE), "float32"),
        "frames_second_sum": np.ones((1, 4), "float32"),
    }
    with pytest.raises(RuntimeError, match="num_input_elements"):
        artifact.run(sums, "describe")


@pytest.mark.parametrize(
    "spoil", [lambda content: content[:5000], lambda content: b"", lambda content: content[:4] + b"TFL2" + content[8:]]
)
def test_damaged_files_are_named(written, model, tmp_path, spoil):
    path = tmp_path / "model.tflite"
    path.write_bytes(spoil(written[0].read_bytes()))
    with pytest.raises(ValueError, match=rf"cannot be loaded; export it again. Received: {path}"):
        verify(model, path)
    with pytest.raises(ValueError, match=rf"must be a LiteRT model; export it again. Received: {path}, which"):
        inspect_artefact(path)


WRITE = """
import sys
from small_classifier import make_classifier
from keras_netvlad.export import export_litert
export_litert(make_classifier(), sys.argv[1], verify=False)
"""


@pytest.mark.slow
def test_every_process_writes_the_same_bytes(written, model, tmp_path, pytestconfig):
    export_litert(model, tmp_path / "again.tflite", verify=False)
    command = [sys.executable, "-c", WRITE, str(tmp_path / "other.tflite")]
    support = str(pytestconfig.rootpath / "tests" / "support")
    subprocess.run(
        command, check=True, timeout=120, cwd=support, env={**__import__("os").environ, "PYTHONHASHSEED": "7"}
    )
    assert (tmp_path / "again.tflite").read_bytes() == written[0].read_bytes()
    assert (tmp_path / "other.tflite").read_bytes() == written[0].read_bytes()


def without_counts():
    maps = keras.Input((None, None, 3), name="maps")
    return keras.Model(maps, {"descriptor": NetVLAD(2, num_ghost_clusters=1, assignment="conv")(maps)})


def video_maps():
    maps, num_frames = keras.Input((None, 2, 2, 3), name="maps"), keras.Input((), dtype="int32", name="num_frames")
    return keras.Model([maps, num_frames], NetVLAD(2, name="descriptor")(maps, mask=FrameMask()(num_frames, maps)))


def pixels():
    pictures = keras.Input((8, 8, 3))
    backbone = keras.Model(pictures, keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(pictures)))
    return from_pixels(FrameEncoder(backbone), VideoClassifier({"frames": 4}, 3, num_clusters=2, hidden_units=None))


def two_streams():
    return VideoClassifier({"rgb": 6, "audio": 4}, 5, {"rgb": 3, "audio": 2}, activation="softmax")


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (two_streams, SIGNATURES),
        *slow_cases([(make, {"serving_default"}) for make in (without_counts, video_maps, pixels)]),
    ],
)
def test_other_models_export(make, names, tmp_path):
    report = export_litert(make(), tmp_path / "model.tflite")
    assert report.ok, report
    assert {comparison.signature for comparison in report.comparisons} == names


@pytest.mark.parametrize(
    "pooling", [pytest.param(name, marks=pytest.mark.slow) for name in ("netfv", "nextvlad", "soft_dbow", "attention")]
)
def test_other_poolings_export(pooling, tmp_path):
    model = VideoClassifier({"frames": 8}, 5, pooling=pooling, num_clusters=4)
    assert export_litert(model, tmp_path / "model.tflite").ok


def test_layers_of_16_bits_are_written_in_float32(tmp_path):
    frames = keras.Input((None, 3), name="frames")
    pooled = NetVLAD(2, dtype="mixed_bfloat16")(frames)
    model = keras.Model(frames, {"embedding": keras.layers.Dense(2, dtype="mixed_bfloat16")(pooled)})
    report = export_litert(model, tmp_path / "model.tflite")
    assert report.ok
    # Nearer to the float64 copy than any product of bfloat16.
    assert max(comparison.to_float64 for comparison in report.comparisons) < 1e-5
    assert inspect_artefact(report.path).signatures["serving_default"][1] == {"embedding": ((None, 2), "float32")}
    assert model.layers[1].compute_dtype == "bfloat16"


def quantized_model(mode, dtype):
    frames = keras.Input((None, 6), name="frames")
    hidden = keras.layers.Dense(4, dtype=dtype, bias_initializer="uniform", name="hidden")(frames)
    pooled = NetVLAD(2, dtype="bfloat16")(hidden)
    model = keras.Model(frames, {"embedding": keras.layers.Dense(2, dtype=dtype)(pooled)})
    model.quantize(mode)
    return model


@pytest.mark.parametrize("dtype", slow_except(["float32", "mixed_bfloat16"], "mixed_bfloat16"))
def test_quantized_layers_beside_layers_of_16_bits(dtype, tmp_path):
    model = quantized_model("int4", dtype)
    assert export_litert(model, tmp_path / "model.tflite").ok
    in_float32 = float32_model(model)
    assert {layer.compute_dtype for layer in in_float32.layers} == {"float32"}
    assert [getattr(layer, "quantization_mode", None) for layer in in_float32.layers] == [None, "int4", None, "int4"]


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_float8_is_refused_in_a_sentence(dtype, tmp_path):
    with pytest.raises(
        ValueError, match=r"LiteRT files .* no float8 values; export a SavedModel.*Received: .*'hidden'"
    ):
        export_litert(quantized_model("float8", dtype), tmp_path / "model.tflite")


def normalized_model():
    frames, num_frames = keras.Input((None, 4), name="frames"), keras.Input((), dtype="int32", name="num_frames")
    normalized = keras.layers.UnitNormalization()(frames)
    return keras.Model(
        {"frames": frames, "num_frames": num_frames},
        {"descriptor": NetVLAD(2)(normalized, mask=FrameMask()(num_frames, frames))},
    )


@pytest.mark.slow
def test_a_frame_of_zeros_has_a_descriptor(tmp_path):
    model = normalized_model()
    export_litert(model, tmp_path / "model.tflite")
    frames = np.random.default_rng(0).normal(size=(2, 5, 4)).astype("float32")
    frames[0, 2] = 0
    inputs = {"frames": frames, "num_frames": np.array([5, 5], "int32")}
    received = Artefact(tmp_path / "model.tflite").run(inputs)["descriptor"]
    np.testing.assert_allclose(received, model.predict(inputs, verbose=0)["descriptor"], atol=1e-6)


@pytest.mark.slow
def test_the_verification_notices_nan_for_a_frame_of_zeros(tmp_path, monkeypatch):
    # LiteRT 2.3 computes NaN for the reciprocal square root of 0.
    monkeypatch.setattr(conversion, "_avoid_rsqrt_of_zero", lambda path: None)
    with pytest.raises(ParityError, match=r"first at: batch 2, frames \d+, zeros"):
        export_litert(normalized_model(), tmp_path / "model.tflite")
    assert not list(tmp_path.iterdir())


def test_float64_is_refused(tmp_path):
    frames = keras.Input((None, 3), name="frames")
    model = keras.Model(frames, {"descriptor": NetVLAD(2, dtype="float64", name="pool")(frames)})
    with pytest.raises(ValueError, match=r"LiteRT computes in float32; .* Received: layers in float64, \['pool'\]"):
        export_litert(model, tmp_path / "model.tflite")
    assert list(tmp_path.iterdir()) == []


def test_an_operation_that_litert_lacks_is_named_and_nothing_written(tmp_path):
    class Eigenvalues(keras.Layer):
        def call(self, x):
            return tf.linalg.eigvalsh(tf.matmul(x, x, transpose_a=True))

        def compute_output_shape(self, shape):
            return (shape[0], shape[2])

    frames = keras.Input((None, 3), name="frames")
    model = keras.Model({"frames": frames}, {"values": Eigenvalues()(frames)})
    with pytest.raises(ValueError, match=r"that LiteRT has; .* Received: SelfAdjointEigV2 in '\w+/eigenvalues_1/\S+'$"):
        export_litert(model, tmp_path / "model.tflite")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_file_that_differs_from_its_model_does_not_appear(model, tmp_path, monkeypatch):
    convert = litert_export.convert_signatures

    def wrong(model, signatures, directory):
        weights = [weight.numpy() for weight in model.weights]
        model.weights[-1].assign_add(keras.ops.ones_like(model.weights[-1]))
        try:
            return convert(model, signatures, directory)
        finally:
            model.set_weights(weights)

    monkeypatch.setattr(litert_export, "convert_signatures", wrong)
    with pytest.raises(ParityError, match=r"(?s)differs from the model.*litert  .*scores .*FAILED"):
        export_litert(model, tmp_path / "model.tflite")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("model.onnx", {}, r"`path` must end in .tflite. Received: '.*model.onnx'"),
        ("model.tflite", {"precision": "float16"}, r"`precision` must be one of \['float32', 'int8'\]. Received: prec"),
        ("model.tflite", {"precision": "int8"}, r"of 1048576 or more values; .* Received: kernels of up to 192 values"),
        ("model.tflite", {"tolerance": -1}, r"`tolerance` must be a finite number"),
        ("model.tflite", {"min_agreement": 1}, r"pass `data` as well"),
        ("model.tflite", {"metadata": {"labels": ["a"]}}, r"must name every class"),
    ],
)
def test_wrong_arguments_are_one_sentence(model, tmp_path, path, options, message):
    with pytest.raises(ValueError, match=message):
        export_litert(model, tmp_path / path, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named_before_anything_is_written(written, model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    message = r"needs ai-edge-litert, .* `pip install 'keras_netvlad\[litert\]'`"
    for export in (export_litert, lambda model, path: export_model(model, path, ["litert"])):
        with pytest.raises(ImportError, match=message):
            export(model, tmp_path / "model.tflite")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ImportError, match=message):
        verify(model, written[0])
    assert inspect_artefact(written[0]).kind == "litert"
    assert export_litert(model, tmp_path / "model.tflite", verify=False) is None


@pytest.mark.slow
def test_export_model_writes_it_next_to_other_formats(model, tmp_path):
    reports = export_model(model, tmp_path / "out", ["onnx", "litert"])
    assert [report.path for report in reports] == [
        str(tmp_path / "out" / name) for name in ("model.onnx", "model.tflite")
    ]
    assert all(report.ok for report in reports)
    with pytest.raises(ValueError, match=r"`precision` must be one of \['float32', 'int8'\]"):
        export_model(model, tmp_path / "other", ["onnx", "litert"], precision="float16")
