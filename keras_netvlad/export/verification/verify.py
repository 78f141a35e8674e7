"""`verify`: compares an artifact with its model."""

import os
from collections.abc import Mapping

import keras
import numpy as np

from keras_netvlad.base.names import SCORES
from keras_netvlad.base.validation import check_number
from keras_netvlad.export.model_signature import read_signature
from keras_netvlad.export.padding import can_pad
from keras_netvlad.export.serving_signatures import live_stream_obstacle, serving_signatures
from keras_netvlad.export.signature import SERVING_DEFAULT, Signature
from keras_netvlad.export.verification.agreement import Agreement
from keras_netvlad.export.verification.artefact import Artefact
from keras_netvlad.export.verification.chunked_videos import compare_chunks
from keras_netvlad.export.verification.comparison import Comparison
from keras_netvlad.export.verification.float64_copy import float64_copy
from keras_netvlad.export.verification.merged_requests import AnsweredRequest, compare_merged
from keras_netvlad.export.verification.real_data import RealData, check_data
from keras_netvlad.export.verification.report import Report
from keras_netvlad.export.verification.signature_check import check_signatures
from keras_netvlad.export.verification.tolerance import default_tolerance
from keras_netvlad.export.verification.verification_inputs import Case, make_cases


def verify(
    model: keras.Model,
    path: str | os.PathLike[str],
    tolerance: float | None = None,
    data: RealData | None = None,
    min_agreement: float | None = None,
) -> Report:
    """Runs an artifact and its Keras model on the same inputs and compares every output of every signature.

    The artifact is loaded as in production, by TensorFlow's session loader or by onnxruntime. It runs at several batch
    sizes and lengths. Frames beyond `num_frames` hold zeros, then the first element of each tensor (TensorFlow
    Serving's padding), then NaN, while the model always runs on zeros: equal outputs show that padding changes nothing.
    Requests are also merged as TensorFlow Serving merges them: of different lengths if the model takes `num_frames`,
    otherwise of equal shape. Live streams are run in chunks, cut in several ways. Artifact and model are also compared
    with a float64 copy of the model, unless the model is quantized or has more than 1 GB of weights. The report says if
    there is no copy.

    Args:
        model: The Keras model, functional or Sequential, with named inputs.
        path: Directory of a SavedModel, or an `.onnx` file.
        tolerance: Largest difference allowed, to the model and to its float64 copy, as a fraction of the largest
            magnitude of the output. The default is 1e-4; 2e-2 for models with 16-bit layers; 2e-3 and 5e-2 for ONNX
            files in float16 and int8.
        data: Real inputs to compare on as well: a dict of arrays by input name with the batch first, or the path of an
            `.npz` file that contains them.
        min_agreement: Fraction of the rows of `data` on which the artifact and the model must predict the same class.
            The class is the largest value of the output `scores`, or of the first output if none is named `scores`.

    Returns:
        A `Report` with `.ok` and the differences of each output. It prints as a table. NaN is never ok.

    Example:

    >>> import os, tempfile
    >>> from keras_netvlad import VideoClassifier
    >>> from keras_netvlad.export import export_onnx, verify
    >>> model, other = (VideoClassifier({"frames": 8}, num_classes=3, num_clusters=2) for _ in range(2))
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = os.path.join(directory, "model.onnx")
    ...     report = export_onnx(model, path)
    ...     verify(model, path).ok, verify(other, path).ok
    (True, False)

    Raises:
        FileNotFoundError: If there is no artifact at `path`.
        TypeError: If `model` is not a functional or Sequential Keras model.
        ValueError: If the artifact cannot be loaded, its signatures differ from the model's in a name, dtype or axis,
            or an argument is invalid.
    """
    return verify_signatures(model, serving_signatures(model), path, tolerance, data, min_agreement)


def verify_signatures(
    model: keras.Model,
    signatures: Mapping[str, Signature],
    path: str | os.PathLike[str],
    tolerance: float | None = None,
    data: RealData | None = None,
    min_agreement: float | None = None,
) -> Report:
    """Does the work of `verify` with signatures that the caller has computed. For ONNX, `serving_default` is enough."""
    default = signatures[SERVING_DEFAULT]
    if tolerance is not None:
        tolerance = check_number("tolerance", tolerance, 0)
    if min_agreement is not None:
        min_agreement = check_number("min_agreement", min_agreement, 0, 1)
    if data is None and min_agreement is not None:
        raise ValueError("`min_agreement` is measured on real inputs; pass `data` as well. Received: data=None")
    arrays = None if data is None else check_data(data, default)
    artifact = Artefact(path)
    if tolerance is None:
        tolerance = default_tolerance(model, artifact.precision)
    if artifact.kind == "onnx":  # the format has one signature
        signatures = {SERVING_DEFAULT: default}
    check_signatures(signatures, artifact.signatures)

    copy, why_no_copy = float64_copy(model)
    exact_signatures = None
    if copy is not None:
        is_default_only = len(signatures) == 1
        exact_signatures = {SERVING_DEFAULT: read_signature(copy)} if is_default_only else serving_signatures(copy)
    comparisons: list[Comparison] = []
    requests: dict[str, list[AnsweredRequest]] = {}
    same = rows = 0
    class_output = next((port.name for port in default.outputs if port.name == SCORES), default.outputs[0].name)
    for case in make_cases(signatures, arrays):
        expected = {**_compute(signatures, case), **case.known}
        exact = {} if exact_signatures is None else _compute(exact_signatures, case, "float64")
        for padding, inputs in case.runs.items():
            received = artifact.run(inputs, case.signature)
            title = case.name if len(case.runs) == 1 else f"{case.name}, padding {padding}"
            comparisons += [
                Comparison.of(case.signature, name, title, value, received[name], exact.get(name))
                for name, value in expected.items()
            ]
            if not case.is_real and inputs is next(iter(case.runs.values())):
                requests.setdefault(case.signature, []).append(AnsweredRequest(inputs, expected, exact))
            if case.is_real:
                same += int(np.sum(_classes(expected[class_output]) == _classes(received[class_output])))
                rows += len(received[class_output])
    comparisons += compare_chunks(artifact.run, signatures, exact_signatures)
    for name, answered in requests.items():
        comparisons += compare_merged(artifact.run, signatures[name], answered, can_pad(default))
    return Report(
        str(path),
        artifact.kind,
        artifact.num_bytes,
        artifact.load_seconds,
        tolerance,
        tuple(comparisons),
        judge=why_no_copy or "float64",
        agreement=Agreement(class_output, same, rows) if rows else None,
        min_agreement=min_agreement,
        no_live_stream=live_stream_obstacle(model, default) if artifact.kind == "saved_model" else None,
    )


def _compute(signatures: Mapping[str, Signature], case: Case, dtype: str | None = None) -> dict[str, np.ndarray]:
    """Runs the reference of a case, with its floats converted to `dtype` if given."""
    inputs = {
        name: values.astype(dtype) if dtype and values.dtype.kind == "f" else values
        for name, values in case.reference_inputs.items()
    }
    outputs = signatures[case.reference].compute(inputs)
    return {name: np.asarray(value) for name, value in outputs.items()}


def _classes(scores: np.ndarray) -> np.ndarray:
    return np.asarray(scores).reshape(len(scores), -1).argmax(axis=1)
