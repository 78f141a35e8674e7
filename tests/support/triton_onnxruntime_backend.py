"""Stands in for Triton's onnxruntime backend, which is not in its wheel: Python's onnxruntime in its Python backend.

Triton loads it as the backend `onnxruntime`, so that a published configuration is served as it is. Runs merged requests
as one batch, as that backend does, and notes the shapes of every run.
"""

import json
import os
import sys

# The backend's interpreter is isolated: it knows of no virtual environment and passes over PYTHONPATH.
sys.path.insert(0, os.environ["SITE_PACKAGES"])

import numpy as np
import onnxruntime
import triton_python_backend_utils as triton

# Triton renames a DLPack capsule that it has taken as NumPy does not expect, which NumPy complains of each time.
sys.unraisablehook = lambda unraisable: None


class TritonPythonModel:
    """The class that Triton's Python backend asks of a model."""

    def initialize(self, args):
        """Loads the version's ONNX model."""
        path = os.path.join(args["model_repository"], args["model_version"], "model.onnx")
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.input_names = [value.name for value in self.session.get_inputs()]
        self.output_names = [value.name for value in self.session.get_outputs()]

    def execute(self, requests):
        """Answers the requests that Triton has merged."""
        # By DLPack in and out: `as_numpy` and `Tensor` misread NumPy 2's arrays, whose elements have no bytes for them.
        requests = [
            {name: np.from_dlpack(triton.get_input_tensor_by_name(request, name)) for name in self.input_names}
            for request in requests
        ]
        merged = {name: np.concatenate([request[name] for request in requests]) for name in self.input_names}
        with open(os.environ["RUNS"], "a") as runs:
            runs.write(json.dumps({name: values.shape for name, values in merged.items()}) + "\n")
        outputs = self.session.run(self.output_names, merged)
        ends = np.cumsum([len(request[self.input_names[0]]) for request in requests])[:-1]
        parts = zip(*(np.split(output, ends) for output in outputs), strict=True)
        tensors = (map(triton.Tensor.from_dlpack, self.output_names, part) for part in parts)
        return [triton.InferenceResponse(list(part)) for part in tensors]
