"""The verification in a runtime of the user's choice, without such a runtime."""

import sys

import numpy as np
import onnxruntime
import pytest

from keras_netvlad.export import Artefact, export_onnx, verify


@pytest.fixture
def path(artefacts):
    return artefacts[0] / "model.onnx"


def another(path):
    """Opens an ONNX file as a user would with a runtime that this package does not know."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [port.name for port in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def changed(change):
    """A runtime whose outputs are changed by a function of inputs and outputs."""

    def faulty(path):
        run = another(path)
        return lambda inputs: change(inputs, run(inputs))

    return faulty


def test_a_function_is_a_runtime(model, path):
    report = verify(model, path, runtime=another)
    assert report.ok
    assert report.runtime == "another"
    assert not report.answers_unequal_rows
    assert str(report).startswith(f"onnx  {path}  in another\n")
    # The same inputs as without it.
    assert {c.case for c in report.comparisons} == {c.case for c in verify(model, path).comparisons}


def test_a_runtime_that_computes_something_else_fails(model, path):
    def leak(inputs, outputs):
        return {**outputs, "scores": outputs["scores"] + np.isnan(inputs["frames"]).any()}

    report = verify(model, path, runtime=changed(leak))
    assert not report.ok
    assert all(
        c.output == "scores" and "NaN" in c.case for c in report.comparisons if not c.is_within(report.tolerance)
    )


def test_a_removed_check_of_rows_is_reported_but_no_failure(model, path):
    def removed(path):
        run = another(path)
        return lambda inputs: run({**inputs, "num_frames": np.resize(inputs["num_frames"], len(inputs["frames"]))})

    report = verify(model, path, runtime=removed)
    assert report.ok
    assert report.answers_unequal_rows
    assert "\n  removed uses a `num_frames` of one row for all videos, which the artifact should refuse: " in str(
        report
    )


def test_sums_of_a_live_stream_get_the_names_of_the_file(model, tmp_path):
    export_onnx(model, tmp_path / "accumulate.onnx", signature="accumulate", verify=False)
    seen = set()
    report = verify(
        model, tmp_path / "accumulate.onnx", runtime=changed(lambda inputs, out: seen.update(inputs) or out)
    )
    assert report.ok
    assert seen == {"frames", "num_frames", "past.frames_first_sum", "past.frames_second_sum"}


def test_of_a_saved_model_another_runtime_runs_the_default(model, artefacts):
    path = artefacts[0] / "classifier" / "1"
    report = verify(model, path, runtime=lambda path: Artefact(path).run)
    assert report.ok
    assert {c.signature for c in report.comparisons} == {"serving_default"}
    assert report.no_live_stream is None
    assert verify(model, path, runtime="tensorflow").runtime is None


def fails(path):
    raise OSError("no such device")


def fails_while_it_runs(path):
    def run(inputs):
        raise MemoryError("too long\nmore")

    return run


@pytest.mark.parametrize(
    ("runtime", "message"),
    [
        ("tensorrt", r"`runtime` must be one of \['tensorflow', .*'tract'\]. Received: runtime='tensorrt'"),
        (
            "tensorflow",
            r"that runs artifacts of the kind 'onnx', \['onnxruntime', 'onnx.reference', 'openvino', ",
        ),
        (3, r"`runtime` must be one of \['tensorflow'"),
        (fails, r"must be able to load the artifact; .* in fails \(no such device\)"),
        (fails_while_it_runs, r"fails_while_it_runs fails for inputs of the shapes \{'frames': .*\} \(too long\)"),
        (lambda path: lambda inputs: [1], r"must return a dict with .* \['descriptor', 'scores'\]. .* list"),
        (lambda path: lambda inputs: {"scores": 1}, r"must return a dict with .* Received from <lambda>: \['scores'\]"),
    ],
)
def test_wrong_runtimes_are_one_sentence(model, path, runtime, message):
    with pytest.raises(ValueError, match=message):
        verify(model, path, runtime=runtime)


@pytest.mark.parametrize("name", ["openvino", "tract"])
def test_a_missing_package_is_named(model, path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"needs the package {name}, .* `pip install {name}`"):
        verify(model, path, runtime=name)
