"""Exports of every format into one directory, and which models can be exported."""

import signal
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
from selection import slow_cases, slow_except
from small_classifier import FEATURE_SIZE, batch

from keras_netvlad.export import Artefact, ParityError, export_model, export_onnx, export_saved_model
from keras_netvlad.export.verification import tolerance
from keras_netvlad.layers import FrameMask, NetVLAD
from keras_netvlad.models import VideoClassifier


def test_both_formats_lie_where_servers_look(artefacts):
    directory, reports = artefacts
    assert (directory / "classifier" / "1" / "saved_model.pb").is_file()
    assert (directory / "model.onnx").is_file()
    assert sorted(path.name for path in directory.iterdir()) == [
        "classifier",
        "model.onnx",
        "model.onnx.parity.json",
    ]
    assert [path for path in directory.parent.iterdir() if path != directory] == []
    assert [report.path for report in reports] == [str(directory / "classifier" / "1"), str(directory / "model.onnx")]


@pytest.mark.parametrize("name", ["..", ".hidden", "my model"])
def test_a_name_that_is_no_directory_of_a_server_is_refused(tmp_path, name):
    model = VideoClassifier({"frames": 4}, 3, num_clusters=2, hidden_units=None, name=name)
    with pytest.raises(ValueError, match=r"made of (letters, digits, .* not begin with a dot|the letters A to Z)"):
        export_model(model, tmp_path / "inner" / "out")
    assert list(tmp_path.rglob("saved_model.pb")) == []


def test_artefacts_equal_the_model(artefacts, model):
    _, reports = artefacts
    for report in reports:
        assert report.ok
        # Measured up to 6e-7 over these models, float32 rounding; ten times that is allowed here.
        assert max(comparison.relative for comparison in report.comparisons) < 6e-6
        # The artefact beside the model in float64: measured up to 4e-7.
        assert max(c.to_float64 for c in report.comparisons if c.to_float64 is not None) < 4e-6
        default = [comparison for comparison in report.comparisons if comparison.signature == "serving_default"]
        assert {comparison.output for comparison in default} == {"scores", "descriptor"}
        assert len({comparison.case for comparison in default}) == 19
        assert all(comparison.to_float64 is not None for comparison in default)
    assert {c.signature for c in reports[0].comparisons} == {
        "serving_default",
        "serve_quantized",
        "serve_examples",
        "accumulate",
        "describe",
    }
    expected = model.predict(batch(), verbose=0)
    for report in reports:
        received = Artefact(report.path).run(batch())
        for name in expected:
            np.testing.assert_allclose(received[name], expected[name], rtol=1e-5, atol=1e-6)


def test_an_empty_video_has_a_zero_descriptor_in_every_format(artefacts):
    for report in artefacts[1]:
        outputs = Artefact(report.path).run(batch(num_frames=(0, -2)))
        assert not outputs["descriptor"].any()
        assert np.isfinite(outputs["scores"]).all()


@pytest.mark.parametrize("sides", slow_except([(None, None), (0, 3), (3, 0)], (None, None)), ids=str)
def test_an_empty_map_has_a_zero_descriptor_in_both_formats(sides, tmp_path):
    maps = keras.Input((*sides, 4), name="maps")
    model = keras.Model({"maps": maps}, {"descriptor": NetVLAD(2)(maps)}, name="maps")
    export_onnx(model, tmp_path / "model.onnx", verify=False)
    export_saved_model(model, tmp_path / "1", verify=False)
    for path in (tmp_path / "model.onnx", tmp_path / "1"):
        for shape in ((2, 0, 3, 4), (2, 3, 0, 4)):
            if None in sides or shape[1:3] == sides:
                descriptors = Artefact(path).run({"maps": np.zeros(shape, "float32")})["descriptor"]
                np.testing.assert_array_equal(descriptors, np.zeros((2, 8)))


OPTIONS = (
    {"assignment": "conv", "num_ghost_clusters": 2},
    {"assignment_batch_normalization": True},
    {"normalize_input": True, "use_bias": False},
    {"intra_normalization": False},
    {"output_normalization": False},
    {"intra_normalization": False, "output_normalization": False},
)


@pytest.mark.parametrize("options", slow_except(OPTIONS, OPTIONS[0]), ids=str)
def test_every_option_of_the_layer_exports(options, tmp_path):
    frames = keras.Input((None, FEATURE_SIZE), name="frames")
    num_frames = keras.Input((), dtype="int32", name="num_frames")
    pooled = NetVLAD(3, name="descriptor", **options)(frames, mask=FrameMask()(num_frames, frames))
    for report in export_model(keras.Model([frames, num_frames], pooled), tmp_path / "out"):
        assert report.ok, report


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((None, None, 3), {}),
        *slow_cases(
            [
                ((3, None, None), {"assignment": "conv", "data_format": "channels_first"}),
                ((None, 2, 2, 3), {}),
                ((None, None, None, 3), {}),
            ]
        ),
    ],
)
def test_maps_export(shape, options, tmp_path):
    maps = keras.Input(shape, name="maps")
    pooled = NetVLAD(2, name="descriptor", **options)(maps)
    for report in export_model(keras.Model(maps, pooled), tmp_path / "out"):
        assert report.ok, report


