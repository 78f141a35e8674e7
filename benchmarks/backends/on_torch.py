"""PyTorch, eager."""

import torch

from benchmarks.measuring import PeakMemory

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def device_name():
    """Name of the GPU, or None."""
    return torch.cuda.get_device_name() if DEVICE == "cuda" else None


def allow_tf32(allowed):
    """Whether products of float32 tensors may round their factors to 10 bits."""
    torch.backends.cuda.matmul.allow_tf32 = allowed


def tensor(array, dtype="float32"):
    """An array on the device."""
    return torch.from_numpy(array).to(DEVICE, getattr(torch, dtype))


def variable(array, dtype="float32"):
    """An array to take a gradient for."""
    return tensor(array, dtype).requires_grad_()


def chain(weights, frames):
    """The two matrix products, `x W` and `(x W)^T x`."""
    (kernel,) = weights
    return (frames @ kernel).mT @ frames


def layer_function(layer):
    """A Keras layer as a function of weights and inputs, and its weights."""

    def function(weights, *inputs):
        return layer(inputs[0], mask=inputs[1] if len(inputs) > 1 else None)

    return function, [weight.value for weight in layer.trainable_weights]


def forward(function, weights):
    """`function` without gradients."""

    def run(*inputs):
        with torch.no_grad():
            return function(weights, *inputs)

    return run


def training_step(function, weights):
    """A function of the outputs' gradient and the inputs that returns the outputs and the weights' gradients."""

    def run(gradient, *inputs):
        outputs = function(weights, *inputs)
        return outputs.detach(), torch.autograd.grad(outputs, weights, gradient)

    return run


def wait(outputs):
    """Returns when the outputs are there."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def to_numpy(values):
    """A tensor as a float32 array."""
    return values.detach().float().cpu().numpy()


def added_bytes(call):
    """What a call adds to the resident memory at its highest, in a worker that measures memory."""
    with PeakMemory() as memory:
        call()
    return memory.added
