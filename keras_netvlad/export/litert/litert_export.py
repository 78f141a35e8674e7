"""`export_litert`: writes a model as a LiteRT file, for phones and small devices."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import keras

from keras_netvlad.base.atomic_files import staged
from keras_netvlad.base.stages import stage
from keras_netvlad.base.validation import check_choice
from keras_netvlad.export.float8 import check_no_float8
from keras_netvlad.export.forward import weights_of
from keras_netvlad.export.litert.conversion import convert_signatures
from keras_netvlad.export.litert.float32_model import float32_model
from keras_netvlad.export.litert.int8_kernels import quantize_kernels
from keras_netvlad.export.metadata import check_metadata
from keras_netvlad.export.onnx.conversion import convert_graph
from keras_netvlad.export.onnx.onnx_export import pooling_weights
from keras_netvlad.export.onnx.precision import large_kernels
from keras_netvlad.export.onnx.weights import WeightValues, read_weights
from keras_netvlad.export.parity_file import write_parity
from keras_netvlad.export.pictures import picture_facts
from keras_netvlad.export.serving_signatures import SERVE_EXAMPLES, serving_signatures
from keras_netvlad.export.signature import SERVING_DEFAULT, Signature
from keras_netvlad.export.verification.artefact import LITERT_SUFFIX, check_litert
from keras_netvlad.export.verification.options import check_options
from keras_netvlad.export.verification.real_data import RealData
from keras_netvlad.export.verification.report import Report
from keras_netvlad.export.verification.staged_artifact import verify_staged
from keras_netvlad.export.verification.tolerance import default_tolerance

LITERT_PRECISIONS = ("float32", "int8")


def export_litert(
    model: keras.Model,
    path: str | os.PathLike[str],
    precision: Literal["float32", "int8"] = "float32",
    verify: bool = True,
    *,
    tolerance: float | None = None,
    data: RealData | None = None,
    min_agreement: float | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Report | None:
    """Writes a model as a LiteRT file (TensorFlow Lite) and verifies it before it appears.

    One file contains every signature of the model except `serve_examples`, because LiteRT has no operators that parse
    records: the model itself (`serving_default`), the model of bytes (`serve_quantized`) and live streams of any length
    (`accumulate`, `describe`). Batch and frames are dynamic. Each weight is stored once. The file consists of LiteRT's
    own operators, so that an app needs no part of TensorFlow, and it computes in float32: layers in bfloat16 or float16
    are converted.

    TensorFlow converts the model. The verification runs the file with LiteRT (`pip install 'keras_netvlad[litert]'`).

    Args:
        model: A functional or Sequential Keras model with named inputs.
        path: Path ending in `.tflite` that does not exist yet.
        precision: `"float32"`, or `"int8"` for the dense kernels of a million values or more behind the pooling, as in
            `export_onnx`. They take a quarter of the size. LiteRT then rounds the rows that it multiplies with them to
            8 bits as well. Pooling, biases, activations, inputs and outputs stay float32.
        verify: Boolean, whether to compare the artifact with the model before it appears.
        tolerance: See `verify`. The default is at least 5e-2 for int8.
        data, min_agreement: See `verify`. Use real data to measure how much accuracy int8 costs.
        metadata: See `export_saved_model`. It is stored in `<path>.parity.json`.

    Returns:
        The `Report` of the verification, or `None` if `verify` is `False`.

    Example:

    >>> from keras_netvlad import VideoClassifier
    >>> from keras_netvlad.export import export_litert
    >>> model = VideoClassifier({"frames": 8}, num_classes=3, num_clusters=2)
    >>> try:
    ...     export_litert(model, "model.lite")
    ... except ValueError as error:
    ...     print(error)
    `path` must end in .tflite. Received: 'model.lite'

    Raises:
        ImportError: If `verify` is `True` and ai-edge-litert is not installed.
        TypeError: If `model` is not a functional or Sequential Keras model.
        ValueError: If the model cannot be exported, has no kernel to which `precision` applies, or an argument is
            invalid.
        ParityError: If the artifact does not compute what the model computes. Nothing is written.
        OSError: If the file exists or cannot be written.
    """
    check_choice("precision", precision, LITERT_PRECISIONS)
    if Path(path).suffix != LITERT_SUFFIX:
        raise ValueError(f"`path` must end in {LITERT_SUFFIX}. Received: {str(path)!r}")
    return write_verified_litert(
        model,
        serving_signatures(model),
        path,
        precision,
        verify,
        tolerance=tolerance,
        data=data,
        min_agreement=min_agreement,
        metadata=metadata,
    )


def write_verified_litert(
    model: keras.Model,
    signatures: Mapping[str, Signature],
    path: str | os.PathLike[str],
    precision: str = "float32",
    verify: bool = True,
    *,
    tolerance: float | None = None,
    data: RealData | None = None,
    min_agreement: float | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Report | None:
    """Does the work of `export_litert` with valid arguments and signatures that the caller has computed."""
    if verify:
        check_litert()
    metadata = {**check_metadata(metadata, signatures[SERVING_DEFAULT].outputs), **picture_facts(model)}
    data = check_options(signatures[SERVING_DEFAULT], tolerance, data, min_agreement)
    if tolerance is None:
        tolerance = default_tolerance(model, precision)
    with staged(path) as target:
        write_litert(model, target, precision)
        report = verify_staged(model, signatures, target, path, tolerance, data, min_agreement) if verify else None
        write_parity(target, None if report is None else report.as_dict(), metadata, precision)
        return report


def write_litert(model: keras.Model, path: Path, precision: str) -> None:
    """Writes a LiteRT file, without verification and without `parity.json`."""
    check_no_float8(model, "LiteRT")
    model = float32_model(model)
    signatures = {name: one for name, one in serving_signatures(model).items() if name != SERVE_EXAMPLES}
    kernels = _large_kernels(model, signatures[SERVING_DEFAULT]) if precision == "int8" else {}
    with stage("converting the model to LiteRT"):
        content: bytes | bytearray = convert_signatures(model, signatures, path.parent)
    if kernels:
        with stage("writing the kernels of the LiteRT file in int8"):
            content = quantize_kernels(bytearray(content), kernels)
    path.write_bytes(content)


def _large_kernels(model: keras.Model, default: Signature) -> dict[str, WeightValues]:
    """Returns the kernels that an ONNX file stores in int8. Its graph tells which of them are behind the pooling."""
    weights = weights_of(model)
    proto = convert_graph(model, default, weights, opset=18)
    values = read_weights(proto, weights)
    return {name: values[name] for name in large_kernels(proto, values, pooling_weights(model), "int8")}
