"""`Artefact`: runs a SavedModel or an ONNX file as a server does, without Keras and without this package.

The file imports NumPy, and TensorFlow or onnxruntime. It is also a program, for a process of its own:

    python artefact.py ARTEFACT INPUTS.npz OUTPUTS.npz
"""

import sys
import time
from pathlib import Path

import numpy as np

# What onnxruntime calls by C's names.
ONNX_DTYPES = {
    f"tensor({onnx})": name for onnx, name in (("float", "float32"), ("double", "float64"), ("float16", "float16"))
} | {f"tensor({name})": name for name in ("bool", "int8", "uint8", "int16", "int32", "int64", "string", "bfloat16")}


class Artefact:
    """An artefact, loaded: TensorFlow's session loader for a SavedModel, onnxruntime for an `.onnx` file.

    The session loader is the one that TensorFlow Serving uses; it finds missing variables that
    `tf.saved_model.load` passes over.

    Args:
        path: A SavedModel's directory or an `.onnx` file.

    Attributes:
        kind: `"saved_model"` or `"onnx"`.
        signatures: Dict from the name of each signature to a pair of dicts, inputs and outputs, from a name to
            `(shape, dtype)`. Dynamic dimensions are `None`, or their names where the format keeps names. An ONNX
            model has one signature, `"serving_default"`.
        precision: `"float32"`, `"float16"` or `"int8"`, as an ONNX model's metadata says; a SavedModel has its model's.
        load_seconds: Float, how long loading took.
        num_bytes: Integer, size of all its files.

    Example:

    >>> import os, tempfile
    >>> from keras_netvlad import VideoClassifier
    >>> from keras_netvlad.export import Artefact, export_onnx
    >>> model = VideoClassifier({"frames": 8}, num_classes=3, num_clusters=2)
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     report = export_onnx(model, os.path.join(directory, "model.onnx"))
    ...     artefact = Artefact(os.path.join(directory, "model.onnx"))
    >>> outputs = artefact.run({"frames": np.zeros((2, 5, 8), "float32"), "num_frames": np.array([5, 3], "int32")})
    >>> outputs["scores"].shape
    (2, 3)

    Raises:
        FileNotFoundError: If there is no such artefact.
        ValueError: If it can't be loaded.
    """

    def __init__(self, path):
        self.path = Path(path)
        self.precision = "float32"
        start = time.perf_counter()
        if (self.path / "saved_model.pb").is_file():
            self.kind = "saved_model"
            self._load(self._open_saved_model)
        elif self.path.is_file() and self.path.suffix == ".onnx":
            self.kind = "onnx"
            self._load(self._open_onnx)
        else:
            raise FileNotFoundError(
                f"An artefact is a directory with a saved_model.pb or a file that ends in .onnx. Received: {path}"
            )
        self.load_seconds = time.perf_counter() - start

    def run(self, inputs, signature="serving_default"):
        """Runs the artefact.

        Args:
            inputs: Dict from input name to array.
            signature: Name of the signature.

        Returns:
            Dict from output name to array.
        """
        return self._run({name: inputs[name] for name in self.signatures[signature][0]}, signature)

    @property
    def num_bytes(self):
        """Size of all its files, external weights included."""
        files = self.path.rglob("*") if self.kind == "saved_model" else [self.path, Path(f"{self.path}.data")]
        return sum(file.stat().st_size for file in files if file.is_file())

    def _load(self, open_artefact):
        try:
            open_artefact()
        except Exception as error:
            # The loaders raise whatever they like on a damaged file; the cause stays attached.
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f"The artefact can't be loaded; export it again. Received: {self.path} ({reason})"
            ) from error

    def _open_saved_model(self):
        import tensorflow as tf

        session = tf.compat.v1.Session(graph=tf.Graph())
        logger = tf.get_logger()
        level = logger.level
        logger.setLevel("ERROR")  # the session loader advises the loader that production does not use
        try:
            with session.graph.as_default():
                meta_graph = tf.compat.v1.saved_model.load(session, ["serve"], str(self.path))
        finally:
            logger.setLevel(level)
        signatures = {
            name: signature for name, signature in meta_graph.signature_def.items() if not name.startswith("__")
        }

        def ports(infos):
            return {
                name: (
                    tuple(dim.size if dim.size >= 0 else None for dim in info.tensor_shape.dim),
                    tf.as_dtype(info.dtype).name,
                )
                for name, info in infos.items()
            }

        self.signatures = {
            name: (ports(signature.inputs), ports(signature.outputs)) for name, signature in signatures.items()
        }

        def run(inputs, name):
            signature = signatures[name]
            feeds = {signature.inputs[key].name: value for key, value in inputs.items()}
            return session.run({key: info.name for key, info in signature.outputs.items()}, feeds)

        self._run = run

    def _open_onnx(self):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors only
        session = onnxruntime.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])

        def ports(values):
            return {value.name: (tuple(value.shape), ONNX_DTYPES.get(value.type, value.type)) for value in values}

        self.precision = session.get_modelmeta().custom_metadata_map.get("precision", self.precision)
        self.signatures = {"serving_default": (ports(session.get_inputs()), ports(session.get_outputs()))}
        output_names = list(self.signatures["serving_default"][1])

        def run(inputs, _):
            return dict(zip(output_names, session.run(output_names, inputs), strict=True))

        self._run = run


if __name__ == "__main__":
    artefact_path, inputs_path, outputs_path = sys.argv[1:]
    with np.load(inputs_path, allow_pickle=False) as arrays:
        np.savez(outputs_path, **Artefact(artefact_path).run(dict(arrays)))
