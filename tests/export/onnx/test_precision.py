"""Kernels in float16 and int8: the stored tensors, the error they cause, and everything that stays float32."""

import threading

import keras
import numpy as np
import onnx
import onnxruntime
import pytest

from keras_netvlad.data import load_japanese_vowels
from keras_netvlad.export import Artefact, ParityError, export_onnx, inspect_artefact, verify
from keras_netvlad.export.forward import forward
from keras_netvlad.export.onnx import conversion, precision, stored_tensor
from keras_netvlad.export.onnx.int8_kernel import column_scale, int8_kernel
from keras_netvlad.export.verification.tolerance import REDUCED_PRECISION_TOLERANCES
from keras_netvlad.layers import FrameMask, NetVLAD
from keras_netvlad.models import VideoClassifier

REDUCED = ("float16", "int8", "int8-qdq")
# Largest difference of the scores of the 370 test utterances. Measured 4.7e-5, 2.0e-4 and 2.0e-4; the headroom is
# for the training, which comes out otherwise on another machine.
DIFFERENCES = {"float16": 5e-4, "int8": 2e-3, "int8-qdq": 2e-3}


@pytest.fixture(scope="module")
def trained():
    """A model whose hidden kernel is large enough for int8, and real speech: inputs of 370 utterances."""
    (x_train, y_train), (x_test, _) = load_japanese_vowels()
    keras.utils.set_random_seed(0)
    model = VideoClassifier({"frames": 12}, 9, num_clusters=96, hidden_units=1024, activation="softmax", name="speech")
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    model.fit(x_train, y_train, epochs=10, verbose=0)
    return model, x_test


@pytest.fixture(scope="module")
def artefacts(trained, tmp_path_factory):
    """Path and report of an export in every precision."""
    directory = tmp_path_factory.mktemp("precisions")
    paths = {name: directory / name / "model.onnx" for name in precision.PRECISIONS}
    return {
        name: (path, export_onnx(trained[0], path, precision=name, data=trained[1], min_agreement=0.999))
        for name, path in paths.items()
    }


def stored_weights(path):
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


def dense_model(size=64, units=32, kernel=None, bias=None, dtype=None):
    """A plain dense layer, whose product can be compared with NumPy's."""
    values = keras.Input((size,), name="values")
    layer = keras.layers.Dense(units, name="out", dtype=dtype)
    model = keras.Model({"values": values}, {"answers": layer(values)})
    generator = np.random.default_rng(0)
    kernel = generator.normal(size=(size, units)) if kernel is None else kernel
    layer.set_weights([kernel, np.linspace(-3, 3, units) if bias is None else bias])
    return model


# What is stored


@pytest.mark.slow
def test_sizes(artefacts, trained):
    sizes = {name: report.num_bytes for name, (_, report) in artefacts.items()}
    # Measured 0.503 and 0.261, the graph and the float32 classifier included.
    assert sizes["float16"] < 0.51 * sizes["float32"]
    assert sizes["int8"] < 0.27 * sizes["float32"]
    assert sizes["int8-qdq"] < 0.27 * sizes["float32"]


@pytest.mark.slow
@pytest.mark.parametrize("name", precision.PRECISIONS)
def test_the_precision_is_recorded(artefacts, name):
    proto = onnx.load(artefacts[name][0])
    assert {entry.key: entry.value for entry in proto.metadata_props}["precision"] == name
    onnx.checker.check_model(proto, full_check=True)


@pytest.mark.slow
def test_float16_kernels_are_the_rounded_weights_and_all_else_is_float32(artefacts, trained):
    weights = {weight.path: np.asarray(weight) for weight in trained[0].weights}
    stored = stored_weights(artefacts["float16"][0])
    for path, weight in weights.items():
        is_kernel = path in ("hidden/kernel", "scores/kernel")
        assert stored[path].dtype == (np.float16 if is_kernel else np.float32)
        np.testing.assert_array_equal(stored[path], weight.astype(stored[path].dtype))


