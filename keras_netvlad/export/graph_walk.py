"""Walks the graph of a functional Keras model from its outputs to its inputs."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import keras


def node_of(tensor: keras.KerasTensor) -> Any:
    """Returns the node of the graph that computes a tensor: an operation with its arguments."""
    operation, node_index, _ = tensor._keras_history
    return operation._inbound_nodes[node_index]


def fold(
    tensors: Iterable[keras.KerasTensor],
    values: dict[int, Any],
    apply: Callable[[Any, dict[int, Any]], list[Any]],
) -> list[Any]:
    """Computes a value for each tensor from the values of the tensors before it.

    It has no recursion, so that the depth of the graph is not limited.

    Args:
        tensors: Symbolic tensors of a model.
        values: Dict from the id of a tensor to its value. It holds the values of the inputs, or of other tensors at
            which the walk ends, and receives all others.
        apply: Function that returns the values of a node's outputs from the node and `values`.

    Returns:
        The values of `tensors`.
    """
    tensors = list(tensors)
    pending = list(tensors)
    while pending:
        if id(pending[-1]) in values:
            pending.pop()
            continue
        node = node_of(pending[-1])
        missing = [tensor for tensor in node.input_tensors if id(tensor) not in values]
        if missing:
            pending += missing
        else:
            values.update(zip(map(id, node.output_tensors), apply(node, values), strict=True))
    return [values[id(tensor)] for tensor in tensors]


def evaluate(tensors: Iterable[keras.KerasTensor], values: dict[int, Any]) -> list[Any]:
    """Runs the part of a model between the tensors in `values` and `tensors`, in inference mode.

    `keras.Model` cannot do this: it has no models whose output is an input, or that start between two layers and have
    an output there.

    Args:
        tensors: Symbolic tensors of a model.
        values: Dict from the id of a symbolic tensor to its actual value.

    Returns:
        The actual values of `tensors`.
    """
    return fold(tensors, dict(values), _run)


def _run(node: Any, values: dict[int, Any]) -> list[Any]:
    arguments, keywords = node.arguments.fill_in(values)
    if "training" in inspect.signature(node.operation.call).parameters:
        keywords = {**keywords, "training": False}
    return keras.tree.flatten(node.operation(*arguments, **keywords))
