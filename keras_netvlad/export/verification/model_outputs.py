"""`ModelOutputs`: computes the outputs that an artifact is compared with."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_netvlad.base.names import NUM_FRAMES
from keras_netvlad.export.model_signature import read_signature
from keras_netvlad.export.port import Port
from keras_netvlad.export.reason import reason_of
from keras_netvlad.export.serving_signatures import serving_signatures
from keras_netvlad.export.signature import SERVING_DEFAULT, Signature
from keras_netvlad.export.verification.comparison import Comparison
from keras_netvlad.export.verification.float64_copy import float64_copy, rebuilt
from keras_netvlad.export.verification.verification_inputs import Arrays, Case


class ModelOutputs:
    """Computes the outputs that an artifact is compared with: those of the model, and of its float64 copy.

    Args:
        model: The Keras model.
        signatures: Its signatures by name.
        tolerance: Largest relative difference allowed between an artifact and the model.

    Attributes:
        judge: `"float64"`, or the reason why there is no copy.
        exact_signatures: Signatures of the float64 copy by name. Empty if there is no copy.
    """

    def __init__(self, model: keras.Model, signatures: Mapping[str, Signature], tolerance: float) -> None:
        self.model = model
        self.signatures = signatures
        self.tolerance = tolerance
        self._copied: Mapping[str, Signature] | None = None
        # Tracing takes seconds for large models, and an artifact that differs asks for the same graphs in every case.
        self._graph = functools.cache(_graph)
        copy, why_no_copy = float64_copy(model)
        self.judge = why_no_copy or "float64"
        self.exact_signatures: Mapping[str, Signature] = {}
        if copy is not None:
            self.exact_signatures = self._signatures_of(copy)

    def run(self, inputs: Mapping[str, np.ndarray], signature: str) -> Arrays:
        """Runs a signature of the model itself."""
        return _run(self.signatures[signature], inputs)

    def is_defined(self, case: Case) -> bool:
        """Returns whether the model accepts the inputs of a case and computes no NaN."""
        try:
            outputs = _run(self.signatures[case.reference], case.reference_inputs)
        except Exception:
            # A model may raise exceptions of every class.
            return False
        return not any(_is_nan(_real(port, outputs, case)).any() for port in self.signatures[case.reference].outputs)

    def expected(self, case: Case) -> Arrays:
        """Returns the model's outputs for a case.

        Raises:
            ValueError: If the model fails or computes NaN.
        """
        try:
            outputs = _run(self.signatures[case.reference], case.reference_inputs)
        except Exception as error:
            # A model may raise exceptions of every class.
            raise ValueError(
                f"The model must accept the inputs of the check; pass others as `data`. Received for {case.name}: "
                f"{reason_of(error)}"
            ) from error
        for port in self.signatures[case.reference].outputs:
            values = _real(port, outputs, case)
            if _is_nan(values).any():
                raise ValueError(
                    "The model must not compute NaN, which cannot be compared; check its weights and `data`. "
                    f"Received for {case.name}: NaN in the output `{port.name}`"
                )
        return {**outputs, **case.known}

    def exact(self, case: Case, expected: Arrays) -> Arrays:
        """Returns the outputs of the float64 copy for a case, or nothing if there is no copy of the same model.

        If the copy differs from the model by more than the tolerance, there are two possible reasons. Either the model
        loses digits in float32, which the report must show. Or it cannot be copied, because a layer holds a state that
        is neither in its configuration nor in its weights. Then a copy without a change of dtypes differs as well;
        the float64 copy is not used, and the artifact must equal the model only.
        """
        if not self.exact_signatures:
            return {}
        try:
            outputs = _run(self.exact_signatures[case.reference], _in_float64(case.reference_inputs))
            problem = None
        except Exception as error:
            # A user's own layer may raise any exception in another dtype.
            outputs, problem = {}, f"the copy fails ({reason_of(error)})"
        differing = None if problem else self._differing(case, expected, outputs)
        if differing is not None and not self._can_be_copied(case, expected):
            problem = f"a copy differs from the model by {differing.relative:.1e}"
        if problem is not None:
            self.judge, self.exact_signatures = problem, {}
            return {}
        return outputs

    def _signatures_of(self, copy: keras.Model) -> Mapping[str, Signature]:
        return {SERVING_DEFAULT: read_signature(copy)} if len(self.signatures) == 1 else serving_signatures(copy)

    def _can_be_copied(self, case: Case, expected: Arrays) -> bool:
        """Returns whether a copy of the model in its own dtypes computes the same."""
        if self._copied is None:
            copy = rebuilt(self.model, self.model.get_config())
            self._copied = (
                serving_signatures(copy) if len(self.signatures) > 1 else {SERVING_DEFAULT: read_signature(copy)}
            )
        return self._differing(case, expected, _run(self._copied[case.reference], case.reference_inputs)) is None

    def _differing(self, case: Case, expected: Arrays, others: Arrays) -> Comparison | None:
        """Returns the first output whose difference exceeds the tolerance."""
        for port in self.signatures[case.reference].outputs:
            pair = _real(port, expected, case), _real(port, others, case)
            comparison = Comparison.of(case.reference, port.name, case.name, *pair)
            if not comparison.is_within(self.tolerance):
                return comparison
        return None

    def as_predicted(self, case: Case) -> tuple[Arrays, Arrays]:
        """Returns the outputs of the model and of its copy, computed by a graph for any batch and length.

        `model.predict` runs such a graph, too. Operations that are called eagerly see the sizes of one batch and may
        choose another algorithm: Keras 3.15 adds `(1, 6, 6)` and `(1, 6, 1)` as if the second were a bias of size 6.
        """
        expected = {**self._graph(self.signatures[case.reference])(case.reference_inputs), **case.known}
        exact: Arrays = {}
        if self.exact_signatures:
            exact = self._graph(self.exact_signatures[case.reference])(_in_float64(case.reference_inputs))
        return expected, exact

    def check_cause(self, case: Case, inputs: Arrays, expected: Arrays, received: Arrays) -> None:
        """Raises if the model, and not the artifact, is the cause of a difference.

        Args:
            case: The case.
            inputs: Inputs of the artifact, whose padding may differ from that of the model.
            expected: The outputs for the case that `as_predicted` returns.
            received: The artifact's outputs for `inputs`.

        Raises:
            ValueError: If the model computes other outputs each time, or if frames beyond `num_frames` change them.
        """
        if case.signature != case.reference:
            return
        signature = self.signatures[case.signature]
        compute = self._graph(signature)

        def differing(one: Arrays, other: Arrays) -> str | None:
            for port in signature.outputs:
                pair = _real(port, one, case), _real(port, other, case)
                if pair[0].shape != pair[1].shape or np.any(_is_nan(pair[0]) != _is_nan(pair[1])):
                    return port.name
                difference = Comparison.of(case.signature, port.name, case.name, *map(_without_nan, pair))
                if not difference.is_within(self.tolerance):
                    return port.name
            return None

        random = differing(expected, compute(case.reference_inputs))
        if random is not None:
            raise ValueError(
                "The model must compute the same outputs for the same inputs; remove what is random when it is called "
                f"with `training=False`. Received: two results of the output `{random}` that differ"
            )
        padded = compute(inputs)
        leaking = differing(expected, padded)
        if leaking is not None and differing(padded, received) is None:
            changed = [name for name, values in inputs.items() if values is not case.reference_inputs[name]]
            alone = {name: compute({**case.reference_inputs, name: inputs[name]}) for name in changed}
            causes = [name for name in changed if differing(expected, alone[name]) is not None]
            has_nan = any(values.dtype.kind == "f" and np.isnan(values).any() for values in inputs.values())
            filler = "NaN (a product of NaN and a mask is NaN)" if has_nan else "other values than zeros"
            raise ValueError(
                "Frames beyond `num_frames` must not change the outputs, because servers pad with any values; set them "
                "to zero with `keras.ops.where(mask, frames, 0)` before other layers, or export without the check. "
                f"Received: a model whose output `{leaking}` changes if such frames of {causes or changed} hold "
                f"{filler}"
            )


def on_real_frames(values: np.ndarray, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns the rows of real frames of an output.

    Args:
        values: Output with a row for every frame, `(B, T, ...)`.
        inputs: The inputs from which it was computed.

    Returns:
        The rows of the real frames `(N, ...)`. All of `values` if the inputs have no `num_frames`.
    """
    counts = inputs.get(NUM_FRAMES)
    if counts is None or values.ndim < 2 or counts.shape != values.shape[:1]:
        return values
    return values[np.arange(values.shape[1]) < counts[:, None]]


