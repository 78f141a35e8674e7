"""`compare_layers`: finds the layer from which an ONNX file differs from its model."""

import os
from collections.abc import Iterator
from functools import partial

import keras
import numpy as np

from keras_netvlad.base.stages import stage
from keras_netvlad.export.model_signature import read_signature
from keras_netvlad.export.onnx.layer_tensors import LayerTensors
from keras_netvlad.export.reason import reason_of
from keras_netvlad.export.signature import SERVING_DEFAULT
from keras_netvlad.export.verification.artefact import Artefact, find_kind
from keras_netvlad.export.verification.comparison import Comparison
from keras_netvlad.export.verification.layer_difference import LayerDifference
from keras_netvlad.export.verification.layer_outputs import LayerCall, layer_outputs
from keras_netvlad.export.verification.layer_report import LayerReport
from keras_netvlad.export.verification.model_of_artifact import model_of_artifact
from keras_netvlad.export.verification.options import check_options
from keras_netvlad.export.verification.real_data import RealData
from keras_netvlad.export.verification.signature_check import check_signatures
from keras_netvlad.export.verification.tolerance import default_tolerance
from keras_netvlad.export.verification.verification_inputs import make_cases
from keras_netvlad.export.verification.verify import in_onnx


def compare_layers(
    model: keras.Model,
    path: str | os.PathLike[str],
    tolerance: float | None = None,
    data: RealData | None = None,
) -> LayerReport:
    """Compares the output of every layer in an ONNX file with that of the Keras model.

    Call this if `verify` fails. The first layer that differs contains the fault; the layers after it differ because of
    it. The model and the file run on the inputs of `verify`, with zeros in the frames beyond `num_frames`. A fault that
    only other padding shows is therefore found by `verify` alone.

    A layer is found by the names of the nodes in the file. It is "not found" if it computes nothing in inference, such
    as `Dropout`, or if the converter has merged it with other layers. If a layer is called several times, or ends with
    several tensors of the same shape, each output of the model is compared with the tensor that is nearest to it.

    Args:
        model: The Keras model, functional or Sequential, with named inputs.
        path: An `.onnx` file of the signature `serving_default` that `export_onnx` has written.
        tolerance, data: See `verify`. The tolerance applies to the output of each layer.

    Returns:
        A `LayerReport` with `.ok`, the difference of each layer and the `.first` layer that differs. It prints as a
        table.

    Example:

    >>> import os, tempfile
    >>> from keras_netvlad import VideoClassifier
    >>> from keras_netvlad.export import compare_layers, export_onnx
    >>> model = VideoClassifier({"frames": 8}, num_classes=3, num_clusters=2)
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = os.path.join(directory, "model.onnx")
    ...     report = export_onnx(model, path)
    ...     scores = model.get_layer("scores")
    ...     scores.set_weights([2 * weight for weight in scores.get_weights()])  # now the file is that of another model
    ...     compare_layers(model, path).first.layer
    'scores'

    Raises:
        FileNotFoundError: If there is no artifact at `path`.
        TypeError: If `model` is not a functional or Sequential Keras model.
        ValueError: If the artifact is no ONNX file, holds another signature, cannot be loaded or run, has inputs or
            outputs that differ from the model's, or has no nodes that are named after layers of the model; if the
            model accepts no inputs that were tried, or an argument is invalid.
    """
    if find_kind(path) != "onnx":
        raise ValueError(
            "Layers can be compared in an ONNX file, whose nodes have the names of the layers; export the model with "
            f"`export_onnx`. Received: {path}"
        )
    model = model_of_artifact(model, path)
    signatures = {SERVING_DEFAULT: read_signature(model)}
    arrays = check_options(signatures[SERVING_DEFAULT], tolerance, data, None)
    artifact = Artefact(path)
    (name,) = artifact.signatures
    if name != SERVING_DEFAULT:
        raise ValueError(
            f"Layers can be compared in a file of `{SERVING_DEFAULT}`; export one with `export_onnx`. Received: "
            f"{path} of `{name}`"
        )
    check_signatures({name: in_onnx(signatures[name])}, artifact.signatures)
    tolerance = default_tolerance(model, artifact.precision) if tolerance is None else float(tolerance)
    del artifact  # the weights are loaded once more below

    differences: dict[LayerCall, list[_Nearest]] = {}
    with stage(f"comparing the layers of {path}"):
        tensors: LayerTensors | None = None
        for case in make_cases(signatures, arrays):
            if case.may_be_nan:
                continue
            inputs = case.reference_inputs
            try:
                outputs = layer_outputs(model, partial(signatures[name].compute, inputs))
                if tensors is None:
                    tensors = LayerTensors(path, {call.path for call in outputs if call.number > 0})
                received = tensors.run(inputs)
            except Exception as error:
                # TensorFlow and onnxruntime raise exceptions of many classes.
                raise ValueError(
                    "The model and the file must run on the inputs of the check; run `verify` on them. Received for "
                    f"{case.name}: {reason_of(error)}"
                ) from error
            for call, values in outputs.items():
                names = tensors.of_layer(call.path)
                of_layer = differences.setdefault(call, [_Nearest(names) for _ in values])
                for nearest, expected in zip(of_layer, values, strict=True):
                    nearest.add(expected, received)
    layers = tuple(_difference(call, outputs, tolerance) for call, outputs in differences.items())
    if all(layer.relative is None for layer in layers):
        raise ValueError(
            "The nodes of the file must be named after the layers of the model; export the model again. Received: "
            f"{path} without a node of {[layer.layer for layer in layers]}"
        )
    return LayerReport(str(path), tolerance, layers)


