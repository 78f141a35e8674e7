"""What an artefact takes and gives, and the one forward function that every writer traces."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import keras

IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
SERVING_DEFAULT = "serving_default"
# The names that Keras makes up; they change from one process to the next.
AUTOMATIC_INPUT_NAME = re.compile(r"(keras_tensor|input_layer)(_\d+)?")


@dataclass(frozen=True)
class Port:
    """One input or output: its name, static shape (unknown dimensions `None`) and dtype."""

    name: str
    shape: tuple
    dtype: str

    @property
    def axis_names(self):
        """A name for each unknown axis, `None` for the others: `batch`, then `frames`, then the port's own."""
        names = {0: "batch", 1: "frames"}
        return tuple(
            names.get(axis, f"{self.name}_axis{axis}") if size is None else None for axis, size in enumerate(self.shape)
        )


@dataclass(frozen=True)
class Signature:
    """One function of a model that an artefact offers by name.

    `compute` takes a dict of tensors by input name, runs the Keras model, and returns a dict by output name.
    """

    name: str
    inputs: tuple
    outputs: tuple
    compute: Callable = field(repr=False)


def read_signature(model):
    """Reads the names, shapes and dtypes that an artefact of the model will bear.

    Args:
        model: A functional or Sequential Keras model.

    Returns:
        The `Signature` `serving_default`: names are the model's own, keys where inputs or outputs are a dict.

    Raises:
        TypeError: If it is not a Keras model with symbolic inputs.
        ValueError: If a name is missing, made up by Keras, taken twice, or no identifier.
        RuntimeError: If Keras does not run on TensorFlow.
    """
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            "Export needs Keras on TensorFlow: save the model as .keras and load it with KERAS_BACKEND=tensorflow. "
            f"Received: backend {keras.backend.backend()!r}"
        )
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        raise TypeError(
            "Export takes a built functional or Sequential keras.Model, which knows the names and shapes of its "
            f"inputs. Received: {type(model).__name__}"
        )
    inputs = _ports(_input(model), [tensor.name for tensor in model.inputs], "input")
    outputs = _ports(*_outputs(model), "output")
    for port in inputs:
        if AUTOMATIC_INPUT_NAME.fullmatch(port.name):
            raise ValueError(
                "Every input needs a name of its own, for clients send it by name: "
                f"keras.Input(..., name='frames'). Received: an unnamed input of shape {port.shape}"
            )
    names = [port.name for port in (*inputs, *outputs)]
    for name in names:
        if not IDENTIFIER.fullmatch(name):
            raise ValueError(f"Names of inputs and outputs must be letters, digits and underscores. Received: {name!r}")
        if names.count(name) > 1:
            raise ValueError(
                f"Inputs and outputs need different names, for ONNX keeps them in one namespace. Received: {names}"
            )

    def compute(values):
        return name_outputs(outputs, model(structure_inputs(model, inputs, values), training=False))

    return Signature(SERVING_DEFAULT, inputs, outputs, compute)


def weights_of(model):
    """The variables that `forward` takes, in its order."""
    return [*model.trainable_variables, *model.non_trainable_variables]


def forward(model, signature, weights, inputs):
    """Runs a signature as a pure function of the model's weights: what every artefact is traced from.

    Args:
        model: The Keras model.
        signature: One of its `Signature`s.
        weights: Tensors or variables, in the order of `weights_of(model)`.
        inputs: Dict from input name to tensor.

    Returns:
        Dict from output name to tensor.
    """
    with keras.StatelessScope(state_mapping=zip(weights_of(model), weights, strict=True)):
        return signature.compute(inputs)


def symbolic_inputs(model):
    """The tensors of a model's inputs, in the order of its signature."""
    structure = _input(model)
    if isinstance(structure, dict):
        return list(structure.values())
    return list(structure) if isinstance(structure, (list, tuple)) else [structure]


def structure_inputs(model, ports, values):
    """From a dict of inputs by name to what the model's call takes: a tensor, a list or a dict."""
    values, structure = [values[port.name] for port in ports], _input(model)
    if isinstance(structure, dict):
        return dict(zip(structure, values, strict=True))
    return values if isinstance(structure, (list, tuple)) else values[0]


def name_outputs(ports, outputs):
    """From what the model's call returns to a dict of outputs by name."""
    if isinstance(outputs, dict):
        return {port.name: outputs[port.name] for port in ports}
    outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    return {port.name: output for port, output in zip(ports, outputs, strict=True)}


def _input(model):
    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input


def _outputs(model):
    if isinstance(model, keras.Sequential):
        return model.outputs[0], [model.layers[-1].name]
    return model.output, model.output_names


def _ports(structure, fallback_names, kind):
    if isinstance(structure, dict):
        tensors, names = list(structure.values()), list(structure)
    elif isinstance(structure, (list, tuple)):
        tensors, names = list(structure), list(fallback_names)
    else:
        tensors, names = [structure], list(fallback_names)
    if any(isinstance(tensor, (dict, list, tuple)) for tensor in tensors) or len(names) != len(tensors):
        raise ValueError(
            f"A model's {kind}s must be a tensor, a list or a dict of tensors, for a server sends them flat. "
            f"Received: {structure}"
        )
    return tuple(
        Port(name, tuple(tensor.shape), keras.backend.standardize_dtype(tensor.dtype))
        for name, tensor in zip(names, tensors, strict=True)
    )
