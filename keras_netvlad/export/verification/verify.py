"""`verify`: compares an artifact with its model."""

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

import keras
import numpy as np

from keras_netvlad.base.names import SCORES
from keras_netvlad.base.stages import stage
from keras_netvlad.export.padding import can_pad
from keras_netvlad.export.reason import reason_of
from keras_netvlad.export.serving_signatures import (
    ACCUMULATE,
    DESCRIBE,
    SERVE_EXAMPLES,
    check_offered,
    live_stream_obstacle,
    serving_signatures,
)
from keras_netvlad.export.signature import SERVING_DEFAULT, Signature
from keras_netvlad.export.verification.agreement import Agreement
from keras_netvlad.export.verification.artefact import Artefact, find_kind, read_saved_model, signatures_of
from keras_netvlad.export.verification.artifact_in_runtime import ArtifactInRuntime
from keras_netvlad.export.verification.chunked_videos import compare_chunks
from keras_netvlad.export.verification.comparison import Comparison
from keras_netvlad.export.verification.merged_requests import (
    AnsweredRequest,
    check_model_of_merged,
    compare_merged,
)
from keras_netvlad.export.verification.model_of_artifact import model_of_artifact
from keras_netvlad.export.verification.model_outputs import ModelOutputs, on_real_frames
from keras_netvlad.export.verification.options import check_options
from keras_netvlad.export.verification.real_data import RealData
from keras_netvlad.export.verification.report import Report
from keras_netvlad.export.verification.runtimes import Runtime, is_own
from keras_netvlad.export.verification.signature_check import check_signatures
from keras_netvlad.export.verification.tolerance import default_tolerance
from keras_netvlad.export.verification.unequal_rows import answers_unequal_rows
from keras_netvlad.export.verification.verification_inputs import Arrays, Case, make_cases


def verify(
    model: keras.Model,
    path: str | os.PathLike[str],
    tolerance: float | None = None,
    data: RealData | None = None,
    min_agreement: float | None = None,
    *,
    runtime: Runtime | None = None,
) -> Report:
    """Runs an artifact and its Keras model on the same inputs and compares every output of every signature.

    This runs the artifact, so verify only artifacts that you trust. A SavedModel whose signatures differ from the
    model's is refused before anything in it runs.

    The artifact is loaded as in production, by TensorFlow's session loader, onnxruntime or LiteRT. It runs at several
    batch sizes and lengths, from the smallest that the model accepts. Frames beyond `num_frames` hold zeros, then the
    first element of each tensor (TensorFlow Serving's padding), then NaN, while the model always runs on zeros: equal
    outputs show that padding changes nothing. Some real frames are zeros, and some pictures black, unless the model
    computes NaN for them. Outputs with a row for every frame are compared on the real frames.
    Requests are also merged as TensorFlow Serving merges them: of different lengths if the model takes `num_frames`,
    otherwise of equal shape. Live streams are run in chunks, cut in several ways. Artifact and model are also compared
    with a float64 copy of the model, unless the model is quantized or has more than 1 GB of weights. The report says if
    there is no copy.

    An ONNX file holds one signature, whose name is in its metadata. In the live streams of a file of `accumulate`, the
    model computes `describe` from the sums of the file; in those of a file of `describe`, it computes the sums. An
    artifact of single pictures, exported with `layout` or `size`, is compared with the `picture_model` of the model.

    Args:
        model: The Keras model, functional or Sequential, with named inputs.
        path: Directory of a SavedModel, an `.onnx` file or a `.tflite` file.
        tolerance: Largest difference allowed, to the model and to its float64 copy, as a fraction of the largest
            magnitude of the output. The default is 1e-4; 2e-2 for models with 16-bit layers; 2e-3 and 5e-2 for
            artifacts in float16 and int8.
        data: Real inputs to compare on as well: a dict of arrays by input name with the batch first, or the path of an
            `.npz` file that contains them.
        min_agreement: Fraction of the rows of `data` on which the artifact and the model must predict the same class.
            The class is the largest value of the output `scores`, or of the first output if none is named `scores`.
        runtime: The runtime to run the artifact in. The default is the one named above. `"openvino"` runs ONNX files
            and the signature `serving_default` of SavedModels, `"tract"` and `"onnx.reference"` run ONNX files. Or a
            function for any other runtime: it takes the path and returns a function from inputs to outputs, dicts of
            arrays by the names in the file. Inputs, comparisons and tolerances are the same. The report also says if
            the runtime answers several videos with a `num_frames` of one row, which the artifact should refuse.

    Returns:
        A `Report` with `.ok` and the differences of each output. It prints as a table. NaN counts as a difference.

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
        ImportError: If the runtime is not installed.
        TypeError: If `model` is not a functional or Sequential Keras model.
        ValueError: If the artifact cannot be loaded or run, its signatures differ from the model's in a name, dtype or
            axis, or an argument is invalid; if the model accepts no inputs that were tried, computes NaN, other values
            each time, or values that depend on frames beyond `num_frames`.
    """
    with stage(f"verifying {path}"):
        model = model_of_artifact(model, path)
        return verify_signatures(model, serving_signatures(model), path, tolerance, data, min_agreement, runtime)