@pytest.mark.slow
def test_int8_kernels_are_within_half_a_level(artefacts, trained):
    weights = {weight.path: np.asarray(weight) for weight in trained[0].weights}
    stored = stored_weights(artefacts["int8"][0])
    levels, scale = stored["hidden/kernel"], stored["hidden/kernel_scale"]
    assert levels.dtype == np.int8
    assert np.abs(levels.astype(int)).max(axis=0).tolist() == [127] * 1024  # each column has its own scale
    assert np.all(np.abs(levels * scale - weights["hidden/kernel"]) <= 0.5001 * scale)
    for path in set(weights) - {"hidden/kernel"}:  # the classifier is too small to gain
        np.testing.assert_array_equal(stored[path], weights[path])


@pytest.mark.slow
def test_inputs_and_outputs_stay_float32(artefacts):
    signatures = [Artefact(path).signatures["serving_default"] for path, _ in artefacts.values()]
    assert signatures[0][1] == {"scores": (("batch", 9), "float32"), "descriptor": (("batch", 96 * 12), "float32")}
    assert signatures[1:] == signatures[:1] * 3


@pytest.mark.slow
def test_products_are_float16_and_int8_where_they_should_be(artefacts):
    for name, expected in (
        ("float16", {"MatMul": 4, "MatMulInteger": 0, "QuantizeLinear": 0}),
        ("int8", {"MatMul": 3, "MatMulInteger": 1, "QuantizeLinear": 0}),
        ("int8-qdq", {"MatMul": 4, "MatMulInteger": 0, "QuantizeLinear": 1, "DequantizeLinear": 2}),
    ):
        ops = [node.op_type for node in onnx.load(artefacts[name][0]).graph.node]
        assert {op: ops.count(op) for op in expected} == expected
    proto = onnx.shape_inference.infer_shapes(onnx.load(artefacts["float16"][0]))
    types = {value.name: value.type.tensor_type.elem_type for value in proto.graph.value_info}
    products = [types.get(node.output[0]) for node in proto.graph.node if node.op_type == "MatMul"]
    assert products.count(onnx.TensorProto.FLOAT16) == 2


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_blocks_join_to_the_whole(dtype, monkeypatch):
    monkeypatch.setattr(stored_tensor, "BLOCK_VALUES", 7)
    values = np.random.default_rng(0).normal(size=(11, 3)).astype("float32")
    if dtype == "float16":
        tensor = stored_tensor.stored_tensor("kernel", values, np.float16)
        expected = values.astype("float16")
    else:
        scale = column_scale("kernel", values)
        np.testing.assert_array_equal(scale, np.abs(values).max(axis=0) / np.float32(127))
        tensor = int8_kernel("kernel", values, scale)
        expected = np.rint(values / scale)
    assert isinstance(tensor, stored_tensor.StoredTensor)
    blocks = list(tensor.blocks())
    assert [len(block) for block in blocks] == [2] * 5 + [1]
    np.testing.assert_array_equal(np.concatenate(blocks), expected)
    assert tensor.num_bytes == sum(block.nbytes for block in blocks)


# What it costs


@pytest.mark.slow
@pytest.mark.parametrize("name", REDUCED)
def test_real_speech_is_recognised_alike(artefacts, name):
    report = artefacts[name][1]
    assert report.ok
    assert report.tolerance == REDUCED_PRECISION_TOLERANCES[name]
    assert (report.agreement.rows, report.agreement.same) == (370, 370)
    real = [comparison for comparison in report.comparisons if comparison.case.startswith("real data")]
    differences = {
        output: max(comparison.absolute for comparison in real if comparison.output == output)
        for output in ("scores", "descriptor")
    }
    assert 0 < differences["scores"] < DIFFERENCES[name]
    # The pooling is in float32: measured 3.0e-8.
    assert differences["descriptor"] < 3e-7


