"""`Artefact`: runs a SavedModel, an ONNX or a LiteRT file as a server does, without Keras and without this package.

This file imports NumPy, and TensorFlow, onnxruntime or LiteRT, so that it can be copied and run by itself:

    python artefact.py ARTIFACT INPUTS.npz OUTPUTS.npz
"""

import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

# ONNX has one namespace for inputs and outputs. An input that has the name of an output, such as the sums that
# `accumulate` takes and returns, has this prefix in the file. The names in a signature contain no dots.
PAST = "past."
LITERT_SUFFIX = ".tflite"
Kind = Literal["saved_model", "onnx", "litert"]
# Dict from the name of an input or output to its shape and dtype.
Ports = dict[str, tuple[tuple[int | str | None, ...], str]]
# NumPy's names of onnxruntime's types.
ONNX_DTYPES = {
    f"tensor({onnx})": name for onnx, name in (("float", "float32"), ("double", "float64"), ("float16", "float16"))
} | {f"tensor({name})": name for name in ("bool", "int8", "uint8", "int16", "int32", "int64", "string", "bfloat16")}


def find_kind(path: str | os.PathLike[str]) -> Kind:
    """Returns the format of the artifact at a path.

    Raises:
        FileNotFoundError: If there is no artifact.
    """
    path = Path(path)
    if (path / "saved_model.pb").is_file():
        return "saved_model"
    if path.is_file() and path.suffix == ".onnx":
        return "onnx"
    if path.is_file() and path.suffix == LITERT_SUFFIX:
        return "litert"
    raise FileNotFoundError(
        f"An artifact is a directory with a saved_model.pb or a file that ends in .onnx or .tflite. Received: {path}"
    )


def count_bytes(path: str | os.PathLike[str]) -> int:
    """Returns the size of all files of an artifact, including external weights."""
    path = Path(path)
    files = path.rglob("*") if find_kind(path) == "saved_model" else [path, Path(f"{path}.data")]
    return sum(file.stat().st_size for file in files if file.is_file())


def read_saved_model(path: str | os.PathLike[str]) -> Any:
    """Reads the graph of a SavedModel from `saved_model.pb`, without loading or running it.

    Returns:
        The `MetaGraphDef` with the tag `serve`.

    Raises:
        ValueError: If the file is damaged or has no such graph.
    """
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    file = Path(path, "saved_model.pb")
    try:
        proto = saved_model_pb2.SavedModel.FromString(file.read_bytes())
        (meta_graph,) = [graph for graph in proto.meta_graphs if "serve" in graph.meta_info_def.tags]
        signatures_of(meta_graph)
    except (DecodeError, ValueError, TypeError) as error:
        raise ValueError(
            f"The file must be a SavedModel's graph with the tag `serve`; export it again. Received: {file}, which is "
            "damaged or has another format"
        ) from error
    return meta_graph


def signatures_of(meta_graph: Any) -> dict[str, tuple[Ports, Ports]]:
    """Returns the signatures of a SavedModel's graph, as `Artefact.signatures` has them."""
    import tensorflow as tf

    def ports(infos: Mapping[str, Any]) -> Ports:
        return {
            name: (
                tuple(dim.size if dim.size >= 0 else None for dim in info.tensor_shape.dim),
                tf.as_dtype(info.dtype).name,
            )
            for name, info in infos.items()
        }

    return {
        name: (ports(signature.inputs), ports(signature.outputs))
        for name, signature in meta_graph.signature_def.items()
        if not name.startswith("__")
    }


def check_litert() -> None:
    """Raises if LiteRT is not installed.

    Raises:
        ImportError: If the package ai-edge-litert is missing.
    """
    try:
        import ai_edge_litert.interpreter  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "Running a .tflite file needs ai-edge-litert, which is not installed. Install it with "
            "`pip install 'keras_netvlad[litert]'`."
        ) from error


