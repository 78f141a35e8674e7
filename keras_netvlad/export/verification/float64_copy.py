"""The judge of model and artefact alike: the same model in float64."""

import contextlib
import random
import threading

import keras

# Weights from which the copy, twice as large, is not made.
MAX_BYTES = 1_000_000_000
_REPLACING = threading.RLock()
FLOATS = ("bfloat16", "float16", "float32", "mixed_bfloat16", "mixed_float16")


def float64_copy(model):
    """Copies a model to float64, so that its rounding and an artefact's can be told from its answer.

    Args:
        model: A Keras model.

    Returns:
        The copy and `None`, or `None` and the reason why there is none: weights of more than 1 GB, quantized layers,
        or layers that can't be made again from their configuration.
    """
    num_bytes = 4 * model.count_params()
    if num_bytes > MAX_BYTES:
        return None, f"weights of {num_bytes / 1e9:.1f} GB"
    if any(getattr(layer, "quantization_mode", None) for layer in model._flatten_layers()):
        return None, "quantized layers"
    state = random.getstate()  # initializers draw their seeds from it
    try:
        with _weights_of_zeros():
            copy = type(model).from_config(_in_float64(model.get_config()))
        for weight, original in zip(copy.weights, model.weights, strict=True):
            weight.assign(keras.ops.cast(original, weight.dtype))
    except Exception as error:
        # Whatever a layer of the user's own raises when it is made again; the report says so.
        return None, f"the model can't be made again ({type(error).__name__})"
    finally:
        random.setstate(state)
    return copy, None


@contextlib.contextmanager
def _weights_of_zeros():
    """Lets layers start from zeros: random weights, overwritten at once, took 16 s and 2 GB for a model of 320 MB."""
    # One thread at a time, or each would take the other's replacement for the original and leave it behind.
    with _REPLACING:
        add_weight, thread = keras.Layer.add_weight, threading.get_ident()

        def add_zeros(self, *arguments, **options):
            if threading.get_ident() == thread:
                options = {**options, "initializer": "zeros"}
            return add_weight(self, *arguments, **options)

        keras.Layer.add_weight = add_zeros
        try:
            yield
        finally:
            keras.Layer.add_weight = add_weight


def _in_float64(config):
    """A configuration with every floating dtype replaced, also in policies."""
    if isinstance(config, dict):
        if config.get("class_name") == "DTypePolicy":
            policy = _in_float64({"dtype": config["config"]["name"]})["dtype"]
            return {**config, "config": {**config["config"], "name": policy}}
        config = {
            key: "float64" if key == "dtype" and isinstance(value, str) and value in FLOATS else _in_float64(value)
            for key, value in config.items()
        }
        return {**config, "product_dtype": None} if "product_dtype" in config else config
    if isinstance(config, (list, tuple)):
        return type(config)(_in_float64(value) for value in config)
    return config
