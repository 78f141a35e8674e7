"""One module for each framework, with the parts that differ: tensors, compiling, gradients, waiting."""

import importlib


def load(name):
    """The module of `"tensorflow"`, `"torch"` or `"jax"`."""
    return importlib.import_module(f"benchmarks.backends.on_{name}")