class Artefact:
    """A loaded artifact: a SavedModel in TensorFlow's session loader, `.onnx` in onnxruntime, or `.tflite` in LiteRT.

    TensorFlow Serving uses the same session loader. It reports missing variables that `tf.saved_model.load` ignores.

    Args:
        path: A SavedModel's directory, an `.onnx` file or a `.tflite` file.

    Attributes:
        kind: `"saved_model"`, `"onnx"` or `"litert"`.
        signatures: Dict from the name of each signature to a pair of dicts, inputs and outputs, from a name to
            `(shape, dtype)`. Dynamic dimensions are names in an ONNX model and `None` in other artifacts. An ONNX model
            has one signature, whose name is in its metadata. Its inputs `past.NAME` are called `NAME`, as in a
            SavedModel.
        precision: `"float32"`, `"float16"`, `"int8"`, `"int8-qdq"`, `"mixed_float16"` or `"float64"`, as recorded in an
            ONNX model's metadata. `"int8"` for a LiteRT model with quantized kernels. `"float32"` for others.
        load_seconds: Time that loading took.
        num_bytes: Size of all files.

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
        FileNotFoundError: If there is no artifact at `path`.
        ImportError: If LiteRT is needed and not installed.
        ValueError: If the artifact cannot be loaded.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.kind = find_kind(path)
        self.precision = "float32"
        self.signatures: dict[str, tuple[Ports, Ports]] = {}
        self._run: Callable[[Mapping[str, Any], str], dict[str, np.ndarray]]
        if self.kind == "litert":
            check_litert()
        start = time.perf_counter()
        try:
            {"saved_model": self._open_saved_model, "onnx": self._open_onnx, "litert": self._open_litert}[self.kind]()
        except Exception as error:
            # The loaders raise exceptions of many classes on a damaged file. The cause stays attached.
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f"The artifact cannot be loaded; export it again. Received: {self.path} ({reason})"
            ) from error
        self.load_seconds = time.perf_counter() - start

    def run(self, inputs: Mapping[str, ArrayLike], signature: str | None = None) -> dict[str, np.ndarray]:
        """Runs one signature.

        Args:
            inputs: Dict from input name to array.
            signature: Name of the signature. The default is `"serving_default"`, or the signature of the ONNX model.

        Returns:
            Dict from output name to array.
        """
        if signature is None:
            signature = next(iter(self.signatures)) if self.kind == "onnx" else "serving_default"
        return self._run({name: inputs[name] for name in self.signatures[signature][0]}, signature)

    @property
    def num_bytes(self) -> int:
        """Size of all files, including external weights."""
        return count_bytes(self.path)

    def _open_saved_model(self) -> None:
        import tensorflow as tf

        session = tf.compat.v1.Session(graph=tf.Graph())
        logger = tf.get_logger()
        level = logger.level
        logger.setLevel("ERROR")  # the session loader logs a warning that recommends `tf.saved_model.load`
        try:
            with session.graph.as_default():
                meta_graph = tf.compat.v1.saved_model.load(session, ["serve"], str(self.path))
        finally:
            logger.setLevel(level)
        self.signatures = signatures_of(meta_graph)

        def run(inputs: Mapping[str, Any], name: str) -> dict[str, np.ndarray]:
            signature = meta_graph.signature_def[name]
            feeds = {signature.inputs[key].name: value for key, value in inputs.items()}
            return session.run({key: info.name for key, info in signature.outputs.items()}, feeds)

        self._run = run

    def _open_onnx(self) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors only
        # Quantized products of files for GPUs run as they are written, in float32. The CPU's integer product of 8 bits
        # saturates on processors without VNNI.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        session = onnxruntime.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])

        def ports(values: Any) -> Ports:
            return {
                value.name.removeprefix(PAST): (tuple(value.shape), ONNX_DTYPES.get(value.type, value.type))
                for value in values
            }

        metadata = session.get_modelmeta().custom_metadata_map
        self.precision = metadata.get("precision", self.precision)
        # Older files have no such entry.
        name = metadata.get("signature", "serving_default")
        self.signatures = {name: (ports(session.get_inputs()), ports(session.get_outputs()))}
        output_names = list(self.signatures[name][1])
        input_names = {value.name.removeprefix(PAST): value.name for value in session.get_inputs()}

        def run(inputs: Mapping[str, Any], _: str) -> dict[str, np.ndarray]:
            feeds = {input_names[key]: value for key, value in inputs.items()}
            return dict(zip(output_names, session.run(output_names, feeds), strict=True))

        self._run = run

    def _open_litert(self) -> None:
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_path=str(self.path))
        runners = {name: interpreter.get_signature_runner(name) for name in interpreter.get_signature_list()}

        def ports(details: Mapping[str, Mapping[str, Any]]) -> Ports:
            return {
                name: (
                    tuple(None if size < 0 else int(size) for size in one["shape_signature"]),
                    np.dtype(one["dtype"]).name,
                )
                for name, one in details.items()
            }

        self.signatures = {
            name: (ports(runner.get_input_details()), ports(runner.get_output_details()))
            for name, runner in runners.items()
        }
        tensors = [one for index in range(interpreter.num_subgraphs()) for one in interpreter.get_tensor_details(index)]
        if any(one["dtype"] is np.int8 and len(one["quantization_parameters"]["scales"]) for one in tensors):
            self.precision = "int8"

        def run(inputs: Mapping[str, Any], name: str) -> dict[str, np.ndarray]:
            return runners[name](**inputs)

        self._run = run


if __name__ == "__main__":
    artifact_path, inputs_path, outputs_path = sys.argv[1:]
    with np.load(inputs_path, allow_pickle=False) as arrays:
        outputs: dict[str, Any] = Artefact(artifact_path).run(dict(arrays))
    np.savez(outputs_path, **outputs)
