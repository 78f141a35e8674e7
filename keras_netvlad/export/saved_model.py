"""`export_saved_model`: writes a model as a SavedModel that TensorFlow Serving loads."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from keras_netvlad.base.atomic_files import staged
from keras_netvlad.export.forward import forward, weights_of
from keras_netvlad.export.metadata import check_metadata
from keras_netvlad.export.parity_file import write_parity
from keras_netvlad.export.serving_signatures import serving_signatures
from keras_netvlad.export.signature import SERVING_DEFAULT, Signature
from keras_netvlad.export.verification.real_data import RealData
from keras_netvlad.export.verification.report import Report
from keras_netvlad.export.verification.staged_artifact import verify_staged


def export_saved_model(
    model: keras.Model,
    directory: str | os.PathLike[str],
    verify: bool = True,
    *,
    tolerance: float | None = None,
    data: RealData | None = None,
    min_agreement: float | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Report | None:
    """Writes a model as a TensorFlow SavedModel and verifies it before it appears.

    The signature `serving_default` has the model's own input and output names, with a dynamic batch and dynamic
    frames. A model of frame streams and `num_frames` also gets signatures for bytes (`serve_quantized`), for records
    (`serve_examples`) and for live streams (`accumulate`, `describe`). The directory contains TensorFlow ops only,
    neither Keras nor `keras_netvlad`. It stores each weight once, and the result of the verification in `parity.json`.

    Args:
        model: A functional or Sequential Keras model with named inputs.
        directory: Path that does not exist yet. TensorFlow Serving expects `<name>/<integer version>`.
        verify: Boolean, whether to compare the artifact with the model before it appears.
        tolerance, data, min_agreement: See `verify`.
        metadata: Dict of JSON values to store with the artifact, such as `{"labels": [...], "trained_on": "..."}`.
            `labels` must name the classes of an output.

    Returns:
        The `Report` of the verification, or `None` if `verify` is `False`.

    Example:

    >>> import os, tempfile
    >>> from keras_netvlad import VideoClassifier
    >>> from keras_netvlad.export import export_saved_model
    >>> model = VideoClassifier({"frames": 8}, num_classes=3, num_clusters=2)
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     report = export_saved_model(model, os.path.join(directory, "classifier", "1"))
    >>> report.ok
    True

    Raises:
        TypeError: If `model` is not a functional or Sequential Keras model.
        ValueError: If the model cannot be exported or an argument is invalid.
        ParityError: If the artifact does not compute what the model computes. Nothing is written.
        OSError: If the directory exists or cannot be written.
    """
    return write_verified_saved_model(
        model,
        serving_signatures(model),
        directory,
        verify,
        tolerance=tolerance,
        data=data,
        min_agreement=min_agreement,
        metadata=metadata,
    )


def write_verified_saved_model(
    model: keras.Model,
    signatures: Mapping[str, Signature],
    directory: str | os.PathLike[str],
    verify: bool = True,
    *,
    tolerance: float | None = None,
    data: RealData | None = None,
    min_agreement: float | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Report | None:
    """Does the work of `export_saved_model` with signatures that the caller has computed."""
    metadata = check_metadata(metadata, signatures[SERVING_DEFAULT].outputs)
    with staged(directory) as path:
        write_saved_model(model, signatures, path)
        report = verify_staged(model, signatures, path, directory, tolerance, data, min_agreement) if verify else None
        write_parity(path, None if report is None else report.as_dict(), metadata)
        return report


def write_saved_model(model: keras.Model, signatures: Mapping[str, Signature], path: Path) -> None:
    """Writes the files of a SavedModel, without verification and without `parity.json`."""
    module = tf.Module()
    # Tracked as plain variables: the session loader of TensorFlow Serving finds them, and each weight is stored once.
    # Keras's own export stores each weight twice.
    module.state = [variable.value for variable in weights_of(model)]
    traced = {name: _trace(model, signature, module.state) for name, signature in signatures.items()}
    try:
        tf.saved_model.save(module, str(path), signatures=traced)
    except tf.errors.OpError as error:  # TensorFlow does not raise OSError on a full disk
        raise OSError(f"The SavedModel could not be written. Received: {error.message}") from error


def _trace(model: keras.Model, signature: Signature, state: Sequence[tf.Variable]) -> Callable[..., Any]:
    @tf.function
    def serve(**inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        return forward(model, signature, state, inputs)

    return serve.get_concrete_function(
        **{port.name: tf.TensorSpec(port.shape, port.dtype, port.name) for port in signature.inputs}
    )
