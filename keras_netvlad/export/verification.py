"""`verify`: proof that an artefact computes what its model computes."""

from keras_netvlad.export.artefact import Artefact
from keras_netvlad.export.cases import make_cases
from keras_netvlad.export.report import Comparison, ParityError, Report
from keras_netvlad.export.signature import name_outputs, read_signature, structure_inputs

# Largest difference, relative to the largest magnitude of the output. Measured in float32 over the tests' models:
# up to 6e-7; the headroom is for other machines' matrix products. 16-bit layers round each at 8e-3 (bfloat16).
FLOAT32_TOLERANCE = 1e-4
FLOAT16_TOLERANCE = 2e-2


def verify(model, path, tolerance=None):
    """Runs an artefact beside its Keras model and compares.

    The artefact is loaded as production loads it (TensorFlow's session loader, onnxruntime) and runs at several
    batch sizes and lengths, frames beyond `num_frames` holding zeros, then each tensor's first element (TensorFlow
    Serving's padding), then NaN; the model always runs on zeros. So equality proves that padding changes nothing.

    Args:
        model: The Keras model, functional or Sequential, with named inputs.
        path: A SavedModel's directory or an `.onnx` file.
        tolerance: Largest difference allowed, as a fraction of the largest magnitude of the output in float32. By
            default 1e-4, and 2e-2 where the model has 16-bit layers.

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
        ValueError: If it can't be loaded, or its inputs or outputs bear other names than the model's.
    """
    signature = read_signature(model)
    if tolerance is None:
        tolerance = FLOAT16_TOLERANCE if _computes_in_16_bits(model) else FLOAT32_TOLERANCE
    if not 0 <= tolerance < float("inf"):
        raise ValueError(f"`tolerance` must be a finite number of 0 or more. Received: tolerance={tolerance!r}")
    artefact = Artefact(path)
    for kind, ports, names in (
        ("inputs", signature.inputs, artefact.input_names),
        ("outputs", signature.outputs, artefact.output_names),
    ):
        if {port.name for port in ports} != set(names):
            raise ValueError(
                f"The artefact's {kind} must be the model's, {sorted(port.name for port in ports)}; "
                f"is it another model's? Received: {sorted(names)}"
            )
    comparisons = []
    for case in make_cases(signature):
        structured = structure_inputs(model, signature, case.clean_inputs)
        expected = name_outputs(signature, model(structured, training=False))
        for padding, inputs in case.padded_inputs.items():
            received = artefact.run(inputs)
            comparisons += [
                Comparison.of(name, f"{case.name}, padding {padding}", expected[name], received[name])
                for name in expected
            ]
    return Report(str(path), artefact.kind, artefact.num_bytes, artefact.load_seconds, tolerance, tuple(comparisons))


def checked(model, stage, target):
    """Verifies an artefact that is still aside; raises `ParityError` if it is not the model's equal."""
    report = verify(model, stage).at(target)
    if not report.ok:
        raise ParityError(report)
    return report


def _computes_in_16_bits(model):
    return any(layer.compute_dtype in ("float16", "bfloat16") for layer in model._flatten_layers())
