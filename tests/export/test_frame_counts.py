"""Numbers of frames that no client should send, in both formats."""

import keras
import numpy as np
import onnx
import pytest

from keras_netvlad.export import Artefact, export_onnx
from keras_netvlad.export.model_signature import read_signature
from keras_netvlad.export.saved_model import write_saved_model
from keras_netvlad.layers import FrameMask, NetVLAD


def make_model(dtype="int32"):
    frames, count = keras.Input((None, 6), name="frames"), keras.Input((), dtype=dtype, name="num_frames")
    descriptor = NetVLAD(2, name="pool")(frames, mask=FrameMask()(count, frames))
    return keras.Model({"frames": frames, "num_frames": count}, {"descriptor": descriptor})


@pytest.mark.parametrize("kind", ["saved_model", "onnx"])
def test_int64_counts_beyond_int32_do_not_wrap(kind, tmp_path):
    model = make_model("int64")
    if kind == "saved_model":  # with one signature, which is faster
        write_saved_model(model, {"serving_default": read_signature(model)}, tmp_path / "1")
        run = Artefact(tmp_path / "1").run
    else:
        export_onnx(model, tmp_path / "model.onnx", verify=False)
        run = Artefact(tmp_path / "model.onnx").run
    frames = np.random.default_rng(0).normal(size=(6, 5, 6)).astype("float32")
    received = run({"frames": frames, "num_frames": np.array([2**31, 2**40, 2**32 + 1, 5, -5, -(2**31) - 1])})
    expected = run({"frames": frames, "num_frames": np.array([5, 5, 5, 5, 0, 0])})
    np.testing.assert_array_equal(received["descriptor"], expected["descriptor"])
    assert np.all(np.linalg.norm(received["descriptor"], axis=1).round(5) == [1, 1, 1, 1, 0, 0])


def test_a_saved_model_refuses_other_numbers_of_rows(artefacts):
    artefact = Artefact(artefacts[1][0].path)
    inputs = artefact.signatures["accumulate"][0]
    frames = np.ones((2, 5, inputs["frames"][0][2]), "float32")
    sums = {name: np.zeros((2, *shape[1:]), "float32") for name, (shape, _) in inputs.items() if name.endswith("_sum")}
    chunk = {"frames": frames, "num_frames": np.array([5, 5], "int32")}
    artefact.run(chunk)
    artefact.run({**chunk, **sums}, "accumulate")
    one_row = {"num_frames": chunk["num_frames"][:1]}
    message = r"The inputs frames, num_frames.* must have the same number of rows\. Received:\] \[2 1"
    for signature, given in (("serving_default", chunk), ("accumulate", {**chunk, **sums})):
        with pytest.raises(Exception, match=message):
            artefact.run({**given, **one_row}, signature)
    with pytest.raises(Exception, match=r"must have the same number of rows\. Received:\] \[2 2 1 2\]"):
        artefact.run({**chunk, **sums, "frames_first_sum": sums["frames_first_sum"][:1]}, "accumulate")


@pytest.mark.parametrize(("opset", "fails"), [(18, True), (15, True), (14, False)])
def test_an_onnx_file_refuses_other_numbers_of_rows_from_opset_15(opset, fails, tmp_path):
    export_onnx(make_model(), tmp_path / "model.onnx", opset, verify=False)
    run = Artefact(tmp_path / "model.onnx").run
    frames = np.ones((2, 5, 6), "float32")
    assert run({"frames": frames, "num_frames": np.array([5, 3], "int32")})["descriptor"].shape == (2, 12)
    if fails:
        with pytest.raises(Exception, match=r"num_frames_of_frames_rows.*Input shape:\{1\}, requested shape:\{2\}"):
            run({"frames": frames, "num_frames": np.array([5], "int32")})
        with pytest.raises(Exception, match=r"Input shape:\{2\}, requested shape:\{1\}"):
            run({"frames": frames[:1], "num_frames": np.array([5, 3], "int32")})
    else:  # a limit that the documentation states: before opset 15, it would take more nodes
        assert run({"frames": frames, "num_frames": np.array([5], "int32")})["descriptor"].shape == (2, 12)
    proto = onnx.load(tmp_path / "model.onnx")
    assert sum(node.name.endswith("frames_rows") for node in proto.graph.node) == (2 if fails else 0)
