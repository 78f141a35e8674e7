"""`connect`: reads the graph of a configuration of Keras 2, and calls the layers in its order."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import keras

from keras_netvlad.convert.networks.keras2_layers import layer_name

Config: TypeAlias = dict[str, Any]
MODELS = ("Sequential", "Functional", "Model")


class Call(NamedTuple):
    """One call of a layer.

    Attributes:
        layer: Configuration of the layer.
        number: Number of the call among those of this layer.
        sources: Names of the layers whose outputs are the inputs, each with the number of its call.
    """

    layer: Config
    number: int
    sources: list[tuple[str, int]]


def connect(
    config: Config, run: Callable[[Config, Any], Any], pictures: str | None = None
) -> tuple[list[Any], list[Any]]:
    """Calls the layers of a model in their order.

    Args:
        config: Configuration of a Sequential or a functional model.
        run: Function of the configuration of a layer and its input, or a list of several inputs. It returns the output
            of the layer.
        pictures: New name of inputs `(B, H, W, C)`; or `None` to keep their names.

    Returns:
        The inputs of the model and its outputs.

    Raises:
        ValueError: If the model is of another kind, or if its graph is incomplete.
    """
    inputs, tensors = [], {}
    for layer, number, sources in calls(config):
        name = name_of(layer)
        if layer["class_name"] == "InputLayer":
            tensors[name, number] = _input(layer, pictures)
            inputs.append(tensors[name, number])
        else:
            x = [tensors[source] for source in sources]
            tensors[name, number] = run(layer, x[0] if len(x) == 1 else x)
    return inputs, [tensors[source] for source in outputs_of(config)]


def layers_of(config: Any) -> list[Config]:
    """Returns the configurations of the layers of a model. Keras before 2.2.3 wrote a list for a Sequential."""
    layers = config.get("config") if isinstance(config, dict) else None
    layers = layers.get("layers") if isinstance(layers, dict) else layers
    return [layer for layer in layers if isinstance(layer, dict)] if isinstance(layers, list) else []


def name_of(layer: Config) -> str:
    """Returns the name of a layer."""
    config = layer["config"]
    return str(layer["name"] if "name" in layer else config["name"])


def calls(config: Config) -> list[Call]:
    """Returns the calls of the layers of a model, each after those of its sources."""
    if config["class_name"] not in MODELS:
        raise ValueError(
            f"The model must be a Sequential or a functional model of Keras 2. Received: a {config['class_name']}"
        )
    layers = layers_of(config)
    if config["class_name"] == "Sequential":
        if layers[0]["class_name"] != "InputLayer":
            layers = [{"class_name": "InputLayer", "config": _first_input(layers[0])}, *layers]
        names = [name_of(layer) for layer in layers]
        return [Call(layer, 0, [(names[i - 1], 0)] if i else []) for i, layer in enumerate(layers)]
    pending = [call for layer in layers for call in _nodes(layer)]
    ordered: list[Call] = []
    done: set[tuple[str, int]] = set()
    while pending:
        ready = [call for call in pending if done.issuperset(call.sources)]
        if not ready:
            raise ValueError(
                "Each layer of the model must follow its inputs; save the model again. Received: a graph in which "
                f"{name_of(pending[0].layer)} has none"
            )
        ordered += ready
        done |= {(name_of(call.layer), call.number) for call in ready}
        pending = [call for call in pending if (name_of(call.layer), call.number) not in done]
    return ordered


def outputs_of(config: Config) -> list[tuple[str, int]]:
    """Returns the names of the layers that give the outputs of a model, each with the number of its call."""
    if config["class_name"] == "Sequential":
        return [(name_of(layers_of(config)[-1]), 0)]
    outputs = config["config"]["output_layers"]
    return [_source(entry) for entry in ([outputs] if isinstance(outputs[0], str) else outputs)]


def _nodes(layer: Config) -> Iterator[Call]:
    if layer["class_name"] == "InputLayer":
        yield Call(layer, 0, [])
    for number, node in enumerate(layer["inbound_nodes"]):
        yield Call(layer, number, [_source(entry) for entry in node])


def _source(entry: list[Any]) -> tuple[str, int]:
    name, number, index, *arguments = entry
    if index or any(value for options in arguments for value in options.values()):
        raise ValueError(
            "Each layer of the model must have one output, and no inputs but tensors. Received: other connections of "
            f"{name}"
        )
    return str(name), int(number)


def _input(layer: Config, pictures: str | None) -> Any:
    shape, dtype = layer["config"]["batch_input_shape"], layer["config"].get("dtype")
    name = pictures if pictures and len(shape) == 4 else name_of(layer)
    dtype = dtype if isinstance(dtype, str) else "float32"
    # The batch size may be fixed in the file.
    return keras.Input(batch_shape=(None, *shape[1:]), dtype=dtype, name=layer_name(name))


def _first_input(layer: Config) -> Config:
    """Returns the configuration of the input of a Sequential whose first layer has its shape."""
    while layer["class_name"] in MODELS:
        layer = layers_of(layer)[0]
    return {**layer["config"], "name": f"{layer['config']['name']}_input"}
