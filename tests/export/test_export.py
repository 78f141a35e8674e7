import json
import os
import signal
import subprocess
import sys
import textwrap
import threading

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf

from keras_netvlad.export import (
    Artefact,
    ParityError,
    export_model,
    export_onnx,
    export_saved_model,
    verification,
    verify,
)
from keras_netvlad.export.model_signature import read_signature
from keras_netvlad.export.verification.float64_copy import float64_copy
from keras_netvlad.export.verification.report import Comparison, Report
from keras_netvlad.export.verification.verification_inputs import make_cases
from keras_netvlad.layers import FrameMask, NetVLAD
from keras_netvlad.models import VideoClassifier

FEATURE_SIZE = 6


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return VideoClassifier({"frames": FEATURE_SIZE}, 5, num_clusters=4, hidden_units=8, name="classifier")


@pytest.fixture(scope="module")
def artefacts(model, tmp_path_factory):
    directory = tmp_path_factory.mktemp("artefacts") / "out"
    return directory, export_model(model, directory)


def batch(frames=7, num_frames=(7, 3)):
    generator = np.random.default_rng(1)
    return {
        "frames": generator.normal(size=(len(num_frames), frames, FEATURE_SIZE)).astype("float32"),
        "num_frames": np.array(num_frames, "int32"),
    }


def signature_of(path):
    return onnx.load(path, load_external_data=False)


# What is written


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
        assert len({comparison.case for comparison in default}) == 15
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


def test_onnx_axes_are_named_and_shared(artefacts):
    graph = signature_of(artefacts[0] / "model.onnx").graph
    dims = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in [*graph.input, *graph.output]
    }
    assert dims == {
        "frames": ["batch", "frames", FEATURE_SIZE],
        "num_frames": ["batch"],
        "scores": ["batch", 5],
        "descriptor": ["batch", 4 * FEATURE_SIZE],
    }


def test_onnx_passes_the_full_checker_and_names_its_weights(artefacts, model):
    proto = signature_of(artefacts[0] / "model.onnx")
    onnx.checker.check_model(proto, full_check=True)
    onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    assert {weight.path for weight in model.weights} <= {tensor.name for tensor in proto.graph.initializer}
    assert proto.opset_import[0].version == 18
    assert proto.producer_name == "keras_netvlad"


def test_onnx_picks_padding_with_where(artefacts):
    ops = [node.op_type for node in signature_of(artefacts[0] / "model.onnx").graph.node]
    assert ops.count("Where") >= 2


@pytest.mark.parametrize("opset", [13, 15, 17])
def test_every_opset_computes_the_same(model, tmp_path, opset):
    assert export_onnx(model, tmp_path / "model.onnx", opset=opset).ok
    assert signature_of(tmp_path / "model.onnx").opset_import[0].version == opset


def test_external_weights_are_one_aligned_file(model, tmp_path):
    report = export_onnx(model, tmp_path / "model.onnx", external_data_threshold=1)
    assert report.ok
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "model.onnx",
        "model.onnx.data",
        "model.onnx.parity.json",
    ]
    tensors = [
        tensor
        for tensor in signature_of(tmp_path / "model.onnx").graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    ]
    assert len(tensors) == len(model.weights)
    entries = [{entry.key: entry.value for entry in tensor.external_data} for tensor in tensors]
    assert {entry["location"] for entry in entries} == {"model.onnx.data"}
    assert all(int(entry["offset"]) % 65536 == 0 for entry in entries)
    written = sum((tmp_path / name).stat().st_size for name in ("model.onnx", "model.onnx.data"))
    # Measured before the report itself went into the file's metadata.
    assert report.num_bytes <= written < report.num_bytes + 1000


def test_a_saved_model_stores_each_weight_once(tmp_path):
    large = VideoClassifier({"frames": 64}, 100, num_clusters=32, hidden_units=256)
    export_saved_model(large, tmp_path / "1")
    stored = (tmp_path / "1" / "variables" / "variables.data-00000-of-00001").stat().st_size
    assert stored < 1.01 * 4 * large.count_params()


