"""ONNX files of the signatures other than `serving_default`: live streams in two files, and bytes."""

import json
import shutil

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from layer_contract import randomize_weights
from selection import slow_except
from small_classifier import batch

from keras_netvlad.base.quantization import quantize
from keras_netvlad.export import Artefact, export_model, export_onnx, inspect_artefact, verify
from keras_netvlad.export.onnx import precision as onnx_precision
from keras_netvlad.layers import FrameMask, NetVLAD
from keras_netvlad.models import VideoClassifier

STREAMS = {"rgb": 6, "audio": 4}
FILES = {
    "serving_default": "model.onnx",
    "serve_quantized": "serve_quantized.onnx",
    "accumulate": "accumulate.onnx",
    "describe": "describe.onnx",
}
# Relative to the largest value; measured up to 4e-7.
TOLERANCE = 4e-6


@pytest.fixture(scope="module")
def streams_model():
    model = VideoClassifier(STREAMS, 5, num_clusters={"rgb": 3, "audio": 2}, hidden_units=7, name="two")
    randomize_weights(model)
    return model


@pytest.fixture(scope="module")
def exported(streams_model, tmp_path_factory):
    """The directory with a file for every signature, and the reports. Tests do not change it."""
    directory = tmp_path_factory.mktemp("signatures") / "out"
    options = {"formats": ["onnx"], "onnx_signatures": "all", "metadata": {"trained_on": "noise"}}
    return directory, export_model(streams_model, directory, **options)


def draw(model, num_rows, length):
    generator = np.random.default_rng(0)
    return {
        name: (
            generator.integers(0, 256, (num_rows, length, size)) if model.input[name].dtype == "uint8" else values
        ).astype(model.input[name].dtype)
        for name, size in model.feature_sizes.items()
        for values in [generator.normal(size=(num_rows, length, size))]
    }


def open_session(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def pool_in_chunks(directory, streams, num_frames, chunks):
    """Sends videos through both files in onnxruntime alone. Returns the outputs by name."""
    accumulate, describe = (open_session(directory / f"{name}.onnx") for name in ("accumulate", "describe"))
    sums = {port.name: np.zeros([len(num_frames), *port.shape[1:]], "float32") for port in describe.get_inputs()}
    start = 0
    for length in chunks:
        chunk = {name: values[:, start : start + length] for name, values in streams.items()}
        chunk["num_frames"] = np.clip(np.array(num_frames, "int32") - start, 0, length)
        names = list(sums)
        received = accumulate.run(names, {**chunk, **{f"past.{name}": values for name, values in sums.items()}})
        sums = dict(zip(names, received, strict=True))
        start += length
    names = [port.name for port in describe.get_outputs()]
    return dict(zip(names, describe.run(names, sums), strict=True))


def assert_near(received, expected):
    assert set(received) == set(expected)
    for name, values in expected.items():
        values = np.asarray(values)
        np.testing.assert_allclose(received[name], values, rtol=0, atol=TOLERANCE * np.abs(values).max())


# What they compute


@pytest.mark.parametrize("chunks", [(20,), (1,) * 20, (7, 13), (3, 9, 8)], ids=str)
def test_a_live_stream_in_onnxruntime_is_the_whole_video(exported, streams_model, chunks):
    streams, num_frames = draw(streams_model, 3, 20), [20, 11, 0]
    received = pool_in_chunks(exported[0], streams, num_frames, chunks)
    assert_near(received, streams_model({**streams, "num_frames": np.array(num_frames, "int32")}, training=False))


def test_a_live_stream_of_bytes_is_the_whole_video(tmp_path):
    model = VideoClassifier({"frames": 6}, 5, num_clusters=4, hidden_units=None, input_dtype="uint8")
    randomize_weights(model)
    reports = export_model(model, tmp_path / "out", ["onnx"], onnx_signatures=["accumulate", "describe"])
    assert [report.ok for report in reports] == [True, True]
    assert Artefact(tmp_path / "out" / "accumulate.onnx").signatures["accumulate"][0]["frames"][1] == "uint8"
    streams, num_frames = draw(model, 2, 9), [9, 4]
    received = pool_in_chunks(tmp_path / "out", streams, num_frames, (4, 5))
    assert_near(received, model({**streams, "num_frames": np.array(num_frames, "int32")}, training=False))


def test_bytes_are_answered_like_the_floats_that_they_stand_for(exported, streams_model):
    streams = draw(streams_model, 2, 9)
    as_bytes = {name: quantize(values) for name, values in streams.items()}
    num_frames = {"num_frames": np.array([9, 4], "int32")}
    received = Artefact(exported[0] / "serve_quantized.onnx").run({**as_bytes, **num_frames})
    floats = {
        name: (values.astype("float64") * 4 / 255 + 4 / 512 - 2).astype("float32") for name, values in as_bytes.items()
    }
    assert_near(received, streams_model({**floats, **num_frames}, training=False))


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["netrvlad", "netfv", "nextvlad"])
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_every_pooling_with_sums_is_exported(pooling, dtype, tmp_path):
    model = VideoClassifier({"frames": 8}, 5, num_clusters=2, hidden_units=4, pooling=pooling, dtype=dtype)
    options = {"formats": ["onnx"], "onnx_signatures": "all"}
    assert [report.ok for report in export_model(model, tmp_path / "out", **options)] == [True] * 4


