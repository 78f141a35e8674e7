"""`open_runtime`: opens an artifact in a runtime of the user's choice.

`Artefact` runs a SavedModel in TensorFlow, an ONNX file in onnxruntime and a LiteRT file in LiteRT. The functions here
open artifacts in other runtimes: each takes a path and returns a function from inputs to outputs.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import numpy as np
import onnx
from numpy.typing import ArrayLike

from keras_netvlad.base.validation import check_choice
from keras_netvlad.export.reason import reason_of

# Runs an artifact: from a dict of arrays by the input's name in the file to a dict by the output's name.
Runner = Callable[[Mapping[str, np.ndarray]], Mapping[str, ArrayLike]]
RuntimeName = Literal["tensorflow", "onnxruntime", "litert", "onnx.reference", "openvino", "tract"]
# Name of a runtime, or a function that takes the path of an artifact and returns a `Runner`.
Runtime = RuntimeName | Callable[[str], Runner]
RUNTIME_NAMES: tuple[RuntimeName, ...] = get_args(RuntimeName)
# The runtimes of `Artefact`, by the kind of the artifact.
OWN_RUNTIMES: dict[str, RuntimeName] = {"saved_model": "tensorflow", "onnx": "onnxruntime", "litert": "litert"}


def is_own(runtime: Runtime | None, kind: str) -> bool:
    """Returns whether `Artefact` itself uses a runtime for artifacts of a kind.

    Raises:
        ValueError: If there is no such runtime, or it does not run artifacts of this kind.
    """
    if runtime is None:
        return True
    if callable(runtime):
        return False
    check_choice("runtime", runtime, RUNTIME_NAMES)
    names = [OWN_RUNTIMES[kind], *(name for name, (kinds, _) in OPENERS.items() if kind in kinds)]
    if runtime not in names:
        raise ValueError(
            f"`runtime` must be one that runs artifacts of the kind {kind!r}, {names}. Received: runtime={runtime!r}"
        )
    return runtime == OWN_RUNTIMES[kind]


def name_of(runtime: Runtime) -> str:
    """Returns the name of a runtime, for messages."""
    return getattr(runtime, "__name__", type(runtime).__name__) if callable(runtime) else runtime


def open_runtime(runtime: Runtime, path: str | os.PathLike[str]) -> Runner:
    """Opens an artifact in a runtime.

    Args:
        runtime: Key of `OPENERS`, or a function that takes the path and returns a `Runner`.
        path: Path of the artifact.

    Returns:
        The function that runs the artifact: an ONNX file, or `serving_default` of another artifact.

    Raises:
        ImportError: If the runtime is not installed.
        ValueError: If the runtime cannot load the artifact.
    """
    opener = runtime if callable(runtime) else OPENERS[runtime][1]
    try:
        return opener(os.fspath(path))
    except ImportError:
        raise
    except Exception as error:
        # Runtimes raise exceptions of many classes.
        raise ValueError(
            "The runtime must be able to load the artifact; choose another runtime or another format. Received: "
            f"{path} in {name_of(runtime)} ({reason_of(error)})"
        ) from error


def _open_onnx_reference(path: str) -> Runner:
    """Opens an ONNX file in the reference implementation of ONNX, which is written in NumPy and slow."""
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(path)
    return lambda inputs: dict(zip(evaluator.output_names, evaluator.run(None, dict(inputs)), strict=True))


def _open_openvino(path: str) -> Runner:
    try:
        import openvino
    except ImportError as error:
        raise _missing("openvino") from error
    # Where the processor has bfloat16, OpenVINO computes in it unless told otherwise: 2.6e-3 off.
    model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    # The arrays of a result share the memory of the next one.
    return lambda inputs: {port.get_any_name(): values.copy() for port, values in model(dict(inputs)).items()}


def _open_tract(path: str) -> Runner:
    try:
        import tract
    except ImportError as error:
        raise _missing("tract") from error
    model = tract.onnx().load(path).into_model()
    input_names = [model.input_name(index) for index in range(model.input_count())]
    # tract names an output after the node that computes it; the order is that of the file.
    output_names = [value.name for value in onnx.load(path, load_external_data=False).graph.output]
    runnable = model.into_runnable()

    def run(inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        outputs = runnable.run([inputs[name] for name in input_names])
        return {name: values.to_numpy() for name, values in zip(output_names, outputs, strict=True)}

    return run


def _missing(package: str) -> ImportError:
    return ImportError(
        f"The runtime {package!r} needs the package {package}, which is not installed. Install it with "
        f"`pip install {package}`."
    )


# The kinds of artifacts that a runtime runs, and the function that opens one.
OPENERS: dict[str, tuple[tuple[str, ...], Callable[[str], Runner]]] = {
    "onnx.reference": (("onnx",), _open_onnx_reference),
    "openvino": (("onnx", "saved_model"), _open_openvino),
    "tract": (("onnx",), _open_tract),
}
