"""`forward`: a signature as a pure function of the model's weights. Every writer traces this function."""

from collections.abc import Iterable, Mapping
from typing import Any

import keras

from keras_netvlad.export.signature import Signature


def weights_of(model: keras.Model) -> list[keras.Variable]:
    """Returns the variables whose values `forward` takes, in the order in which it takes them."""
    return [*model.trainable_variables, *model.non_trainable_variables]


def forward(
    model: keras.Model, signature: Signature, weights: Iterable[Any], inputs: Mapping[str, Any]
) -> dict[str, Any]:
    """Runs a signature as a pure function of the model's weights.

    Args:
        model: The Keras model.
        signature: One of the model's signatures.
        weights: Tensors or variables, in the order of `weights_of(model)`.
        inputs: Dict from input name to tensor.

    Returns:
        Dict from output name to tensor.
    """
    with keras.StatelessScope(state_mapping=zip(weights_of(model), weights, strict=True)):
        return signature.compute(inputs)