@pytest.mark.slow
@pytest.mark.parametrize("name", REDUCED)
@pytest.mark.parametrize(("opset", "threshold"), [(13, 1), (15, 10**9), (17, 1), (18, 1)])
def test_opsets_and_external_data_compute_the_same(trained, artefacts, tmp_path, name, opset, threshold):
    export_onnx(
        trained[0], tmp_path / "model.onnx", opset, verify=False, external_data_threshold=threshold, precision=name
    )
    assert (tmp_path / "model.onnx.data").exists() == (threshold == 1)
    assert onnx.load(tmp_path / "model.onnx", load_external_data=False).opset_import[0].version == opset
    batch = {key: values[:5] for key, values in trained[1].items()}
    expected = Artefact(artefacts[name][0]).run(batch)["scores"]
    received = Artefact(tmp_path / "model.onnx").run(batch)["scores"]
    np.testing.assert_allclose(received, expected, rtol=0, atol=1e-5)  # measured 0


@pytest.mark.slow
@pytest.mark.parametrize("name", REDUCED)
def test_the_users_tolerance_and_agreement_fail_the_export(trained, tmp_path, name):
    with pytest.raises(ParityError, match=r"nothing was written") as caught:
        export_onnx(trained[0], tmp_path / "model.onnx", precision=name, tolerance=1e-6)
    assert caught.value.report.tolerance == 1e-6
    # A kernel of noise around 0: which class comes first is a matter of rounding.
    kernel = np.random.default_rng(0).normal(size=(1024, 1024)) + 1
    model = dense_model(1024, 1024, kernel, np.zeros(1024))
    data = {"values": np.random.default_rng(1).normal(size=(200, 1024)).astype("float32")}
    data["values"] -= data["values"].mean(axis=1, keepdims=True)
    options = {"precision": name, "tolerance": 1.0, "data": data}
    assert export_onnx(model, tmp_path / "loose.onnx", **options, min_agreement=0.2).ok
    if name == "int8":
        with pytest.raises(ParityError, match=r"top-1 agreement"):
            export_onnx(model, tmp_path / "model.onnx", **options, min_agreement=1.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loose.onnx", "loose.onnx.parity.json"]


# What it must not change


@pytest.mark.slow
@pytest.mark.parametrize("name", REDUCED)
def test_nan_stays_in_its_video(trained, artefacts, name):
    artefact = Artefact(artefacts[name][0])
    batch = {key: values[:6].copy() for key, values in trained[1].items()}
    clean = artefact.run(batch)
    for value in (np.nan, np.inf):
        batch["frames"][2, 1, 3] = value
        received = artefact.run(batch)
        others = np.arange(6) != 2
        for output in clean:
            np.testing.assert_array_equal(received[output][others], clean[output][others])
            assert not np.isfinite(received[output][2]).any()


@pytest.mark.slow
@pytest.mark.parametrize("name", REDUCED)
def test_a_videos_answer_does_not_depend_on_its_batch(trained, artefacts, name):
    artefact = Artefact(artefacts[name][0])
    batch = {key: values[:16] for key, values in trained[1].items()}
    together = artefact.run(batch)["scores"]
    for row in range(16):
        alone = artefact.run({key: values[row : row + 1] for key, values in batch.items()})["scores"]
        # Measured 1.2e-7: float32 sums of the pooling, in another order.
        np.testing.assert_allclose(alone[0], together[row], rtol=0, atol=2e-6)


@pytest.mark.parametrize(("name", "levels_of_a_row"), [("int8", 63 * 126), ("int8-qdq", 127 * 254)])
@pytest.mark.parametrize("bias", [0.0, 3.0])
def test_int8_rows_of_any_size_are_rounded_alike(tmp_path, monkeypatch, bias, name, levels_of_a_row):
    """Also with a bias, which onnxruntime 1.32 scales with the rows where it fuses all three."""
    monkeypatch.setattr(precision, "INT8_MIN_VALUES", 1)
    export_onnx(dense_model(bias=np.full(32, bias)), tmp_path / "model.onnx", precision=name)
    rows = np.random.default_rng(3).normal(size=(6, 64)) * np.array([[1.0], [1e-6], [1e6], [1e-18], [0.0], [1.0]])
    rows[5, 7] = 1000  # an outlier: one term of 7 bits would leave nothing of the other values
    stored = stored_weights(tmp_path / "model.onnx")
    levels = stored["out/kernel"].astype("float64") * stored["out/kernel_scale"]
    received = Artefact(tmp_path / "model.onnx").run({"values": rows.astype("float32")})["answers"]
    # Half a step of the second term in every value, as if all pulled one way: measured up to 0.33 times that.
    step = np.abs(rows).max(axis=1, keepdims=True) / levels_of_a_row
    allowed = 0.5 * step * np.abs(levels).sum(axis=0) + 1e-6 * (bias + np.abs(rows @ levels))
    assert np.all(np.abs(received - rows @ levels - bias) <= allowed)


@pytest.mark.slow
def test_int8_activations_have_seven_bits(trained, artefacts, tmp_path):
    proto = onnx.load(artefacts["int8"][0])
    (product,) = [node for node in proto.graph.node if node.op_type == "MatMulInteger"]
    proto.graph.output.append(onnx.helper.make_empty_tensor_value_info(product.input[0]))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    batch = {key: values[:20].copy() for key, values in trained[1].items()}
    batch["num_frames"][3] = 0
    levels = session.run([product.input[0]], batch)[0]  # (2, B, K * D): both terms
    assert (levels.min(), levels.max()) == (1, 127)
    assert np.all(levels[:, 3] == 64)  # an empty video's zeros, not what 0 / 0 becomes
    assert levels.dtype == np.uint8


@pytest.mark.slow
def test_scales_of_qdq_are_constants_and_zero_points_are_zero(trained, artefacts, tmp_path):
    """TensorRT takes no others."""
    proto = onnx.load(artefacts["int8-qdq"][0])
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert node.input[1] in constants
            assert all(constants[name] == 0 and constants[name].dtype == np.int8 for name in node.input[2:])
    (quantized,) = [node for node in proto.graph.node if node.op_type == "QuantizeLinear"]
    proto.graph.output.append(onnx.helper.make_empty_tensor_value_info(quantized.output[0]))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    batch = {key: values[:20].copy() for key, values in trained[1].items()}
    batch["num_frames"][3] = 0
    levels = session.run([quantized.output[0]], batch)[0].reshape(2, 20, -1)  # both terms
    assert np.all(np.abs(levels[0].astype(int)).max(axis=1)[np.arange(20) != 3] == 127)
    assert np.all(levels[:, 3] == 0)


@pytest.mark.parametrize("name", ["int8", "int8-qdq"])
def test_long_sums_of_int8_stay_within_32_bits(tmp_path, name):
    size = 300_000
    model = dense_model(size, 4, np.ones((size, 4)), np.zeros(4))
    assert export_onnx(model, tmp_path / "model.onnx", precision=name).ok
    levels = np.abs(stored_weights(tmp_path / "model.onnx")["out/kernel"].astype("int64")).sum(axis=0)
    assert np.all(levels * {"int8": 64, "int8-qdq": 127}[name] < 2**31)
    answers = Artefact(tmp_path / "model.onnx").run({"values": np.ones((1, size), "float32")})["answers"]
    np.testing.assert_allclose(answers, size, rtol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16", "float16", "bfloat16"])
@pytest.mark.parametrize("name", precision.PRECISIONS)
def test_models_with_16_bit_layers_export(dtype, name, tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "INT8_MIN_VALUES", 1)
    keras.utils.set_random_seed(0)
    model = VideoClassifier({"frames": 6}, 5, num_clusters=4, hidden_units=128, dtype=dtype)
    assert export_onnx(model, tmp_path / "model.onnx", precision=name).ok
    kernel = stored_weights(tmp_path / "model.onnx")["hidden/kernel"]
    own = "float16" if dtype == "float16" else "float32"
    assert kernel.dtype == (own if name == "float32" else name.removesuffix("-qdq"))


@pytest.mark.parametrize(
    ("options", "stored"),
    [
        ({"dtype": "mixed_float16"}, "mixed_float16"),
        ({"dtype": "float16"}, "mixed_float16"),  # the scores are float32
        ({"dtype": "float64"}, "float64"),
        ({"dtype": "mixed_bfloat16"}, "float32"),
        ({"product_dtype": "bfloat16"}, "float32"),
    ],
)
def test_the_precision_of_a_file_is_that_of_its_tensors(options, stored, tmp_path):
    model = VideoClassifier({"frames": 6}, 5, num_clusters=4, hidden_units=8, **options)
    export_onnx(model, tmp_path / "model.onnx", verify=False)
    assert inspect_artefact(tmp_path / "model.onnx").parity["precision"] == stored
    proto = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "model.onnx"))
    types = {value.type.tensor_type.elem_type for value in proto.graph.value_info}
    types |= {tensor.data_type for tensor in proto.graph.initializer}
    assert (onnx.TensorProto.FLOAT16 in types) is ("float16" in stored)
    assert (onnx.TensorProto.FLOAT in types) is (stored != "float64")


