"""`ScoringModel`: a functional model whose plain labels belong to its output `scores`."""

import os
from collections.abc import Mapping
from typing import Any

import keras

from keras_netvlad.base.names import SCORES
from keras_netvlad.models.model_registration import register_model


@register_model
class ScoringModel(keras.Model):
    """Functional model with a dict of outputs, one of them `scores`, that accepts plain labels.

    Keras expects labels with the structure of the outputs. This model assigns labels that are not a dict to `scores`,
    so that outputs such as `descriptor` need neither labels nor a loss.

    `ensemble`, `from_pixels` and `VideoClassifier` return such models. `keras.models.clone_model` turns all of them
    into a `ScoringModel` with new weights.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Makes a `ScoringModel` where `keras.models.clone_model` calls a subclass with a graph."""
        # `clone_model` calls the class of a model with (inputs, outputs). The copied graph may contain other layers
        # than a subclass would build from its arguments, so the clone is a model of the graph alone.
        if cls is not ScoringModel and len(args) == 2 and all(map(_is_dict_of_tensors, args)):
            return ScoringModel(*args, **kwargs)
        return super().__new__(cls, *args, **kwargs)

    def save(self, filepath: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Saves the model as Keras does, and refuses `.h5` files that Keras could not load again.

        Raises:
            ValueError: If the path ends in `.h5` and the graph contains operations that are not layers.
        """
        # Keras looks up the operation `Multiply` of an `.h5` file among the layers and finds another class.
        is_h5 = str(filepath).endswith((".h5", ".hdf5"))
        if is_h5 and type(self) is ScoringModel and not all(isinstance(op, keras.Layer) for op in self.operations):
            raise ValueError(
                "A model with operations between its layers must be saved as .keras, because Keras cannot load it from "
                f"an .h5 file. Received: {filepath}"
            )
        super().save(filepath, *args, **kwargs)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """Returns the loss. Labels that are not a dict are compared with `scores`."""
        return super().compute_loss(x, *_labeled(y, y_pred), sample_weight, training)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        """Returns the metrics. Labels that are not a dict are compared with `scores`."""
        return super().compute_metrics(x, *_labeled(y, y_pred), sample_weight)


def _is_dict_of_tensors(value: Any) -> bool:
    is_filled = isinstance(value, Mapping) and len(value) > 0
    return is_filled and all(isinstance(tensor, keras.KerasTensor) for tensor in value.values())


def _labeled(y: Any, y_pred: Mapping[str, Any]) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """Returns the labels by output name, and the outputs that have labels."""
    y = y if isinstance(y, Mapping) else {SCORES: y}
    return y, {name: y_pred[name] for name in y}
