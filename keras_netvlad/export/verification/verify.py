"""`verify`: proof that an artefact computes what its model computes."""

import os
import zipfile
from collections.abc import Mapping

import numpy as np

from keras_netvlad.base.names import SCORES
from keras_netvlad.export.model_signature import SERVING_DEFAULT
from keras_netvlad.export.onnx.precision import TOLERANCES
from keras_netvlad.export.serving_signatures import serving_signatures
from keras_netvlad.export.verification.artefact import Artefact
from keras_netvlad.export.verification.float64_copy import float64_copy
from keras_netvlad.export.verification.report import Agreement, Comparison, ParityError, Report
from keras_netvlad.export.verification.verification_inputs import make_cases

# Largest difference, relative to the largest magnitude of the output. Measured in float32 over the tests' models:
# up to 6e-7; the headroom is for other machines' matrix products. 16-bit layers round each at 8e-3 (bfloat16).
FLOAT32_TOLERANCE = 1e-4
FLOAT16_TOLERANCE = 2e-2


def verify(model, path, tolerance=None, data=None, min_agreement=None):
    """Runs an artefact beside its Keras model and compares, in every signature.

    The artefact is loaded as production loads it (TensorFlow's session loader, onnxruntime) and runs at several
    batch sizes and lengths, frames beyond `num_frames` holding zeros, then each tensor's first element (TensorFlow
    Serving's padding), then NaN; the model always runs on zeros. So equality proves that padding changes nothing.
    A copy of the model in float64 judges both, unless the model is too large (1 GB of weights) or quantized: the
    report says so.

    Args:
        model: The Keras model, functional or Sequential, with named inputs.
        path: A SavedModel's directory or an `.onnx` file.
        tolerance: Largest difference allowed, to the model and to its float64 copy, as a fraction of the largest
            magnitude of the output. By default 1e-4; 2e-2 where the model has 16-bit layers; 2e-3 and 5e-2 for ONNX
            written in float16 and int8.
        data: Real inputs to compare on, too: a dict of arrays by input name, the batch first; or the path of an
            `.npz` file that holds them.
        min_agreement: Fraction of the rows of `data` on which artefact and model must name the same class first; the
            class is the largest value of the output `scores`, or of the first output where none has that name.

    Returns:
        A `Report`: `.ok`, figures for each output, and a table when printed. NaN is never ok.

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
        FileNotFoundError: If there is no artefact at `path`.
        ValueError: If it can't be loaded; if it lacks a signature, input, output or axis of the model's; or if
            `tolerance`, `data` or `min_agreement` is none of the above.
    """
    signatures = serving_signatures(model)
    tolerance = _check_fraction("tolerance", tolerance, float("inf"))
    min_agreement = _check_fraction("min_agreement", min_agreement, 1.0)
    if data is None and min_agreement is not None:
        raise ValueError("`min_agreement` is measured on real inputs; give `data`, too. Received: data=None")
    data = None if data is None else _check_data(data, signatures[SERVING_DEFAULT])
    artefact = Artefact(path)
    if tolerance is None:
        tolerance = default_tolerance(model, artefact.precision)
    if artefact.kind == "onnx":  # the format holds one
        signatures = {SERVING_DEFAULT: signatures[SERVING_DEFAULT]}
    _check_names("signatures", signatures, artefact.signatures)
    for name, signature in signatures.items():
        for kind, ports, found in zip(
            ("input", "output"), (signature.inputs, signature.outputs), artefact.signatures[name], strict=True
        ):
            _check_names(f"{kind}s of `{name}`", [port.name for port in ports], found)
            for port in ports:
                _check_port(kind, port, *found[port.name])

    copy, why_not = float64_copy(model)
    exact_signatures = serving_signatures(copy) if copy is not None else None
    comparisons, same, rows = [], 0, 0
    class_output = next(
        (port.name for port in signatures[SERVING_DEFAULT].outputs if port.name == SCORES),
        signatures[SERVING_DEFAULT].outputs[0].name,
    )
    for case in make_cases(signatures, data):
        expected = {**_compute(signatures, case), **case.known}
        exact = _compute(exact_signatures, case, "float64") if exact_signatures else {}
        for padding, inputs in case.runs.items():
            received = artefact.run(inputs, case.signature)
            title = case.name if len(case.runs) == 1 else f"{case.name}, padding {padding}"
            comparisons += [
                Comparison.of(case.signature, name, title, value, received[name], exact.get(name))
                for name, value in expected.items()
            ]
            if case.is_real:
                same += int(np.sum(_classes(expected[class_output]) == _classes(received[class_output])))
                rows += len(received[class_output])
    return Report(
        str(path),
        artefact.kind,
        artefact.num_bytes,
        artefact.load_seconds,
        tolerance,
        tuple(comparisons),
        judge=why_not or "float64",
        agreement=Agreement(class_output, same, rows) if rows else None,
        min_agreement=min_agreement,
    )