@pytest.mark.slow
def test_a_mask_over_video_maps_exports_with_nan_padding(tmp_path):
    maps = keras.Input((None, None, None, 3), name="maps")
    num_frames = keras.Input((), dtype="int32", name="num_frames")
    pooled = NetVLAD(2, assignment="conv", data_format="channels_last")(maps, mask=FrameMask()(num_frames, maps))
    model = keras.Model({"maps": maps, "num_frames": num_frames}, {"descriptor": pooled})
    for report in export_model(model, tmp_path / "out"):
        assert report.ok, report


@pytest.mark.slow
def test_several_streams_and_mixed_precision_export(tmp_path):
    streams = {"rgb": 5, "audio": 3}
    model = VideoClassifier(streams, 4, num_clusters=2, hidden_units=8, dtype="mixed_float16")
    for report in export_model(model, tmp_path / "out"):
        assert report.ok, report
        assert report.tolerance == 2e-2


def test_an_existing_output_is_refused_and_left_alone(model, tmp_path):
    existing = tmp_path / "model.onnx"
    existing.write_text("mine")
    for export in (export_onnx, export_saved_model, export_model):
        with pytest.raises(FileExistsError, match=r"must not exist yet.*model.onnx"):
            export(model, existing)
    assert existing.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [existing]


def test_a_directory_that_cannot_be_written_is_named(model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"must be one that can be written to. Received: .*file"):
        export_saved_model(model, tmp_path / "file" / "1")


def test_unknown_formats_and_endings_are_refused(model, tmp_path):
    with pytest.raises(
        ValueError, match=r"`formats` must be some of \['saved_model', 'onnx', 'litert'\]. Received: \['tflite'\]"
    ):
        export_model(model, tmp_path / "out", formats=["onnx", "tflite"])
    with pytest.raises(ValueError, match=r"`formats` must be some of"):
        export_model(model, tmp_path / "out", formats=[])
    with pytest.raises(ValueError, match=r"`path` must end in .onnx"):
        export_onnx(model, tmp_path / "model.pb")
    assert list(tmp_path.iterdir()) == []


def test_an_artefact_that_differs_is_not_written(model, tmp_path, monkeypatch):
    monkeypatch.setitem(tolerance.TOLERANCES, "float32", 0.0)
    monkeypatch.setattr("keras_netvlad.export.verification.comparison.ABSOLUTE_FLOOR", 0.0)
    with pytest.raises(ParityError, match=r"nothing was written") as caught:
        export_onnx(model, tmp_path / "model.onnx")
    assert not caught.value.report.ok
    assert caught.value.report.path == str(tmp_path / "model.onnx")
    with pytest.raises(ParityError) as caught:
        export_model(model, tmp_path / "out")
    assert caught.value.report.path == str(tmp_path / "out" / "classifier" / "1")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("export", "when", "remains"),
    [
        (export_onnx, "os.fsync", set()),  # files are written, none is renamed
        (export_onnx, "os.rename", set()),  # at the first rename
        (export_onnx, "os.rename 2", {"model.onnx.data"}),  # the weights alone: no server takes them for a model
        (export_onnx, "os.rename 3", {"model.onnx.data", "model.onnx.parity.json"}),
        (export_saved_model, "os.rename", set()),
    ],
)
def test_a_killed_export_leaves_no_artefact(tmp_path, export, when, remains):
    name, _, count = when.partition(" ")
    options = {"external_data_threshold": 1} if export is export_onnx else {}
    program = f"""
        import os, signal
        from keras_netvlad.export import {export.__name__} as export
        from keras_netvlad.models import VideoClassifier

        original, calls = {name}, []

        def killing(*arguments):
            calls.append(arguments)
            if len(calls) == {count or 1}:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments)

        model = VideoClassifier({{"frames": 4}}, 3, num_clusters=2, hidden_units=None)
        {name} = killing
        export(model, {str(tmp_path / "model.onnx")!r}, verify=False, **{options})
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, timeout=300)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert {path.name for path in tmp_path.iterdir() if not path.name.endswith(".partial")} == remains
    # The way is free for the next try.
    model = VideoClassifier({"frames": 4}, 3, num_clusters=2, hidden_units=None)
    assert export(model, tmp_path / "model.onnx", **options).ok
