"""Registers with Keras every class that a `.keras` file may name: layers, models, losses and metrics."""

import keras_netvlad.layers
import keras_netvlad.losses
import keras_netvlad.metrics
import keras_netvlad.models  # noqa: F401
