"""Functions on image models: a model up to one of its layers, and the map of the patches of a vision transformer.

`B` pictures, `N` tokens, `P` of which are prefix tokens (class token, registers) in front of those of the patches.
"""

import difflib
from typing import Any

import keras
from keras import ops

from keras_netvlad.layers.frame_pooling import Shape

# The most names of layers in a message.
NAMES = 12
# Values that layers of keras-hub 0.32 write to their config and refuse in their constructor.
COMPUTED = {"ViTPatchingAndEmbedding": ("num_patches", "num_positions"), "ViTEncoderBlock": ("key_dim",)}


def vision_model(backbone: keras.Model) -> keras.Model:
    """Returns the part of a model that takes pictures: the vision encoder of a model of pictures and text."""
    part = getattr(backbone, "vision_encoder", None)
    return part if isinstance(part, keras.Model) else backbone


def picture_shape(backbone: keras.Model) -> Shape | None:
    """Returns `(batch, height, width, channels)`, the shape of the only input of a model; otherwise `None`."""
    inputs = getattr(backbone, "inputs", None) or []
    shape = tuple(inputs[0].shape) if len(inputs) == 1 else ()
    return shape if len(shape) == 4 else None


def model_up_to(backbone: keras.Model, layer: str | None) -> keras.Model:
    """Returns the part of a model that ends at one of its layers. Both models share their layers.

    Args:
        backbone: Functional or Sequential model with one input.
        layer: Name of the layer, see `FrameEncoder`; or `None` for the output of the model.

    Raises:
        ValueError: If there is no such layer, or it returns no tensor.
    """
    if layer is None:
        # The input of a model of keras-hub is a dict with one entry.
        is_dict = isinstance(getattr(backbone, "input", None), dict)
        return keras.Model(backbone.inputs[0], backbone.output, name=backbone.name) if is_dict else backbone
    outputs = _inner_outputs(backbone)
    # Models of keras-hub put their own name in front of those of their layers.
    names = [layer] if layer in outputs else [name for name in outputs if name.endswith(f"_{layer}")]
    if len(names) != 1 or not hasattr(outputs[names[0]], "shape"):
        usable = [name for name, output in outputs.items() if hasattr(output, "shape")]
        alike = usable if len(usable) <= NAMES else difflib.get_close_matches(layer, usable, NAMES, 0.0)
        raise ValueError(
            f"`layer` must be the name of a layer of the backbone that returns a tensor; names like it are {alike}. "
            f"Received: layer={layer!r}"
        )
    return keras.Model(backbone.inputs[0], _as_computed(backbone, outputs[names[0]]), name=backbone.name)


def serialized(backbone: keras.Model) -> dict[str, Any]:
    """Returns the config of a model, from which Keras can make it again."""
    config = keras.saving.serialize_keras_object(backbone)
    for layer in config["config"].get("layers", []):
        for name in COMPUTED.get(layer["class_name"], ()):
            layer["config"].pop(name, None)
    return config


def resized(backbone: keras.Model, shape: Shape) -> keras.Model:
    """Returns the backbone for another size of picture. Both models share their layers.

    Args:
        backbone: Functional or Sequential model with one input.
        shape: `(H, W, C)`, with `None` for a size that is free.

    Raises:
        ValueError: If the layers do not accept the size.
    """
    own = picture_shape(backbone) or ()
    if own[1:] == tuple(shape):
        return backbone
    try:
        return keras.models.clone_model(backbone, keras.Input(shape), clone_function=lambda layer: layer)
    except Exception as error:
        # Layers raise exceptions of many classes for sizes that they do not accept.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            "The backbone must accept pictures of this size, as convolutions do; use `size` with the size of the "
            f"backbone, {own[1:3]}. Received: {shape[:2]} ({reason})"
        ) from error


def count_prefix_tokens(backbone: keras.Model, num_tokens: int | None, height: int | None, width: int | None) -> int:
    """Returns the number of prefix tokens `P`: those that are left if the backbone has a `patch_size`; otherwise 0."""
    patch = getattr(backbone, "patch_size", None)
    sides = [patch, patch] if isinstance(patch, int) else list(patch or [])
    if len(sides) != 2 or num_tokens is None or height is None or width is None:
        return 0
    # Some models join patches later, so there are fewer tokens, and no prefix.
    return max(0, num_tokens - (height // sides[0]) * (width // sides[1]))


def patch_grid(num_patches: int, height: int, width: int) -> tuple[int, int] | None:
    """Returns the height and width of the map of the square patches of a picture; `None` if no patch size fits."""
    for patch in range(1, min(height, width) + 1):
        grid = height // patch, width // patch
        if grid[0] * grid[1] == num_patches:
            return grid
    return None


def split_tokens(tokens: Any, num_prefix_tokens: int, height: int | None, width: int | None) -> tuple[Any, Any]:
    """Splits tokens of pictures `(B, N, D)` into the map of their patches `(B, H', W', D)` and the rest `(B, P, D)`."""
    rows, columns = token_grid(tokens.shape, num_prefix_tokens, height, width)
    shape = (-1, rows, columns, tokens.shape[2])
    return ops.reshape(tokens[:, num_prefix_tokens:], shape), tokens[:, :num_prefix_tokens]


def token_grid(shape: Shape, num_prefix_tokens: int, height: int | None, width: int | None) -> tuple[int, int]:
    """Returns the height and width of the map of tokens of a shape `(B, N, D)`.

    Raises:
        ValueError: If the size of the pictures is unknown, or the patches do not fill a map.
    """
    num_tokens = shape[1]
    if num_tokens is None or height is None or width is None:
        raise ValueError(
            "A backbone that returns tokens must have a fixed picture size, such as (224, 224, 3), from which the "
            f"size of its map follows; give the size. Received: {height} x {width} pixels"
        )
    grid = patch_grid(num_tokens - num_prefix_tokens, height, width)
    if grid is None:
        fitting = [count for count in range(num_tokens) if patch_grid(num_tokens - count, height, width)]
        raise ValueError(
            "`num_prefix_tokens`, the number of class tokens and registers, must leave one token for each patch; "
            f"{' or '.join(map(str, fitting[:2]))} would. Received: {num_prefix_tokens} of {num_tokens} tokens of "
            f"pictures of {height} x {width} pixels"
        )
    return grid


def _inner_outputs(backbone):
    """Returns the outputs of the layers of a model by name, those inside the layers of keras-hub included."""
    outputs = {layer.name: layer.output for layer in backbone.layers}
    outputs |= getattr(backbone, "pyramid_outputs", {})
    for layer in backbone.layers:
        if type(layer).__name__ == "ViTEncoder":  # one layer, which applies its blocks one after another
            tokens = layer.input
            for block in layer.encoder_layers:
                tokens = outputs[block.name] = block(tokens)
    return outputs


def _as_computed(backbone, output):
    """Corrects the declared shape of an output: keras-hub 0.32 declares one token too many for SigLIP."""
    if type(backbone).__name__ != "SigLIPVisionEncoder" or len(output.shape) != 3:
        return output
    num_patches = (backbone.image_shape[0] // backbone.patch_size) * (backbone.image_shape[1] // backbone.patch_size)
    return ops.reshape(output, (-1, num_patches, output.shape[2]))
