"""`TemporalPooling`: the frames before and after an anchor, each pooled with its own clusters."""

import inspect
from typing import Any

import keras
from keras import ops
from numpy.typing import ArrayLike

from keras_netvlad.layers.frame_inputs import is_boolean
from keras_netvlad.layers.frame_pooling import Shape, check_dense


@keras.saving.register_keras_serializable(package="keras_netvlad")
class TemporalPooling(keras.Layer):
    """Pools the frames before an anchor and those from the anchor on with two layers, one after the other.

    A pooling does not see the order of frames. NetVLAD++ separates what happens before an action from what happens
    after it. Each part has its own clusters, and any pooling can be wrapped:

        y = (before(x[t], t < anchor), after(x[t], t >= anchor))

    The anchor is the middle of each video unless it is given: `length // 2`, where the length is `T`, or ends with the
    last real frame if there is a mask. A part without frames gives what its pooling gives for a video without frames:
    zeros for the poolings of this package.

    Both layers receive all frames, with masks that exclude the other part. So the anchor may differ from video to
    video, and the layer is exported like any other. A live stream has no middle before it ends, so the live-stream
    signatures are not offered.

    Args:
        before: Pooling layer with an argument `mask` in its `call`, such as `NetVLAD(32)`.
        after: Another one; or `None` for a copy of `before` with new initial weights.
        **kwargs: `name`, `dtype` and `trainable`, as for any Keras layer. The dtype is that of the output; the pooling
            layers have their own.

    Call arguments:
        inputs: Frames `(B, T, D)`, or maps of videos `(B, T, H, W, D)`, as the pooling layers take them.
        mask: Optional. Booleans, true for real frames, or weights: `(B, T)`, or `(B, T, H, W)` for maps if the pooling
            layers take it. Padding may hold NaN if the pooling layers accept that.
        training: Boolean, passed to the pooling layers.
        anchor: Optional. Integers `(B,)`, the number of frames before the anchor, counted from the first frame.

    Input shape:
        `(B, T, D)` or `(B, T, H, W, D)`.

    Output shape:
        `(B, F1 + F2)`, the outputs of both layers, concatenated.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad import NetVLAD
    >>> from keras_netvlad.layers import TemporalPooling
    >>> frames = np.random.default_rng(0).normal(size=(2, 30, 64)).astype("float32")
    >>> layer = TemporalPooling(NetVLAD(num_clusters=4))
    >>> layer(frames, mask=np.arange(30) < [[30], [12]]).shape[1]
    512
    >>> layer(frames, anchor=np.array([10, 20])).shape[1]
    512

    Raises:
        ValueError: If the inputs, the mask or the anchor have other shapes, or if a pooling layer takes no mask.
        TypeError: If `before` or `after` is not a layer, or the anchor holds no integers.

    Reference:
        - [Giancola & Ghanem 2021](https://arxiv.org/abs/2104.06779), section 3 (temporally-aware pooling).
    """

    def __init__(
        self, before: keras.Layer | dict[str, Any], after: keras.Layer | dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        # Without autocast, the pooling layers receive the frames unrounded.
        super().__init__(autocast=False, **kwargs)
        self.before = _pooling("before", before)
        self.after = _copy(self.before) if after is None else _pooling("after", after)
        self.supports_masking = True

    def build(self, input_shape: Shape) -> None:
        for layer in (self.before, self.after):
            if not layer.built:
                layer.build(input_shape)

    def call(
        self,
        inputs: ArrayLike,
        mask: ArrayLike | None = None,
        training: bool | None = None,
        anchor: ArrayLike | None = None,
    ) -> keras.KerasTensor:
        check_dense(self.name, inputs)
        inputs = ops.convert_to_tensor(inputs)
        mask = None if mask is None else ops.convert_to_tensor(mask)
        anchor = None if anchor is None else ops.convert_to_tensor(anchor)
        self._check(inputs, mask, anchor)
        time = ops.arange(ops.shape(inputs)[1], dtype="int32")  # (T,)
        anchor = self._middle(inputs, mask, time) if anchor is None else ops.cast(anchor, "int32")  # (B,)
        # Reshaped, for the largest of no frames is a scalar on torch (Keras 3.15).
        is_before = time < ops.reshape(anchor, (-1, 1))  # (B, T)
        first = self.before(inputs, mask=_within(is_before, mask), training=training)
        second = self.after(inputs, mask=_within(ops.logical_not(is_before), mask), training=training)
        return ops.concatenate([ops.cast(part, self.compute_dtype) for part in (first, second)], axis=-1)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> None:
        """Returns `None`: a pooling consumes its mask."""
        return None

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        sizes = [layer.compute_output_shape(input_shape)[-1] for layer in (self.before, self.after)]
        return input_shape[0], sum(sizes)

    def get_config(self) -> dict[str, Any]:
        layers = {"before": _config(self.before), "after": _config(self.after)}
        return {**super().get_config(), **layers}

    def compute_output_spec(
        self, inputs: Any, mask: Any = None, training: bool | None = None, anchor: Any = None
    ) -> keras.KerasTensor:
        self._check(inputs, mask, anchor)
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), dtype=self.compute_dtype)

    def _middle(self, inputs, mask, time):
        """Returns half the length of each video `(B,)`, rounded down."""
        if mask is None:
            return ops.broadcast_to(ops.shape(inputs)[1] // 2, (ops.shape(inputs)[0],))
        present = mask if is_boolean(mask) else mask > 0
        present = ops.any(present, axis=tuple(range(2, len(mask.shape)))) if len(mask.shape) > 2 else present
        length = ops.max(ops.where(present, time + 1, 0), axis=1, initial=0)
        return length // 2

    def _check(self, inputs, mask, anchor):
        if len(inputs.shape) not in (3, 5):
            raise ValueError(
                f"`{self.name}` pools frames (batch, frames, features), or maps of videos (batch, frames, height, "
                f"width, features). Received: shape {tuple(inputs.shape)}"
            )
        if mask is not None and not _fits(mask.shape[:2], inputs.shape[:2]):
            raise ValueError(
                f"`mask` of `{self.name}` must have the shape {tuple(inputs.shape[:2])}, one value per frame. "
                f"Received: shape {tuple(mask.shape)}"
            )
        if anchor is None:
            return
        if "int" not in keras.backend.standardize_dtype(anchor.dtype):
            raise TypeError(
                f"`anchor` of `{self.name}` must hold integers, the number of frames before the anchor. "
                f"Received: dtype {keras.backend.standardize_dtype(anchor.dtype)}"
            )
        if not _fits(anchor.shape, inputs.shape[:1]):
            raise ValueError(
                f"`anchor` of `{self.name}` must have the shape {tuple(inputs.shape[:1])}, one integer per video. "
                f"Received: shape {tuple(anchor.shape)}"
            )


def _within(part, mask):
    """Returns the mask, or the weights, of the frames of a part `(B, T)`."""
    if mask is None:
        return part
    part = ops.reshape(part, (*ops.shape(part), *[1] * (len(mask.shape) - 2)))
    return ops.logical_and(part, mask) if is_boolean(mask) else ops.where(part, mask, ops.cast(0, mask.dtype))


def _pooling(name, layer):
    """Returns a pooling layer, given as a layer or by its configuration."""
    layer = keras.saving.deserialize_keras_object(layer) if isinstance(layer, dict) else layer
    if not isinstance(layer, keras.Layer):
        raise TypeError(f"`{name}` must be a Keras layer, such as NetVLAD(32). Received: {name}={layer!r}")
    if "mask" not in inspect.signature(layer.call).parameters:
        raise ValueError(
            f"`{name}` must be a layer with an argument `mask` in its `call`, which excludes the frames of the other "
            f"part. Received: {type(layer).__name__}"
        )
    return layer


def _copy(layer):
    """Returns a new layer like another one, whose initializers draw other values."""
    return type(layer).from_config(_without_seeds({**layer.get_config(), "name": f"{layer.name}_after"}))


def _without_seeds(config):
    if isinstance(config, dict):
        return {key: None if key == "seed" else _without_seeds(value) for key, value in config.items()}
    return config


def _config(layer):
    config = keras.saving.serialize_keras_object(layer)
    config.pop("build_config", None)  # this layer builds it
    return config


def _fits(shape, expected):
    return len(shape) == len(expected) and all(
        a is None or b is None or a == b for a, b in zip(shape, expected, strict=True)
    )
