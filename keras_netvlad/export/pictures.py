"""Artifacts of single pictures: the model that an option selects, and the facts about it that its files name."""

from collections.abc import Sequence
from typing import Literal

import keras

from keras_netvlad.layers import PicturePreprocessing
from keras_netvlad.layers.picture_preprocessing import preprocessing_text
from keras_netvlad.models.picture_model import picture_model, takes_pictures

Layout = Literal["nhwc", "nchw"]
# The entries of the metadata.
LAYOUT, SIZE, CHANNELS, NORMALIZATION = "layout", "input_size", "channels", "normalization"
ANY_SIZE = "any"


def as_pictures(model: keras.Model, layout: Layout | None, size: Sequence[int] | None) -> keras.Model:
    """Returns the model that an export writes: the model itself, or its `picture_model` if an option is given.

    Args:
        model: The Keras model.
        layout, size: See `picture_model`. The model stays as it is if both are `None`.
    """
    return model if layout is None and size is None else picture_model(model, layout or "nhwc", size)


def picture_facts(model: keras.Model) -> dict[str, str]:
    """Returns what the client of a picture model needs to know, as strings, which every language reads.

    Returns:
        `layout` (`"nhwc"` or `"nchw"`) and `input_size` (`"480x640"`, height first, or `"any"`). If the model starts
        with a `PicturePreprocessing`, also `channels` (`"RGB"`) and `normalization`, the preprocessing in the graph, as
        `FrameEncoder` names it. Empty for models of other inputs.
    """
    found = [layer for layer in getattr(model, "layers", []) if isinstance(layer, PicturePreprocessing)]
    if len(found) == 1:
        (layer,) = found
        further = {CHANNELS: "RGB", NORMALIZATION: preprocessing_text(layer.preprocessing)}
        return {**_layout_facts(layer.layout, layer.input.shape), **further}
    if takes_pictures(model):
        return _layout_facts("nhwc", model.inputs[0].shape)
    return _layout_facts("nchw", model.inputs[0].shape) if takes_pictures(model, "nchw") else {}


def _layout_facts(layout: str, shape: Sequence[int | None]) -> dict[str, str]:
    height, width = shape[1:3] if layout == "nhwc" else shape[2:]
    return {LAYOUT: layout, SIZE: ANY_SIZE if None in (height, width) else f"{height}x{width}"}
