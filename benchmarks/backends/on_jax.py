"""JAX, compiled with `jax.jit`."""

import jax
import jax.numpy as jnp
import numpy as np


def device_name():
    """Name of the GPU, or None."""
    device = jax.devices()[0]
    return device.device_kind if device.platform == "gpu" else None


def allow_tf32(allowed):
    """Whether products of float32 tensors may round their factors to 10 bits."""
    jax.config.update("jax_default_matmul_precision", "tensorfloat32" if allowed else "float32")


def tensor(array, dtype="float32"):
    """An array on the device."""
    return jnp.array(array, dtype)


variable = tensor


def chain(weights, frames):
    """The two matrix products, `x W` and `(x W)^T x`."""
    (kernel,) = weights
    return jnp.swapaxes(frames @ kernel, 1, 2) @ frames


def layer_function(layer):
    """A Keras layer as a function of weights and inputs, and its weights."""

    def function(weights, *inputs):
        return layer.stateless_call(weights, [], inputs[0], mask=inputs[1] if len(inputs) > 1 else None)[0]

    return function, [weight.value for weight in layer.trainable_weights]


def forward(function, weights):
    """`function` compiled, the weights being no constants of it."""
    compiled = jax.jit(function)
    return lambda *inputs: compiled(weights, *inputs)


def training_step(function, weights):
    """A function of the outputs' gradient and the inputs that returns the outputs and the weights' gradients."""

    @jax.jit
    def run(weights, gradient, *inputs):
        outputs, pull_back = jax.vjp(lambda weights: function(weights, *inputs), weights)
        return outputs, pull_back(gradient)[0]

    return lambda gradient, *inputs: run(weights, gradient, *inputs)


def wait(outputs):
    """Returns when the outputs are there."""
    jax.block_until_ready(outputs)


def to_numpy(values):
    """A tensor as a float32 array."""
    return np.asarray(values, "float32")
