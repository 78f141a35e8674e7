"""Exports models as SavedModel, ONNX and LiteRT artifacts, and verifies that they compute what the model computes.

Modules import only from their own level and from the levels above them in this list:

1. `port`, `signature`, `forward`, `model_signature`, `serving_signatures`, `metadata`, `parity_file`, `pictures`:
   the functions of a model that an artifact offers, and the files and entries that describe an artifact.
2. `verification`: compares an artifact with its model.
3. `saved_model`, `onnx`, `litert`: the writers.
4. `serving`: directories for TensorFlow Serving and Triton.
5. `model_export`, `description`, `inspection`, `layer_comparison`: functions that combine the others.

A public function computes the signatures of its model once and passes them on. Functions named `write_...` and
`verify_...` take these signatures as an argument.
"""

from keras_netvlad.data.sequence_example import serialize_example
from keras_netvlad.export.description import Description
from keras_netvlad.export.inspection import inspect_artefact
from keras_netvlad.export.layer_comparison import compare_layers
from keras_netvlad.export.litert.litert_export import export_litert
from keras_netvlad.export.model_export import export_model
from keras_netvlad.export.onnx.onnx_export import export_onnx
from keras_netvlad.export.saved_model import export_saved_model
from keras_netvlad.export.serving.tensorflow_serving import publish
from keras_netvlad.export.serving.triton import publish_triton
from keras_netvlad.export.verification.artefact import Artefact
from keras_netvlad.export.verification.layer_report import LayerReport
from keras_netvlad.export.verification.parity_error import ParityError
from keras_netvlad.export.verification.report import Report
from keras_netvlad.export.verification.verify import verify

__all__ = [
    "Artefact",
    "Description",
    "LayerReport",
    "ParityError",
    "Report",
    "compare_layers",
    "export_litert",
    "export_model",
    "export_onnx",
    "export_saved_model",
    "inspect_artefact",
    "publish",
    "publish_triton",
    "serialize_example",
    "verify",
]
