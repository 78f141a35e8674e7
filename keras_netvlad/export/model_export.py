"""`export_model`: writes a model in every format into one directory."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import keras

from keras_netvlad.base.atomic_files import staged
from keras_netvlad.base.validation import check_choice
from keras_netvlad.export.litert.litert_export import LITERT_PRECISIONS, write_verified_litert
from keras_netvlad.export.model_signature import read_signature
from keras_netvlad.export.onnx.conversion import check_opset
from keras_netvlad.export.onnx.onnx_export import write_verified_onnx
from keras_netvlad.export.onnx.precision import Precision, check_precision
from keras_netvlad.export.pictures import Layout, as_pictures
from keras_netvlad.export.saved_model import write_verified_saved_model
from keras_netvlad.export.serving.model_versions import check_model_name
from keras_netvlad.export.serving_signatures import (
    ACCUMULATE,
    ONNX_SIGNATURES,
    OnnxSignature,
    check_offered,
    live_stream_obstacle,
    serving_signatures,
)
from keras_netvlad.export.signature import SERVING_DEFAULT
from keras_netvlad.export.verification.artefact import LITERT_SUFFIX, check_litert
from keras_netvlad.export.verification.parity_error import ParityError
from keras_netvlad.export.verification.real_data import RealData
from keras_netvlad.export.verification.report import Report

Format = Literal["saved_model", "onnx", "litert"]
FORMATS: tuple[Format, ...] = get_args(Format)


def export_model(
    model: keras.Model,
    directory: str | os.PathLike[str],
    formats: Sequence[Format] = ("saved_model", "onnx"),
    opset: int = 18,
    precision: Precision = "float32",
    *,
    verify: bool = True,
    tolerance: float | None = None,
    data: RealData | None = None,
    min_agreement: float | None = None,
    metadata: Mapping[str, Any] | None = None,
    onnx_signatures: Sequence[OnnxSignature] | Literal["all"] = ("serving_default",),
    layout: Layout | None = None,
    size: Sequence[int] | None = None,
) -> list[Report]:
    """Writes a model in several formats into a new directory and verifies every format.

    The SavedModel is written to `<directory>/<model's name>/1/`, the layout of TensorFlow Serving, the ONNX model to
    `<directory>/model.onnx`, and the LiteRT model to `<directory>/model.tflite`. Other signatures in ONNX are written
    to `<directory>/<signature>.onnx`. The directory appears when all files are verified. For a directory that a server
    polls, use `publish` or `publish_triton`.

    Args:
        model: A functional or Sequential Keras model with named inputs.
        directory: Path that does not exist yet.
        formats: Any of `"saved_model"`, `"onnx"` and `"litert"`.
        opset: Integer, ONNX operator set, 13 to 18.
        precision: See `export_onnx` and `export_litert`. A SavedModel keeps the model's own precision.
        verify: Boolean, whether to compare the artifacts with the model before they appear.
        tolerance, data, min_agreement: See `verify`.
        metadata: See `export_saved_model`.
        onnx_signatures: Names of the signatures to write in ONNX, each to its own file; see `export_onnx`. `"all"`
            writes those that the model offers. Other formats hold all signatures in one artifact. `precision` does not
            apply to `accumulate`, which has no dense layers behind the pooling.
        layout, size: See `export_onnx`. They apply to all formats.

    Returns:
        A list with one `Report` for the SavedModel, for each ONNX file and for the LiteRT file. Empty if `verify` is
        `False`.

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
        ImportError: If LiteRT is needed for the verification and not installed.
        TypeError: If `model` is not a functional or Sequential Keras model.
        ValueError: If the model cannot be exported, does not offer a signature, or an argument is invalid.
        ParityError: If an artifact does not compute what the model computes. Nothing is written.
        OSError: If the directory exists or cannot be written.
    """
    formats = list(dict.fromkeys(formats))
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise ValueError(f"`formats` must be some of {list(FORMATS)}. Received: {unknown or formats}")
    if "saved_model" in formats and precision != "float32":
        raise ValueError(
            "A SavedModel keeps the model's own precision; other precisions are for ONNX and LiteRT, with "
            f"`formats=['onnx']` or `['litert']`. Received: precision={precision!r}"
        )
    check_precision(precision)
    if "litert" in formats:
        check_choice("precision", precision, LITERT_PRECISIONS)
        if verify:
            check_litert()
    check_opset(opset)
    model = as_pictures(model, layout, size)
    names = _check_names(onnx_signatures)
    is_default = names == [SERVING_DEFAULT]
    if "onnx" not in formats and not is_default:
        raise ValueError(
            "Other formats contain all signatures; `onnx_signatures` are for ONNX, with 'onnx' in `formats`. "
            f"Received: onnx_signatures={onnx_signatures!r}"
        )
    if formats == ["onnx"] and is_default:
        signatures = {SERVING_DEFAULT: read_signature(model)}
    else:
        signatures = serving_signatures(model)
    if onnx_signatures == "all":
        names = [one for one in names if one in signatures]
    for offered in names:
        check_offered(model, signatures, offered)
    if "saved_model" in formats:
        check_model_name(model.name)  # It becomes a directory.
    directory = Path(directory)
    with staged(directory) as stage:
        stage.mkdir()
        try:
            reports: list[Report] = []
            for relative, name in _files(formats, model.name, names):
                options: dict[str, Any] = {
                    "verify": verify,
                    "tolerance": tolerance,
                    "data": data,
                    "min_agreement": min_agreement,
                    "metadata": metadata,
                }
                if relative.suffix == LITERT_SUFFIX:
                    report = write_verified_litert(model, signatures, stage / relative, precision, **options)
                elif name is None:
                    report = write_verified_saved_model(model, signatures, stage / relative, **options)
                else:
                    options["precision"] = "float32" if name == ACCUMULATE else precision
                    report = write_verified_onnx(model, signatures, stage / relative, opset, name=name, **options)
                if report is not None:
                    if onnx_signatures == "all" and name == SERVING_DEFAULT:
                        report = replace(report, no_live_stream=live_stream_obstacle(model, signatures[name]))
                    reports.append(report.at(directory / relative))
        except ParityError as error:
            raise ParityError(error.report.at(directory / Path(error.report.path).relative_to(stage))) from error
        return reports


def _check_names(onnx_signatures: Sequence[OnnxSignature] | Literal["all"]) -> list[OnnxSignature]:
    """Returns the signatures to write in ONNX, or raises if there is none or an unknown one."""
    names = list(ONNX_SIGNATURES if onnx_signatures == "all" else dict.fromkeys(onnx_signatures))
    unknown = [name for name in names if name not in ONNX_SIGNATURES]
    if (isinstance(onnx_signatures, str) and onnx_signatures != "all") or unknown or not names:
        raise ValueError(
            f"`onnx_signatures` must be 'all' or some of {list(ONNX_SIGNATURES)}. Received: {onnx_signatures!r}"
        )
    return names


def _files(
    formats: Sequence[str], model_name: str, names: Sequence[OnnxSignature]
) -> Iterator[tuple[Path, OnnxSignature | None]]:
    """Yields the relative path of each artifact, and the signature of each ONNX file. Other artifacts have `None`."""
    for file_format in formats:
        if file_format == "saved_model":
            yield Path(model_name, "1"), None
            continue
        if file_format == "litert":
            yield Path(f"model{LITERT_SUFFIX}"), None
            continue
        for name in names:
            yield Path("model.onnx" if name == SERVING_DEFAULT else f"{name}.onnx"), name
