"""`default_tolerance`: the difference between an artifact and its model that rounding explains."""

import keras

# Largest difference, relative to the largest magnitude of the output, by the dtype of the computations. The models of
# the tests were measured in float32 at up to 6e-7; the headroom is for the matrix products of other machines. Each
# bfloat16 layer rounds at 8e-3: models of several such layers were measured at up to 2.2e-2 from their float64 copies.
TOLERANCES = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 5e-2}
# Tolerances of ONNX files with reduced precision: ten times the differences that trained models showed on real frames
# (float16: 1.5e-4, int8: 5.5e-3).
REDUCED_PRECISION_TOLERANCES = {"float16": 2e-3, "int8": 5e-2, "int8-qdq": 5e-2}


def default_tolerance(model: keras.Model, precision: str) -> float:
    """Returns the largest relative difference that the precisions of a model and its artifact explain.

    Args:
        model: A Keras model.
        precision: Precision of the artifact: `"float32"`, `"float16"`, `"int8"` or `"int8-qdq"`.
    """
    dtypes: set[str | None] = {"float32"}
    for layer in model._flatten_layers():
        dtypes |= {layer.compute_dtype, getattr(layer, "product_dtype", None)}
    largest = max(tolerance for dtype, tolerance in TOLERANCES.items() if dtype in dtypes)
    return max(largest, REDUCED_PRECISION_TOLERANCES.get(precision, 0.0))