def test_a_saved_model_loads_with_plain_tensorflow(artefacts, model):
    signature = tf.saved_model.load(artefacts[0] / "classifier" / "1").signatures["serving_default"]
    outputs = signature(**{name: tf.constant(values) for name, values in batch().items()})
    np.testing.assert_allclose(outputs["scores"], model(batch())["scores"], rtol=1e-5)


def test_a_saved_model_holds_no_device_no_python_and_no_xla(artefacts):
    from tensorflow.core.protobuf import saved_model_pb2

    proto = saved_model_pb2.SavedModel()
    proto.ParseFromString((artefacts[0] / "classifier" / "1" / "saved_model.pb").read_bytes())
    (meta_graph,) = proto.meta_graphs
    functions = meta_graph.graph_def.library.function
    nodes = [*meta_graph.graph_def.node, *(node for function in functions for node in function.node_def)]
    assert not {node.op for node in nodes} & {"PyFunc", "EagerPyFunc", "PyFuncStateless"}
    assert not any(node.op.startswith("Xla") for node in nodes)
    assert not any("_XlaMustCompile" in node.attr and node.attr["_XlaMustCompile"].b for node in nodes)
    assert not any(function.attr["_XlaMustCompile"].b for function in functions)
    # Reading the weights' files is placed on the CPU, whichever machine loads them; nothing else is placed.
    assert not any("GPU" in node.device or "task" in node.device for node in nodes)


@pytest.mark.slow
def test_saved_model_cli_runs_it(artefacts, tmp_path):
    np.savez(tmp_path / "batch.npz", **batch())
    finished = subprocess.run(
        [
            os.path.join(os.path.dirname(sys.executable), "saved_model_cli"),
            *("run", "--dir", str(artefacts[0] / "classifier" / "1")),
            *("--tag_set", "serve", "--signature_def", "serving_default"),
            "--inputs",
            f"frames={tmp_path}/batch.npz[frames];num_frames={tmp_path}/batch.npz[num_frames]",
            *("--outdir", str(tmp_path)),
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr
    expected = Artefact(artefacts[0] / "classifier" / "1").run(batch())
    np.testing.assert_allclose(np.load(tmp_path / "scores.npy"), expected["scores"], rtol=1e-5)


@pytest.mark.slow
def test_artefacts_run_where_keras_cannot_be_imported(artefacts, tmp_path):
    from keras_netvlad.demo import _run_without_keras

    for report in artefacts[1]:
        received = _run_without_keras(report.path, batch(), tmp_path)
        np.testing.assert_allclose(received["scores"], Artefact(report.path).run(batch())["scores"], rtol=1e-5)


# Which models


@pytest.mark.parametrize(
    "options",
    [
        {"assignment": "conv", "num_ghost_clusters": 2},
        {"assignment_batch_normalization": True},
        {"normalize_input": True, "use_bias": False},
        {"intra_normalization": False},
        {"output_normalization": False},
        {"intra_normalization": False, "output_normalization": False},
    ],
    ids=str,
)
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
        ((3, None, None), {"assignment": "conv", "data_format": "channels_first"}),
        ((None, 2, 2, 3), {}),
        ((None, None, None, 3), {}),
    ],
)
def test_maps_export(shape, options, tmp_path):
    maps = keras.Input(shape, name="maps")
    pooled = NetVLAD(2, name="descriptor", **options)(maps)
    for report in export_model(keras.Model(maps, pooled), tmp_path / "out"):
        assert report.ok, report


def test_a_mask_over_video_maps_exports_with_nan_padding(tmp_path):
    maps = keras.Input((None, None, None, 3), name="maps")
    num_frames = keras.Input((), dtype="int32", name="num_frames")
    pooled = NetVLAD(2, assignment="conv", data_format="channels_last")(maps, mask=FrameMask()(num_frames, maps))
    model = keras.Model({"maps": maps, "num_frames": num_frames}, {"descriptor": pooled})
    for report in export_model(model, tmp_path / "out"):
        assert report.ok, report


