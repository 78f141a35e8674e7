"""`export_model`: writes a model in every format into one directory."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import keras

from keras_netvlad.base.atomic_files import staged
from keras_netvlad.export.model_signature import read_signature
from keras_netvlad.export.onnx.conversion import check_opset
from keras_netvlad.export.onnx.onnx_export import write_verified_onnx
from keras_netvlad.export.onnx.precision import check_precision
from keras_netvlad.export.saved_model import write_verified_saved_model
from keras_netvlad.export.serving.model_versions import check_model_name
from keras_netvlad.export.serving_signatures import serving_signatures
from keras_netvlad.export.signature import SERVING_DEFAULT
from keras_netvlad.export.verification.parity_error import ParityError
from keras_netvlad.export.verification.real_data import RealData
from keras_netvlad.export.verification.report import Report

FORMATS: tuple[Literal["saved_model", "onnx"], ...] = ("saved_model", "onnx")


def export_model(
    model: keras.Model,
    directory: str | os.PathLike[str],
    formats: Sequence[Literal["saved_model", "onnx"]] = FORMATS,
    opset: int = 18,
    precision: Literal["float32", "float16", "int8"] = "float32",
    *,
    verify: bool = True,
    tolerance: float | None = None,
    data: RealData | None = None,
    min_agreement: float | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> list[Report]:
    """Writes a model in several formats into a new directory and verifies every format.

    The SavedModel is written to `<directory>/<model's name>/1/`, the layout of TensorFlow Serving, and the ONNX model
    to `<directory>/model.onnx`. The directory appears when all formats are verified. For a directory that a server
    polls, use `publish` or `publish_triton`.

    Args:
        model: A functional or Sequential Keras model with named inputs.
        directory: Path that does not exist yet.
        formats: Any of `"saved_model"` and `"onnx"`.
        opset: Integer, ONNX operator set, 13 to 18.
        precision: See `export_onnx`. A SavedModel keeps the model's own precision.
        verify: Boolean, whether to compare the artifacts with the model before they appear.
        tolerance, data, min_agreement: See `verify`.
        metadata: See `export_saved_model`.

    Returns:
        A list with one `Report` for each format. Empty if `verify` is `False`.

    Example:

    >>> import os, tempfile
    >>> from keras_netvlad import VideoClassifier
    >>> from keras_netvlad.export import export_model
    >>> model = VideoClassifier({"frames": 8}, num_classes=3, num_clusters=2, name="classifier")
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     reports = export_model(model, os.path.join(directory, "out"))
    ...     sorted(os.listdir(os.path.join(directory, "out")))
    ['classifier', 'model.onnx', 'model.onnx.parity.json']
    >>> [(report.kind, report.ok) for report in reports]
    [('saved_model', True), ('onnx', True)]

    Raises:
        TypeError: If `model` is not a functional or Sequential Keras model.
        ValueError: If the model cannot be exported or an argument is invalid.
        ParityError: If an artifact does not compute what the model computes. Nothing is written.
        OSError: If the directory exists or cannot be written.
    """
    formats = list(dict.fromkeys(formats))
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise ValueError(f"`formats` must be some of {list(FORMATS)}. Received: {unknown or formats}")
    if "saved_model" in formats and precision != "float32":
        raise ValueError(
            "A SavedModel keeps the model's own precision; other precisions are for ONNX, with `formats=['onnx']`. "
            f"Received: precision={precision!r}"
        )
    check_precision(precision)
    check_opset(opset)
    signatures = serving_signatures(model) if "saved_model" in formats else {SERVING_DEFAULT: read_signature(model)}
    if "saved_model" in formats:
        check_model_name(model.name)  # It becomes a directory.
    directory = Path(directory)
    with staged(directory) as stage:
        stage.mkdir()
        try:
            reports = []
            for name in formats:
                relative = Path(model.name, "1") if name == "saved_model" else Path("model.onnx")
                options: dict[str, Any] = {
                    "verify": verify,
                    "tolerance": tolerance,
                    "data": data,
                    "min_agreement": min_agreement,
                    "metadata": metadata,
                }
                if name == "saved_model":
                    report = write_verified_saved_model(model, signatures, stage / relative, **options)
                else:
                    report = write_verified_onnx(
                        model, signatures[SERVING_DEFAULT], stage / relative, opset, precision=precision, **options
                    )
                if report is not None:
                    reports.append(report.at(directory / relative))
        except ParityError as error:
            raise ParityError(error.report.at(directory / Path(error.report.path).relative_to(stage))) from error
        return reports
