"""Verification on the user's own data."""

import keras
import numpy as np
import pytest
from small_classifier import batch

from keras_netvlad.export import verify


def test_agreement_is_counted_on_real_data(artefacts, model):
    data = batch(frames=9, num_frames=range(70))
    report = verify(model, artefacts[0] / "model.onnx", data=data, min_agreement=1.0)
    assert report.ok
    assert (report.agreement.output, report.agreement.same, report.agreement.rows) == ("scores", 70, 70)
    assert "top-1 agreement of scores on real data: 70 of 70 rows, 100.00%, at least 100.00% required" in str(report)
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
    with pytest.raises(ValueError, match=r"`min_agreement` is measured on real inputs; pass `data`"):
        verify(model, artefacts[0] / "model.onnx", min_agreement=0.9)
    with pytest.raises(ValueError, match=r"`min_agreement` must be a number from 0 to 1. Received: min_agreement=90"):
        verify(model, artefacts[0] / "model.onnx", data=batch(), min_agreement=90)
