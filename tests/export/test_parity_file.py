"""The file next to an artifact, and the metadata in it."""

import json

import numpy as np
import pytest

from keras_netvlad.export import export_saved_model


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"labels": ["a"]}, r"must name every class of an output.*Received: 1 labels"),
        ({"labels": "abcde"}, r"must be a list of strings. Received: str"),
        ({"labels": [1, 2, 3, 4, 5]}, r"must be a list of strings"),
        ({"x": np.zeros(2)}, r"must hold values that JSON can hold"),
        ({"x": float("nan")}, r"must hold values that JSON can hold"),
        ({1: 2}, r"a dict with strings for keys"),
    ],
)
def test_metadata_that_no_artefact_can_hold_is_refused(model, tmp_path, metadata, message):
    with pytest.raises(ValueError, match=message):
        export_saved_model(model, tmp_path / "1", metadata=metadata)
    assert list(tmp_path.iterdir()) == []
