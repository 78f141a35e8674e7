"""`default_tolerance`: the difference between an artifact and its model that rounding explains."""

import keras

# Largest difference, relative to the largest magnitude of the output. The tests' models were measured in float32 at up
# to 6e-7; the headroom is for the matrix products of other machines. Each bfloat16 layer rounds at 8e-3.
FLOAT32_TOLERANCE = 1e-4
FLOAT16_TOLERANCE = 2e-2
# Tolerances of ONNX files with reduced precision: ten times the differences that trained models showed on real frames
# (float16: 1.5e-4, int8: 5.5e-3).
REDUCED_PRECISION_TOLERANCES = {"float16": 2e-3, "int8": 5e-2}


def default_tolerance(model: keras.Model, precision: str) -> float:
    """Returns the largest relative difference that the precisions of a model and its artifact explain.

    Args:
        model: A Keras model.
        precision: Precision of the artifact: `"float32"`, `"float16"` or `"int8"`.
    """
    is_16_bit = any(
        {layer.compute_dtype, getattr(layer, "product_dtype", None)} & {"float16", "bfloat16"}
        for layer in model._flatten_layers()
    )
    return max(FLOAT16_TOLERANCE if is_16_bit else FLOAT32_TOLERANCE, REDUCED_PRECISION_TOLERANCES.get(precision, 0.0))
