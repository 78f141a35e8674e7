"""`FrameMask`: from a number of frames to a mask."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_netvlad")
class FrameMask(keras.Layer):
    """Turns the number of real frames of each video into a boolean mask.

    Served models say how many frames are real with an integer, not with a mask: TensorFlow Serving pads a batch
    of mixed lengths with each tensor's own first element, which would turn a padded mask into "all real".

    Call arguments:
        num_frames: Integer tensor `(B,)`, real frames of each video. Values are read as a comparison: zero or
            less marks no frame, `T` or more marks every frame.
        frames: Tensor `(B, T, ...)`. Only its second dimension is read.

    Input shape:
        `num_frames` `(B,)` and `frames` `(B, T, ...)`.

    Output shape:
        Boolean `(B, T)`, true where the frame is real.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad.layers import FrameMask
    >>> mask = FrameMask()(np.array([2, 0]), np.zeros((2, 3, 8), "float32"))
    >>> np.asarray(mask).tolist()
    [[True, True, False], [False, False, False]]

    Raises:
        ValueError: If `num_frames` is not of rank 1 or `frames` is of rank 1.
        TypeError: If `num_frames` is not an integer tensor.
    """

    def call(self, num_frames, frames):
        _check(num_frames, frames)
        position = ops.arange(ops.shape(frames)[1], dtype="int32")  # (T,)
        return position < ops.expand_dims(ops.cast(num_frames, "int32"), 1)  # (B, T)

    def compute_output_spec(self, num_frames, frames):
        _check(num_frames, frames)
        return keras.KerasTensor((num_frames.shape[0], frames.shape[1]), dtype="bool")


def _check(num_frames, frames):
    if len(num_frames.shape) != 1:
        raise ValueError(
            f"`num_frames` must have shape (batch,), one integer a video. Received: shape {tuple(num_frames.shape)}"
        )
    if "int" not in keras.backend.standardize_dtype(num_frames.dtype):
        raise TypeError(
            "`num_frames` must hold integers; a mask or float weights go to the pooling layer's `mask` argument. "
            f"Received: dtype {keras.backend.standardize_dtype(num_frames.dtype)}"
        )
    if len(frames.shape) < 2:
        raise ValueError(f"`frames` must have shape (batch, frames, ...). Received: shape {tuple(frames.shape)}")
