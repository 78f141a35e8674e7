"""`float32_model`: a model as LiteRT can compute it."""

import keras

from keras_netvlad.export.reason import reason_of
from keras_netvlad.export.verification.float64_copy import in_dtype, rebuilt


def float32_model(model: keras.Model) -> keras.Model:
    """Returns the model, or a copy that computes in float32 if layers compute in bfloat16 or float16.

    LiteRT has no products in these types on CPUs.

    Raises:
        ValueError: If a layer computes in float64, or the model cannot be copied.
    """
    layers = [layer for layer in model._flatten_layers() if not isinstance(layer, keras.layers.InputLayer)]
    dtypes = {layer.name: {layer.compute_dtype, getattr(layer, "product_dtype", None)} for layer in layers}
    in_float64 = [name for name, of_layer in dtypes.items() if "float64" in of_layer]
    if in_float64:
        raise ValueError(
            "LiteRT computes in float32; give the layers `dtype='float32'`, or export to ONNX. Received: layers in "
            f"float64, {in_float64}"
        )
    if not any(dtype in ("bfloat16", "float16") for of_layer in dtypes.values() for dtype in of_layer):
        return model
    try:
        return rebuilt(model, in_dtype(model.get_config(), "float32"))
    except Exception as error:
        # A user's own layer may raise any exception when it is rebuilt.
        raise ValueError(
            "LiteRT computes in float32; save the model with layers of `dtype='float32'`. Received: a model of 16-bit "
            f"layers that cannot be rebuilt in float32 ({reason_of(error)})"
        ) from error
