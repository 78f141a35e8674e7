"""The inputs on which an artifact is verified."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_classifier import batch, make_classifier

from keras_netvlad.base.quantization import dequantize
from keras_netvlad.export import export_onnx
from keras_netvlad.export.model_signature import read_signature
from keras_netvlad.export.port import Port
from keras_netvlad.export.serving_signatures import serving_signatures
from keras_netvlad.export.signature import Signature
from keras_netvlad.export.verification.verification_inputs import make_cases
from keras_netvlad.layers import NetVLAD

OF_FRAMES = ("serving_default", "serve_quantized", "accumulate")


@pytest.fixture(scope="module")
def cases():
    """The cases of a model with all signatures, by signature."""
    found = {}
    for case in make_cases(serving_signatures(make_classifier())):
        found.setdefault(case.signature, []).append(case)
    return found


def test_cases_pad_with_zeros_the_first_element_and_nan(model):
    *cases, zeros = make_cases({"serving_default": read_signature(model)})
    assert len(cases) >= 5
    assert set(zeros.runs) == {"none"}
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


def test_one_case_has_real_frames_of_zeros(model):
    (zeros,) = [case for case in make_cases({"serving_default": read_signature(model)}) if case.may_be_nan]
    frames, num_frames = zeros.reference_inputs["frames"], zeros.reference_inputs["num_frames"]
    assert (num_frames == frames.shape[1]).all()
    assert not frames[0, 0].any()
    assert frames[0, 1:].all()
    assert frames[1:].all()


def test_one_case_has_a_black_picture():
    pictures = keras.Input((4, 5, 3), dtype="uint8", name="images")
    model = keras.Model({"images": pictures}, {"out": NetVLAD(2)(keras.layers.Rescaling(1 / 255)(pictures))})
    (zeros,) = [case for case in make_cases({"serving_default": read_signature(model)}) if case.may_be_nan]
    images = zeros.reference_inputs["images"]
    assert not images[0].any()
    assert images[1:].any()


def test_a_model_that_computes_nan_for_zeros_is_verified_without_them(tmp_path):
    frames = keras.Input((None, 4), name="frames")
    normalized = frames / keras.ops.norm(frames, axis=-1, keepdims=True)
    report = export_onnx(keras.Model({"frames": frames}, {"out": NetVLAD(2)(normalized)}), tmp_path / "model.onnx")
    assert report.ok
    assert not any("zeros" in comparison.case for comparison in report.comparisons)


@pytest.mark.parametrize("signature", OF_FRAMES)
def test_every_signature_of_frames_sees_every_kind_of_video(cases, signature):
    videos = [
        (int(count), frames.shape[1], len(frames))
        for case in cases[signature]
        for run in case.runs.values()
        for frames, counts in [(run["frames"], run["num_frames"])]
        for count in counts
    ]
    kinds = {
        "empty": any(count == 0 for count, _, _ in videos),
        "below zero": any(count < 0 for count, _, _ in videos),
        "more than its frames": any(count > frames for count, frames, _ in videos),
        "as many as its frames": any(count == frames > 1 for count, frames, _ in videos),
        "fewer than its frames": any(0 < count < frames for count, frames, _ in videos),
        "one frame": any(frames == 1 for _, frames, _ in videos),
        "long": any(frames >= 32 for _, frames, _ in videos),
        "alone": any(size == 1 for _, _, size in videos),
        "in a batch": any(size > 1 for _, _, size in videos),
    }
    assert all(kinds.values()), kinds


@pytest.mark.parametrize("signature", [*OF_FRAMES, "serve_examples", "describe"])
def test_a_batch_mixes_lengths_and_every_signature_has_cases(cases, signature):
    assert set(cases) == {*OF_FRAMES, "serve_examples", "describe"}
    assert any(len(set(case.reference_inputs["num_frames"])) > 1 for case in cases[signature])
    for case in cases[signature]:
        for name, values in case.reference_inputs.items():
            assert not np.issubdtype(values.dtype, np.floating) or np.isfinite(values).all(), name


def test_quantized_requests_are_compared_with_the_model_on_floats(cases):
    drawn = set()
    for case in cases["serve_quantized"]:
        assert case.reference == "serving_default"
        assert case.reference_inputs["frames"].dtype == "float32"
        for padding, inputs in case.runs.items():
            assert inputs["frames"].dtype == "uint8", padding
            length = inputs["frames"].shape[1]
            is_real = np.arange(length) < inputs["num_frames"][:, None]
            drawn |= set(inputs["frames"][is_real].ravel().tolist())
            np.testing.assert_array_equal(
                case.reference_inputs["frames"][is_real], dequantize(inputs["frames"], "float32")[is_real]
            )
    assert min(drawn) == 0
    assert max(drawn) == 255


def test_records_are_compared_with_the_model_on_their_floats_and_their_numbers_of_frames(cases):
    for case in cases["serve_examples"]:
        assert case.reference == "serving_default"
        (inputs,) = case.runs.values()
        for row, record in enumerate(inputs["examples"]):
            example = tf.train.SequenceExample.FromString(record)
            frames = [f.bytes_list.value[0] for f in example.feature_lists.feature_list["frames"].feature]
            values = np.stack([np.frombuffer(frame, "uint8") for frame in frames])
            assert case.known["num_frames"][row] == len(frames) == case.reference_inputs["num_frames"][row]
            expected = case.reference_inputs["frames"][row, : len(frames)]
            np.testing.assert_array_equal(dequantize(values, "float32"), expected)


def test_live_streams_go_on_from_sums_and_are_compared_with_whole_videos(cases):
    for case in cases["accumulate"]:
        for inputs in case.runs.values():
            assert (inputs["frames_first_sum"] > 0).all()
            assert (inputs["frames_second_sum"] > 0).all()
    for case in cases["describe"]:
        assert case.reference == "serving_default"
        assert case.reference_inputs["frames"].ndim == 3
        (sums,) = case.runs.values()
        is_empty = case.reference_inputs["num_frames"] <= 0
        np.testing.assert_array_equal(sums["frames_second_sum"].any(axis=1), ~is_empty)


def test_every_row_of_real_data_is_run_once(model):
    data = batch(num_frames=[7] * 70)
    data["frames"] += np.arange(70)[:, None, None].astype("float32")
    cases = [case for case in make_cases({"serving_default": read_signature(model)}, data) if case.is_real]
    assert [len(case.reference_inputs["num_frames"]) for case in cases] == [32, 32, 6]
    for name, values in data.items():
        runs = np.concatenate([inputs[name] for case in cases for inputs in case.runs.values()])
        np.testing.assert_array_equal(runs, values)


def test_extra_inputs_are_not_padded_and_frame_weights_are_not_negative():
    ports = (
        Port("frames", (None, None, 2), "float32"),
        Port("weights", (None, None), "float32"),
        Port("meta", (None, 4), "float32", has_frames=False),
        Port("num_frames", (None,), "int32", has_frames=False),
    )
    signature = Signature("serving_default", ports, (), lambda inputs: {})
    weights = []
    for case in make_cases({"serving_default": signature}):
        real = np.arange(case.reference_inputs["frames"].shape[1]) < case.reference_inputs["num_frames"][:, None]
        for padding, inputs in case.runs.items():
            assert np.isfinite(inputs["meta"]).all()
            np.testing.assert_array_equal(inputs["meta"], case.reference_inputs["meta"])
            assert inputs["meta"].any()
            if padding == "NaN":
                assert np.isnan(inputs["frames"][~real]).all()
                assert np.isnan(inputs["weights"][~real]).all()
            weights.append(inputs["weights"][real])
    weights = np.concatenate(weights)
    assert (weights >= 0).all()
    assert (weights == 0).any()
    assert (weights > 0.5).any()
