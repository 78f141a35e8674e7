"""LiteRT files whose large kernels are int8."""

import flatbuffers
import keras
import numpy as np
import pytest
from tensorflow.lite.python import schema_py_generated as schema

from keras_netvlad.export import Artefact, export_litert, inspect_artefact
from keras_netvlad.export.litert import int8_kernels
from keras_netvlad.export.litert.int8_kernels import quantize_kernels
from keras_netvlad.export.onnx.weights import WeightValues
from keras_netvlad.models import VideoClassifier


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return VideoClassifier({"frames": 64}, 50, num_clusters=16, hidden_units=1024)  # int8 wants a million values


@pytest.fixture(scope="module")
def paths(model, tmp_path_factory):
    """Paths of the model in float32 and in int8, without a verification."""
    directory = tmp_path_factory.mktemp("int8")
    for precision in ("float32", "int8"):
        export_litert(model, directory / f"{precision}.tflite", precision, verify=False)
    return {precision: directory / f"{precision}.tflite" for precision in ("float32", "int8")}


@pytest.mark.slow
def test_a_quarter_of_the_size_and_the_kernel_only(model, paths):
    description = inspect_artefact(paths["int8"])
    assert description.stored["int8"] == 1024 * 1024
    assert description.stored["float32"] < model.count_params() - 1024 * 1024 + 10
    assert "TensorFlow Lite 2.17.0 or later" in str(description)
    sizes = {precision: path.stat().st_size for precision, path in paths.items()}
    assert sizes["float32"] - sizes["int8"] == pytest.approx(3 * 1024 * 1024, abs=50_000)  # scales of three graphs
    assert Artefact(paths["int8"]).precision == "int8"
    assert Artefact(paths["float32"]).precision == "float32"


def test_levels_are_the_nearest_multiples_of_the_scale_of_each_unit(model, paths):
    content = paths["int8"].read_bytes()
    file = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    (tensor,) = {
        tensor.buffer: tensor
        for graph in file.subgraphs
        for tensor in graph.tensors
        if tensor.type == schema.TensorType.INT8
    }.values()
    kernel = model.get_layer("hidden").kernel.numpy()
    levels = file.buffers[tensor.buffer].data.view(np.int8).reshape(1024, 1024)
    scale = np.abs(kernel).max(axis=0) / 127
    np.testing.assert_allclose(tensor.quantization.scale, scale, rtol=1e-6)
    np.testing.assert_allclose(levels * scale[:, None], kernel.T, atol=0.501 * scale.max())
    assert not np.any(tensor.quantization.zeroPoint)


def test_weights_lie_at_multiples_of_16_bytes(paths):
    content = paths["int8"].read_bytes()
    file = schema.Model.GetRootAs(content, 0)
    offsets = []
    for index in range(file.BuffersLength()):
        buffer = file.Buffers(index)
        if buffer.DataLength():
            table = buffer._tab
            offsets.append(table.Vector(flatbuffers.number_types.UOffsetTFlags.py_type(table.Offset(4))))
    assert len(offsets) > 10
    assert [offset % 16 for offset in offsets] == [0] * len(offsets)


@pytest.mark.slow
def test_the_file_passes_the_verification_of_int8(model, tmp_path):
    report = export_litert(model, tmp_path / "model.tflite", "int8")
    assert report.ok
    assert report.tolerance == 5e-2
    # Measured: scores 4.1e-4, descriptor 4e-7.
    relative = {
        name: max(c.relative for c in report.comparisons if c.output == name) for name in ("scores", "descriptor")
    }
    assert 1e-5 < relative["scores"] < 4e-3
    assert relative["descriptor"] < 4e-6


def test_no_video_depends_on_the_others_of_its_batch(paths):
    generator, artifact = np.random.default_rng(0), Artefact(paths["int8"])
    frames = generator.normal(size=(3, 5, 64)).astype("float32") * np.array([1, 100, 1e-3], "float32")[:, None, None]
    counts = np.array([5, 2, 0], "int32")
    together = artifact.run({"frames": frames, "num_frames": counts})["scores"]
    for row in range(3):
        alone = artifact.run({"frames": frames[row : row + 1], "num_frames": counts[row : row + 1]})["scores"]
        np.testing.assert_allclose(together[row], alone[0], atol=1e-6)


@pytest.mark.slow
def test_the_bytes_are_the_same_each_time(model, paths, tmp_path):
    export_litert(model, tmp_path / "again.tflite", "int8", verify=False)
    assert (tmp_path / "again.tflite").read_bytes() == paths["int8"].read_bytes()


@pytest.mark.parametrize("fault", ["NaN", "unknown", "large"])
def test_what_cannot_be_quantized_is_one_sentence(model, paths, monkeypatch, fault):
    values = model.get_layer("hidden").kernel.numpy()
    content = paths["float32"].read_bytes()
    message = r"needs kernels that the converter writes as factors of products; .* Received: 'hidden/kernel'"
    if fault == "NaN":
        values[3, 5] = np.nan
        content = content.replace(model.get_layer("hidden").kernel.numpy().T.tobytes(), values.T.tobytes())
        message = r"int8 kernels are made of finite weights; .* 'hidden/kernel' with NaN"
    elif fault == "large":
        monkeypatch.setattr(int8_kernels, "MAX_BYTES", 10)
        message = r"needs a model of less than 2 GB in float32"
    else:
        values[3, 5] += 1
    kernels = {"weight.0": WeightValues("hidden/kernel", values, values.dtype)}
    with pytest.raises(ValueError, match=message):
        quantize_kernels(bytearray(content), kernels)