def verify_signatures(
    model: keras.Model,
    signatures: Mapping[str, Signature],
    path: str | os.PathLike[str],
    tolerance: float | None = None,
    data: RealData | None = None,
    min_agreement: float | None = None,
    runtime: Runtime | None = None,
) -> Report:
    """Does the work of `verify` with signatures that the caller has computed.

    For an ONNX file of `serving_default`, this signature is enough.
    """
    default = signatures[SERVING_DEFAULT]
    arrays = check_options(default, tolerance, data, min_agreement)
    kind = find_kind(path)
    in_other_runtime = not is_own(runtime, kind)
    if kind == "saved_model":
        # Loading a SavedModel runs parts of its graph. That of another model is refused before.
        check_signatures(signatures, signatures_of(read_saved_model(path)))
    artifact = Artefact(path) if runtime is None or not in_other_runtime else ArtifactInRuntime(path, runtime)
    tolerance = default_tolerance(model, artifact.precision) if tolerance is None else float(tolerance)
    declared = signatures
    if artifact.kind == "onnx":  # the format has one signature
        (name,) = artifact.signatures
        check_offered(model, signatures, name)
        declared = {name: in_onnx(signatures[name])}
        signatures = {key: signatures[key] for key in _references(name)}
    elif artifact.kind == "litert":
        declared = {name: in_litert(one) for name, one in signatures.items() if name != SERVE_EXAMPLES}
    if in_other_runtime and kind != "onnx":
        signatures = {SERVING_DEFAULT: default}
        declared = {SERVING_DEFAULT: declared[SERVING_DEFAULT]}
    check_signatures(declared, artifact.signatures)

    outputs = ModelOutputs(model, signatures, tolerance)
    comparisons: list[Comparison] = []
    requests: dict[str, list[AnsweredRequest]] = {}
    same = rows = 0
    class_output = next((port.name for port in default.outputs if port.name == SCORES), default.outputs[0].name)
    frame_outputs = {port.name for port in default.outputs if port.has_frames}
    for case in make_cases(signatures, arrays, names=declared):
        if case.may_be_nan and not outputs.is_defined(case):
            continue
        expected = outputs.expected(case)
        exact = outputs.exact(case, expected)
        for padding, inputs in case.runs.items():
            received = _run(artifact, case, inputs)
            title = case.name if len(case.runs) == 1 else f"{case.name}, padding {padding}"
            found = _compare(case, title, frame_outputs, received, expected, exact)
            if not _are_within(tolerance, found):
                expected, exact = outputs.as_predicted(case)
                found = _compare(case, title, frame_outputs, received, expected, exact)
                if _are_near_model(tolerance, comparisons) and not _are_near_model(tolerance, found):
                    outputs.check_cause(case, inputs, expected, received)
            comparisons += found
            if not (case.is_real or case.may_be_nan) and inputs is next(iter(case.runs.values())):
                requests.setdefault(case.signature, []).append(AnsweredRequest(inputs, expected, exact))
            if case.is_real:
                answers = [expected, received]
                if case.signature == ACCUMULATE:
                    answers = [outputs.run(sums, DESCRIBE) for sums in answers]
                classes = [_classes(answer[class_output]) for answer in answers]
                same += int(np.sum(classes[0] == classes[1]))
                rows += len(classes[0])

    def run(inputs: Arrays, name: str) -> Arrays:
        return artifact.run(inputs, name) if name in declared else outputs.run(inputs, name)

    live = DESCRIBE if DESCRIBE in declared else ACCUMULATE
    comparisons += compare_chunks(run, signatures, outputs.exact_signatures, name=live)
    for name, answered in requests.items():
        settings = (signatures[name], answered, can_pad(default), frame_outputs)
        merged = list(compare_merged(artifact.run, *settings))
        if _are_near_model(tolerance, comparisons) and not _are_near_model(tolerance, merged):
            check_model_of_merged(compare_merged(outputs.run, *settings), tolerance)
        comparisons += merged
    return Report(
        str(path),
        artifact.kind,
        artifact.num_bytes,
        artifact.load_seconds,
        tolerance,
        tuple(comparisons),
        judge=outputs.judge,
        agreement=Agreement(class_output, same, rows) if rows else None,
        min_agreement=min_agreement,
        no_live_stream=None if kind == "onnx" or in_other_runtime else live_stream_obstacle(model, default),
        runtime=artifact.runtime if isinstance(artifact, ArtifactInRuntime) else None,
        answers_unequal_rows=in_other_runtime and _answers_unequal_rows(artifact, declared, requests),
    )


