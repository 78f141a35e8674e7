"""Exports models as SavedModel and ONNX artifacts, and verifies that they compute what the model computes."""

from keras_netvlad.data.sequence_example import serialize_example
from keras_netvlad.export.inspection import Description, inspect_artefact
from keras_netvlad.export.model_export import export_model
from keras_netvlad.export.onnx.onnx_export import export_onnx
from keras_netvlad.export.saved_model import export_saved_model
from keras_netvlad.export.serving.tensorflow_serving import publish
from keras_netvlad.export.serving.triton import publish_triton
from keras_netvlad.export.verification.artefact import Artefact
from keras_netvlad.export.verification.report import ParityError, Report
from keras_netvlad.export.verification.verify import verify

__all__ = [
    "Artefact",
    "Description",
    "ParityError",
    "Report",
    "export_model",
    "export_onnx",
    "export_saved_model",
    "inspect_artefact",
    "publish",
    "publish_triton",
    "serialize_example",
    "verify",
]
