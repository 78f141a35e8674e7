"""Artifacts that are wrong in one way each must fail the verification: its inputs must show every kind of fault."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_netvlad.export import ParityError, export_onnx
from keras_netvlad.export.serving_signatures import serving_signatures
from keras_netvlad.export.verification import model_outputs
from keras_netvlad.export.verification import verify as module
from keras_netvlad.export.verification.verify import verify_signatures

LIVE = {"accumulate", "describe"}


class FaultyArtifact:
    """An artifact that computes with the model's own signatures, and then changes the outputs of one signature."""

    precision, num_bytes, load_seconds = "float32", 0, 0.0

    def __init__(self, signatures, name, fault, kind="saved_model"):
        self.computed, self.name, self.fault, self.num_changed = signatures, name, fault, 0
        self.kind = kind
        self.signatures = {
            key: tuple({port.name: (port.shape, port.dtype) for port in ports} for ports in (s.inputs, s.outputs))
            for key, s in signatures.items()
            if kind == "saved_model" or key == name
        }

    def run(self, inputs, name):
        outputs = self.computed[name].compute(inputs)
        if name != self.name:
            return outputs
        changed = self.fault(inputs, outputs)
        return {key: np.asarray(values, outputs[key].dtype) for key, values in changed.items()}


def in_rows(is_wrong):
    """A fault of 1 % of the largest value in the rows of which `is_wrong(num_frames, length)` is true."""

    def fault(inputs, outputs):
        rows = is_wrong(inputs["num_frames"], inputs["frames"].shape[1])
        return {
            name: values + 0.01 * np.abs(values).max() * rows.reshape(-1, *[1] * (values.ndim - 1)) + 1e-3 * rows.any()
            for name, values in outputs.items()
        }

    return fault


def where_padded(is_wrong):
    """A fault in the videos whose padding `is_wrong`."""

    def fault(inputs, outputs):
        frames, counts = inputs["frames"].astype("float64"), inputs["num_frames"]
        is_padding = np.arange(frames.shape[1]) >= counts[:, None]
        leaks = is_padding.any() and is_wrong(frames[is_padding], inputs["frames"])
        return {name: values + (0.01 if leaks else 0.0) for name, values in outputs.items()}

    return fault


def changed(**changes):
    return lambda inputs, outputs: {
        name: changes[name](value) if name in changes else value for name, value in outputs.items()
    }


def only(output, fault):
    """A fault of one output."""
    return lambda inputs, outputs: {**outputs, output: fault(inputs, outputs)[output]}


FRAME_FAULTS = {
    "empty videos": in_rows(lambda counts, length: counts == 0),
    "counts below zero": in_rows(lambda counts, length: counts < 0),
    "counts above the number of frames": in_rows(lambda counts, length: counts > length),
    "single frames": in_rows(lambda counts, length: (counts == 1) & (length == 1)),
    "videos without padding": in_rows(lambda counts, length: (counts == length) & (length > 1)),
    "videos with padding": in_rows(lambda counts, length: (counts > 0) & (counts < length)),
    "long videos": in_rows(lambda counts, length: counts > 32),
    "every video but the first of a batch": in_rows(lambda counts, length: np.arange(len(counts)) > 0),
}
FLOAT_PADDING_FAULTS = {
    "padding of NaN": where_padded(lambda padding, frames: np.isnan(padding).any()),
    "padding with the first element": where_padded(
        lambda padding, frames: frames.flat[0] != 0 and (padding == frames.flat[0]).all()
    ),
}
FAULTS = {
    **{("serving_default", kind): fault for kind, fault in {**FRAME_FAULTS, **FLOAT_PADDING_FAULTS}.items()},
    **{
        ("serving_default", f"{output} with padding of NaN"): only(output, FLOAT_PADDING_FAULTS["padding of NaN"])
        for output in ("descriptor", "scores")
    },
    **{("serve_quantized", kind): fault for kind, fault in FRAME_FAULTS.items()},
    ("serve_quantized", "padding of 255"): where_padded(lambda padding, frames: (padding == 255).all()),
    ("serve_quantized", "scores"): changed(scores=lambda values: values + 1e-3),
    ("serve_examples", "numbers of frames"): changed(num_frames=lambda values: values + 1),
    ("serve_examples", "descriptors"): changed(descriptor=lambda values: values + 1e-3),
    **{("accumulate", kind): fault for kind, fault in {**FRAME_FAULTS, **FLOAT_PADDING_FAULTS}.items()},
    ("accumulate", "the sums so far"): lambda inputs, outputs: {
        name: values - inputs[name] for name, values in outputs.items()
    },
    ("describe", "scores"): changed(scores=lambda values: values + 1e-3),
    ("describe", "the descriptor of an empty video"): lambda inputs, outputs: {
        **outputs,
        "descriptor": outputs["descriptor"] + 1e-3 * (inputs["frames_second_sum"].sum(1, keepdims=True) == 0),
    },
}