# What the files are


def test_every_signature_has_a_file_and_a_report(exported):
    directory, reports = exported
    written = {path.name for path in directory.iterdir()}
    assert written == {*FILES.values(), *(f"{file}.parity.json" for file in FILES.values())}
    assert [report.path for report in reports] == [str(directory / file) for file in FILES.values()]
    for name, report in zip(FILES, reports, strict=True):
        assert report.ok, report
        assert report.judge == "float64"
        assert {comparison.signature for comparison in report.comparisons} == {name}


@pytest.mark.parametrize("name", FILES)
def test_the_name_of_the_signature_is_stored(exported, name):
    path = exported[0] / FILES[name]
    onnx.checker.check_model(path, full_check=True)
    entries = open_session(path).get_modelmeta().custom_metadata_map
    assert (entries["signature"], entries["trained_on"]) == (name, "noise")
    assert json.loads(entries["feature_sizes"]) == STREAMS
    assert {key.split(":")[0] for key in json.loads(entries["parity"])} == {name}
    assert json.loads((exported[0] / f"{FILES[name]}.parity.json").read_text())["signature"] == name
    description = inspect_artefact(path)
    assert list(description.signatures) == list(Artefact(path).signatures) == [name]
    assert f"\n  {name}\n    <- " in str(description)


def test_metadata_of_the_user_do_not_change_the_name_of_the_signature(model, tmp_path):
    path, metadata = tmp_path / "model.onnx", {"signature": "describe"}
    export_onnx(model, path, verify=False, metadata=metadata)
    assert [entry.value for entry in onnx.load(path).metadata_props if entry.key == "signature"] == ["serving_default"]
    content = json.loads((tmp_path / "model.onnx.parity.json").read_text())
    assert (content["signature"], content["metadata"]) == ("serving_default", metadata)


def test_names_and_axes_are_those_of_the_signature(exported):
    signatures = {name: inspect_artefact(exported[0] / file).signatures[name] for name, file in FILES.items()}
    sums = {
        "rgb_first_sum": (("batch", 3, 6), "float32"),
        "rgb_second_sum": (("batch", 3), "float32"),
        "audio_first_sum": (("batch", 2, 4), "float32"),
        "audio_second_sum": (("batch", 2), "float32"),
    }
    inputs, outputs = signatures["serving_default"]
    assert signatures["serve_quantized"] == (
        {name: (shape, "uint8" if name in STREAMS else dtype) for name, (shape, dtype) in inputs.items()},
        outputs,
    )
    assert signatures["accumulate"] == ({**inputs, **{f"past.{name}": port for name, port in sums.items()}}, sums)
    assert signatures["describe"] == (sums, outputs)
    # `Artefact` calls them as a SavedModel does.
    assert Artefact(exported[0] / "accumulate.onnx").signatures["accumulate"] == ({**inputs, **sums}, sums)


def test_a_file_stores_the_weights_that_it_uses_and_no_others(exported, streams_model):
    stored = {}
    for name in ("accumulate", "describe"):
        graph = onnx.load(exported[0] / FILES[name]).graph
        read = {name for node in graph.node for name in node.input}
        assert {tensor.name for tensor in graph.initializer} <= read
        stored[name] = {weight.path for weight in streams_model.weights} & read
    assert stored["accumulate"] == {f"{name}_netvlad/{weight}" for name in STREAMS for weight in ("kernel", "bias")}
    assert stored["describe"] == {weight.path for weight in streams_model.weights} - stored["accumulate"]


def test_nodes_are_named_after_their_layers(exported, streams_model):
    (joined,) = [layer.name for layer in streams_model.layers if isinstance(layer, keras.layers.Concatenate)]
    for name, layers in (
        ("accumulate", {"rgb_mask", "rgb_netvlad", "audio_mask", "audio_netvlad"}),
        ("describe", {"rgb_netvlad", "audio_netvlad", joined, "hidden", "scores"}),
    ):
        names = [node.name for node in onnx.load(exported[0] / FILES[name]).graph.node]
        assert len(set(names)) == len(names)
        assert {node.split("/")[0] for node in names if "/" in node} == layers


