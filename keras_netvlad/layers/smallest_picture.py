"""The smallest picture of a backbone, and NaN instead of the outputs for smaller ones.

Runtimes disagree on maps without positions. A pooling of 2 x 2 turns one row of pixels into nothing in TensorFlow, and
into one row in ONNX Runtime and LiteRT, which then return the descriptor of a map that does not exist. The size of the
picture decides alike in all of them.
"""

from typing import Any

import keras
from keras import ops

from keras_netvlad.layers.backbones import resized

# No backbone needs larger pictures for a single position.
LARGEST = 1024


def smallest_picture(backbone: keras.Model) -> tuple[int, int]:
    """Returns the height and width of the smallest pictures of which a convolutional backbone returns a position.

    Args:
        backbone: Model from pictures `(B, H, W, C)` to maps, or to features that a layer pools from a map.
    """
    channels = backbone.inputs[0].shape[-1]
    backbone = resized(backbone, (None, None, channels))

    def has_positions(height: int, width: int) -> bool:
        try:
            return all(backbone.compute_output_shape((1, height, width, channels)))
        except Exception:
            # Convolutions and poolings that would return no position raise exceptions of several classes.
            return False

    side = 1
    while side < LARGEST and not has_positions(side, side):
        side *= 2
    return (
        _least(lambda height: has_positions(height, side), side),
        _least(lambda width: has_positions(side, width), side),
    )


def nan_if_smaller(outputs: Any, pictures: Any, smallest: tuple[int, int]) -> Any:
    """Returns outputs of a model, with NaN in those of floats if the pictures are smaller than the smallest ones.

    Args:
        outputs: Tensor `(B, ...)`, or a structure of tensors.
        pictures: Float tensor `(B, H, W, C)`.
        smallest: Height and width.
    """
    if smallest == (1, 1):
        return outputs
    height, width = smallest
    # Without the sizes of the pictures, for tract 0.23 loads no graph that computes shapes: a smaller picture has no
    # such pixel, and 0 / 0 is NaN.
    pixel = pictures[:, height - 1 : height, width - 1 : width, :1]
    number = ops.sum(ops.ones_like(pixel), axis=(1, 2))  # (B, 1)
    one = number / number

    def marked(output: Any) -> Any:
        if "float" not in keras.backend.standardize_dtype(output.dtype):
            return output
        return output * ops.cast(ops.reshape(one, (-1, *[1] * (len(output.shape) - 1))), output.dtype)

    return keras.tree.map_structure(marked, outputs)


def _least(is_enough: Any, upper: int) -> int:
    """Returns the smallest number from 1 to `upper` that is enough, if larger ones are enough as well."""
    lower = 1
    while lower < upper:
        middle = (lower + upper) // 2
        lower, upper = (lower, middle) if is_enough(middle) else (middle + 1, upper)
    return upper