@pytest.fixture(scope="module")
def signatures(model):
    """The model's signatures, which compute every batch once for all tests."""
    return {name: dataclasses.replace(one, compute=remembered(one)) for name, one in serving_signatures(model).items()}


def remembered(signature):
    known = {}

    def compute(inputs):
        if any(tf.is_symbolic_tensor(values) for values in inputs.values()):  # in a graph for any batch and length
            return signature.compute(inputs)
        key = tuple((name, str(values.shape), str(values.tolist())) for name, values in sorted(inputs.items()))
        if key not in known:
            tensors = {name: tf.constant(values) for name, values in inputs.items()}
            known[key] = {name: np.array(value) for name, value in signature.compute(tensors).items()}
        return dict(known[key])

    return compute


def verified(model, signatures, name, fault, monkeypatch, kind="saved_model"):
    """Verifies an artifact without the float64 copy.

    A SavedModel has `serving_default` and the signatures that `name` needs, an ONNX file only `name`.
    """
    needed = {"serving_default", name} | (LIVE if name in LIVE else set())
    signatures = {key: signatures[key] for key in signatures if key in needed}
    monkeypatch.setattr(module, "Artefact", lambda path: FaultyArtifact(signatures, name, fault, kind))
    monkeypatch.setattr(module, "find_kind", lambda path: "onnx")  # there is no file whose signatures could be read
    monkeypatch.setattr(model_outputs, "float64_copy", lambda model: (None, "not computed here"))
    return verify_signatures(model, signatures, "artifact")


@pytest.mark.parametrize("name", sorted({name for name, _ in FAULTS}))
def test_an_artifact_without_a_fault_passes(model, signatures, monkeypatch, name):
    assert verified(model, signatures, name, lambda inputs, outputs: outputs, monkeypatch).ok


@pytest.mark.parametrize(("name", "kind"), FAULTS)
def test_a_fault_fails_the_verification(model, signatures, monkeypatch, name, kind):
    report = verified(model, signatures, name, FAULTS[name, kind], monkeypatch)
    assert not report.ok
    failing = {c.signature for c in report.comparisons if not c.is_within(report.tolerance)}
    assert name in failing
    assert failing <= {name, *(["describe"] if name == "accumulate" else [])}  # which computes with its sums


IN_ONNX = {key: fault for key, fault in FAULTS.items() if key[0] in ("serve_quantized", "accumulate", "describe")}


@pytest.mark.parametrize("name", sorted({name for name, _ in IN_ONNX}))
def test_an_onnx_file_of_one_signature_without_a_fault_passes(model, signatures, monkeypatch, name):
    report = verified(model, signatures, name, lambda inputs, outputs: outputs, monkeypatch, "onnx")
    assert report.ok
    assert {comparison.signature for comparison in report.comparisons} == {name}


@pytest.mark.parametrize(("name", "kind"), IN_ONNX)
def test_a_fault_of_an_onnx_file_of_one_signature_fails(model, signatures, monkeypatch, name, kind):
    report = verified(model, signatures, name, IN_ONNX[name, kind], monkeypatch, "onnx")
    assert not report.ok
    assert {c.signature for c in report.comparisons if not c.is_within(report.tolerance)} == {name}


@keras.saving.register_keras_serializable("faulty_artifacts")
class LosesDigits(keras.layers.Layer):
    """Subtracts two large numbers, which leaves two digits in float32."""

    def call(self, inputs):
        return keras.ops.square(inputs + 1e5) - 1e10


def test_the_float64_copy_sees_what_model_and_artifact_share(tmp_path):
    frames = keras.Input((None, 6), name="frames")
    model = keras.Model(frames, {"out": LosesDigits()(frames)})
    with pytest.raises(
        ParityError, match="artifact equals the model, but both differ from a more exact copy of the model in float64"
    ) as error:
        export_onnx(model, tmp_path / "model.onnx")
    report = error.value.report
    assert report.judge == "float64"
    assert all(comparison.relative < report.tolerance for comparison in report.comparisons)
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.slow
def test_the_float64_copy_sees_errors_that_add_up(model, signatures, monkeypatch):
    """The model is off by less than the tolerance, and the artifact by as much again."""

    def scaled(factor):
        default = signatures["serving_default"]

        def compute(inputs):
            return {name: value * factor for name, value in default.compute(inputs).items()}

        return {"serving_default": dataclasses.replace(default, compute=compute)}

    monkeypatch.setattr(module, "Artefact", lambda path: FaultyArtifact(scaled(1 + 1.4e-4), "", None))
    monkeypatch.setattr(module, "find_kind", lambda path: "onnx")  # there is no file whose signatures could be read
    report = verify_signatures(model, scaled(1 + 0.7e-4), "artifact")
    assert report.judge == "float64"
    assert report.tolerance == 1e-4
    assert all(comparison.relative < 1e-4 < comparison.to_float64 for comparison in report.comparisons)
    assert not report.ok
    monkeypatch.setattr(model_outputs, "float64_copy", lambda model: (None, "not computed here"))
    assert verify_signatures(model, scaled(1 + 0.7e-4), "artifact").ok
