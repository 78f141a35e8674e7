"""`check_no_float8`: refuses a model whose layers are quantized to float8."""

import keras


def check_no_float8(model: keras.Model, file_format: str) -> None:
    """Raises if a layer is quantized to float8, which only a SavedModel can hold.

    Args:
        model: A Keras model.
        file_format: The name of the format that is to be written, for the message.

    Raises:
        ValueError: If a layer is quantized to float8.
    """
    float8 = [layer.name for layer in model._flatten_layers() if getattr(layer, "quantization_mode", None) == "float8"]
    if float8:
        raise ValueError(
            f"{file_format} files of this package have no float8 values; export a SavedModel of this model, or "
            f"the {file_format} file of the model before `quantize`. Received: layers quantized to float8, {float8}"
        )