@pytest.mark.parametrize("name", slow_except(["serve_quantized", "accumulate", "describe"], "accumulate"))
def test_two_exports_are_the_same_bytes(exported, streams_model, name, tmp_path):
    options = {"metadata": {"trained_on": "noise"}, "signature": name}
    export_onnx(streams_model, tmp_path / FILES[name], **options)
    assert (tmp_path / FILES[name]).read_bytes() == (exported[0] / FILES[name]).read_bytes()


@pytest.mark.parametrize("name", ["accumulate", "describe"])
def test_inputs_of_different_numbers_of_rows_are_refused(exported, name):
    artefact = Artefact(exported[0] / FILES[name])
    ports = artefact.signatures[name][0]
    sizes = {"batch": 2, "frames": 5}
    inputs = {key: np.ones([sizes.get(size, size) for size in shape], dtype) for key, (shape, dtype) in ports.items()}
    artefact.run(inputs)
    for key, values in inputs.items():
        with pytest.raises(Exception, match=r"requested shape|cannot be reshaped"):
            artefact.run({**inputs, key: values[:1]})


# What is refused


def with_streams(make):
    frames = keras.Input((None, 6), name="frames")
    num_frames = keras.Input((), dtype="int32", name="num_frames")
    return keras.Model(
        {"frames": frames, "num_frames": num_frames}, {"out": make(frames, FrameMask()(num_frames, frames))}
    )


def of_bytes():
    return VideoClassifier({"frames": 4}, 3, num_clusters=2, hidden_units=None, input_dtype="uint8")


def without_num_frames():
    frames = keras.Input((None, 3), name="frames")
    return keras.Model(frames, {"descriptor": NetVLAD(2)(frames)})


def over_time():
    return with_streams(
        lambda frames, mask: NetVLAD(2, name="pool")(
            keras.layers.Conv1D(6, 3, padding="same", name="conv")(keras.ops.where(mask[..., None], frames, 0)),
            mask=mask,
        )
    )


@pytest.mark.parametrize(
    ("make", "name", "reason"),
    [
        (over_time, "accumulate", r"`conv` \(Conv1D\) may combine frames before the pooling"),
        (over_time, "describe", r"`conv` \(Conv1D\) may combine frames before the pooling"),
        (without_num_frames, "describe", r"its inputs are not streams \(batch, frames, features\) and `num_frames`"),
        (without_num_frames, "serve_quantized", r"its inputs are not streams"),
        (of_bytes, "serve_quantized", r"its streams are bytes already, in `serving_default`"),
    ],
)
def test_a_signature_that_the_model_does_not_offer_is_refused_with_the_reason(make, name, reason, tmp_path):
    model = make()
    message = rf"must be one that the model offers, \['serving_default'.*Received: `{name}`.* because {reason}"
    with pytest.raises(ValueError, match=message):
        export_onnx(model, tmp_path / "model.onnx", signature=name)
    with pytest.raises(ValueError, match=message):
        export_model(model, tmp_path / "out", ["onnx"], onnx_signatures=["serving_default", name])
    assert list(tmp_path.iterdir()) == []


def test_all_are_those_that_the_model_offers(tmp_path):
    (first, _) = export_model(over_time(), tmp_path / "out", ["onnx"], onnx_signatures="all")
    assert sorted(path.name for path in (tmp_path / "out").glob("*.onnx")) == ["model.onnx", "serve_quantized.onnx"]
    assert "no signatures for live streams: `conv` (Conv1D) may combine frames" in str(first)


def test_other_names_and_options_are_refused(model, tmp_path):
    for name in ("serve_examples", "all", "", None):
        with pytest.raises(ValueError, match=r"`signature` must be one of .*'accumulate'.*Received: signature="):
            export_onnx(model, tmp_path / "model.onnx", signature=name)
    for names in (["serve_examples"], "accumulate", [], ["all"]):
        with pytest.raises(ValueError, match=r"`onnx_signatures` must be 'all' or some of .*'describe'.*Received: "):
            export_model(model, tmp_path / "out", onnx_signatures=names)
    with pytest.raises(ValueError, match=r"`onnx_signatures` are for ONNX, with 'onnx' in `formats`"):
        export_model(model, tmp_path / "out", ["saved_model"], onnx_signatures="all")
    with pytest.raises(ValueError, match=r"which `describe` contains; export `accumulate` with precision='float32'"):
        export_onnx(model, tmp_path / "model.onnx", signature="accumulate", precision="int8")
    assert list(tmp_path.iterdir()) == []


# Their verification


