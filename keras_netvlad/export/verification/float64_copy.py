"""`float64_copy`: a float64 copy of a model, the reference for the model and its artifacts."""

import contextlib
import random
import threading
from collections.abc import Iterator
from typing import Any

import keras

# A copy takes twice the memory of the model. Models with more bytes of weights than this are not copied.
MAX_BYTES = 1_000_000_000
_REPLACING = threading.RLock()
FLOATS = ("bfloat16", "float16", "float32", "mixed_bfloat16", "mixed_float16")


def float64_copy(model: keras.Model) -> tuple[keras.Model | None, str | None]:
    """Copies a model to float64.

    The copy shows how much of a difference between a model and its artifact is rounding.

    Args:
        model: A Keras model.

    Returns:
        `(copy, None)`, or `(None, reason)` if the model cannot be copied: because it has more than 1 GB of weights or
        quantized layers, or because a layer cannot be rebuilt from its configuration.
    """
    num_bytes = 4 * model.count_params()
    if num_bytes > MAX_BYTES:
        return None, f"weights of {num_bytes / 1e9:.1f} GB"
    if any(getattr(layer, "quantization_mode", None) for layer in model._flatten_layers()):
        return None, "quantized layers"
    try:
        return rebuilt(model, in_dtype(model.get_config(), "float64")), None
    except Exception as error:
        # A user's own layer may raise any exception when it is rebuilt. The report names it.
        return None, f"the model cannot be rebuilt ({type(error).__name__})"


def rebuilt(model: keras.Model, config: Any) -> keras.Model:
    """Returns a model made from a configuration of `model`, with the weights of `model`."""
    state = random.getstate()  # initializers draw their seeds from this generator
    try:
        with _weights_of_zeros():
            copy = type(model).from_config(config)
        # Each layer hands over its own variables, as it does to a file. A layer that was quantized after it was built
        # has them in another order than one that was built quantized, and factors of LoRA are merged into the kernel.
        for layer, original in zip(copy._flatten_layers(), model._flatten_layers(), strict=True):
            variables: dict[str, Any] = {}
            original.save_own_variables(variables)
            layer.load_own_variables({name: keras.ops.convert_to_numpy(value) for name, value in variables.items()})
    finally:
        random.setstate(state)
    return copy


@contextlib.contextmanager
def _weights_of_zeros() -> Iterator[None]:
    """Makes layers of this thread start from zeros.

    Random initial weights, which are overwritten immediately, took 16 s and 2 GB for a model of 320 MB.
    """
    # The lock admits one thread at a time. Otherwise a thread could take another thread's replacement of `add_weight`
    # for the original and restore that.
    with _REPLACING:
        add_weight, thread = keras.Layer.add_weight, threading.get_ident()

        def add_zeros(self: keras.Layer, *arguments: Any, **options: Any) -> keras.Variable:
            if threading.get_ident() == thread:
                if len(arguments) > 1:  # add_weight(shape, initializer, dtype, ...)
                    arguments = (arguments[0], "zeros", *arguments[2:])
                else:
                    options = {**options, "initializer": "zeros"}
            return add_weight(self, *arguments, **options)

        keras.Layer.add_weight = add_zeros
        try:
            yield
        finally:
            keras.Layer.add_weight = add_weight


def in_dtype(config: Any, dtype: str) -> Any:
    """Returns a configuration with every floating dtype replaced by `dtype`, including dtype policies."""
    if isinstance(config, dict):
        if str(config.get("class_name")).endswith("DTypePolicy"):
            # The dtype is in `name`, or in `source_name` if the layer is quantized.
            policy = {
                key: dtype if key in ("name", "source_name") and value in FLOATS else value
                for key, value in config["config"].items()
            }
            return {**config, "config": policy}
        config = {
            key: dtype if key == "dtype" and isinstance(value, str) and value in FLOATS else in_dtype(value, dtype)
            for key, value in config.items()
        }
        return {**config, "product_dtype": None} if "product_dtype" in config else config
    if isinstance(config, (list, tuple)):
        return type(config)(in_dtype(value, dtype) for value in config)
    return config