def default_tolerance(model, precision):
    """The largest relative difference that a model's own precision and an artefact's explain."""
    is_16_bit = any(
        {layer.compute_dtype, getattr(layer, "product_dtype", None)} & {"float16", "bfloat16"}
        for layer in model._flatten_layers()
    )
    return max(FLOAT16_TOLERANCE if is_16_bit else FLOAT32_TOLERANCE, TOLERANCES.get(precision, 0))


def checked(model, stage, target, tolerance=None, data=None, min_agreement=None):
    """Verifies an artefact that is still aside; raises `ParityError` if it is not the model's equal."""
    report = verify(model, stage, tolerance, data, min_agreement).at(target)
    if not report.ok:
        raise ParityError(report)
    return report


def _compute(signatures, case, dtype=None):
    inputs = {
        name: values.astype(dtype) if dtype and values.dtype.kind == "f" else values
        for name, values in case.reference_inputs.items()
    }
    outputs = signatures[case.reference].compute(inputs)
    return {name: np.asarray(value) for name, value in outputs.items()}


def _classes(scores):
    return np.asarray(scores).reshape(len(scores), -1).argmax(axis=1)


def _check_names(kind, expected, received):
    if set(expected) != set(received):
        raise ValueError(
            f"The artefact's {kind} must be the model's, {sorted(expected)}; is it another model's, or an older "
            f"export? Received: {sorted(received)}"
        )


def _check_port(kind, port, shape, dtype):
    """Raises if an artefact's port has another dtype, or axes that are fixed, free or named in another way."""
    names = tuple(name or size for name, size in zip(port.axis_names, port.shape, strict=True))
    if dtype != port.dtype or shape not in (port.shape, names):
        raise ValueError(
            f"The artefact's {kind} `{port.name}` must be the model's, {port.dtype} {names}; export it again. "
            f"Received: {dtype} {shape}"
        )


def _check_data(data, signature):
    """The user's inputs as arrays of the model's dtypes, or an error that says what does not fit."""
    if isinstance(data, (str, os.PathLike)):
        try:
            with np.load(data, allow_pickle=False) as file:
                data = dict(file)
        except (OSError, ValueError, TypeError, AttributeError, zipfile.BadZipFile) as error:
            raise ValueError(f"`data` must be an .npz file of arrays. Received: {data} ({error})") from error
    expected = {port.name: port for port in signature.inputs}
    if not isinstance(data, Mapping) or set(data) != set(expected):
        received = sorted(data) if isinstance(data, Mapping) else type(data).__name__
        raise ValueError(f"`data` must be a dict with an array for each of {sorted(expected)}. Received: {received}")
    arrays = {name: np.asarray(data[name]) for name in expected}
    for name, values in arrays.items():
        shape = expected[name].shape
        wanted = tuple(size or got for size, got in zip(shape, values.shape, strict=False))
        if len(values.shape) != len(shape) or wanted != values.shape:
            raise ValueError(f"`data[{name!r}]` must have shape {shape}. Received: shape {values.shape}")
    if len({len(values) for values in arrays.values()}) != 1 or not len(arrays[name]):
        raise ValueError(
            "`data` must hold one batch of one row or more, the same number of rows in every array. "
            f"Received: { ({name: len(values) for name, values in arrays.items()}) }"
        )
    return {name: values.astype(expected[name].dtype) for name, values in arrays.items()}


def _check_fraction(name, value, highest):
    if value is not None and not (0 <= value <= highest and value < float("inf")):
        allowed = "a finite number of 0 or more" if highest > 1 else "a number from 0 to 1"
        raise ValueError(f"`{name}` must be {allowed}. Received: {name}={value!r}")
    return value