def test_bfloat16_layers_are_nodes_of_float32(tmp_path):
    nodes = []
    for options in ({}, {"dtype": "mixed_bfloat16"}, {"product_dtype": "bfloat16"}):
        model = VideoClassifier({"frames": 6}, 5, num_clusters=4, hidden_units=8, **options)
        export_onnx(model, tmp_path / f"{len(nodes)}.onnx", verify=False)
        nodes.append([node.op_type for node in onnx.load(tmp_path / f"{len(nodes)}.onnx").graph.node])
    assert nodes[0] == nodes[1] == nodes[2]


@pytest.mark.slow
def test_loops_of_bfloat16_are_written_in_float32(tmp_path):
    frames = keras.Input((None, 6), name="frames")
    hidden = keras.layers.SimpleRNN(2, return_sequences=True, dtype="mixed_bfloat16")(frames)
    model = keras.Model(frames, NetVLAD(2, name="descriptor")(hidden))
    assert export_onnx(model, tmp_path / "model.onnx").ok


def test_float8_is_refused_in_a_sentence(tmp_path):
    model = VideoClassifier({"frames": 6}, 5, num_clusters=4, hidden_units=8)
    model.get_layer("hidden").quantize("float8")
    with pytest.raises(ValueError, match=r"no float8 values; export a SavedModel.*Received: .*'hidden'"):
        export_onnx(model, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_exporting_does_not_change_the_model_for_other_threads(tmp_path, monkeypatch):
    model = VideoClassifier({"frames": 6}, 5, num_clusters=4, hidden_units=8, product_dtype="bfloat16")
    data = {"frames": np.random.default_rng(0).normal(size=(2, 7, 6)).astype("float32"), "num_frames": np.int32([7, 3])}
    expected = keras.ops.convert_to_numpy(model(data)["scores"])
    seen = []

    def slow_forward(*arguments):
        thread = threading.Thread(target=lambda: seen.append(keras.ops.convert_to_numpy(model(data)["scores"])))
        thread.start()
        thread.join()
        return forward(*arguments)

    monkeypatch.setattr(conversion, "forward", slow_forward)
    export_onnx(model, tmp_path / "model.onnx", verify=False)
    assert seen
    for received in seen:
        np.testing.assert_array_equal(received, expected)
    assert model.get_layer("frames_netvlad").product_dtype == "bfloat16"


@pytest.mark.slow
def test_layers_in_front_of_the_pooling_and_shared_ones(tmp_path):
    frames = keras.Input((None, 8), name="frames")
    num_frames = keras.Input((), dtype="int32", name="num_frames")
    projected = keras.layers.Dense(6, name="in_front")(frames)
    pooled = NetVLAD(4, name="pooling")(projected, mask=FrameMask()(num_frames, frames))
    shared = keras.layers.Dense(24, name="shared")
    model = keras.Model({"frames": frames, "num_frames": num_frames}, {"scores": shared(shared(pooled))})
    assert export_onnx(model, tmp_path / "model.onnx", precision="float16").ok
    stored = stored_weights(tmp_path / "model.onnx")
    halved = {name for name, values in stored.items() if values.dtype == np.float16}
    assert halved == {"shared/kernel"}


@pytest.mark.slow
@pytest.mark.parametrize("name", REDUCED)
@pytest.mark.parametrize("pooling", ["nextvlad", "netfv", "attention"])
def test_a_poolings_own_weights_keep_their_precision(pooling, name, tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "INT8_MIN_VALUES", 1)
    model = VideoClassifier({"frames": 64}, 5, num_clusters=4, hidden_units=32, pooling=pooling)
    (layer,) = (layer for layer in model.layers if layer.name.endswith(pooling))
    if pooling == "nextvlad":  # as large a dense kernel as those behind it
        assert np.prod(layer.expansion_kernel.shape) >= np.prod(model.get_layer("hidden").kernel.shape)
    assert export_onnx(model, tmp_path / "model.onnx", precision=name).ok
    stored = stored_weights(tmp_path / "model.onnx")
    for weight in layer.weights:
        np.testing.assert_array_equal(stored[weight.path], weight.numpy())
        assert stored[weight.path].dtype == np.float32
    dtype = name.removesuffix("-qdq")
    kernels = {path for path, values in stored.items() if values.dtype == dtype and values.ndim == 2}
    assert kernels == {"hidden/kernel", "scores/kernel"}


def test_weights_that_are_no_dense_kernels_stay_as_they_are(tmp_path, monkeypatch):
    class Matrices(keras.Layer):
        """A matrix from the left, and one of its own for every row."""

        def build(self, shape):
            self.left = self.add_weight(shape=(5, shape[1]), name="left")
            self.each = self.add_weight(shape=(5, shape[2], 7), name="each")

        def call(self, x):
            return keras.ops.transpose(keras.ops.transpose(self.left @ x, (1, 0, 2)) @ self.each, (1, 0, 2))

    monkeypatch.setattr(precision, "INT8_MIN_VALUES", 1)
    values = keras.Input((4, 64), name="values")
    answers = keras.layers.Dense(8, name="out")(keras.layers.Flatten()(Matrices(name="matrices")(values)))
    assert export_onnx(keras.Model({"values": values}, {"answers": answers}), tmp_path / "m.onnx", precision="int8").ok
    stored = stored_weights(tmp_path / "m.onnx")
    assert {name for name, values in stored.items() if values.dtype == np.int8} == {"out/kernel"}
    assert stored["matrices/left"].dtype == stored["matrices/each"].dtype == np.float32


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "runtime"),
    [
        # `int8-qdq` is for GPUs, and onnx's reference has its operators from opset 19.
        ("float16", "reference"),
        ("int8", "reference"),
        *(
            pytest.param(name, runtime, marks=pytest.mark.runtimes)
            for name in ("float16", "int8")
            for runtime in ("openvino", "tract")
        ),
    ],
)
def test_other_runtimes_compute_the_same(trained, artefacts, name, runtime):
    path = artefacts[name][0]
    batch = {key: values[:3] for key, values in trained[1].items()}
    expected = Artefact(path).run(batch)["scores"]
    if runtime == "reference":
        from onnx.reference import ReferenceEvaluator

        received = ReferenceEvaluator(str(path)).run(["scores"], batch)[0]
    elif runtime == "openvino":
        openvino = pytest.importorskip("openvino", reason="`make runtimes` installs and runs it")
        compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        received = compiled(batch)["scores"]
    else:
        tract = pytest.importorskip("tract", reason="`make runtimes` installs and runs it")
        model = tract.onnx().load(path)
        names = [model.input_name(index) for index in range(model.input_count())]
        received = model.into_model().into_runnable().run([batch[key] for key in names])[0].to_numpy()
    # A true float16 product rounds its rows and sums, too, and onnxruntime's on a CPU does not: measured up to 1.6e-4.
    # An int8 product is exact: measured up to 8e-7, but a row may be rounded to its next level.
    np.testing.assert_allclose(received, expected, rtol=0, atol={"float16": 2e-3}.get(name, 1e-4))