def _answers_unequal_rows(
    artifact: Artefact, declared: Mapping[str, Signature], requests: Mapping[str, Iterable[AnsweredRequest]]
) -> bool:
    return any(
        answers_unequal_rows(artifact, declared[name], request.inputs)
        for name, answered in requests.items()
        for request in answered
    )


def _run(artifact: Artefact, case: Case, inputs: Arrays) -> Arrays:
    if isinstance(artifact, ArtifactInRuntime):
        return artifact.run(inputs, case.signature)
    try:
        return artifact.run(inputs, case.signature)
    except Exception as error:
        # TensorFlow and onnxruntime raise exceptions of many classes.
        raise ValueError(
            "The artifact must run on inputs that the model accepts; export the model again, and report a bug if that "
            f"does not help. Received: signature `{case.signature}` of {artifact.path} fails for {case.name} "
            f"({reason_of(error)})"
        ) from error


def _compare(
    case: Case, title: str, frame_outputs: Collection[str], received: Arrays, expected: Arrays, exact: Arrays
) -> list[Comparison]:
    """Compares every output of one run. `frame_outputs` names the outputs that have a row for every frame."""
    comparisons = []
    for name, values in expected.items():
        compared = [values, np.asarray(received[name]), *([exact[name]] if name in exact else [])]
        if name in frame_outputs and compared[0].shape == compared[1].shape:
            compared = [on_real_frames(one, case.reference_inputs) for one in compared]
        comparisons.append(Comparison.of(case.signature, name, title, *compared))
    return comparisons


def _references(name: str) -> list[str]:
    """Returns the signatures of a model that the verification of one of them runs, `serving_default` first."""
    others = (ACCUMULATE, DESCRIBE) if name in (ACCUMULATE, DESCRIBE) else (name,)
    return list(dict.fromkeys((SERVING_DEFAULT, *others)))


def in_onnx(signature: Signature) -> Signature:
    """Returns a signature as ONNX files have it: outputs of bfloat16 are float32."""
    return _with_float32_outputs(signature, ("bfloat16",))


def in_litert(signature: Signature) -> Signature:
    """Returns a signature as LiteRT files have it: outputs of bfloat16 and float16 are float32."""
    return _with_float32_outputs(signature, ("bfloat16", "float16"))


def _with_float32_outputs(signature: Signature, dtypes: Collection[str]) -> Signature:
    outputs = tuple(replace(port, dtype="float32") if port.dtype in dtypes else port for port in signature.outputs)
    return replace(signature, outputs=outputs)


def _are_within(tolerance: float, comparisons: Iterable[Comparison]) -> bool:
    return all(comparison.is_within(tolerance) for comparison in comparisons)


def _are_near_model(tolerance: float, comparisons: Iterable[Comparison]) -> bool:
    return all(comparison.is_near_model(tolerance) for comparison in comparisons)


def _classes(scores: np.ndarray) -> np.ndarray:
    return np.asarray(scores).reshape(len(scores), -1).argmax(axis=1)