@pytest.mark.parametrize(
    ("name", "weight"),
    [
        ("accumulate", "audio_netvlad/kernel"),
        ("describe", "rgb_netvlad/centroids"),
        pytest.param("accumulate", "rgb_netvlad/bias", marks=pytest.mark.slow),
        pytest.param("describe", "scores/kernel", marks=pytest.mark.slow),
        pytest.param("serve_quantized", "hidden/kernel", marks=pytest.mark.slow),
    ],
)
def test_a_file_with_another_weight_fails_its_verification(exported, streams_model, name, weight, tmp_path):
    proto = onnx.load(exported[0] / FILES[name])
    (tensor,) = [tensor for tensor in proto.graph.initializer if tensor.name == weight]
    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * np.float32(1.01), weight))
    onnx.save(proto, tmp_path / "changed.onnx")
    report = verify(streams_model, tmp_path / "changed.onnx")
    assert not report.ok
    failed = {comparison.case for comparison in report.comparisons if not comparison.is_within(report.tolerance)}
    assert any(case.startswith("batch ") for case in failed)
    assert any(case.startswith("videos of") for case in failed) == (name != "serve_quantized")


def test_a_file_is_verified_by_the_name_that_it_stores(exported, streams_model, tmp_path):
    report = verify(streams_model, exported[0] / "describe.onnx")
    assert report.ok
    assert {comparison.signature for comparison in report.comparisons} == {"describe"}
    proto = onnx.load(exported[0] / "model.onnx")
    entries = [entry for entry in proto.metadata_props if entry.key != "signature"]
    del proto.metadata_props[:]
    proto.metadata_props.extend(entries)
    onnx.save(proto, tmp_path / "old.onnx")  # as versions without this entry wrote it
    report = verify(streams_model, tmp_path / "old.onnx")
    assert report.ok
    assert {comparison.signature for comparison in report.comparisons} == {"serving_default"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("describe", r"The artifact's inputs of `describe` must be the model's, \['audio_first_sum'"),
        ("other", r"Received: `other`, which the model 'two' does not offer because there is no such signature"),
    ],
)
def test_a_file_with_another_name_is_refused(exported, streams_model, name, message, tmp_path):
    shutil.copy(exported[0] / "model.onnx", tmp_path / "model.onnx")
    entry = onnx.StringStringEntryProto(key="signature", value=name)
    with open(tmp_path / "model.onnx", "ab") as file:
        file.write(onnx.ModelProto(metadata_props=[entry]).SerializeToString())
    with pytest.raises(ValueError, match=message):
        verify(streams_model, tmp_path / "model.onnx")


def test_a_live_stream_of_another_model_is_refused_with_the_reason(exported):
    with pytest.raises(ValueError, match=r"`accumulate`, which the model .* `conv` \(Conv1D\) may combine frames"):
        verify(over_time(), exported[0] / "accumulate.onnx")


@pytest.mark.parametrize("name", slow_except(["serve_quantized", "accumulate", "describe"], "accumulate"))
def test_real_data_is_compared_through_every_signature(model, name, tmp_path):
    data = batch(num_frames=[7, 3] * 20)
    data["frames"][1::2, 3:] = np.nan  # padding
    report = export_onnx(model, tmp_path / "model.onnx", signature=name, data=data, min_agreement=1.0)
    assert (report.agreement.output, report.agreement.same, report.agreement.rows) == ("scores", 40, 40)
    assert {c.case for c in report.comparisons if c.case.startswith("real")} == {
        "real data from row 0",
        "real data from row 32",
    }


# Precision


@pytest.mark.parametrize("precision", slow_except(["float16", "int8"], "int8"))
def test_describe_holds_kernels_of_reduced_precision(streams_model, precision, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_precision, "INT8_MIN_VALUES", 1)
    options = {"precision": precision, "onnx_signatures": ["accumulate", "describe"]}
    reports = export_model(streams_model, tmp_path / "out", ["onnx"], **options)
    assert [report.ok for report in reports] == [True, True]
    dtypes = {
        name: {tensor.name: tensor.data_type for tensor in onnx.load(tmp_path / "out" / FILES[name]).graph.initializer}
        for name in ("accumulate", "describe")
    }
    stored = {"float16": onnx.TensorProto.FLOAT16, "int8": onnx.TensorProto.INT8}[precision]
    assert dtypes["describe"]["hidden/kernel"] == dtypes["describe"]["scores/kernel"] == stored
    assert dtypes["describe"]["rgb_netvlad/centroids"] == onnx.TensorProto.FLOAT
    assert stored not in dtypes["accumulate"].values()
    assert Artefact(tmp_path / "out" / "describe.onnx").precision == precision
    assert Artefact(tmp_path / "out" / "accumulate.onnx").precision == "float32"
