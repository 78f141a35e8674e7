"""ONNX files after they went through tools that servers and teams use, verified with all inputs of the verification."""

import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest

from keras_netvlad.export import export_onnx, verify
from keras_netvlad.models import VideoClassifier

pytestmark = pytest.mark.runtimes


@pytest.fixture(scope="module")
def model():
    return VideoClassifier({"rgb": 6, "audio": 4}, 5, num_clusters=3, hidden_units=7, activation="softmax")


@pytest.fixture(scope="module")
def path(model, tmp_path_factory):
    """A file that the tests do not change."""
    path = tmp_path_factory.mktemp("tools") / "model.onnx"
    export_onnx(model, path, verify=False)
    return path


def opened(path):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [port.name for port in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def check(report):
    assert report.ok, report
    # Measured 6e-7, as the file itself.
    assert max(comparison.relative for comparison in report.comparisons) < 6e-6


def test_the_ort_format_equals_the_model(model, path, tmp_path):
    command = [sys.executable, "-m", "onnxruntime.tools.convert_onnx_models_to_ort", str(path), "--output_dir"]
    subprocess.run([*command, str(tmp_path)], check=True, timeout=120, capture_output=True)
    (converted,) = tmp_path.glob("model.ort")
    report = verify(model, path, runtime=lambda _: opened(str(converted)))
    check(report)
    assert not report.answers_unequal_rows


def test_onnxslim_keeps_the_answers(model, path, tmp_path):
    onnxslim = pytest.importorskip("onnxslim", reason="`make runtimes` installs onnxslim")
    onnxslim.slim(str(path), str(tmp_path / "slim.onnx"))
    report = verify(model, tmp_path / "slim.onnx", runtime=opened)
    check(report)
    assert report.answers_unequal_rows  # it removes a `Reshape` to the size that it takes an axis named `batch` to have


def test_mlflow_serves_the_model_with_its_signature(model, path, tmp_path):
    mlflow = pytest.importorskip("mlflow", reason="`make runtimes` installs MLflow")
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    def specs(values):
        return Schema(
            [
                TensorSpec(
                    np.dtype(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)),
                    tuple(dim.dim_value or -1 for dim in value.type.tensor_type.shape.dim),
                    value.name,
                )
                for value in values
            ]
        )

    proto = onnx.load(path)
    signature = ModelSignature(specs(proto.graph.input), specs(proto.graph.output))
    mlflow.onnx.save_model(proto, str(tmp_path / "mlflow"), signature=signature)
    served = mlflow.pyfunc.load_model(str(tmp_path / "mlflow"))
    assert served.metadata.get_input_schema().input_names() == ["audio", "num_frames", "rgb"]
    check(verify(model, path, runtime=lambda _: served.predict))
    with pytest.raises(mlflow.exceptions.MlflowException, match="num_frames"):
        served.predict({"rgb": np.zeros((1, 2, 6), "float32"), "audio": np.zeros((1, 2, 4), "float32")})
