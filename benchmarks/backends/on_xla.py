"""TensorFlow, compiled by XLA: what `fit` does by default."""

import tensorflow as tf

from benchmarks.backends import on_tensorflow
from benchmarks.backends.on_tensorflow import chain, layer_function, tensor, to_numpy, variable, wait

__all__ = ["chain", "forward", "layer_function", "tensor", "to_numpy", "training_step", "variable", "wait"]


def forward(function, weights):
    """`function` compiled."""
    return tf.function(lambda *inputs: function(weights, *inputs), autograph=False, jit_compile=True)


def training_step(function, weights):
    """As TensorFlow's, compiled."""
    step = on_tensorflow.training_step(function, weights)
    return tf.function(lambda gradient, *inputs: step(gradient, *inputs), autograph=False, jit_compile=True)