def test_several_streams_and_mixed_precision_export(tmp_path):
    streams = {"rgb": 5, "audio": 3}
    model = VideoClassifier(streams, 4, num_clusters=2, hidden_units=8, dtype="mixed_float16")
    for report in export_model(model, tmp_path / "out"):
        assert report.ok, report
        assert report.tolerance == 2e-2


def test_a_sequential_model_exports(tmp_path):
    model = keras.Sequential([keras.Input((None, 3), name="frames"), NetVLAD(2), keras.layers.Dense(2, name="scores")])
    assert export_onnx(model, tmp_path / "model.onnx").ok


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


def test_an_op_without_onnx_form_is_named_and_nothing_written(tmp_path):
    class Eigenvalues(keras.Layer):
        def call(self, x):
            return tf.linalg.eigvalsh(tf.matmul(x, x, transpose_a=True))

        def compute_output_shape(self, shape):
            return (shape[0], shape[2])

    frames = keras.Input((None, 3), name="frames")
    model = keras.Model({"frames": frames}, {"values": Eigenvalues()(frames)})
    with pytest.raises(ValueError, match=r"made of ops that opset 18 can express.*SelfAdjointEig"):
        export_onnx(model, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


# Where it is written


@pytest.mark.parametrize("opset", [12, 19, 0, "18", True, 18.0])
def test_opsets_that_cannot_be_written_are_refused(model, tmp_path, opset):
    with pytest.raises(ValueError, match=r"`opset` must be an integer from 13 to 18. Received: opset="):
        export_onnx(model, tmp_path / "model.onnx", opset=opset)


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
        ValueError, match=r"`formats` must be some of \['saved_model', 'onnx'\]. Received: \['tflite'\]"
    ):
        export_model(model, tmp_path / "out", formats=["onnx", "tflite"])
    with pytest.raises(ValueError, match=r"`formats` must be some of"):
        export_model(model, tmp_path / "out", formats=[])
    with pytest.raises(ValueError, match=r"`path` must end in .onnx"):
        export_onnx(model, tmp_path / "model.pb")
    assert list(tmp_path.iterdir()) == []


def test_an_artefact_that_differs_is_not_written(model, tmp_path, monkeypatch):
    monkeypatch.setattr(verification, "FLOAT32_TOLERANCE", 0.0)
    monkeypatch.setattr("keras_netvlad.export.verification.report.ABSOLUTE_FLOOR", 0.0)
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


# What the proof is worth


def test_verification_fails_on_another_models_artefact(artefacts, model):
    other = VideoClassifier({"frames": FEATURE_SIZE}, 5, num_clusters=4, hidden_units=8)
    for report in artefacts[1]:
        failed = verify(other, report.path)
        assert not failed.ok
        assert "FAILED" in str(failed)
        assert "first at: batch 1, frames 1" in str(failed)


def test_verification_fails_where_padding_leaks(tmp_path):
    frames = keras.Input((None, 3), name="frames")
    num_frames = keras.Input((), dtype="int32", name="num_frames")
    leaky = keras.layers.GlobalMaxPooling1D()(frames)  # pools the padding, too
    lengths = keras.ops.expand_dims(keras.ops.cast(num_frames, "float32"), 1)
    scores = keras.layers.Concatenate()([leaky, lengths])
    model = keras.Model({"frames": frames, "num_frames": num_frames}, {"scores": scores})
    with pytest.raises(ParityError, match=r"FAILED\n.*first at: .* padding (first element|NaN)"):
        export_saved_model(model, tmp_path / "1")


