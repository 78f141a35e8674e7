"""Registers with Keras every class that a `.keras` file may name: layers, models, losses and metrics."""

from types import ModuleType

import keras_netvlad.layers
import keras_netvlad.losses
import keras_netvlad.metrics
import keras_netvlad.models  # noqa: F401


def register(keras: ModuleType) -> None:
    """Called by the import hook for Keras. Importing this module has registered the classes."""