def _real(port: Port, outputs: Arrays, case: Case) -> Any:
    values = outputs[port.name]
    return on_real_frames(values, case.reference_inputs) if port.has_frames else values


def _run(signature: Signature, inputs: Mapping[str, np.ndarray]) -> Arrays:
    return {name: np.asarray(value) for name, value in signature.compute(inputs).items()}


def _graph(signature: Signature) -> Callable[[Mapping[str, np.ndarray]], Arrays]:
    """Returns the function of a signature as a graph for any batch and length."""
    specs = {port.name: tf.TensorSpec(port.shape, port.dtype) for port in signature.inputs}
    function = tf.function(signature.compute, autograph=False).get_concrete_function(specs)

    def compute(inputs: Mapping[str, np.ndarray]) -> Arrays:
        outputs = function({name: tf.constant(inputs[name], spec.dtype) for name, spec in specs.items()})
        return {name: np.asarray(value) for name, value in outputs.items()}

    return compute


def _is_nan(values: np.ndarray) -> np.ndarray:
    """Returns which values are NaN. Integers and strings never are."""
    return np.isnan(values) if values.dtype.kind in "fV" else np.zeros(values.shape, bool)  # bfloat16 is of kind V


def _without_nan(values: np.ndarray) -> np.ndarray:
    values = values.copy()
    values[_is_nan(values)] = 0
    return values


def _in_float64(inputs: Mapping[str, np.ndarray]) -> Arrays:
    return {name: values.astype("float64") if values.dtype.kind == "f" else values for name, values in inputs.items()}