class _Nearest:
    """The differences of one output of a layer to each tensor that has its shape in all runs.

    The converter leaves some tensors with the channels in the axis behind the batch, as ONNX's convolutions have them.
    """

    def __init__(self, names: list[str]) -> None:
        self._comparisons: dict[tuple[str, bool], list[Comparison]] = {
            (name, channels_first): [] for name in names for channels_first in (False, True)
        }

    def add(self, expected: np.ndarray, received: dict[str, np.ndarray]) -> None:
        """Compares the output with the tensors of one run, and drops those of other shapes."""
        for (name, channels_first), comparisons in list(self._comparisons.items()):
            values = received[name]
            if channels_first and values.ndim > 2:
                values = np.moveaxis(values, 1, -1)
            if values.shape != expected.shape:
                del self._comparisons[name, channels_first]
                continue
            comparisons.append(Comparison.of(SERVING_DEFAULT, name, "", *_without_common_nan(expected, values)))

    def worst(self, tolerance: float) -> tuple[bool, float] | None:
        """Returns whether the nearest tensor is within the tolerance, and its largest relative difference."""
        results = list(self._results(tolerance))
        return max(results, key=lambda result: (result[0], -np.nan_to_num(result[1], nan=np.inf)), default=None)

    def _results(self, tolerance: float) -> Iterator[tuple[bool, float]]:
        for comparisons in self._comparisons.values():
            relative = float(np.max([comparison.relative for comparison in comparisons]))  # NaN if one is
            yield all(comparison.is_near_model(tolerance) for comparison in comparisons), relative


def _difference(call: LayerCall, outputs: list[_Nearest], tolerance: float) -> LayerDifference:
    results = [result for nearest in outputs if (result := nearest.worst(tolerance)) is not None]
    return LayerDifference(
        "/".join(call.path),
        call.class_name,
        float(np.max([relative for _, relative in results])) if results else None,
        all(is_within for is_within, _ in results),
    )


def _without_common_nan(expected: np.ndarray, received: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sets to zero what is NaN in both. A layer may compute NaN in frames that a later layer masks."""
    if expected.dtype.kind not in "fV" or received.dtype.kind not in "fV":  # bfloat16 is of kind V
        return expected, received
    is_nan = np.isnan(expected) & np.isnan(received)
    return np.where(is_nan, 0, expected.astype("float64")), np.where(is_nan, 0, received.astype("float64"))
