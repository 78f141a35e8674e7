"""`register_model`: registers a model class with Keras for `.keras` and `.h5` files."""

from typing import TypeVar

import keras

ModelClass = TypeVar("ModelClass", bound=type)


def register_model(model_class: ModelClass) -> ModelClass:
    """Registers a model class under `keras_netvlad>Name`, and under its bare name for `.h5` files.

    A `.keras` file stores the registered name of the model. An `.h5` file stores `model.__class__.__name__`, which
    `keras.models.load_model` then looks up among the custom objects.

    Args:
        model_class: Subclass of `keras.Model`.

    Returns:
        The class, unchanged.
    """
    keras.saving.get_custom_objects()[model_class.__name__] = model_class
    return keras.saving.register_keras_serializable(package="keras_netvlad")(model_class)
