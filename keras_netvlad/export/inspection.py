"""`inspect_artefact`: what an artefact is, read from its files without running it."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2

from keras_netvlad.export.model_signature import SERVING_DEFAULT
from keras_netvlad.export.parity_file import LABELS, read_parity
from keras_netvlad.export.serving.tensorflow_serving import WARMUP_FILE
from keras_netvlad.export.serving.warmup import read_warmup
from keras_netvlad.export.verification.report import format_bytes


@dataclass(frozen=True)
class Description:
    """What an artefact is; prints as a page.

    Attributes:
        path: Where it is.
        kind: `"saved_model"` or `"onnx"`.
        num_bytes: Size of all its files.
        made_with: What wrote it, and what it needs to run.
        signatures: Dict from the name of each signature to a pair of dicts, inputs and outputs, from a name to
            `(shape, dtype)`.
        stored: Dict from a dtype to the number of values stored in it: weights, and constants of the graph.
        num_warmup_requests: Integer.
        parity: The content of `parity.json`; empty if there is none.

    Example:

    >>> ports = {"frames": (("batch", "frames", 8), "float32")}, {"scores": (("batch", 3), "float32")}
    >>> print(Description("model.onnx", "onnx", 15460, "opset 18", {"serving_default": ports}, {"float32": 3827}))
    onnx  model.onnx
      size        15.5 kB
      stores      3,827 float32
      made with   opset 18
      serving_default
        <- frames  float32 (batch, frames, 8)
        -> scores  float32 (batch, 3)
      parity      not recorded; `keras-netvlad verify` compares with the model
    """

    path: str
    kind: str
    num_bytes: int
    made_with: str
    signatures: dict
    stored: dict
    num_warmup_requests: int = 0
    parity: dict = field(default_factory=dict)

    def __str__(self):
        stored = ", ".join(f"{count:,} {dtype}" for dtype, count in self.stored.items()) or "nothing"
        lines = [
            f"{self.kind}  {self.path}",
            f"  size        {format_bytes(self.num_bytes)}",
            f"  stores      {stored}",
            f"  made with   {self.made_with}",
        ]
        if self.parity:
            lines.append(f"  made by     {self.parity.get('producer')}, {self.parity.get('created')}")
            lines.append(f"  precision   {self.parity.get('precision')}")
        for key, value in (self.parity.get("metadata") or {}).items():
            lines.append(f"  {key:<10}  {_shortened(value) if key == LABELS else value}")
        if self.num_warmup_requests:
            lines.append(f"  warm-up     {self.num_warmup_requests} requests")
        for name, (inputs, outputs) in self.signatures.items():
            lines.append(f"  {name}")
            for arrow, ports in (("<-", inputs), ("->", outputs)):
                lines += [f"    {arrow} {port}  {dtype} {_axes(shape)}" for port, (shape, dtype) in ports.items()]
        return "\n".join([*lines, *self._parity_lines()])

    def _parity_lines(self):
        parity = self.parity.get("parity")
        if not parity:
            return ["  parity      not recorded; `keras-netvlad verify` compares with the model"]
        lines = [
            f"  parity      {'ok' if parity['ok'] else 'FAILED'}, {parity['num_runs']} runs, tolerance "
            f"{parity['tolerance']:g}"
        ]
        for row in parity["outputs"]:
            judged = row["max_relative_difference_to_float64"]
            lines.append(
                f"    {row['signature']} {row['output']}: relative difference {row['max_relative_difference']:.1e}"
                + (f", to float64 {judged:.1e}" if judged is not None else "")
            )
        agreement = parity["top_1_agreement"]
        if agreement:
            lines.append(
                f"    top-1 agreement of {agreement['output']}: {agreement['same']} of {agreement['rows']} rows"
            )
        return lines


def inspect_artefact(path):
    """Reads what an artefact is, without running it.

    Args:
        path: A SavedModel's directory or an `.onnx` file.

    Returns:
        A `Description`, which prints as a page.

    Example:

    >>> import os, tempfile
    >>> from keras_netvlad import VideoClassifier
    >>> from keras_netvlad.export import export_onnx, inspect_artefact
    >>> model = VideoClassifier({"frames": 8}, num_classes=3, num_clusters=2, hidden_units=None)
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     report = export_onnx(model, os.path.join(directory, "model.onnx"))
    ...     inspect_artefact(os.path.join(directory, "model.onnx")).signatures["serving_default"][0]
    {'frames': (('batch', 'frames', 8), 'float32'), 'num_frames': (('batch',), 'int32')}

    Raises:
        FileNotFoundError: If there is no artefact at `path`.
        ValueError: If its files are damaged or something else.
    """
    path = Path(path)
    if (path / "saved_model.pb").is_file():
        made_with, signatures, stored = _read_saved_model(path)
        kind, files = "saved_model", path.rglob("*")
    elif path.is_file() and path.suffix == ".onnx":
        made_with, signatures, stored = _read_onnx(path)
        kind, files = "onnx", [path, Path(f"{path}.data")]
    else:
        raise FileNotFoundError(
            f"An artefact is a directory with a saved_model.pb or a file that ends in .onnx. Received: {path}"
        )
    warmup = path / WARMUP_FILE
    return Description(
        str(path),
        kind,
        sum(file.stat().st_size for file in files if file.is_file()),
        made_with,
        signatures,
        stored,
        len(read_warmup(warmup)) if warmup.is_file() else 0,
        read_parity(path),
    )


def find_artefacts(path):
    """Paths of the artefact at `path`, or of all below a directory, such as a server's: versions in order.

    Raises:
        FileNotFoundError: If there are none.
    """
    path = Path(path)
    if path.is_file() or (path / "saved_model.pb").is_file():
        return [path]
    found = [file.parent if file.name == "saved_model.pb" else file for file in path.rglob("*") if _is_artefact(file)]
    found = [one for one in found if not any(part.startswith(".") for part in one.relative_to(path).parts)]
    if not found:
        raise FileNotFoundError(f"There must be a SavedModel or an .onnx file at or below the path. Received: {path}")
    return sorted(found, key=lambda one: [(int(part) if part.isdecimal() else 0, part) for part in one.parts])


def _is_artefact(file):
    return file.is_file() and (file.name == "saved_model.pb" or file.suffix == ".onnx")


def _read_saved_model(path):
    proto = saved_model_pb2.SavedModel()
    try:
        proto.ParseFromString((path / "saved_model.pb").read_bytes())
        (meta_graph,) = [graph for graph in proto.meta_graphs if "serve" in graph.meta_info_def.tags]
        signatures = {
            name: (_tensor_infos(signature.inputs), _tensor_infos(signature.outputs))
            for name, signature in sorted(meta_graph.signature_def.items(), key=lambda item: _order(item[0]))
            if not name.startswith("__")
        }
    except (DecodeError, ValueError, TypeError) as error:
        raise _damaged(path / "saved_model.pb", "a SavedModel's graph with the tag `serve`") from error
    try:
        reader = tf.train.load_checkpoint(str(path / "variables" / "variables"))
    except (tf.errors.OpError, ValueError) as error:
        raise _damaged(path / "variables", "a SavedModel's variables") from error
    stored = Counter()
    for name, shape in reader.get_variable_to_shape_map().items():
        dtype = reader.get_variable_to_dtype_map()[name].name
        if dtype != "string":  # the object graph
            stored[dtype] += int(np.prod(shape))
    return f"TensorFlow {meta_graph.meta_info_def.tensorflow_version}", signatures, dict(stored)


def _order(name):
    return name != SERVING_DEFAULT, name


def _tensor_infos(infos):
    return {
        name: (
            tuple(dim.size if dim.size >= 0 else None for dim in info.tensor_shape.dim),
            tf.as_dtype(info.dtype).name,
        )
        for name, info in sorted(infos.items())
    }


def _read_onnx(path):
    stored = Counter()
    try:
        proto = onnx.load(path, load_external_data=False)
        signature = (_value_infos(proto.graph.input), _value_infos(proto.graph.output))
        for tensor in proto.graph.initializer:
            stored[onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).name] += int(np.prod(tensor.dims))
        (opset,) = [entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")]
    except (DecodeError, ValueError, KeyError) as error:
        raise _damaged(path, "an ONNX model") from error
    return f"{proto.producer_name} {proto.producer_version}, opset {opset}", {SERVING_DEFAULT: signature}, dict(stored)


def _value_infos(values):
    return {
        value.name: (
            tuple(
                dim.dim_param or (dim.dim_value if dim.HasField("dim_value") else None)
                for dim in value.type.tensor_type.shape.dim
            ),
            onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name,
        )
        for value in values
    }


def _damaged(path, expected):
    return ValueError(f"The file must be {expected}; export it again. Received: {path}, which is damaged or foreign")


def _axes(shape):
    return "(" + ", ".join("?" if size is None else str(size) for size in shape) + ")"


def _shortened(labels):
    shown = ", ".join(labels[:5])
    return f"{len(labels)}: {shown}" + (", ..." if len(labels) > 5 else "")