def test_verification_refuses_other_names_and_other_things(artefacts, model, tmp_path):
    renamed = VideoClassifier({"audio": FEATURE_SIZE}, 5, num_clusters=4, hidden_units=8)
    with pytest.raises(
        ValueError, match=r"inputs of `serving_default` must be the model's, \['audio', 'num_frames'\].*\['frames'"
    ):
        verify(renamed, artefacts[0] / "model.onnx")
    with pytest.raises(FileNotFoundError, match=r"An artefact is a directory with a saved_model.pb or a file"):
        verify(model, tmp_path)
    (tmp_path / "broken.onnx").write_bytes(b"\x08\x08broken")
    with pytest.raises(ValueError, match=r"can't be loaded; export it again. Received: .*broken.onnx"):
        verify(model, tmp_path / "broken.onnx")
    with pytest.raises(ValueError, match=r"`tolerance` must be a finite number of 0 or more"):
        verify(model, artefacts[0] / "model.onnx", tolerance=float("nan"))


@pytest.mark.parametrize(
    ("expected", "received", "ok"),
    [
        ([1.0, -2.0], [1.0, -2.0], True),
        ([1.0, -2.0], [1.0, -2.001], False),
        ([1.0, np.nan], [1.0, np.nan], False),
        ([1.0, 2.0], [1.0, np.nan], False),
        ([1.0, 2.0], [1.0, np.inf], False),
        ([1.0, 2.0], [1.0], False),
        ([0.0, 0.0], [0.0, 0.0], True),
        ([0.0, 0.0], [0.0, 1e-3], False),
        ([], [], True),
    ],
)
def test_a_comparison_is_strict(expected, received, ok):
    comparison = Comparison.of("serving_default", "scores", "a case", np.array(expected), np.array(received))
    assert comparison.is_within(1e-4) is ok
    assert Report("path", "onnx", 1, 0.0, 1e-4, (comparison,)).ok is ok


def test_a_report_without_comparisons_is_not_ok():
    assert not Report("path", "onnx", 1, 0.0, 1e-4, ()).ok


def test_nan_from_float64_fails_a_comparison():
    comparison = Comparison.of("serving_default", "scores", "a case", [0.5], [0.5], [np.nan])
    assert not comparison.is_within(1e-4)


def test_cases_pad_with_zeros_the_first_element_and_nan(model):
    cases = list(make_cases({"serving_default": read_signature(model)}))
    assert len(cases) == 5
    for case in cases:
        assert set(case.runs) == {"zeros", "first element", "NaN"}
        clean = case.reference_inputs
        is_padding = np.arange(clean["frames"].shape[1]) >= clean["num_frames"][:, None]
        for padding, inputs in case.runs.items():
            np.testing.assert_array_equal(inputs["frames"][~is_padding], clean["frames"][~is_padding])
            values = inputs["frames"][is_padding]
            assert (
                values.size == 0
                or {
                    "zeros": (values == 0).all(),
                    "first element": len(np.unique(values)) == 1 and (values != 0).all(),
                    "NaN": np.isnan(values).all(),
                }[padding]
            )


def test_a_float64_copy_judges_and_the_model_stays_as_it_is(model):
    before = [np.asarray(weight) for weight in model.weights]
    copy, why_not = float64_copy(model)
    assert why_not is None
    assert all(keras.backend.standardize_dtype(weight.dtype) == "float64" for weight in copy.weights)
    for weight, original, kept in zip(copy.weights, before, model.weights, strict=True):
        np.testing.assert_array_equal(weight, original.astype("float64"))
        np.testing.assert_array_equal(kept, original)
    inputs = {name: values.astype("float64") if name == "frames" else values for name, values in batch().items()}
    outputs = copy(inputs)
    assert outputs["scores"].dtype == "float64"
    # Measured: float32 rounding, 6e-8. A copy that computed in float32 would agree to the last bit.
    difference = np.abs(outputs["scores"] - np.asarray(model(batch())["scores"], "float64")).max()
    assert 0 < difference < 1e-6


def test_no_float64_copy_is_said_with_its_reason(model, monkeypatch, tmp_path):
    quantized = VideoClassifier({"frames": 4}, 3, num_clusters=2, hidden_units=4)
    quantized.quantize("int8")
    assert float64_copy(quantized) == (None, "quantized layers")
    monkeypatch.setattr("keras_netvlad.export.verification.float64_copy.MAX_BYTES", 10)
    report = export_onnx(model, tmp_path / "model.onnx")
    assert "no copy in float64 to compare with: weights of" in str(report)
    assert all(comparison.to_float64 is None for comparison in report.comparisons)