# What is refused


@pytest.mark.parametrize("value", ["float8", "FLOAT16", None, 16])
def test_a_wrong_precision_is_refused_before_any_work(value, tmp_path):
    with pytest.raises(
        ValueError, match=r"`precision` must be one of \['float32', 'float16', 'int8', 'int8-qdq'\]. Received"
    ):
        export_onnx("no model", tmp_path / "new" / "model.onnx", precision=value)
    assert list(tmp_path.iterdir()) == []


def small_layers():
    return VideoClassifier({"frames": 6}, 5, num_clusters=4, hidden_units=128)


def pooling_alone():
    frames = keras.Input((None, 6), name="frames")
    return keras.Model({"frames": frames}, {"descriptor": NetVLAD(4)(frames)})


def in_float64():
    return dense_model(dtype="float64")


def quantized():
    model = dense_model(1024, 1024)
    model.get_layer("out").quantize("int8")
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "make", "received"),
    [
        ("int8", small_layers, "of 1048576 or more values; .* Received: kernels of up to 3072 values"),
        ("int8", pooling_alone, "Received: no such kernel"),
        ("float16", pooling_alone, "kernel in float16 or float32; .* Received: no such kernel"),
        ("float16", in_float64, "Received: no such kernel"),
        ("int8", quantized, "Received: no such kernel"),
        ("float16", quantized, "Received: no such kernel"),
    ],
)
def test_models_that_have_nothing_to_gain_are_refused(name, make, received, tmp_path):
    model = make()
    message = (
        rf"`precision` '{name}' needs a dense layer behind the pooling .*export with precision='float32'.*{received}"
    )
    with pytest.raises(ValueError, match=received) as caught:
        export_onnx(model, tmp_path / "model.onnx", precision=name)
    assert caught.match(message.split(".*")[0])
    assert list(tmp_path.iterdir()) == []
    assert export_onnx(model, tmp_path / "model.onnx").ok


