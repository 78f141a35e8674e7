"""`copy_weights`: copies the weights of a model to another model of the same layers."""

from typing import Any

import keras


def copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Copies the weights of a model layer by layer, as saving and loading would.

    LoRA weights are merged into their kernels, as in a saved file.

    Args:
        source: Model.
        target: Model whose layers with weights are the same, in the same order.
    """
    pairs = zip(_layers(source), _layers(target), strict=True)
    for layer, copy in pairs:
        store: dict[str, Any] = {}
        layer.save_own_variables(store)
        copy.load_own_variables(store)


def _layers(model: keras.Model) -> list[keras.Layer]:
    return [layer for layer in model._flatten_layers(include_self=False) if layer.weights]