def test_a_copy_leaves_the_random_numbers_alone(model):
    keras.utils.set_random_seed(3)
    expected = keras.layers.Dense(2)
    expected.build((None, 2))
    keras.utils.set_random_seed(3)
    float64_copy(model)
    layer = keras.layers.Dense(2)
    layer.build((None, 2))
    np.testing.assert_array_equal(layer.kernel, expected.kernel)


# Real data


def test_agreement_is_counted_on_real_data(artefacts, model):
    data = batch(frames=9, num_frames=range(70))
    report = verify(model, artefacts[0] / "model.onnx", data=data, min_agreement=1.0)
    assert report.ok
    assert (report.agreement.output, report.agreement.same, report.agreement.rows) == ("scores", 70, 70)
    assert "top-1 agreement of scores on real data: 70 of 70 rows, 100.00%, at least 100.00% wanted" in str(report)
    other = keras.models.clone_model(model)
    failed = verify(other, artefacts[0] / "model.onnx", tolerance=1e3, data=data, min_agreement=0.99)
    assert failed.agreement.same < 70
    assert not failed.ok
    assert verify(other, artefacts[0] / "model.onnx", tolerance=1e3, data=data).ok


def test_data_may_be_a_file(artefacts, model, tmp_path):
    np.savez(tmp_path / "real.npz", **batch())
    assert verify(model, artefacts[0] / "model.onnx", data=tmp_path / "real.npz").agreement.rows == 2


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"frames": np.zeros((2, 3, 6))},
            r"`data` must be a dict with an array for each of \['frames', 'num_frames'\]",
        ),
        ([1], r"`data` must be a dict.*Received: list"),
        ({"frames": np.zeros((2, 3, 5)), "num_frames": [1, 2]}, r"`data\['frames'\]` must have shape .*\(2, 3, 5\)"),
        ({"frames": np.zeros((2, 6)), "num_frames": [1, 2]}, r"`data\['frames'\]` must have shape .*\(2, 6\)"),
        ({"frames": np.zeros((2, 3, 6)), "num_frames": [1]}, r"same number of rows.*'frames': 2, 'num_frames': 1"),
        ({"frames": np.zeros((0, 3, 6)), "num_frames": []}, r"one row or more"),
        ("missing.npz", r"`data` must be an .npz file of arrays. Received: missing.npz"),
    ],
)
def test_data_that_does_not_fit_is_refused(artefacts, model, data, message):
    with pytest.raises(ValueError, match=message):
        verify(model, artefacts[0] / "model.onnx", data=data)


def test_agreement_needs_data_and_a_fraction(artefacts, model):
    with pytest.raises(ValueError, match=r"`min_agreement` is measured on real inputs; give `data`"):
        verify(model, artefacts[0] / "model.onnx", min_agreement=0.9)
    with pytest.raises(ValueError, match=r"`min_agreement` must be a number from 0 to 1. Received: min_agreement=90"):
        verify(model, artefacts[0] / "model.onnx", data=batch(), min_agreement=90)


# What lies beside


def test_parity_and_metadata_are_written_beside(model, tmp_path):
    metadata = {"labels": ["a", "b", "c", "d", "é"], "trained_on": "speech"}
    report = export_saved_model(model, tmp_path / "1", metadata=metadata)
    content = json.loads((tmp_path / "1" / "parity.json").read_text(encoding="utf-8"))
    assert content["metadata"] == metadata
    assert content["parity"] == report.as_dict()
    assert content["parity"]["ok"] is True
    rows = {(row["signature"], row["output"]): row for row in content["parity"]["outputs"]}
    assert 0 <= rows["serving_default", "scores"]["max_relative_difference_to_float64"] < 1e-6
    export_saved_model(model, tmp_path / "2", verify=False)
    assert json.loads((tmp_path / "2" / "parity.json").read_text())["parity"] is None