@pytest.mark.parametrize("threshold", [1, 10**9])
def test_weights_that_float16_cannot_hold_are_refused(tmp_path, threshold):
    kernel = np.ones((64, 32))
    kernel[40, 3] = -65520  # rounds to infinity
    with pytest.raises(
        ValueError, match=r"float16 holds finite weights of up to 65504.*Received: 'out/kernel' .* 6.55e\+04"
    ):
        export_onnx(
            dense_model(kernel=kernel), tmp_path / "model.onnx", precision="float16", external_data_threshold=threshold
        )
    assert list(tmp_path.iterdir()) == []
    kernel[40, 3] = 65504
    assert export_onnx(dense_model(kernel=kernel), tmp_path / "model.onnx", precision="float16").ok


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_int8_kernels_that_are_not_finite_are_refused(tmp_path, monkeypatch, value):
    monkeypatch.setattr(precision, "INT8_MIN_VALUES", 1)
    kernel = np.ones((64, 32))
    kernel[5, 5] = value
    with pytest.raises(ValueError, match=r"int8 kernels are made of finite weights.*Received: 'out/kernel' with NaN"):
        export_onnx(dense_model(kernel=kernel), tmp_path / "model.onnx", precision="int8")
    assert list(tmp_path.iterdir()) == []


def test_a_column_of_zeros_is_no_division_by_zero(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "INT8_MIN_VALUES", 1)
    kernel = np.random.default_rng(0).normal(size=(64, 32))
    kernel[:, 3] = 0
    with np.errstate(invalid="raise"):
        assert export_onnx(dense_model(kernel=kernel), tmp_path / "model.onnx", precision="int8").ok
    answers = Artefact(tmp_path / "model.onnx").run({"values": np.ones((1, 64), "float32")})["answers"]
    assert answers[0, 3] == np.linspace(-3, 3, 32, dtype="float32")[3]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "tolerance"), [("float32", 1e-4), ("float16", 2e-3), ("int8", 5e-2), ("int8-qdq", 5e-2)]
)
def test_verify_knows_what_an_artefacts_precision_may_cost(form, tolerance, tmp_path):
    model = VideoClassifier({"frames": 64}, 10, num_clusters=64, hidden_units=300)
    export_onnx(model, tmp_path / "model.onnx", precision=form)
    report = verify(model, tmp_path / "model.onnx")
    assert report.tolerance == tolerance
    assert report.ok
