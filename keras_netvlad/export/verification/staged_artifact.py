"""`verify_staged`: verifies an artifact before it appears under its final path."""

import os
from collections.abc import Mapping
from pathlib import Path

import keras

from keras_netvlad.base.stages import stage
from keras_netvlad.export.signature import Signature
from keras_netvlad.export.verification.parity_error import ParityError
from keras_netvlad.export.verification.real_data import RealData
from keras_netvlad.export.verification.report import Report
from keras_netvlad.export.verification.verify import verify_signatures


def verify_staged(
    model: keras.Model,
    signatures: Mapping[str, Signature],
    staged_path: str | os.PathLike[str],
    target: str | os.PathLike[str],
    tolerance: float | None = None,
    data: RealData | None = None,
    min_agreement: float | None = None,
) -> Report:
    """Verifies an artifact at a temporary path.

    Args:
        model: The Keras model.
        signatures: The model's signatures, as `serving_signatures` returns them.
        staged_path: Where the artifact is.
        target: Where it will be. The report names this path.
        tolerance, data, min_agreement: See `verify`.

    Returns:
        The `Report` of the verification.

    Raises:
        ParityError: If the artifact does not compute what the model computes.
        ValueError: If an argument is invalid.
    """
    kind = {".onnx": "ONNX file", ".tflite": "LiteRT file"}.get(Path(target).suffix, "SavedModel")
    with stage(f"verifying the {kind}"):
        report = verify_signatures(model, signatures, staged_path, tolerance, data, min_agreement).at(target)
    if not report.ok:
        raise ParityError(report)
    return report