def test_an_onnx_file_carries_its_metadata(model, tmp_path):
    metadata = {"labels": ["a", "b", "c", "d", "é"], "trained_on": "speech"}
    report = export_onnx(model, tmp_path / "model.onnx", metadata=metadata)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    entries = session.get_modelmeta().custom_metadata_map
    assert json.loads(entries["labels"]) == metadata["labels"]
    assert json.loads(entries["feature_sizes"]) == {"frames": FEATURE_SIZE}
    assert (entries["trained_on"], entries["precision"]) == ("speech", "float32")
    rows = {f"{row['signature']}:{row['output']}": row for row in report.as_dict()["outputs"]}
    assert json.loads(entries["parity"]) == {key: row["max_relative_difference"] for key, row in rows.items()}
    content = json.loads((tmp_path / "model.onnx.parity.json").read_text(encoding="utf-8"))
    assert (content["metadata"], content["precision"], content["parity"]) == (metadata, "float32", report.as_dict())


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"labels": ["a"]}, r"must name every class of an output.*Received: 1 labels"),
        ({"labels": "abcde"}, r"must be a list of strings. Received: str"),
        ({"labels": [1, 2, 3, 4, 5]}, r"must be a list of strings"),
        ({"x": np.zeros(2)}, r"must hold what JSON can hold"),
        ({"x": float("nan")}, r"must hold what JSON can hold"),
        ({1: 2}, r"a dict with strings for keys"),
    ],
)
def test_metadata_that_no_artefact_can_hold_is_refused(model, tmp_path, metadata, message):
    with pytest.raises(ValueError, match=message):
        export_saved_model(model, tmp_path / "1", metadata=metadata)
    assert list(tmp_path.iterdir()) == []


def test_onnxruntime_takes_any_batch_and_length(artefacts):
    session = onnxruntime.InferenceSession(artefacts[0] / "model.onnx", providers=["CPUExecutionProvider"])
    for size, frames in ((1, 1), (2, 300), (5, 3)):
        scores = session.run(["scores"], batch(frames, (frames,) * size))[0]
        assert scores.shape == (size, 5)


def cut(path, fraction=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * fraction)])


@pytest.mark.parametrize(
    ("kind", "spoil"),
    [
        ("saved_model", lambda path: cut(path / "saved_model.pb")),
        ("saved_model", lambda path: (path / "saved_model.pb").write_bytes(b"")),
        ("saved_model", lambda path: cut(path / "variables" / "variables.data-00000-of-00001")),
        ("saved_model", lambda path: (path / "variables" / "variables.index").unlink()),
        ("onnx", cut),
        ("onnx", lambda path: path.write_bytes(b"")),
        ("onnx", lambda path: path.with_name("artefact.onnx.data").unlink()),
        ("onnx", lambda path: cut(path.with_name("artefact.onnx.data"))),
    ],
)
def test_damaged_artefacts_are_named(model, tmp_path, kind, spoil):
    path = tmp_path / ("artefact.onnx" if kind == "onnx" else "1")
    if kind == "onnx":
        export_onnx(model, path, external_data_threshold=1)
    else:
        export_saved_model(model, path)
    spoil(path)
    with pytest.raises(ValueError, match=rf"can't be loaded; export it again. Received: {path}"):
        verify(model, path)


def test_threads_that_judge_at_once_leave_keras_as_it_was():
    add_weight = keras.Layer.add_weight
    model = VideoClassifier({"frames": 4}, 3, num_clusters=2, hidden_units=None)
    copies = []
    threads = [threading.Thread(target=lambda: copies.append(float64_copy(model))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert keras.Layer.add_weight is add_weight
    assert len(copies) == 8
    assert all(reason is None for _, reason in copies)
    weights = [np.concatenate([np.ravel(w) for w in copy.get_weights()]) for copy, _ in copies]
    assert all(np.array_equal(weights[0], other) for other in weights)
