"""Loading artifacts, also damaged ones and without Keras."""

import numpy as np
import pytest
from selection import slow_cases
from small_classifier import batch

from keras_netvlad.export import Artefact, export_onnx, export_saved_model, verify


def cut(path, fraction=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * fraction)])


@pytest.mark.slow
def test_artefacts_run_where_keras_cannot_be_imported(artefacts, tmp_path):
    from keras_netvlad.demo import _run_without_keras

    for report in artefacts[1]:
        received = _run_without_keras(report.path, batch(), tmp_path)
        np.testing.assert_allclose(received["scores"], Artefact(report.path).run(batch())["scores"], rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "spoil"),
    [
        ("saved_model", lambda path: cut(path / "saved_model.pb")),
        *slow_cases(
            [
                ("saved_model", lambda path: (path / "saved_model.pb").write_bytes(b"")),
                ("saved_model", lambda path: cut(path / "variables" / "variables.data-00000-of-00001")),
                ("saved_model", lambda path: (path / "variables" / "variables.index").unlink()),
            ]
        ),
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
    with pytest.raises(ValueError, match=rf"; export it again. Received: {path}"):
        verify(model, path)
