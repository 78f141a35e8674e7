"""What differs between frameworks, a module each: tensors, compiling, gradients, waiting."""

import importlib


def load(name):
    """The module of `"tensorflow"`, `"torch"` or `"jax"`."""
    return importlib.import_module(f"benchmarks.backends.on_{name}")
