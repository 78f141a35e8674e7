"""Artefacts: written whole, verified, and free of Keras."""

from keras_netvlad.export.artefact import Artefact
from keras_netvlad.export.inspection import Description, inspect_artefact
from keras_netvlad.export.model_export import export_model
from keras_netvlad.export.onnx_file import export_onnx
from keras_netvlad.export.publication import publish
from keras_netvlad.export.records import serialize_example
from keras_netvlad.export.report import ParityError, Report
from keras_netvlad.export.saved_model import export_saved_model
from keras_netvlad.export.triton import publish_triton
from keras_netvlad.export.verification import verify

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
